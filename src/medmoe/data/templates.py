"""Reports made from labels, for images that have a label but no text; wordings and names are in templates.json.

Turning label-only data sets into image-text pairs through templates follows UniMed (Khattak et al., 2024,
https://arxiv.org/abs/2412.10372); the wordings are our own. Such reports are marked `from_template`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from medmoe.modalities import MODALITIES


@dataclass(frozen=True, slots=True)
class Wording:
    """The contents of templates.json.

    Attributes:
        finding: Sentences for what is present, with the gaps {image} and {finding} (capitalised: start of a sentence).
        absent: Sentences for labels that begin with "no".
        normal: Sentences for a normal image, with the gap {image}.
        normal_labels: Labels that mean a normal image.
        qualifiers: Labels that, beside another, say of which kind it is (`pneumonia;bacterial`).
        names: Readable name of a whole label, article included.
        words: Readable form of one word of a label, abbreviations above all.
        parts: Phrase for a body part; others get "the" before them.
        views: Readable form of the views worth saying.
    """

    finding: tuple[str, ...]
    absent: tuple[str, ...]
    normal: tuple[str, ...]
    normal_labels: tuple[str, ...]
    qualifiers: tuple[str, ...]
    names: dict[str, str]
    words: dict[str, str]
    parts: dict[str, str]
    views: dict[str, str]


@lru_cache(maxsize=1)
def wording() -> Wording:
    """Load templates.json, once."""
    data: dict[str, Any] = json.loads(files("medmoe.data").joinpath("templates.json").read_text(encoding="utf-8"))
    lists: dict[str, Any] = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    return Wording(**(data | lists))


def readable(label: str) -> str:
    """Say a label as a report would.

    >>> readable("moderate_npdr"), readable("RBC"), readable("lung_adenocarcinoma")
    ('moderate non-proliferative diabetic retinopathy', 'red blood cells', 'an adenocarcinoma of the lung')
    """
    known = wording()
    name = known.names.get("_".join(label.lower().split()))
    if name is not None:
        return name
    return " ".join(known.words.get(word.lower(), _plain(word)) for word in label.replace("_", " ").split())


def report_from_labels(
    labels: Sequence[str],
    *,
    modality: str | None = None,
    body_part: str | None = None,
    view: str | None = None,
    seed: int = 0,
    row: int = 0,
) -> str:
    """Write a one- or two-sentence report from labels.

    Args:
        labels: Findings present; none means a normal image.
        modality: A name of `medmoe.modalities`.
        body_part: What was imaged, if known.
        view: Projection or plane; said only where templates.json lists it.
        seed: With `row`, chooses the wording: varied over rows, the same every time.
        row: Number of the image.

    >>> report_from_labels(["no_dr"], modality="fundus", body_part="retina")
    'There is no diabetic retinopathy on this fundus photograph of the retina.'
    """
    known = wording()
    findings = [label for label in labels if "_".join(label.lower().split()) not in known.normal_labels]
    image = _image(modality, body_part, view)
    finding = join(_qualified(findings))
    choices = known.normal if not findings else known.absent if finding.startswith("no ") else known.finding
    digest = hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=8).digest()
    sentence = choices[int.from_bytes(digest, "big") % len(choices)]
    return sentence.format(image=image, Image=_capital(image), finding=finding, Finding=_capital(finding))


def join(phrases: Sequence[str]) -> str:
    """List phrases in a sentence.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, (", ".join(phrases[:-1]), *phrases[-1:])))


def _qualified(labels: Sequence[str]) -> list[str]:
    """Say each label, qualifiers as adjectives of the first label that isn't one."""
    adjectives = [label.lower() for label in labels if label.lower() in wording().qualifiers]
    nouns = [readable(label) for label in labels if label.lower() not in wording().qualifiers]
    if not nouns:
        return [readable(label) for label in labels]
    article = next((word for word in ("a ", "an ", "the ") if nouns[0].startswith(word)), "")
    bare = nouns[0].removeprefix(article)
    if adjectives and article == "an ":
        article = "a "  # every qualifier begins with a consonant
    return [article + " ".join([*adjectives, bare]), *nouns[1:]]


def _image(modality: str | None, body_part: str | None, view: str | None) -> str:
    """Say what kind of image it is, without an article."""
    known = wording()
    kind = MODALITIES[modality].phrase if modality else "image"
    kind = " ".join(filter(None, (known.views.get((view or "").strip().lower()), kind)))
    part = (body_part or "").strip().lower()
    return f"{kind} of {known.parts.get(part, f'the {part}')}" if part else kind


def _plain(word: str) -> str:
    """Lower a word's first letter unless it is an abbreviation such as `MR`."""
    return word if word[1:] != word[1:].lower() or len(word) == 1 else word.lower()


def _capital(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]
