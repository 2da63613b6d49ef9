"""Runs on disk: found in folders, listed, and compared."""

from __future__ import annotations

from medmoe.runs.comparison import Comparison, compare
from medmoe.runs.folder import RunState, find_runs, read_state
from medmoe.runs.listing import chosen, ordered, table
from medmoe.runs.page import write_comparison

__all__ = [
    "Comparison",
    "RunState",
    "chosen",
    "compare",
    "find_runs",
    "ordered",
    "read_state",
    "table",
    "write_comparison",
]
