"""Reports of phantoms: what a reader would write of a study, worded from `phantom_wording.json`.

Sides are the reader's of that modality. X-ray, CT and MRI: the patient's (the image's left half is the patient's
right). Ultrasound and pathology: the image's. Fundus: temporal and nasal; in a right eye (`OD`) nasal is the image's
right half. Levels come from the box's centre: its height is compared with `cuts` (fractions of the image).
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from medmoe.data.sources.phantom_case import Study
from medmoe.data.sources.phantom_findings import FINDINGS
from medmoe.types import Box

MAX_WORDS = 45
SIZE_CUTS = (0.17, 0.30)  # longest side of the box, as a fraction of the image: small, moderate, large
SEVERITY_CUTS = (0.82, 0.93)  # contrast of the finding: subtle below, marked above
OPENING, CLOSING = 0.5, 0.1  # shares of reports with a first sentence on the study, with a last one on what is normal
SYNONYM = 0.25  # share of findings named by their second name


@lru_cache(maxsize=1)
def wording() -> dict[str, Any]:
    """Read the wording table that is packaged with the library."""
    text = resources.files("medmoe.data").joinpath("phantom_wording.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def size_word(box: Box) -> str:
    """Say a box's size: small, moderate or large."""
    longest = max(box.x1 - box.x0, box.y1 - box.y0)
    return str(wording()["size"][int(np.searchsorted(SIZE_CUTS, longest, side="right"))])


def place_words(box: Box, modality: str, view: str) -> tuple[str, str]:
    """Say where a box's centre lies: the words for its side and its level."""
    table = wording()["modality"][modality]
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    right_half = (x >= 0.5) != (view == "OS")
    return table["side"][int(right_half)], table["level"][int(np.searchsorted(table["cuts"], y, side="right"))]


def write_report(study: Study, boxes: tuple[Box, ...], rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """Write a study's report.

    Args:
        study: What is true of it.
        boxes: The box of each of its findings, in their order.
        rng: Chooses the words.

    Returns:
        The report (2 to 5 sentences, at most 45 words) and, for each finding, the words of it that name the finding.
    """
    table = wording()
    own = table["modality"][study.modality]
    said = {finding.name: _noun(study.modality, finding.name, rng) for finding in study.findings}
    body = _body(study, boxes, said, rng)
    while _words(body) > MAX_WORDS:
        body = _body(study, boxes, said, rng)
    opening = _sentence(rng, own["opening"], view=table["view"].get(study.view, study.view))
    extra = [_negation(study, rng)] if rng.random() < 0.5 else []
    if rng.random() < CLOSING or len(body) + len(extra) < 2:
        extra.append(_sentence(rng, own["closing"]))
    report = " ".join(_fit(opening if rng.random() < OPENING else None, body, extra))
    return report, tuple(_as_written(report, said[finding.name]) for finding in study.findings)


def _body(study: Study, boxes: tuple[Box, ...], said: dict[str, str], rng: np.random.Generator) -> list[str]:
    """Word what every report must say: each finding or that there is none, and what changed."""
    table = wording()
    own = table["modality"][study.modality]
    body = [] if boxes else [_sentence(rng, own["normal"])]
    for number, (finding, box) in enumerate(zip(study.findings, boxes, strict=True)):
        side, level = place_words(box, study.modality, study.view)
        body.append(
            _sentence(
                rng,
                table["second_finding" if number else "finding"],
                lead=_lead(study.modality, finding.name, size_word(box), finding.contrast, rng),
                noun=said[finding.name],
                place=_pick(rng, own["place"]).format(side=side, level=level),
            )
        )
    if study.change is not None:
        noun = said.get(study.change.name) or _noun(study.modality, study.change.name, rng)
        body.append(_sentence(rng, table["change"][study.change.how], noun=noun))
    return body


def _words(sentences: list[str]) -> int:
    """Count words."""
    return sum(len(sentence.split()) for sentence in sentences)


def _fit(opening: str | None, body: list[str], extra: list[str]) -> list[str]:
    """Add to the body what the limits leave room for: five sentences, `MAX_WORDS` words."""
    sentences = list(body)
    for sentence in (opening, *extra):
        if sentence and len(sentences) < 5 and _words([*sentences, sentence]) <= MAX_WORDS:
            sentences = [sentence, *sentences] if sentence is opening else [*sentences, sentence]
    return sentences


def _negation(study: Study, rng: np.random.Generator) -> str:
    """Deny one or two findings that are not there."""
    absent = [name for name in FINDINGS[study.modality] if name not in {f.name for f in study.findings}]
    first, second = (str(name) for name in rng.permutation(absent)[:2])
    return _sentence(
        rng,
        wording()["negation"],
        noun=_noun(study.modality, first, rng),
        other=_noun(study.modality, second, rng),
    )


def _noun(modality: str, name: str, rng: np.random.Generator) -> str:
    """Name a finding, mostly by its main noun."""
    words = wording()["noun"][modality][name]["words"]
    return str(words[int(rng.random() < SYNONYM)])


def _lead(modality: str, name: str, size: str, contrast: float, rng: np.random.Generator) -> str:
    """Give the words before the noun: article, size and, where it stands out either way, severity."""
    degree = ("subtle", "", "marked")[int(np.searchsorted(SEVERITY_CUTS, contrast, side="right"))]
    severity = _pick(rng, wording()["severity"][degree]) if degree else ""
    lead: str = wording()["noun"][modality][name].get("lead", "a {size} {severity}")
    return " ".join(lead.format(size=size, severity=severity).split())


def _pick(rng: np.random.Generator, choices: list[str]) -> str:
    """Choose one."""
    return choices[int(rng.integers(len(choices)))]


def _sentence(rng: np.random.Generator, templates: list[str], **words: str) -> str:
    """Fill one of the templates and begin it with a capital."""
    text = _pick(rng, templates).format(**words)
    return text[0].upper() + text[1:]


def _as_written(report: str, phrase: str) -> str:
    """Give a phrase as the report spells it (a sentence may begin with it)."""
    at = report.lower().index(phrase.lower())
    return report[at : at + len(phrase)]
