"""What flows through the library: one frozen dataclass for each arrow of the data flow.

Letters: B images of a batch (= reports), L pyramid levels, C_l channels of level l, G side of the
region grid, N words, T word pieces, D local width, E joint width, K experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Box:
    """A finding's place in an image.

    Attributes:
        label: Name of the finding.
        x0: Left edge, as a fraction of the image's width in [0, 1].
        y0: Top edge, as a fraction of the height.
        x1: Right edge.
        y1: Bottom edge.
        phrase: The words of the report that name the finding, where known.
    """

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    phrase: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as a source yields it, with whatever else is known of it.

    Attributes:
        key: Where it came from (`file:row`), used in errors and logs; never a patient's name.
        image: [H, W] grey or [H, W, 3] RGB, uint8 or float32 in [0, 1].
        report: The text of the image, or None.
        from_template: Whether the report was made from a label's template, not written by a person.
        modality: A name of `medmoe.modalities`, or None.
        labels: Findings present; `()` means none present, None means not annotated.
        boxes: Places of findings; None means not annotated.
        mask: [H, W] bool foreground, or None.
        gaze: [H, W] float32 in [0, 1], where readers looked, or None.
        view: Projection or plane, for example `PA`.
        offset_days: Days since the patient's first study.
        prior: Key of the same patient's earlier image.
        question: A question about the image.
        answer: The answer to the question.
        domain: Site or scanner the image came from.
        patient: Patient id, the same person's within a data set; splits and intervals go by `person`.
        study: Study id.
        source: Data set the image belongs to.
    """

    key: str
    image: NDArray[Any]
    report: str | None = None
    from_template: bool = False
    modality: str | None = None
    labels: tuple[str, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    mask: NDArray[np.bool_] | None = None
    gaze: NDArray[np.float32] | None = None
    view: str | None = None
    offset_days: float | None = None
    prior: str | None = None
    question: str | None = None
    answer: str | None = None
    domain: str | None = None
    patient: str | None = None
    study: str | None = None
    source: str | None = None

    @property
    def person(self) -> str | None:
        """Who the image is of: the patient id with the data set's name, since two data sets may use one id.

        None without a patient id; the id alone without a data set's name.
        """
        if self.patient is None or not self.source:
            return self.patient
        return f"{self.source.replace('%', '%25').replace('/', '%2F')}/{self.patient}"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Reports as word pieces, and which word each piece belongs to.

    Attributes:
        ids: [B, T] int64 piece ids.
        mask: [B, T] bool, True where there is a piece (special pieces included).
        word: [B, T] int64 index of the piece's word in [0, N), or -1 for special, punctuation and padding.
        word_mask: [B, N] bool, True where there is a word.
    """

    ids: Tensor
    mask: Tensor
    word: Tensor
    word_mask: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Tokens:
        """Copy every tensor to a device."""
        return move(self, device, non_blocking=non_blocking)

    def part(self, rows: slice) -> Tokens:
        """Take some of the reports; on a CPU without the padding that none of them needs (N stays)."""
        own = over_tensors(self, lambda value: value[rows])
        if own.mask.device.type != "cpu":  # counting pieces would wait for the device
            return own
        longest = max(1, int((own.mask * torch.arange(1, own.mask.shape[1] + 1)).max()))
        return dataclasses.replace(
            own, ids=own.ids[:, :longest], mask=own.mask[:, :longest], word=own.word[:, :longest]
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """How the images of a batch are to be augmented: drawn already, not done yet.

    Attributes:
        gamma: [B] float32 exponent of the grey levels.
        gain: [B] float32 factor of the distance from the image's mean.
        offset: [B] float32 added grey level, in [0, 1] units.
        tint: [B, 3] float32 factor of each channel.
        theta: [B, 2, 3] float32, where each place of the new image comes from, as `affine_grid` takes it.
        inside: [B, 4] int64 top, bottom, left and right end of the image within its padding, in pixels.
        sigma: [B] float32 standard deviation of the blur in pixels; 0: none.
        noise: [B] float32 standard deviation of the noise.
        seed: Of the noise.
        fill: Grey level of what the geometry brings in from outside, in [0, 1].
    """

    gamma: Tensor
    gain: Tensor
    offset: Tensor
    tint: Tensor
    theta: Tensor
    inside: Tensor
    sigma: Tensor
    noise: Tensor
    seed: int
    fill: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples, collated; an optional tensor is None when no sample of the batch has it.

    Attributes:
        image: [B, 3, H, W] float32, normalised.
        keys: Where each sample came from.
        tokens: The reports as word pieces; a sample without a report has no word there.
        has_report: [B] bool.
        report_id: [B] int64, equal exactly where the reports' texts are equal.
        modality: [B] int64 index into the model's modalities, -1 where unknown.
        mask: [B, 1, H, W] float32 foreground.
        has_mask: [B] bool.
        gaze: [B, 1, H, W] float32 in [0, 1].
        has_gaze: [B] bool.
        text: What a frozen text encoder makes of the reports, where that is known already.
        changes: How each image is still to be augmented, where that is the device's task.
        samples: The samples themselves without their pixels, for tasks and logs (boxes already moved
            into the coordinates of `image`).
        pieces: [P] int64 word pieces that regions are scored by; None: those that the batch's own reports have.
    """

    image: Tensor
    keys: tuple[str, ...]
    tokens: Tokens | None = None
    has_report: Tensor | None = None
    report_id: Tensor | None = None
    modality: Tensor | None = None
    mask: Tensor | None = None
    has_mask: Tensor | None = None
    gaze: Tensor | None = None
    has_gaze: Tensor | None = None
    text: TextFeatures | None = None
    changes: Changes | None = None
    samples: tuple[Sample, ...] = ()
    pieces: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Copy every tensor to a device."""
        return move(self, device, non_blocking=non_blocking)

    def part(self, rows: slice) -> Batch:
        """Take some of the samples, as views: no image is copied. `pieces` are the whole batch's."""
        own = over_tensors(dataclasses.replace(self, tokens=None, pieces=None), lambda value: value[rows])
        return dataclasses.replace(
            own,
            keys=self.keys[rows],
            samples=self.samples[rows],
            tokens=None if self.tokens is None else self.tokens.part(rows),
            pieces=self.pieces,
        )


@dataclass(frozen=True, slots=True)
class Pyramid:
    """An image's features at L scales, finest first: a tuple of [B, C_l, H_l, W_l]."""

    levels: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What a text encoder makes of reports.

    Attributes:
        words: [B, N, C] word features, zero where there is no word.
        word_mask: [B, N] bool.
        report: [B, C] report feature.
    """

    words: Tensor
    word_mask: Tensor
    report: Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts an image passes through, and how much each counts.

    Attributes:
        logits: [B, K] float32 scores the choice was made from.
        expert: [B, k] int64 chosen experts.
        weight: [B, k] float32 weight of each chosen expert.
    """

    logits: Tensor
    expert: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class ImageEmbedding:
    """An image in the joint space.

    Attributes:
        embed: [B, E] unit-length float32.
        regions: [B, D, G, G] local features; [B, 0, 1, 1] where there are none or none were asked for.
        routing: What the experts were given.
        logits: [B, K] the image router's scores.
        feature: [B, E] the embedding before it was brought to unit length.
        word_logits: [B, V] scores of the word pieces of its report, where a model has that head.
        region_word_logits: [B, V] the same from the regions, where a model has that head; -1e30 for pieces that no
            report of the batch has.
    """

    embed: Tensor
    regions: Tensor
    routing: Routing
    logits: Tensor
    feature: Tensor | None = None
    word_logits: Tensor | None = None
    region_word_logits: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """A report in the joint space.

    Attributes:
        embed: [B, E] unit-length float32.
        words: [B, N, D] local features.
        word_mask: [B, N] bool.
        logits: [B, K] the text router's scores.
        report_logits: [B, K] the auxiliary linear head's scores.
        feature: [B, E] the embedding before it was brought to unit length.
    """

    embed: Tensor
    words: Tensor
    word_mask: Tensor
    logits: Tensor
    report_logits: Tensor
    feature: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Everything the model says of a batch; objectives read it and nothing else.

    Attributes:
        image: The images in the joint space.
        text: The reports in the joint space, or None when the batch has none.
        logit_scale: [] float32 multiplier of global cosine similarities.
    """

    image: ImageEmbedding
    text: TextEmbedding | None
    logit_scale: Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a step and what it is made of.

    Attributes:
        total: [] weighted sum of the active terms.
        terms: Detached, unweighted value of each active term.
        inactive: Terms whose fields the batch lacks.
        modality: [B] int64 of the samples it was taken over, -1 where unknown, for the log; or None.
    """

    total: Tensor
    terms: dict[str, Tensor]
    inactive: tuple[str, ...] = ()
    modality: Tensor | None = None


def over_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """Give a dataclass of this module with every tensor changed, field by field."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            changed[field.name] = change(item)
        elif dataclasses.is_dataclass(item):
            changed[field.name] = over_tensors(item, change)
    return dataclasses.replace(value, **changed)  # type: ignore[type-var]


def tensors_of(value: object) -> Iterator[Tensor]:
    """Go through the tensors of a dataclass of this module, in the order of its fields."""
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            yield item
        elif dataclasses.is_dataclass(item):
            yield from tensors_of(item)


def move(value: T, device: torch.device | str, *, non_blocking: bool = False) -> T:
    """Copy a dataclass of this module to a device, field by field."""
    return over_tensors(value, lambda item: item.to(device, non_blocking=non_blocking))
