"""Grounding: does a word's heatmap point at the finding the word names?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medmoe.metrics import Floats, Ints, Resampler
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, by_group, metrics
from medmoe.tasks.prompts import spoken
from medmoe.types import Box, Sample

# Side of the grid that heatmaps are upsampled to and points are taken from.
SIDE = 64
# Items whose heatmaps are computed at a time.
_BLOCK = 64
_CENTRES: Floats = (np.arange(SIDE) + 0.5) / SIDE


@dataclass(frozen=True)
class Item:
    """A finding with boxes in an image, and the words that name it in the image's report.

    Attributes:
        row: The image's row in the evidence.
        label: The finding.
        phrase: The words that name it.
        words: Their indices among the report's words.
        boxes: [b, 4] its boxes as x0, y0, x1, y1 fractions.
    """

    row: int
    label: str
    phrase: str
    words: tuple[int, ...]
    boxes: Floats


@dataclass(frozen=True)
class Grounding:
    """The pointing game and contrast of word heatmaps against boxes, per modality and their mean.

    A heatmap is read in three ways: `pointing`, `contrast`: raw dot product of the regions with the sum of the
    phrase's words in its report; `attention_…`: as the local loss reads it (words of the report compete for each
    region, then a softmax over regions); `prompt_…`: raw dot product with the phrase alone as text. It points at
    its maximum after bilinear upsampling to 64×64; a hit lies in one of the finding's boxes, dilated by half a
    region cell. Contrast is (mean inside − mean outside) / standard deviation (Boecking et al., 2022,
    https://arxiv.org/abs/2204.09817, with one deviation of the whole map). A flat or NaN heatmap misses, at contrast 0.

    Controls: `chance` (mean area of the dilated boxes), `centre` (always pointing at the middle), and `shuffled`
    (the heatmap of another image's finding of the same modality).

    Attributes:
        shuffles: How often heatmaps are shuffled.
        tau_attention: Sharpness of the softmax over regions, as in the local loss.
    """

    name: ClassVar[str] = "grounding"
    shuffles: int = 100
    tau_attention: float = 4.0

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge grounding."""
        items, left_out = find_items(evidence, context)
        if not items:
            return skipped("no image has both boxes and a report that names their findings", left_out=left_out)
        modality = [evidence.samples[item.row].modality or "unknown" for item in items]
        heat = self._heatmaps(items, evidence, context)
        margin = 0.5 / evidence.regions.shape[-1]
        groups: dict[str, dict[str, Figure]] = {}
        for stream, name in enumerate((*in_order(modality), *(["unknown"] if "unknown" in modality else []))):
            own = np.array([index for index, other in enumerate(modality) if other == name])
            chosen = [items[index] for index in own]
            groups[name] = self._group(
                chosen, {reading: maps[own] for reading, maps in heat.items()}, margin, evidence, context, stream
            )
        labels = Counter(f"{name}/{item.label}" for name, item in zip(modality, items, strict=True))
        details = {"findings": dict(sorted(labels.items())), "left_out": left_out, "margin": margin}
        return TaskResult(metrics(by_group(groups)), details)

    def _heatmaps(self, items: Sequence[Item], evidence: Evidence, context: Context) -> dict[str, Floats]:
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
            attention = attention_heatmaps(regions, words, mask, chosen, tau_attention=self.tau_attention)
            maps[""].append(upsample(dot_heatmaps(regions, queries)))
            maps["attention_"].append(upsample(attention))
            own = alone[[phrases[item.phrase] for item in block]]
            maps["prompt_"].append(upsample(dot_heatmaps(regions, own)))
        return {reading: np.concatenate(every) for reading, every in maps.items()}

    def _group(
        self,
        items: Sequence[Item],
        heat: dict[str, Floats],
        margin: float,
        evidence: Evidence,
        context: Context,
        stream: int,
    ) -> dict[str, Figure]:
        rows = [item.row for item in items]
        seed = [context.seed, 20_000 + stream]
        resampler = Resampler(evidence.patients(rows), resamples=context.resamples, seed=[*seed, 0])
        orders = _other_images(rows, self.shuffles, np.random.default_rng([*seed, 1]))
        corners = _corners(items)
        wide = np.stack([inside(item.boxes, margin) for item in items])  # [items, SIDE, SIDE]
        controls = {
            "chance": float(wide.mean()),
            "centre": float(_within(np.full((len(items), 2), 0.5), corners, margin).mean()),
        }
        target = np.stack([_target(item.boxes, mask, margin) for item, mask in zip(items, wide, strict=True)])
        figures: dict[str, Figure] = {}
        for reading, maps in heat.items():
            points = peaks(maps, evidence.regions.shape[-1])
            hit = _within(points, corners, margin)
            lost = np.stack([_within(points[order], corners, margin) for order in orders]) if orders else None
            figures[f"{reading}pointing"] = _figure(hit, lost, resampler, controls)
            unit = standardised(maps)
            contrast = _contrast(unit, target)
            mixed = np.stack([_contrast(unit[order], target) for order in orders]) if orders else None
            figures[f"{reading}contrast"] = _figure(contrast, mixed, resampler, {"chance": 0.0})
        return figures


def find_items(evidence: Evidence, context: Context) -> tuple[list[Item], dict[str, int]]:
    """Find the findings that have boxes and are named in their report; count what is left out and why."""
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for row, sample in enumerate(evidence.samples):
        if not sample.boxes:
            continue
        if sample.report is None or not evidence.has_report[row]:
            left_out["images without a report"] += 1
            continue
        for label in dict.fromkeys(box.label for box in sample.boxes):
            own = [box for box in sample.boxes if box.label == label]
            item = _item(row, sample, label, own, int(evidence.word_mask[row].sum()), context)
            if item is None:
                left_out["findings not named in the report"] += 1
            else:
                items.append(item)
    return items, dict(left_out)


def _item(row: int, sample: Sample, label: str, boxes: list[Box], count: int, context: Context) -> Item | None:
    """Look for the first phrase of a finding that its report holds; words cut off from a long report don't count."""
    corners = np.array([[box.x0, box.y0, box.x1, box.y1] for box in boxes], dtype=np.float64)
    for phrase in dict.fromkeys([*(box.phrase for box in boxes if box.phrase), spoken(label)]):
        words = tuple(word for word in context.tokenizer.find(sample.report or "", phrase) if word < count)
        if words:
            return Item(row, label, phrase, words, corners)
    return None


def dot_heatmaps(regions: Tensor, queries: Tensor) -> Tensor:
    """Give the raw dot product of each query [n, D] with each region of its image [n, D, G, G]: [n, G, G]."""
    return torch.einsum("nd,ndgh->ngh", queries, regions)


def attention_heatmaps(
    regions: Tensor, words: Tensor, word_mask: Tensor, chosen: Tensor, *, tau_attention: float = 4.0
) -> Tensor:
    """Give the attention of chosen words as the local loss computes it (Huang et al., 2021), summed.

    Args:
        regions: [n, D, G, G].
        words: [n, N, D] all words of each report.
        word_mask: [n, N] bool.
        chosen: [n, N] bool, the words asked for.
        tau_attention: Sharpness of the softmax over regions.

    Returns:
        [n, G, G]; each word's attention sums to 1.
    """
    grid = regions.flatten(2)  # [n, D, M]
    score = (words @ grid).masked_fill(~word_mask[:, :, None], float("-inf"))  # [n, N, M]
    heat = torch.softmax(tau_attention * torch.softmax(score, dim=1), dim=2)
    return (heat * chosen[:, :, None]).sum(dim=1).view(len(regions), *regions.shape[2:])


def upsample(heat: Tensor) -> Floats:
    """Upsample heatmaps [n, G, G] bilinearly: [n, SIDE, SIDE]."""
    wide = F.interpolate(heat[:, None].double(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    result: Floats = wide[:, 0].numpy()
    return result


def peaks(maps: Floats, grid: int) -> Floats:
    """Give where each heatmap is highest; of several equal maxima, their mean place.

    Args:
        maps: [n, SIDE, SIDE], upsampled.
        grid: G before upsampling. Beyond the centre of a border cell a map is level, so a point there is the centre.

    Returns:
        [n, 2] x, y fractions; NaN for a flat or NaN map.
    """
    highest = maps.max(axis=(1, 2), keepdims=True)
    top = maps == highest
    count = np.maximum(top.sum(axis=(1, 2)), 1)
    x, y = (top.sum(axis=1) @ _CENTRES) / count, (top.sum(axis=2) @ _CENTRES) / count
    useless = ~_readable(maps)
    points = np.clip(np.stack([x, y], axis=1), 0.5 / grid, 1 - 0.5 / grid)
    return np.where(useless[:, None], np.nan, points)


def standardised(maps: Floats) -> Floats:
    """Bring each heatmap to mean 0 and standard deviation 1; a flat or NaN one to 0."""
    fine = _readable(maps)[:, None, None]
    safe = np.where(fine, maps, 0.0)
    spread = safe.std(axis=(1, 2), keepdims=True)
    result: Floats = (safe - safe.mean(axis=(1, 2), keepdims=True)) / np.where(fine & (spread > 0), spread, 1.0)
    return result


def _readable(maps: Floats) -> NDArray[np.bool_]:
    """Tell which heatmaps are finite and vary by more than float32's rounding: [n]."""
    finite = np.isfinite(maps).sum(axis=(1, 2)) == maps[0].size
    safe = np.where(finite[:, None, None], maps, 0.0)
    varies: NDArray[np.bool_] = np.ptp(safe, axis=(1, 2)) > 1e-6 * np.abs(safe).max(axis=(1, 2))
    return varies


def inside(boxes: Floats, margin: float) -> NDArray[np.bool_]:
    """Mark the points of the SIDE×SIDE grid that lie in a box [b, 4] dilated by `margin`."""
    x, y = _CENTRES[None, None, :], _CENTRES[None, :, None]
    x0, y0, x1, y1 = (boxes[:, side, None, None] for side in range(4))
    held = (x >= x0 - margin) & (x <= x1 + margin) & (y >= y0 - margin) & (y <= y1 + margin)
    marked: NDArray[np.bool_] = np.logical_or.reduce(held, axis=0)
    return marked


def _target(boxes: Floats, wide: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    """Give the boxes' own area, or the dilated one where no grid point lies in them."""
    exact = inside(boxes, 0.0)
    return exact if exact.sum() else wide


def _within(points: Floats, corners: Floats, margin: float) -> Floats:
    """Tell which points lie in a dilated box of their item; a NaN point or box holds nothing.

    Args:
        points: [..., n, 2] x, y.
        corners: [n, b, 4] boxes, padded with NaN.
        margin: Dilation.

    Returns:
        [..., n] of 0.0 and 1.0.
    """
    x, y = points[..., 0, None], points[..., 1, None]  # [..., n, 1]
    x0, y0, x1, y1 = (corners[..., side] for side in range(4))  # [n, b]
    held = (x >= x0 - margin) & (x <= x1 + margin) & (y >= y0 - margin) & (y <= y1 + margin)
    within: Floats = np.logical_or.reduce(held, axis=-1).astype(np.float64)
    return within


def _corners(items: Sequence[Item]) -> Floats:
    """Stack boxes: [n, b, 4], padded with NaN to the most of an item."""
    stacked = np.full((len(items), max(len(item.boxes) for item in items), 4), np.nan)
    for place, item in enumerate(items):
        stacked[place, : len(item.boxes)] = item.boxes
    return stacked


def _contrast(unit: Floats, target: NDArray[np.bool_]) -> Floats:
    """Subtract the mean outside from the mean inside, for standardised maps: [n]; 0 when either is empty."""
    within, area = np.einsum("nyx,nyx->n", unit, target), target.sum(axis=(1, 2))
    rest = target[0].size - area
    total = unit.sum(axis=(1, 2))
    usable = (area > 0) & (rest > 0)
    return np.where(usable, within / np.maximum(area, 1) - (total - within) / np.maximum(rest, 1), 0.0)


def _figure(values: Floats, shuffled: Floats | None, resampler: Resampler, controls: dict[str, float]) -> Figure:
    """Average values [n]; `shuffled` is [S, n], or None where there was nothing to shuffle with."""
    return Figure(
        value=float(values.mean()),
        draws=resampler.means(values),
        n=len(values),
        controls=controls,
        shuffled=None if shuffled is None else shuffled.mean(axis=1),
        shuffled_draws=None if shuffled is None else resampler.means(shuffled[0]),
    )


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
