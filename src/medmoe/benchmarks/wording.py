"""Prompts of a benchmark: ours from the data sets' files, or the user's from a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmoe.benchmarks.spec import DataSet, fingerprint
from medmoe.errors import ConfigError, unknown


@dataclass(frozen=True, slots=True)
class Wording:
    """The prompts of a data set.

    Attributes:
        prompts: Prompts by label, in the order of the classes.
        origin: Whose they are: `medmoe`, or the user's file's name.
    """

    prompts: dict[str, tuple[str, ...]]
    origin: str

    def about(self) -> dict[str, Any]:
        """Give what a result says of them: whose, how many for each class, and their fingerprint."""
        counts = {label: len(own) for label, own in self.prompts.items()}
        return {"origin": self.origin, "fingerprint": fingerprint(self.prompts), "count": counts}


def read_prompts(path: Path | str, sets: Sequence[DataSet]) -> dict[str, Wording]:
    """Read prompts of one's own: `{SET: {CLASS: [PROMPT, …]}}`, or `{CLASS: [PROMPT, …]}` for a single set.

    A class goes by its label on disk or by its published name, in any case. Data sets that the file doesn't name keep
    the prompts that come with the library.

    Args:
        path: The file.
        sets: The data sets of the benchmark.

    Raises:
        ConfigError: If the file can't be read, names no set of the benchmark, or a class is missing or unknown.
    """
    where = str(path)
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"can't be read ({error.strerror})", where=where, remedy="check the path") from None
    except ValueError as error:
        raise ConfigError(f"not JSON ({error})", where=where, remedy="correct it") from None
    if not isinstance(value, dict) or not value:
        raise ConfigError("not an object {SET: {CLASS: [PROMPT, …]}}", where=where, remedy="correct it")
    if len(sets) == 1 and all(isinstance(item, list) for item in value.values()):
        value = {sets[0].name: value}
    by_name = {spec.name: spec for spec in sets}
    for name in value:
        if name not in by_name:
            raise ConfigError(unknown("data set", name, by_name), where=where, remedy="correct or remove it")
    origin = Path(path).name
    return {name: Wording(_classes(by_name[name], own, f"{where}: {name}"), origin) for name, own in value.items()}


def own_wording(spec: DataSet) -> Wording:
    """Give the prompts that come with the library."""
    return Wording(spec.prompts(), "medmoe")


def _classes(spec: DataSet, given: object, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, Mapping):
        raise ConfigError("not an object {CLASS: [PROMPT, …]}", where=where, remedy="correct it")
    places = {one.name.casefold(): one.label for one in spec.classes}
    places |= {one.label.casefold(): one.label for one in spec.classes}
    found: dict[str, tuple[str, ...]] = {}
    for name, prompts in given.items():
        label = places.get(str(name).casefold())
        if label is None:
            allowed = [one.name for one in spec.classes]
            raise ConfigError(unknown("class", str(name), allowed), where=where, remedy="correct or remove it")
        if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) and text for text in prompts):
            raise ConfigError(f"no list of prompts for {name!r}", where=where, remedy="give at least one sentence")
        found[label] = tuple(prompts)
    missing = [one.name for one in spec.classes if one.label not in found]
    if missing:
        what = f"no prompt for {', '.join(map(repr, missing))}"
        raise ConfigError(what, where=where, remedy="word every class of the data set")
    return {label: found[label] for label in spec.labels}
