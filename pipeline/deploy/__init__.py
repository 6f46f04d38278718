"""Where a run is used: exported for other runtimes, proved there, and served over HTTP."""
