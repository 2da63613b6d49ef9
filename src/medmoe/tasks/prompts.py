"""Prompts: how each finding is put into words, read from the data file beside this one or from a user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any

from medmoe.errors import ConfigError, unknown
from medmoe.modalities import MODALITIES

# The class of an image that is annotated with no finding at all.
NO_FINDING = "no_finding"

_KEYS = ("about", "version", "templates", "groups")
_GROUP_KEYS = ("origin", "sources", "slots", "findings")


@dataclass(frozen=True)
class Prompts:
    """Wordings of findings.

    Attributes:
        templates: Wordings for a finding that the file doesn't list, with `{modality}` and `{finding}`; none: every
            finding must be listed.
        findings: Wordings by label in lower case, or by `modality/label` where a modality has its own; each may
            hold `{modality}`. Those of one data set only have the data set and a colon before that.
        origins: Whose label each entry is.
        fingerprint: First 16 hexadecimal digits of the file's SHA-256.
        version: What the file calls itself; 0 where it doesn't.
        where: The file, for errors.
    """

    templates: tuple[str, ...]
    findings: dict[str, tuple[str, ...]]
    origins: dict[str, str]
    fingerprint: str
    version: int = 0
    where: str = "prompts"

    def of(self, label: str, modality: str | None = None, source: str | None = None) -> tuple[str, ...]:
        """Word a finding as seen in a modality, or in no particular one, for a data set or for any.

        Raises:
            ConfigError: If the finding isn't listed and there are no templates.

        >>> load_prompts().of("left_hook", "xray")[0]
        'X-ray showing left hook.'
        >>> load_prompts().of("nodule")[0]
        'There is a nodule.'
        """
        key = self._key(label, modality, source)
        phrase = MODALITIES[modality].phrase if modality in MODALITIES else modality or "image"
        if key is not None:
            return tuple(_sentence(text, modality=phrase) for text in self.findings[key])
        self.check([label], modality, source)
        return tuple(_sentence(text, modality=phrase, finding=spoken(label)) for text in self.templates)

    def origin(self, label: str, modality: str | None, source: str | None = None) -> str:
        """Say whose label it is, or that the general templates were used."""
        key = self._key(label, modality, source)
        return "general templates" if key is None else self.origins[key]

    def can_word(self, label: str, modality: str | None = None, source: str | None = None) -> bool:
        """Tell whether a finding is listed, or templates can word it."""
        return bool(self.templates) or self._key(label, modality, source) is not None

    def known(self, modality: str | None = None, source: str | None = None) -> list[str]:
        """Name the findings that are listed for a modality and a data set, or for any."""
        own = f"{source.lower()}:" if source else ""
        names = (key.removeprefix(own) if own else key for key in self.findings)
        scoped = (name.rpartition("/") for name in names if ":" not in name)
        return sorted({label for of, _, label in scoped if of in ("", modality)})

    def lists(self, label: str, modality: str | None = None, source: str | None = None) -> bool:
        """Tell whether a finding is listed, so that no template has to word it."""
        return self._key(label, modality, source) is not None

    def check(self, labels: Iterable[str], modality: str | None = None, source: str | None = None) -> None:
        """Make sure that all of these findings can be worded.

        Raises:
            ConfigError: If some can't; it names them all.
        """
        missing = [label for label in labels if not self.can_word(label, modality, source)]
        if missing:
            of = " / ".join(name for name in (source, modality) if name)
            raise ConfigError(
                f"no wordings for {', '.join(missing)}{f' of {of}' if of else ''}",
                where=self.where,
                remedy="add them, or templates for what isn't listed",
            )

    def _key(self, label: str, modality: str | None, source: str | None) -> str | None:
        own = (f"{modality}/{label.lower()}", label.lower())
        for key in (*(f"{source.lower()}:{name}" for name in own if source), *own):
            if key in self.findings:
                return key
        return None


def _sentence(template: str, **words: str) -> str:
    text = template.format(**words)
    return text[:1].upper() + text[1:]


def spoken(label: str) -> str:
    """Give a label as one would say it.

    >>> spoken("lung_adenocarcinoma")
    'lung adenocarcinoma'
    """
    return " ".join(label.replace("_", " ").split()).lower()


def load_prompts(path: Path | str | None = None) -> Prompts:
    """Read the wordings that come with the library, or those of a file of the same form.

    Raises:
        ConfigError: If the file isn't there or isn't of that form.
    """
    if path is None:
        return _shipped()
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", where=str(path)) from None
    return parse_prompts(content, where=str(path))


@cache
def _shipped() -> Prompts:
    return parse_prompts(resources.files("medmoe.tasks").joinpath("prompts.json").read_bytes())


def parse_prompts(content: bytes, *, where: str = "prompts") -> Prompts:
    """Read wordings from the JSON of `prompts.json`.

    Raises:
        ConfigError: If it isn't of that form, a label is worded twice or without any wording, or a wording has a slot
            without values.
    """
    try:
        table = json.loads(content)
    except ValueError as error:  # bad JSON, or bytes that are no text
        raise ConfigError(f"isn't JSON: {error}", where=where) from None
    _check_keys(table, _KEYS, where)
    templates = _texts(table.get("templates", []), f"{where}: templates")
    for text in templates:
        _check_slots(text, ("modality", "finding"), where)
    findings: dict[str, tuple[str, ...]] = {}
    origins: dict[str, str] = {}
    groups = table.get("groups")
    if not isinstance(groups, list):
        raise ConfigError("groups must be a list", where=where, remedy='"groups": [{"findings": {LABEL: [WORDING]}}]')
    for number, group in enumerate(groups, start=1):
        _check_keys(group, _GROUP_KEYS, f"{where}: group {number}")
        for key, wordings in _group(group, f"{where}: group {number}"):
            if key in findings or not wordings:
                raise ConfigError(f"{key!r} is worded twice or not at all", where=where)
            findings[key], origins[key] = wordings, str(group.get("origin", where))
    version = table.get("version", 0)
    if not isinstance(version, int):
        raise ConfigError(f"version is {version!r}; allowed: a whole number", where=where)
    return Prompts(templates, findings, origins, hashlib.sha256(content).hexdigest()[:16], version, where)


def _group(group: Mapping[str, Any], where: str) -> list[tuple[str, tuple[str, ...]]]:
    """Give a group's wordings, written out, by key: once for each of its data sets, if it names some."""
    own, slots = group.get("findings"), group.get("slots", {})
    if not isinstance(own, dict) or not isinstance(slots, dict):
        raise ConfigError("findings and slots must be objects of lists", where=where)
    values = {name: _texts(texts, f"{where}: slot {name}") for name, texts in slots.items()}
    sources = _texts(group.get("sources", []), f"{where}: sources")
    found = []
    for label, wordings in own.items():
        allowed = _slots(values, label.rpartition("/")[0])
        texts = _texts(wordings, f"{where}: {label}")
        written = tuple(full for text in texts for full in _filled(text, allowed, where))
        found += [(f"{scope}{label.lower()}", written) for scope in [f"{name.lower()}:" for name in sources] or [""]]
    return found


def _check_keys(table: object, allowed: Sequence[str], where: str) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"a {type(table).__name__} stands where an object should", where=where)
    for name in table:
        if name not in allowed:
            raise ConfigError(unknown("key", name, allowed), where=where)


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise ConfigError("must be a list of texts", where=where)
    return tuple(value)


def _check_slots(text: str, allowed: Sequence[str], where: str) -> list[str]:
    """Give the names of a wording's slots, each once."""
    try:
        slots = [slot for slot in Formatter().parse(text) if slot[1] is not None]
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}", where=where, remedy="write {{ and }} for braces") from None
    names = [str(name) for _, name, _, _ in slots]
    if any(spec or conversion for _, _, spec, conversion in slots):
        raise ConfigError(f"{text!r}: a slot is its name in braces, nothing more", where=where)
    for name in names:
        if name not in allowed:
            raise ConfigError(
                f"no values for the slot {{{name}}} of {text!r}; slots are {sorted(set(allowed))}", where=where
            )
    return list(dict.fromkeys(names))


def _slots(slots: Mapping[str, Sequence[str]], modality: str) -> dict[str, Sequence[str]]:
    """Give the values of each slot for a modality: its own where it has some."""
    shared = {name: values for name, values in slots.items() if "/" not in name}
    own = {name.partition("/")[2]: values for name, values in slots.items() if name.partition("/")[0] == modality}
    return {name: values for name, values in (shared | (own if modality else {})).items() if values}


def _filled(text: str, slots: Mapping[str, Sequence[str]], where: str) -> list[str]:
    """Write a wording out for every combination of its slots' values; `{modality}` stays."""
    names = [name for name in _check_slots(text, (*slots, "modality"), where) if name != "modality"]
    choices = product(*(slots[name] for name in names))
    full = [text.format(modality="{modality}", **dict(zip(names, values, strict=True))) for values in choices]
    for written in full:  # a value may bring braces of its own
        _check_slots(written, ("modality",), where)
    return full
