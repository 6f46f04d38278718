"""Where a run is used: served over HTTP."""
