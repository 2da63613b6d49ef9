"""The modality of an image from what several rules say: one decision, how sure it is, and which rule made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmoe.data.curation.label_pixels import pixel_votes
from medmoe.data.curation.label_rules import (
    DATASET,
    FAMILIES,
    HEADER,
    LAYOUT,
    PIXELS,
    TEXT,
    Clues,
    Vote,
    dataset_votes,
    header_votes,
    layout_votes,
    text_votes,
)
from medmoe.modalities import MODALITIES

LEAST = 0.5  # confidence below which nothing is decided
_READERS: dict[str, Callable[[Clues], Iterator[Vote]]] = {
    HEADER: header_votes,
    TEXT: text_votes,
    LAYOUT: layout_votes,
    DATASET: dataset_votes,
    PIXELS: pixel_votes,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about an image.

    Attributes:
        modality: A name of `medmoe.modalities`; None where no rule fired, they are too unsure, or a header says that
            it is none of these.
        confidence: Of the decision, 0 to 1; 0 where nothing was decided.
        rule: The strongest of the rules that speak for it.
        votes: All that fired.
    """

    modality: str | None
    confidence: float
    rule: str | None
    votes: tuple[Vote, ...] = ()

    def says(self, family: str) -> str | None:
        """Give the modality that a family's strongest rule names; None where none fired."""
        votes = [vote for vote in self.votes if vote.family == family]
        return max(votes, key=lambda vote: vote.confidence).modality if votes else None


def decide(clues: Clues, families: Sequence[str] = FAMILIES) -> Decision:
    """Let the rules of some families say what an image is.

    Each vote counts as evidence of a rule that is right with its confidence and otherwise says any of the other
    modalities alike (naive Bayes, every modality as likely beforehand). Rules of one family aren't independent:
    for each modality only a family's strongest counts. Pixels aren't asked where a DICOM header names a kind of image,
    nor does anything stand against a header that names one the library doesn't know.

    Args:
        clues: What is known of it.
        families: Which rules may speak.
    """
    votes = []
    for family in families:
        if family != PIXELS or not clues.code:
            votes += list(_READERS[family](clues))
    foreign = next((vote for vote in votes if vote.modality is None), None)
    if foreign is not None:
        return Decision(None, 0.0, foreign.rule, tuple(votes))
    strongest: dict[tuple[str, str], Vote] = {}
    for vote in votes:
        key = (vote.family, vote.modality or "")
        if key not in strongest or strongest[key].confidence < vote.confidence:
            strongest[key] = vote
    if not strongest:
        return Decision(None, 0.0, None)
    weights = dict.fromkeys(MODALITIES, 0.0)
    for (_, modality), vote in strongest.items():
        weights[modality] += math.log(vote.confidence * (len(weights) - 1) / (1.0 - vote.confidence))
    top = max(weights.values())
    total = sum(math.exp(weight - top) for weight in weights.values())
    best = max(weights, key=lambda name: weights[name])
    confidence = 1.0 / total
    if confidence < LEAST:
        return Decision(None, 0.0, None, tuple(votes))
    rule = max((vote for vote in votes if vote.modality == best), key=lambda vote: vote.confidence).rule
    return Decision(best, round(confidence, 4), rule, tuple(votes))


@dataclass
class Count:
    """How a rule fared: images that it fired on, made the decision of, agreed with, spoke against; and was right on."""

    fired: int = 0
    decided: int = 0
    agreed: int = 0
    contradicted: int = 0
    judged: int = 0
    right: int = 0

    def as_dict(self) -> dict[str, int]:
        """Give the counts; those of a truth only where there was one."""
        told = {"judged": self.judged, "right": self.right} if self.judged else {}
        return {
            "fired": self.fired, "decided": self.decided, "agreed": self.agreed, "contradicted": self.contradicted
        } | told  # fmt: skip


@dataclass
class Tally:
    """Counts of decisions, rule by rule, and the images about which rules differ."""

    rules: dict[str, Count] = field(default_factory=dict)
    decided: int = 0
    undecided: int = 0
    conflicts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image: str, decision: Decision, *, truth: str | None = None, router: str | None = None) -> None:
        """Count an image.

        Args:
            image: Its path, for the list of conflicts.
            decision: What the rules said.
            truth: Its modality where that is known.
            router: What a model's image router says; listed where it differs, but decides nothing.
        """
        self.decided += decision.modality is not None
        self.undecided += decision.modality is None
        for vote in {(vote.rule, vote.modality): vote for vote in decision.votes}.values():
            count = self.rules.setdefault(vote.rule, Count())
            count.fired += 1
            count.decided += decision.rule == vote.rule and decision.modality == vote.modality
            count.agreed += decision.modality is not None and decision.modality == vote.modality
            count.contradicted += decision.modality is not None and decision.modality != vote.modality
            if truth is not None:
                count.judged += 1
                count.right += vote.modality == truth
        said = {name: decision.says(name) for name in FAMILIES} | {"router": router, "given": truth}
        if len({name for name in said.values() if name is not None}) > 1:
            self.conflicts.append(
                {"image": image, "decided": decision.modality, "rule": decision.rule, "confidence": decision.confidence}
                | said
            )

    def as_dict(self) -> dict[str, Any]:
        """Give counts by rule, most used first."""
        ordered = sorted(self.rules.items(), key=lambda pair: (-pair[1].fired, pair[0]))
        return {
            "decided": self.decided,
            "undecided": self.undecided,
            "conflicts": len(self.conflicts),
            "rules": {name: count.as_dict() for name, count in ordered},
        }


def columns_of(decision: Decision) -> Mapping[str, str | None]:
    """Give a decision as the columns of a manifest."""
    return {
        "modality": decision.modality,
        "modality_confidence": f"{decision.confidence:.4g}" if decision.modality else None,
        "modality_rule": decision.rule,
    }
