"""What a campaign of faults leaves: its rows as a table and as JSON, and an exit code."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def options(about: str | None) -> argparse.ArgumentParser:
    """Make a parser of what every campaign takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--only", action="append", default=[])
    return parser


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows of cells as a table."""
    lines = [list(head), ["---"] * len(head), *([cell.replace("|", "/") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def leave(asked: argparse.Namespace, name: str, rows: list[dict[str, Any]], table: str) -> None:
    """Write what was asked for, and end: with 1 where a row ended otherwise than documented."""
    about = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    found = {**about, "torch": torch.__version__, name: rows}
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if asked.markdown is not None:
        asked.markdown.write_text(table, encoding="utf-8")
    sys.exit(any(row["ended"] == "NOT AS DOCUMENTED" for row in rows))
