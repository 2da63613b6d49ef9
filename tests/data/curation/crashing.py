"""Readers of files that take their process down, or wait for its end; in a file of its own, for processes to import."""

from __future__ import annotations

import os
import time
from pathlib import Path

from medmoe.data.curation.scan_file import Record, read_record


def crashing(path: str) -> Record:
    """Read a file, unless it is the one."""
    if path.endswith("crash.png"):
        os._exit(1)
    return read_record(path)


def waiting(path: str) -> Record:
    """Say which process this is, and wait to be ended."""
    with Path(os.environ["WAITING"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(60)
    return read_record(path)
