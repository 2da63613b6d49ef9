"""Files that items read: made once in a process, outside the clock, and removed when it ends."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def scratch() -> Path:
    """Give a folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="medmoe-speed-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
