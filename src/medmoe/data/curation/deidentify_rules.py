"""The profile's table as it is kept (deidentify_rules.json): which action an attribute gets, by the options chosen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medmoe.errors import ConfigError, unknown

_HERE = Path(__file__).parent
CHOICES = ("characteristics", "device", "institution", "descriptions")  # what --keep may name
DATES = ("remove", "shift")
# Codes of PS3.16 CID 7050, which say in the file what was done to it.
METHODS = {
    "profile": ("113100", "Basic Application Confidentiality Profile"),
    "pixels": ("113101", "Clean Pixel Data Option"),
    "structured": ("113104", "Clean Structured Content Option"),
    "descriptions": ("113105", "Clean Descriptors Option"),
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}


@dataclass(frozen=True)
class Options:
    """The options of the profile that were chosen.

    Args:
        dates: `remove`, or `shift`: moved by a number of days that is the patient's own.
        keep: Any of `characteristics` (sex, age, size, …), `device`, `institution`, `descriptions` (of study, series
            and procedure, cleaned as reports are).
        reports: `refuse` objects whose content is text (SR), or `clean` their text by rule.
    """

    dates: str = "remove"
    keep: frozenset[str] = frozenset()
    reports: str = "refuse"

    def __post_init__(self) -> None:
        if self.dates not in DATES:
            raise ConfigError(unknown("way with dates", self.dates, DATES), where="--dates")
        for name in self.keep:
            if name not in CHOICES:
                raise ConfigError(unknown("thing to keep", name, CHOICES), where="--keep")
        if self.reports not in ("refuse", "clean"):
            raise ConfigError(unknown("way with reports", self.reports, ("refuse", "clean")), where="--reports")

    @property
    def columns(self) -> list[str]:
        """The columns of the table that hold, in the order of `METHODS`."""
        chosen = {*self.keep, *(["dates"] if self.dates == "shift" else [])}
        chosen |= {"structured"} if self.reports == "clean" else set()
        return [name for name in METHODS if name in chosen]


@cache
def table() -> dict[int, tuple[str, str, dict[str, str]]]:
    """Give tag → (keyword, action of the basic profile, what options do instead), whole tags only."""
    return {
        int(row[0], 16): (row[1], row[2], row[3] if len(row) > 3 else {})
        for row in _read("deidentify_rules.json")["rules"]
        if re.fullmatch("[0-9A-F]{8}", row[0])
    }


def action(tag: int, options: Options) -> str | None:
    """Give what is done with an attribute: D, Z, X, K, C or U; None where the table doesn't name it.

    Odd groups (private), the retired curves (50xx) and the whole of overlays (60xx) are removed. Where the table leaves
    the choice to the object's definition (X/D, Z/D, …) the one that is right under every definition is taken.
    """
    group = tag >> 16
    if group % 2 or group & 0xFF00 in (0x5000, 0x6000):
        return "X"
    row = table().get(tag)
    if row is None:
        return None
    _, basic, instead = row
    chosen = [instead[name] for name in options.columns if name in instead]
    if "K" in chosen or "C" in chosen:
        return "K" if "K" in chosen else "C"
    return str(_read("deidentify_rules.json")["conditional"].get(basic, basic))


@cache
def codes() -> frozenset[str]:
    """Give the words that coded strings may be made of."""
    return frozenset(_read("deidentify_words.json")["codes"])


@cache
def makers() -> frozenset[str]:
    """Give the words that makers' names may be made of."""
    return frozenset(_read("deidentify_words.json")["makers"])


@cache
def further(option: str) -> frozenset[str]:
    """Give keywords that the table doesn't name and that `device` or `descriptions` keeps as well."""
    return frozenset(_read("deidentify_words.json")[option])


@cache
def patterns() -> dict[str, re.Pattern[str]]:
    """Give keyword → what a text of it must match as a whole to be kept."""
    return {name: re.compile(pattern) for name, pattern in _read("deidentify_words.json")["patterns"].items()}


@cache
def known_code(scheme: str, value: str) -> str | None:
    """Give a code's meaning as the standard's context groups have it; None where they don't have the code."""
    return _meanings().get((scheme, value))


@cache
def _meanings() -> dict[tuple[str, str], str]:
    """Collect (scheme, code) → meaning from pydicom's copy of the standard's context groups."""
    from pydicom.sr import _concepts_dict, _snomed_dict

    concepts: Any = _concepts_dict.concepts
    srt: Any = _snomed_dict.mapping["SRT"]
    found: dict[tuple[str, str], str] = {
        (scheme, code): meaning
        for scheme, names in concepts.items()
        for by_code in names.values()
        for code, (meaning, _) in by_code.items()
    }
    for old, new in srt.items():
        if ("SCT", new) in found:
            found["SRT", old] = found["SNM3", old] = found["SCT", new]
    return found


@cache
def _read(name: str) -> Any:
    return json.loads((_HERE / name).read_text(encoding="utf-8"))
