"""Public benchmarks as data: one JSON file a data set, suites that list them, and what fills a paper's table."""

from __future__ import annotations

from medmoe.benchmarks.catalog import SETS, SUITES, load_set, load_suite
from medmoe.benchmarks.judge import Judge, judge_of
from medmoe.benchmarks.layouts import LAYOUTS
from medmoe.benchmarks.run import run_benchmark
from medmoe.benchmarks.table import remarks, table
from medmoe.benchmarks.wording import read_prompts

__all__ = [
    "LAYOUTS",
    "SETS",
    "SUITES",
    "Judge",
    "judge_of",
    "load_set",
    "load_suite",
    "read_prompts",
    "remarks",
    "run_benchmark",
    "table",
]
