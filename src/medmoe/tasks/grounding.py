"""Grounding: does a word's heatmap point at the finding the word names?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from medmoe.data.masks import namings, phrases_of
from medmoe.metrics import Bools, Floats, Ints, Resampler
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, by_group, metrics
from medmoe.tasks.heatmaps import (
    attention_heatmaps,
    contrast,
    contrast_to_noise,
    corners_of,
    dilated,
    dot_heatmaps,
    inside,
    late_heatmaps,
    marked_at,
    mask_auroc,
    overlap,
    peaks,
    ranks,
    rescaled,
    standardised,
    target_of,
    upsample,
    within,
)
from medmoe.types import Sample

__all__ = ["Grounding", "Item", "dot_heatmaps", "find_items", "inside", "peaks", "upsample"]

# Items whose heatmaps are computed at a time.
_BLOCK = 64
# Shuffles of the figures that need more than a point of each heatmap.
_FEW = 20
# A finding is small or medium when its boxes cover less than this share of the image, else large.
_SIZES = {"small": 0.17**2, "medium": 0.30**2, "large": float("inf")}
_NO_BOX: Floats = np.zeros((0, 4))
_THRESHOLDS: Floats = np.linspace(0.05, 0.95, 19)


@dataclass(frozen=True)
class Item:
    """A finding with boxes or a mask in an image, and the words that name it in the image's report.

    Attributes:
        row: The image's row in the evidence.
        label: The finding.
        phrase: The words that name it.
        words: Their indices among the report's words.
        boxes: [b, 4] its boxes as x0, y0, x1, y1 fractions; none where a mask tells its place.
        mask: [SIDE, SIDE] its place in place of boxes, or None.
    """

    row: int
    label: str
    phrase: str
    words: tuple[int, ...]
    boxes: Floats
    mask: Bools | None = None

    def area(self, margin: float = 0.0) -> Bools:
        """Mark its place, dilated by `margin`: [SIDE, SIDE]."""
        return inside(self.boxes, margin) if self.mask is None else dilated(self.mask, margin)

    def size(self) -> str:
        """Call it small, medium or large by the area it covers."""
        return size_of(self.boxes) if self.mask is None else _size(float(self.mask.mean()))


def hit(points: Floats, items: Sequence[Item], margin: float) -> Floats:
    """Tell which points [..., n, 2] lie in their item's place, dilated by `margin`: [..., n] of 0.0 and 1.0."""
    held = within(points, corners_of([item.boxes for item in items]), margin)
    masked = [place for place, item in enumerate(items) if item.mask is not None]
    if masked:
        wide = np.stack([items[place].area(margin) for place in masked])
        held[..., masked] = marked_at(points[..., masked, :], wide)
    return held


@dataclass(frozen=True)
class PerItem:
    """A figure of single items, to be averaged over any of them.

    Attributes:
        values: [n] of each item.
        shuffled: [S, n] with another image's heatmap; None where there is no other image.
        controls: [n] fixed controls by name.
    """

    values: Floats
    shuffled: Floats | None
    controls: dict[str, Floats]

    def figure(self, chosen: Ints, resampler: Resampler) -> Figure:
        """Average over the chosen items."""
        shuffled = None if self.shuffled is None else self.shuffled[:, chosen]
        values = self.values[chosen]
        return Figure(
            value=float(values.mean()),
            draws=resampler.means(values),
            n=len(values),
            controls={name: float(own[chosen].mean()) for name, own in self.controls.items()},
            shuffled=None if shuffled is None else shuffled.mean(axis=1),
            shuffled_draws=None if shuffled is None else resampler.means(shuffled[0]),
        )


@dataclass(frozen=True)
class Grounding:
    """How word heatmaps lie over boxes and masks, per modality and their mean.

    A heatmap is read in three ways: without a prefix: raw dot product of the regions with the sum of the phrase's words
    in its report; `attention_…`: as the model's local similarity reads it (with `attention`, words of the report
    compete for each region, then a softmax over regions; with `late_interaction`, that softmax alone); `prompt_…`: raw
    dot product with the phrase alone as text. It is upsampled bilinearly to 64×64.

    - `pointing`: whether its maximum lies in one of the finding's boxes, dilated by half a region cell.
    - `contrast`: (mean inside - mean outside) / standard deviation of the whole map.
    - `cnr`: the same over the root of the summed variances inside and outside (contrast-to-noise ratio; Boecking et
      al., 2022, https://arxiv.org/abs/2204.09817), with its sign.
    - `mask_auroc`: how often a point inside is hotter than one outside; the boxes are the mask where there is none.
    - `iou`: of the points above a threshold of the heatmap, brought to [0, 1], with the place. The threshold is the
      best one for the validation images, for each reading; without them there is no `iou`.

    A mask is the place of what `medmoe.data.masks` says it shows: of the image's only finding, unless the data set
    marks something else (lungs, vessels). It counts where the report names that. Where a finding has both, boxes count.

    A flat or NaN heatmap misses, at contrast 0, AUROC 0.5 and IoU 0. `small_…`, `medium_…` and `large_…` are the
    figures of the first reading for findings whose place covers less than 0.17², less than 0.30² and more of the
    image.

    Controls: `chance` (mean area of the dilated place; no contrast; 0.5; for the IoU, marking the whole image),
    `centre` (always pointing at the middle), and `shuffled` (the heatmap of another image's finding of the same
    modality).

    Attributes:
        shuffles: How often heatmaps are shuffled.
        tau_attention: Sharpness of the softmax over regions, as in the local loss.
        fewest: Findings of a size that a modality needs for the figures of that size.
    """

    name: ClassVar[str] = "grounding"
    shuffles: int = 100
    tau_attention: float = 4.0
    fewest: int = 5

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge grounding."""
        if not evidence.regions.shape[1]:
            return skipped("the model has no local image features")
        items, left_out = find_items(evidence, context)
        if not items:
            return skipped("no image has boxes or a mask, and a report that names what they show", left_out=left_out)
        modality = [evidence.samples[item.row].modality or "unknown" for item in items]
        heat = heatmaps(items, evidence, context, tau_attention=self.tau_attention)
        thresholds, why = self._thresholds(context)
        sizes = np.array([item.size() for item in items])
        groups: dict[str, dict[str, Figure]] = {}
        for stream, name in enumerate((*in_order(modality), *(["unknown"] if "unknown" in modality else []))):
            own = np.array([index for index, other in enumerate(modality) if other == name])
            figured = Judged([items[index] for index in own], evidence, context, [context.seed, 20_000 + stream])
            each = figured.per_item({key: maps[own] for key, maps in heat.items()}, thresholds, self.shuffles)
            groups[name] = figured.figures(each, sizes[own], self.fewest)
        labels = Counter(f"{name}/{item.label}" for name, item in zip(modality, items, strict=True))
        counts = Counter(f"{name}/{size}" for name, size in zip(modality, sizes.tolist(), strict=True))
        details: dict[str, Any] = {
            "findings": dict(sorted(labels.items())),
            "sizes": dict(sorted(counts.items())),
            "places": dict(sorted(Counter("boxes" if item.mask is None else "mask" for item in items).items())),
            "left_out": left_out,
            "margin": 0.5 / evidence.regions.shape[-1],
            "iou": thresholds if thresholds else {"skipped": why},
        }
        return TaskResult(metrics(by_group(groups)), details)

    def _thresholds(self, context: Context) -> tuple[dict[str, float], str]:
        """Choose each reading's threshold on validation images: the best mean over modalities; else say why not."""
        tune = context.tune
        if tune is None:
            return {}, "there is no evidence of validation images to choose a threshold on"
        items, _ = find_items(tune, context)
        if not items:
            return {}, "no validation image has boxes or a mask, and a report that names what they show"
        modality = np.array([tune.samples[item.row].modality or "unknown" for item in items])
        wide = _dilated(items, 0.5 / tune.regions.shape[-1])
        target = np.stack([_target(item, mask) for item, mask in zip(items, wide, strict=True)])
        chosen = {}
        for reading, maps in heatmaps(items, tune, context, tau_attention=self.tau_attention).items():
            unit = rescaled(maps)
            found = np.stack([overlap(unit >= threshold, target) for threshold in _THRESHOLDS])  # [thresholds, items]
            means = [found[:, modality == name].mean(axis=1) for name in np.unique(modality)]
            chosen[_spelled(reading)] = float(_THRESHOLDS[np.mean(means, axis=0).argmax()])
        return chosen, ""


@dataclass(frozen=True)
class Judged:
    """The findings of one modality, and what heatmaps are held against.

    Attributes:
        items: The findings.
        evidence: What the model says of the images.
        context: What tasks need beside it.
        seed: Seed of resamples and shuffles.
    """

    items: Sequence[Item]
    evidence: Evidence
    context: Context
    seed: Sequence[int]

    def per_item(
        self, heat: Mapping[str, Floats], thresholds: Mapping[str, float], shuffles: int
    ) -> dict[str, PerItem]:
        """Judge each finding by heatmaps [n, SIDE, SIDE] of each reading."""
        rows = [item.row for item in self.items]
        grid = self.evidence.regions.shape[-1]
        margin = 0.5 / grid
        orders = _other_images(rows, shuffles, np.random.default_rng([*self.seed, 1]))
        wide = _dilated(self.items, margin)
        target = np.stack([_target(item, mask) for item, mask in zip(self.items, wide, strict=True)])
        centre = hit(np.full((len(rows), 2), 0.5), self.items, margin)
        pointed = {"chance": wide.mean(axis=(1, 2)), "centre": centre}
        none, half = np.zeros(len(rows)), np.full(len(rows), 0.5)
        every: dict[str, PerItem] = {}
        for reading, maps in heat.items():
            points, unit = peaks(maps, grid), standardised(maps)
            lost = np.stack([hit(points[order], self.items, margin) for order in orders]) if orders else None
            every[f"{reading}pointing"] = PerItem(hit(points, self.items, margin), lost, pointed)
            for name, measure, of, control, times in (
                ("contrast", contrast, unit, none, shuffles),
                ("cnr", contrast_to_noise, unit, none, _FEW),
                ("mask_auroc", mask_auroc, ranks(unit), half, _FEW),
            ):
                mixed = np.stack([measure(of[order], target) for order in orders[:times]]) if orders else None
                every[f"{reading}{name}"] = PerItem(measure(of, target), mixed, {"chance": control})
            if thresholds:
                marked = rescaled(maps) >= thresholds[_spelled(reading)]
                mixed = np.stack([overlap(marked[order], target) for order in orders[:_FEW]]) if orders else None
                every[f"{reading}iou"] = PerItem(overlap(marked, target), mixed, {"chance": target.mean(axis=(1, 2))})
        return every

    def figures(self, every: Mapping[str, PerItem], sizes: Any, fewest: int) -> dict[str, Figure]:
        """Average over all findings and, for the first reading, over those of each size."""
        figures = self._averaged(every, np.arange(len(self.items)), 0)
        first = {name: own for name, own in every.items() if not name.startswith(("attention_", "prompt_"))}
        for place, size in enumerate(_SIZES):
            chosen = np.flatnonzero(sizes == size)
            if len(chosen) >= fewest:
                own = self._averaged(first, chosen, 2 + place)
                figures |= {f"{size}_{name}": figure for name, figure in own.items()}
        return figures

    def _averaged(self, every: Mapping[str, PerItem], chosen: Ints, stream: int) -> dict[str, Figure]:
        patients = self.evidence.patients([self.items[index].row for index in chosen])
        resampler = Resampler(patients, resamples=self.context.resamples, seed=[*self.seed, stream])
        return {name: own.figure(chosen, resampler) for name, own in every.items()}


def heatmaps(
    items: Sequence[Item], evidence: Evidence, context: Context, *, tau_attention: float = 4.0
) -> dict[str, Floats]:
    """Compute [items, SIDE, SIDE] for each way of reading, by its prefix."""
    phrases = {phrase: place for place, phrase in enumerate(dict.fromkeys(item.phrase for item in items))}
    prompts = context.encode_text(list(phrases))
    alone = (prompts.words.float() * prompts.word_mask[:, :, None]).sum(dim=1)  # [phrases, D]
    maps: dict[str, list[Floats]] = {"": [], "attention_": [], "prompt_": []}
    for start in range(0, len(items), _BLOCK):
        block = items[start : start + _BLOCK]
        rows = torch.tensor([item.row for item in block])
        regions, words, mask = (
            evidence.regions[rows].float(),
            evidence.words[rows].float(),
            evidence.word_mask[rows],
        )
        chosen = torch.zeros_like(mask)
        for place, item in enumerate(block):
            chosen[place, list(item.words)] = True
        queries = (words * chosen[:, :, None]).sum(dim=1)  # [n, D]
        if evidence.local_similarity == "late_interaction":
            attention = late_heatmaps(regions, words, chosen)
        else:
            attention = attention_heatmaps(regions, words, mask, chosen, tau_attention=tau_attention)
        maps[""].append(upsample(dot_heatmaps(regions, queries)))
        maps["attention_"].append(upsample(attention))
        own = alone[[phrases[item.phrase] for item in block]]
        maps["prompt_"].append(upsample(dot_heatmaps(regions, own)))
    return {reading: np.concatenate(every) for reading, every in maps.items()}


def size_of(boxes: Floats) -> str:
    """Call a finding small, medium or large by the area of its boxes [b, 4], what they share counted once.

    >>> size_of(np.array([[0.1, 0.1, 0.3, 0.3]]))
    'medium'
    """
    single = float(np.prod(boxes[0, 2:] - boxes[0, :2]))
    return _size(single if len(boxes) == 1 else float(inside(boxes, 0.0).mean()))


def _size(area: float) -> str:
    return next(name for name, limit in _SIZES.items() if area < limit)


def find_items(evidence: Evidence, context: Context) -> tuple[list[Item], dict[str, int]]:
    """Find the findings that have boxes or a mask and are named in their report; count what is left out and why."""
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    marked = np.zeros(len(evidence), bool) if evidence.masks is None else evidence.masks.flatten(1).any(1).numpy()
    for row, sample in enumerate(evidence.samples):
        if not sample.boxes and not marked[row]:
            continue
        if sample.report is None or not evidence.has_report[row]:
            left_out["images without a report"] += 1
            continue
        places = _boxed(sample)
        if marked[row] and evidence.masks is not None:
            phrases = phrases_of(sample.source, sample.labels)
            if phrases and not {phrase for _, own, _, _ in places for phrase in own}.intersection(phrases):
                places.append((phrases[0], phrases, _NO_BOX, evidence.masks[row].numpy()))
            elif not phrases and not places:
                left_out["masks of which nobody says what they show"] += 1
        for label, phrases, boxes, mask in places:
            found = _named(sample, phrases, int(evidence.word_mask[row].sum()), context)
            if found is None:
                left_out["findings not named in the report"] += 1
            else:
                items.append(Item(row, label, *found, boxes, mask))
    return items, dict(left_out)


def _boxed(sample: Sample) -> list[tuple[str, tuple[str, ...], Floats, Bools | None]]:
    """Give label, phrases that may name it, and boxes [b, 4] of each finding with boxes."""
    boxes = sample.boxes or ()
    places: list[tuple[str, tuple[str, ...], Floats, Bools | None]] = []
    for label in dict.fromkeys(box.label for box in boxes):
        own = [box for box in boxes if box.label == label]
        corners = np.array([[box.x0, box.y0, box.x1, box.y1] for box in own], dtype=np.float64)
        phrases = tuple(dict.fromkeys([*(box.phrase for box in own if box.phrase), *namings(label)]))
        places.append((label, phrases, corners, None))
    return places


def _named(sample: Sample, phrases: Sequence[str], count: int, context: Context) -> tuple[str, tuple[int, ...]] | None:
    """Look for the first phrase that the report holds; words cut off from a long report don't count."""
    for phrase in phrases:
        words = tuple(word for word in context.tokenizer.find(sample.report or "", phrase) if word < count)
        if words:
            return phrase, words
    return None


def _target(item: Item, wide: Bools) -> Bools:
    """Mark what a heatmap should cover."""
    return target_of(item.boxes, wide) if item.mask is None else item.mask


def _spelled(reading: str) -> str:
    """Name a way of reading by its prefix."""
    return reading.rstrip("_") or "raw"


def _dilated(items: Sequence[Item], margin: float) -> Bools:
    """Mark each item's place, dilated: [n, SIDE, SIDE]."""
    return np.stack([item.area(margin) for item in items])


def _other_images(rows: Sequence[int], times: int, rng: np.random.Generator) -> list[Ints]:
    """Draw for each item an item of another image, so that images are permuted and none stays; none for one image."""
    images = list(dict.fromkeys(rows))
    members = {row: np.flatnonzero(np.array(rows) == row) for row in images}
    if len(images) < 2:
        return []
    orders = []
    for _ in range(times):
        order = rng.permutation(images)
        onto = dict(zip(order.tolist(), np.roll(order, int(rng.integers(1, len(images)))).tolist(), strict=True))
        orders.append(np.array([rng.choice(members[onto[row]]) for row in rows], dtype=np.int64))
    return orders
