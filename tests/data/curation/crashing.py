"""A reader of files that takes its process down at one of them; in a file of its own, for processes to import."""

from __future__ import annotations

import os

from medmoe.data.curation.scan_file import Record, read_record


def crashing(path: str) -> Record:
    """Read a file, unless it is the one."""
    if path.endswith("crash.png"):
        os._exit(1)
    return read_record(path)
