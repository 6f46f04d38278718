"""Settings under which matplotlib draws other people's texts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def plain_texts() -> Iterator[None]:
    """Draw every text as it is: a dollar sign begins no formula, and no letter that the font lacks gives a warning.

    An SVG is set in the reader's font; a PNG has a box for such a letter. Texts remember the first of it from when they
    are made, so this is also for making a figure.
    """
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
