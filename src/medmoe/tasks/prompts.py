"""Prompts: how each finding is put into words, read from the data file beside this one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from string import Formatter

from medmoe.modalities import MODALITIES

# The class of an image that is annotated with no finding at all.
NO_FINDING = "no_finding"


@dataclass(frozen=True)
class Prompts:
    """Wordings of findings.

    Attributes:
        templates: Wordings for a finding that the file doesn't list, with `{modality}` and `{finding}`.
        findings: Wordings by label in lower case, or by `modality/label` where a modality has its own; each may
            hold `{modality}`.
        origins: Whose label each entry is.
        fingerprint: First 16 hexadecimal digits of the file's SHA-256.
    """

    templates: tuple[str, ...]
    findings: dict[str, tuple[str, ...]]
    origins: dict[str, str]
    fingerprint: str

    def of(self, label: str, modality: str | None = None) -> tuple[str, ...]:
        """Word a finding as seen in a modality, or in no particular one.

        >>> load_prompts().of("left_hook", "xray")[0]
        'X-ray showing left hook.'
        >>> load_prompts().of("nodule")[0]
        'There is a nodule.'
        """
        key = self._key(label, modality)
        phrase = MODALITIES[modality].phrase if modality in MODALITIES else modality or "image"
        if key is not None:
            return tuple(_sentence(text, modality=phrase) for text in self.findings[key])
        return tuple(_sentence(text, modality=phrase, finding=spoken(label)) for text in self.templates)

    def origin(self, label: str, modality: str) -> str:
        """Say whose label it is, or that the general templates were used."""
        key = self._key(label, modality)
        return "general templates" if key is None else self.origins[key]

    def _key(self, label: str, modality: str | None) -> str | None:
        for key in (f"{modality}/{label.lower()}", label.lower()):
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


@cache
def load_prompts() -> Prompts:
    """Read the wordings that come with the library."""
    content = resources.files("medmoe.tasks").joinpath("prompts.json").read_bytes()
    return parse_prompts(content)


def parse_prompts(content: bytes) -> Prompts:
    """Read wordings from the JSON of `prompts.json`.

    Raises:
        ValueError: If a label is worded twice or without any wording, or a wording has a slot without values.
    """
    table = json.loads(content)
    findings: dict[str, tuple[str, ...]] = {}
    origins: dict[str, str] = {}
    for group in table["groups"]:
        for label, wordings in group["findings"].items():
            if label in findings or not wordings:
                raise ValueError(f"prompts: {label!r} is worded twice or not at all")
            slots = _slots(group.get("slots", {}), label.rpartition("/")[0])
            findings[label] = tuple(full for text in wordings for full in _filled(text, slots))
            origins[label] = group["origin"]
    return Prompts(tuple(table["templates"]), findings, origins, hashlib.sha256(content).hexdigest()[:16])


def _slots(slots: Mapping[str, Sequence[str]], modality: str) -> dict[str, Sequence[str]]:
    """Give the values of each slot for a modality: its own where it has some."""
    shared = {name: values for name, values in slots.items() if "/" not in name}
    own = {name.partition("/")[2]: values for name, values in slots.items() if name.partition("/")[0] == modality}
    return shared | (own if modality else {})


def _filled(text: str, slots: Mapping[str, Sequence[str]]) -> list[str]:
    """Write a wording out for every combination of its slots' values; `{modality}` stays."""
    names = list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(text) if name and name != "modality"))
    for name in names:
        if not slots.get(name):
            raise ValueError(f"prompts: no values for the slot {{{name}}} of {text!r}; slots are {sorted(slots)}")
    choices = product(*(slots[name] for name in names))
    return [text.format(modality="{modality}", **dict(zip(names, values, strict=True))) for values in choices]
