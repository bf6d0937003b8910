"""Whether this process runs on Google Cloud; needs the standard library alone, so that it can be asked first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_on_google(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether Cloud Logging reads what this process prints, as on App Engine and Cloud Run."""
    return bool(environ.get("GAE_ENV") or environ.get("K_SERVICE"))
