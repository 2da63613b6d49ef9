"""Robustness: how much of each score is left when images are noisy, blurred, cropped, badly windowed or stained?"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from medmoe.data.corruptions import CORRUPTIONS, LEVELS, Corruption
from medmoe.errors import ConfigError, unknown
from medmoe.metrics import Floats, Resampler
from medmoe.modalities import in_order
from medmoe.tasks.base import Change, Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, by_group, mean, metrics
from medmoe.tasks.prompts import Prompts, load_prompts
from medmoe.tasks.repeatable import Scored, scores_of
from medmoe.types import Sample


@dataclass(frozen=True)
class Corrupted:
    """Changes samples by corruptions that share no modality, at one level; others stay as they are.

    Attributes:
        names: Rows of `CORRUPTIONS`.
        level: 1 to 5.
        seed: With a corruption's name, the level and the sample's place, the seed of its draws.
    """

    names: tuple[str, ...]
    level: int
    seed: int

    def __call__(self, index: int, sample: Sample) -> Sample:
        """Corrupt the sample at a place."""
        for name in self.names:
            if CORRUPTIONS[name].suits(sample.modality):
                rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), self.level, index])
                return CORRUPTIONS[name].change(sample, rng, self.level)
        return sample


@dataclass(frozen=True)
class Robustness:
    """Mean drop of routing, zero-shot and retrieval under named corruptions at five levels.

    The model runs over the same images corrupted, once for each level of each corruption (corruptions of different
    modalities share a pass). Scores, each per modality and averaged over modalities:

    - `routing`: image-router accuracy.
    - `zeroshot`: balanced accuracy by the global similarity, as in `zeroshot_classification`.
    - `retrieval`: recall@5 of an image's report among the distinct ones of its modality, by the global similarity.

    `SCORE_mean_drop` is the score of the clean images less its mean over the levels, averaged over corruptions and
    `CORRUPTION_SCORE_mean_drop` that of one; its interval resamples patients, with the clean and the corrupted answers
    of an image kept together. The curves are in the details.

    Controls: `chance` is no drop (what a model at chance has left to lose), `clean` the score without corruption and
    `to_chance` the drop of a model that the corruption brings down to guessing.

    Attributes:
        corruptions: Rows of `medmoe.data.corruptions.CORRUPTIONS`.
        levels: Levels among 1 to 5. Each costs a pass over the images for each group of corruptions.
        prompts: Wordings for zero-shot classification.
        fewest: Images that a class of the zero-shot classification needs.
        fewest_pairs: Reports that a modality needs for retrieval.
        most_pairs: Reports of a modality that retrieval is among, drawn by the seed.
    """

    name: ClassVar[str] = "robustness"
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    levels: tuple[int, ...] = LEVELS
    prompts: Prompts = field(default_factory=load_prompts)
    fewest: int = 5
    fewest_pairs: int = 10
    most_pairs: int = 2000

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge robustness."""
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise ConfigError(unknown("corruption", name, CORRUPTIONS), where=self.name)
        if context.again is None:
            return skipped("the images aren't at hand to be corrupted")
        present = in_order(sample.modality for sample in evidence.samples if sample.modality is not None)
        scored, left_out = scores_of(
            evidence,
            context,
            prompts=self.prompts,
            fewest=self.fewest,
            fewest_pairs=self.fewest_pairs,
            most_pairs=self.most_pairs,
        )
        used = [name for name in self.corruptions if any(map(CORRUPTIONS[name].suits, present))]
        if not scored or not used:
            return skipped("no score of these images can be computed for any corruption", left_out=left_out)
        passes = together(used, CORRUPTIONS, present)
        answers = self._answers(passes, scored, evidence, context)
        figures, curves = self._figures(used, scored, answers, evidence, context)
        details = {
            "levels": list(self.levels),
            "passes": len(passes) * len(self.levels),
            "not_applicable": [name for name in self.corruptions if name not in used],
            "left_out": left_out,
            "curves": curves,
        }
        return TaskResult(metrics(figures), details)

    def _answers(
        self, passes: Sequence[tuple[str, ...]], scored: Sequence[Scored], evidence: Evidence, context: Context
    ) -> dict[tuple[str, int], list[Floats]]:
        """Run every pass and keep, for each corruption and score, the outcomes at each level: [levels, rows]."""
        answers: dict[tuple[str, int], list[Floats]] = {}
        for names in passes:
            for level in self.levels:
                found = changed(evidence, context, Corrupted(names, level, context.seed))
                for place, one in enumerate(scored):
                    for name in names:
                        if CORRUPTIONS[name].suits(one.modality):
                            answers.setdefault((name, place), []).append(one.outcome(found))
        return answers

    def _figures(
        self,
        used: Sequence[str],
        scored: Sequence[Scored],
        answers: dict[tuple[str, int], list[Floats]],
        evidence: Evidence,
        context: Context,
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        """Give the drops and the curves."""
        clean = [one.outcome(evidence) for one in scored]
        figures: dict[str, Figure] = {}
        curves: dict[str, Any] = {name: {} for name in used}
        for kind in dict.fromkeys(one.kind for one in scored):
            drops: dict[str, dict[str, list[Figure]]] = {}  # by modality, then corruption
            for place, one in enumerate(scored):
                if one.kind != kind:
                    continue
                resampler = Resampler(
                    evidence.patients(one.rows.tolist()), resamples=context.resamples, seed=[context.seed, place]
                )
                for name in used:
                    if (name, place) in answers:
                        under = answers[name, place]
                        figure = _drop(one, clean[place], under, resampler)
                        drops.setdefault(one.modality, {}).setdefault(name, []).append(figure)
                        own = curves[name].setdefault(kind, {})
                        own[one.where] = {"clean": one.value(clean[place]), "levels": [one.value(at) for at in under]}
            for by_kind in curves.values():
                if kind in by_kind:
                    by_kind[kind] = _with_mean(by_kind[kind])
            groups = {modality: _of_modality(kind, by_name) for modality, by_name in drops.items()}
            figures |= by_group({name: groups[name] for name in in_order(groups)})
        return figures, curves


def changed(evidence: Evidence, context: Context, change: Change, *, controls: bool = False) -> Evidence:
    """Run the model over the changed images, and make sure that its rows are those of the evidence.

    Args:
        evidence: What the model said of the images as they are.
        context: With `again`.
        change: What becomes of each.
        controls: Also keep features that nobody trained.

    Raises:
        ValueError: If `context.again` is None, or runs over other images.
    """
    if context.again is None:
        raise ValueError("the images aren't at hand")
    found = context.again(change, controls=True) if controls else context.again(change)
    if [sample.key for sample in found.samples] != [sample.key for sample in evidence.samples]:
        raise ValueError("the images that were run again aren't those of the evidence")
    return found


def together(names: Sequence[str], rows: Mapping[str, Corruption], present: Sequence[str]) -> list[tuple[str, ...]]:
    """Group corruptions so that in each group no modality that is present suffers two: fewer passes over the images."""
    groups: list[tuple[set[str], list[str]]] = []
    for name in names:
        own = {modality for modality in present if rows[name].suits(modality)}
        for taken, group in groups:
            if not taken & own:
                taken |= own
                group.append(name)
                break
        else:
            groups.append((own, [name]))
    return [tuple(group) for _, group in groups]


def _with_mean(curves: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give the curve averaged over groups (modalities, or data sets of one), and each group's."""
    clean = float(np.mean([curve["clean"] for curve in curves.values()]))
    levels = np.mean([curve["levels"] for curve in curves.values()], axis=0)
    return {"clean": clean, "levels": [float(value) for value in levels], "groups": curves}


def _of_modality(kind: str, by_name: Mapping[str, Sequence[Figure]]) -> dict[str, Figure]:
    """Average a modality's drops over its data sets, and then over corruptions.

    The corruptions are of the same images and share their resamples, so draws are averaged as they are.
    """
    each = {name: mean(list(figures)) for name, figures in by_name.items()}
    total = mean(list(each.values()))
    first = next(iter(each.values()))
    named = {f"{kind}_mean_drop": Figure(total.value, total.draws, first.n, total.controls)}
    return named | {f"{name}_{kind}_mean_drop": figure for name, figure in each.items()}


def _drop(one: Scored, clean: Floats, under: Sequence[Floats], resampler: Resampler) -> Figure:
    """Subtract the mean over levels from the clean score, paired by image."""

    def dropped(weights: Floats | None = None) -> Floats:
        each = [one.score(at, weights) for at in under]
        return np.asarray(one.score(clean, weights) - np.mean(each, axis=0))

    value = float(one.score(clean, None))
    return Figure(
        value=float(dropped()),
        draws=resampler.draws(dropped),
        n=len(clean),
        controls={"chance": 0.0, "clean": value, "to_chance": value - one.chance},
    )
