"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$OLEASTER_CACHE, else ~/.cache/oleaster."""
    return Path(os.environ.get("OLEASTER_CACHE") or Path.home() / ".cache" / "oleaster")
