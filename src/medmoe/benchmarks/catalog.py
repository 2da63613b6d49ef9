"""The data sets and suites that come with the library, and those of the user's own files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from medmoe.benchmarks.spec import DataSet, Reference, parse_set
from medmoe.benchmarks.strict import read
from medmoe.errors import ConfigError, unknown


@dataclass(frozen=True)
class Group:
    """Published means over some of a suite's data sets.

    Attributes:
        sets: The data sets.
        percent: Mean by model, in percent.
    """

    sets: tuple[str, ...]
    percent: dict[str, float]


@dataclass(frozen=True)
class Suite:
    """A table of a paper.

    Attributes:
        name: Its name.
        title: For people.
        source: Where it stands.
        protocol: `zero_shot` or `linear_probe`.
        sets: Its data sets; `SET@SPLIT` asks for a split.
        means: Published means by group.
        notes: What else to know before comparing.
    """

    name: str
    title: str
    source: Reference
    protocol: str
    sets: tuple[str, ...]
    means: dict[str, Group] | None = None
    notes: tuple[str, ...] = ()


def _names(folder: str) -> tuple[str, ...]:
    files = resources.files("medmoe.benchmarks").joinpath(folder).iterdir()
    return tuple(sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json")))


SETS = _names("sets")
SUITES = _names("suites")


@cache
def load_set(name: str) -> DataSet:
    """Read a data set by its name.

    Raises:
        ConfigError: If there is none of that name, or its file is wrong.
    """
    if name not in SETS:
        raise ConfigError(unknown("data set", name, SETS), remedy="name one of these")
    file = resources.files("medmoe.benchmarks").joinpath("sets", f"{name}.json")
    return parse_set(file.read_bytes(), f"sets/{name}.json")


def load_suite(name: str) -> Suite:
    """Read a suite by its name, a single data set as a suite of one, or a suite from a JSON file of one's own.

    Raises:
        ConfigError: If there is none of that name, or its file is wrong.
    """
    if name in SUITES:
        file = resources.files("medmoe.benchmarks").joinpath("suites", f"{name}.json")
        return _parse(file.read_bytes(), f"suites/{name}.json")
    if name.partition("@")[0] in SETS:
        one = load_set(name.partition("@")[0])
        return Suite(one.name, one.title, one.sources[0], "zero_shot", (name,))
    if name.endswith(".json") and Path(name).is_file():
        return _parse(Path(name).read_bytes(), name)
    remedy = "name one of these, a single data set, or a JSON file of your own"
    raise ConfigError(unknown("benchmark", name, SUITES), where="--benchmark", remedy=remedy)


def _parse(content: bytes, where: str) -> Suite:
    try:
        value: Any = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"not JSON ({error})", where=where, remedy="correct it") from None
    suite = read(Suite, value, where)
    for entry in suite.sets:
        name, _, split = entry.partition("@")
        load_set(name).split(split or None)
    return suite
