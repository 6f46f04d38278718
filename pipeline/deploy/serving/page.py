"""The page of the server on which a person tries the model: fields, a button, the answer. It loads nothing else."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from pipeline.deploy.serving.served_model import Description
from pipeline.reporting.writer import environment

_SCRIPT = Markup(environment("html").get_template("try_model.js").render())
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
# The page may run its own script, which may ask this server, and nothing else.
PAGE_POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(model: Description, has_token: bool) -> str:
    """The page as HTML; with `has_token` it asks for the server's bearer token, which stays in the page."""
    return environment("html").get_template("try_model.html").render(model=model, has_token=has_token, script=_SCRIPT)
