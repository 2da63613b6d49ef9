"""Zero-shot classification: which finding's prompts is an image most like?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from medmoe.metrics import Bools, Floats, Ints, Resampler, auroc, balanced_accuracy, decide
from medmoe.modalities import in_order
from medmoe.tasks.base import Context, Evidence, TaskResult, skipped
from medmoe.tasks.figures import Figure, by_group, mean, metrics
from medmoe.tasks.prompts import NO_FINDING, Prompts, load_prompts
from medmoe.tasks.similarity import local_similarity
from medmoe.types import TextEmbedding

# Figures of the global similarity have no prefix.
_PREFIX = {"global": "", "local": "local_", "combined": "combined_"}


@dataclass(frozen=True)
class Classes:
    """What is told apart within one data set and modality.

    Attributes:
        source: The data set.
        modality: The modality.
        rows: Rows of its annotated images.
        names: The classes.
        findings: Findings with enough images with and without them, for the AUROC.
        true: [rows] index of the only class of an image, or -1 for an image with none or several.
        dropped: Images of each finding that is no class because too few show it and no other class.
    """

    source: str
    modality: str
    rows: tuple[int, ...]
    names: tuple[str, ...]
    findings: tuple[str, ...]
    true: Ints
    dropped: dict[str, int]


def class_sets(evidence: Evidence, *, fewest: int) -> list[Classes]:
    """Find the classes of each data set and modality in the evaluated split itself.

    The candidates are the findings that occur. As long as one of them has fewer than `fewest` images that show it
    and no other candidate, the one with the fewest such images is dropped (of equals the commonest, which is the
    more general one: of `pneumonia;bacterial` and `pneumonia;viral` that leaves bacterial and viral). Where then no
    image shows two of them, images annotated with no finding are a class too, if there are at least `fewest`.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for row, sample in enumerate(evidence.samples):
        if sample.labels is not None and sample.modality is not None:
            members.setdefault((sample.source or "", sample.modality), []).append(row)
    return [_classes(evidence, source, modality, rows, fewest) for (source, modality), rows in members.items()]


def _classes(evidence: Evidence, source: str, modality: str, rows: list[int], fewest: int) -> Classes:
    labels = [frozenset(evidence.samples[row].labels or ()) - {NO_FINDING} for row in rows]
    total = Counter(label for own in labels for label in own)
    kept = set(total)
    while kept:
        alone = Counter(label for own in labels if len(own & kept) == 1 for label in own & kept)
        rarest = min(kept, key=lambda label: (alone[label], -total[label], label))
        if alone[rarest] >= fewest:
            break
        kept.remove(rarest)
    names = sorted(kept)
    normal = sum(not own for own in labels)
    with_normal = normal >= fewest and all(len(own & kept) <= 1 for own in labels)
    place = {name: index for index, name in enumerate(names)}
    true = [place[next(iter(own & kept))] if len(own & kept) == 1 else -1 for own in labels]
    if with_normal:
        true = [len(names) if not own else index for own, index in zip(labels, true, strict=True)]
        names.append(NO_FINDING)
    findings = sorted(name for name, count in total.items() if fewest <= count <= len(rows) - fewest)
    dropped = {label: total[label] for label in sorted(total) if label not in kept}
    return Classes(source, modality, tuple(rows), tuple(names), tuple(findings), np.array(true), dropped)


@dataclass(frozen=True)
class ZeroShot:
    """Balanced accuracy, accuracy and AUROC of findings by prompt ensembles, within each data set and modality.

    An image with exactly one of the classes of its data set is given the class whose prompts it is most like;
    AUROC is one finding against the rest over all annotated images, averaged over findings. It ranks images by the
    finding's softmax probability among all findings and `no_finding`: a cosine alone says as much of the image as of
    the finding, and compares badly from image to image. The global similarity decides, `local_…` and `combined_…`
    say what the others would have decided. `NAME/MODALITY` is the mean over the modality's data sets
    (`NAME/MODALITY/SOURCE` where there are several), `NAME` the mean over modalities.

    Attributes:
        prompts: The wordings.
        fewest: Images that a class needs.
        shuffles: How often the labels are shuffled (within a data set and modality) for the control.
    """

    name: ClassVar[str] = "zeroshot_classification"
    prompts: Prompts = field(default_factory=load_prompts)
    fewest: int = 5
    shuffles: int = 100

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Judge zero-shot classification."""
        every = class_sets(evidence, fewest=self.fewest)
        usable = [own for own in every if len(own.names) > 1 or own.findings]
        details: dict[str, Any] = {
            "prompts": self.prompts.fingerprint,
            "left_out": [
                {"source": own.source, "modality": own.modality, "images": len(own.rows)}
                for own in every
                if own not in usable
            ],
        }
        if not usable:
            return skipped("no data set has two findings with enough images", **details)
        by_modality: dict[str, dict[str, dict[str, Figure]]] = {}
        details["groups"] = []
        for stream, own in enumerate(usable):
            figures, found = self._group(own, evidence, context, stream)
            by_modality.setdefault(own.modality, {})[own.source] = figures
            details["groups"].append(found)
        return TaskResult(metrics(_named(by_modality)), details)

    def _group(
        self, own: Classes, evidence: Evidence, context: Context, stream: int
    ) -> tuple[dict[str, Figure], dict[str, Any]]:
        names = tuple(dict.fromkeys((*own.names, *own.findings, NO_FINDING)))
        scores = self._scores(own, names, evidence, context)
        seed = [context.seed, 10_000 + stream]
        details: dict[str, Any] = {
            "source": own.source,
            "modality": own.modality,
            "classes": {name: int((own.true == index).sum()) for index, name in enumerate(own.names)},
            "dropped": own.dropped,
            "several_or_no_class": int((own.true < 0).sum()),
            "prompts": {name: len(self.prompts.of(name, own.modality)) for name in names},
            "origins": {name: self.prompts.origin(name, own.modality) for name in names},
        }
        figures: dict[str, Figure] = {}
        if len(own.names) > 1:
            chosen = {kind: decide(matrix[:, : len(own.names)]) for kind, matrix in scores.items()}
            figures |= self._classify(own, chosen, evidence, context, seed)
            details["confusion"] = _confusion(own, chosen["global"])
        if own.findings:
            columns = [names.index(name) for name in (*own.findings, NO_FINDING)]
            logits = evidence.logit_scale * torch.from_numpy(scores["global"][:, columns])
            probability = torch.softmax(logits, dim=1)[:, :-1].numpy()
            figures["auroc"] = self._auroc(own, probability, evidence, context, seed)
            details["findings"] = list(own.findings)
        return figures, details

    def _scores(
        self, own: Classes, names: Sequence[str], evidence: Evidence, context: Context
    ) -> dict[str, NDArray[Any]]:
        """Give the similarity of each row to each name's prompts: [rows, names] for each variant."""
        wordings = [self.prompts.of(name, own.modality) for name in names]
        text = context.encode_text([wording for ensemble in wordings for wording in ensemble])
        owner = torch.tensor([index for index, ensemble in enumerate(wordings) for _ in ensemble])
        embed = ensembles(text, owner, len(names))
        regions = evidence.regions[list(own.rows)]
        local = local_similarity(regions, text.words, text.word_mask)  # [rows, prompts]
        local = local.double() - text.word_mask.sum(dim=1).double().log()  # the mean word's, whatever the length
        share = torch.nn.functional.one_hot(owner, len(names)).double()
        averaged = (local @ (share / share.sum(dim=0))).numpy()
        cosine = (evidence.image_embed[list(own.rows)].double() @ embed.T).numpy()
        combined = evidence.logit_scale * cosine + evidence.local_scale * averaged
        return {"global": cosine, "local": averaged, "combined": combined}

    def _classify(
        self, own: Classes, chosen: dict[str, Ints], evidence: Evidence, context: Context, seed: list[int]
    ) -> dict[str, Figure]:
        inside = np.flatnonzero(own.true >= 0)
        true = own.true[inside]
        patients = evidence.patients([own.rows[row] for row in inside])
        resampler = Resampler(patients, resamples=context.resamples, seed=[*seed, 0])
        orders = self._orders(len(true), seed)
        count = np.bincount(true)
        chance = 1 / len(own.names)
        figures: dict[str, Figure] = {}
        for kind, prefix in _PREFIX.items():
            answer = chosen[kind][inside]

            def balanced(truth: Ints, weights: Floats | None = None, answer: Ints = answer) -> Floats:
                return balanced_accuracy(truth, answer, weights)

            controls = {"chance": chance, "majority": chance}
            figures[f"{prefix}balanced_accuracy"] = _figure(balanced, true, orders, resampler, controls)
        answer = chosen["global"][inside]

        def accuracy(truth: Ints, weights: Floats | None = None) -> Floats:
            return np.average(np.broadcast_to(truth == answer, _shape(truth, weights)), axis=-1, weights=weights)

        controls = {"chance": chance, "majority": float(count.max() / count.sum())}
        figures["accuracy"] = _figure(accuracy, true, orders, resampler, controls)
        return figures

    def _auroc(
        self, own: Classes, scores: NDArray[Any], evidence: Evidence, context: Context, seed: list[int]
    ) -> Figure:
        labels = [evidence.samples[row].labels or () for row in own.rows]
        truth = np.array([[name in present for name in own.findings] for present in labels])  # [rows, findings]

        def macro(truth: Bools, weights: Floats | None = None) -> Floats:
            each = [auroc(scores[:, column], truth[:, column], weights) for column in range(truth.shape[1])]
            defined = np.isfinite(each)
            total = np.where(defined, each, 0.0).sum(axis=0)
            return np.asarray(np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan))

        resampler = Resampler(evidence.patients(own.rows), resamples=context.resamples, seed=[*seed, 0])
        return _figure(macro, truth, self._orders(len(truth), seed), resampler, {"chance": 0.5, "majority": 0.5})

    def _orders(self, size: int, seed: list[int]) -> list[Ints]:
        rng = np.random.default_rng([*seed, 1])
        return [rng.permutation(size) for _ in range(self.shuffles)]


def ensembles(text: TextEmbedding, owner: torch.Tensor, count: int) -> torch.Tensor:
    """Average each class's unit-length prompt embeddings and bring the mean to unit length: [count, E] float64."""
    unit = torch.nn.functional.normalize(text.embed.double(), dim=1)
    total = torch.zeros(count, unit.shape[1], dtype=unit.dtype).index_add(0, owner, unit)
    return torch.nn.functional.normalize(total, dim=1)


def _figure(
    statistic: Callable[..., Floats],
    truth: NDArray[Any],
    orders: Sequence[Ints],
    resampler: Resampler,
    controls: dict[str, float],
) -> Figure:
    """Compute a statistic of (truth, weights), in resamples and with the truth shuffled."""
    return Figure(
        value=float(statistic(truth)),
        draws=resampler.draws(lambda weights: statistic(truth, weights)),
        n=len(truth),
        controls=controls,
        shuffled=np.array([float(statistic(truth[order])) for order in orders]),
        shuffled_draws=resampler.draws(lambda weights: statistic(truth[orders[0]], weights)),
    )


def _shape(truth: Ints, weights: Floats | None) -> tuple[int, ...]:
    return truth.shape if weights is None else weights.shape


def _confusion(own: Classes, chosen: Ints) -> list[list[int]]:
    """Count images by true class (rows) and chosen class (columns)."""
    confusion = np.zeros((len(own.names), len(own.names)), dtype=np.int64)
    decided = (own.true >= 0) & (chosen >= 0)
    np.add.at(confusion, (own.true[decided], chosen[decided]), 1)
    table: list[list[int]] = confusion.tolist()
    return table


def _named(by_modality: dict[str, dict[str, dict[str, Figure]]]) -> dict[str, Figure]:
    """Name figures by modality, and by source where a modality has several."""
    modalities: dict[str, dict[str, Figure]] = {}
    single: dict[str, Figure] = {}
    for modality in in_order(by_modality):
        sources = by_modality[modality]
        names = dict.fromkeys(name for figures in sources.values() for name in figures)
        modalities[modality] = {
            name: mean([figures[name] for figures in sources.values() if name in figures]) for name in names
        }
        if len(sources) > 1:
            single |= {
                f"{name}/{modality}/{source or 'unnamed'}": figure
                for source, figures in sources.items()
                for name, figure in figures.items()
            }
    return by_group(modalities) | single
