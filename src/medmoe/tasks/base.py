"""What every task is given (the model's evidence on a split) and gives back (metrics with controls)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from medmoe.errors import ConfigError, unknown
from medmoe.metrics import Metric
from medmoe.objectives import LOCAL_SIMILARITIES
from medmoe.types import Batch, ImageEmbedding, Sample, TextEmbedding, Tokens

# Side of the grid that raw pixels are averaged over, as features to compare with.
RAW_GRID = 16

# Side of the grid that masks are kept on, which is that of upsampled heatmaps.
MASK_GRID = 64


Change: TypeAlias = Callable[[int, Sample], Sample]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the model said of n images and their reports, on the CPU.

    Attributes:
        image_embed: [n, E] unit length.
        regions: [n, D, G, G] local image features.
        image_logits: [n, K] the image router's scores.
        has_report: [n] bool.
        text_embed: [n, E] unit length; zero where there is no report.
        words: [n, N, D] local word features, zero where there is no word.
        word_mask: [n, N] bool.
        text_logits: [n, K] the text router's scores; zero where there is no report.
        samples: The n samples without pixels; boxes are fractions in the model's frame.
        modalities: The model's K modalities, in the order of its experts.
        logit_scale: Multiplier of the global cosine.
        local_similarity: How words and regions are compared, a row of `medmoe.objectives.LOCAL_SIMILARITIES`.
        candidate_regions: [K, n, D, G, G] regions through every expert, only when each candidate report is scored
            through the expert that its own text chose.
        features: Other features of the images by name, [n, F] each: controls for what is fitted on `image_embed`.
        masks: [n, MASK_GRID, MASK_GRID] bool, what is marked in each image in the model's frame (all False where
            nothing is), or None where no image has a mask.
    """

    image_embed: Tensor
    regions: Tensor
    image_logits: Tensor
    has_report: Tensor
    text_embed: Tensor
    words: Tensor
    word_mask: Tensor
    text_logits: Tensor
    samples: tuple[Sample, ...]
    modalities: tuple[str, ...]
    logit_scale: float
    local_similarity: str = "attention"
    candidate_regions: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    masks: Tensor | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.samples)

    @property
    def local_scale(self) -> float:
        """Multiplier of the local similarity when it is combined with the scaled global cosine."""
        return LOCAL_SIMILARITIES[self.local_similarity].scale

    def patients(self, rows: Sequence[int]) -> list[str | None]:
        """Give who each of these rows is of (`Sample.person`), by which intervals are drawn; None where unknown."""
        return [self.samples[row].person for row in rows]


class JointEncoder(Protocol):
    """The part of a model that tasks use; `medmoe.model.MedVLM` has it."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, in the order of the experts."""
        ...

    @property
    def local_similarity(self) -> str:
        """How words and regions are compared, a row of `medmoe.objectives.LOCAL_SIMILARITIES`."""
        ...

    @property
    def logit_scale(self) -> Tensor:
        """[] multiplier of the global cosine."""
        ...

    def encode_image(
        self, image: Tensor, *, expert: Tensor | None = None, modality: Tensor | None = None, regions: bool = True
    ) -> ImageEmbedding:
        """Embed images [B, 3, H, W] through the expert that the image router chose, or through `expert` [B].

        `modality` is an oracle's; without `regions`, none need be computed.
        """
        ...

    def encode_text(self, tokens: Tokens) -> TextEmbedding:
        """Embed reports."""
        ...


class WordFinder(Protocol):
    """The part of a report tokenizer that tasks use; `medmoe.data.text.ReportTokenizer` has it."""

    def find(self, report: str, phrase: str) -> list[int]:
        """Give the indices of a phrase's words among the report's words; empty when absent."""
        ...

    def words(self, report: str) -> list[str]:
        """Give the words of a report that have an index, in order."""
        ...


class Tokenizer(WordFinder, Protocol):
    """A word finder that also tokenizes."""

    def __call__(self, reports: Sequence[str | None]) -> Tokens:
        """Tokenize reports for evaluation."""
        ...


class Again(Protocol):
    """Runs the model over the evaluated images once more."""

    def __call__(self, change: Change, *, controls: bool = False) -> Evidence:
        """Change each image as read, by its place and the sample; with controls, keep untrained features too."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a task needs beside the evidence.

    Attributes:
        modalities: The model's modalities.
        encode_text: Prompts → the joint space, on the CPU.
        tokenizer: Finds the words of a phrase in a report.
        seed: Seed of every draw and permutation.
        resamples: Bootstrap resamples of each interval.
        fit: Evidence of training samples, for what is fitted on frozen features; None: there is none.
        tune: Evidence of validation samples, on which thresholds, temperatures and regularisation are chosen; None:
            there is none. No figure is ever chosen on the evaluated split.
        again: Runs the model over the evaluated images once more, each changed; None: the images aren't at hand.
    """

    modalities: tuple[str, ...]
    encode_text: Callable[[Sequence[str]], TextEmbedding]
    tokenizer: WordFinder
    seed: int = 0
    resamples: int = 1000
    fit: Evidence | None = None
    tune: Evidence | None = None
    again: Again | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task found.

    Attributes:
        metrics: Figures by name: `NAME` and `NAME/MODALITY`.
        details: Plain data in any form (confusion matrices, what was left out, why a task was skipped).
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """Judges a model's evidence."""

    name: ClassVar[str]

    def evaluate(self, evidence: Evidence, context: Context) -> TaskResult:
        """Compute the task's metrics; without the data it needs, none, and a detail `skipped` with the reason."""
        ...


def skipped(reason: str, **details: Any) -> TaskResult:
    """Say that a task's data are absent."""
    return TaskResult({}, {"skipped": reason, **details})


def collect(
    model: JointEncoder,
    loader: Iterable[Batch],
    device: torch.device | str = "cpu",
    *,
    candidate_experts: bool = False,
    controls: bool = False,
    untrained: JointEncoder | None = None,
) -> Evidence:
    """Run a model over a finite loader and keep what it says of each image and report.

    Images pass the expert that the image router chose: reports play no part in it, and the modality only where a
    model routes by label, as an oracle.

    Args:
        model: The model, already on `device`; put into evaluation mode for the while.
        loader: Batches with their `samples`.
        device: Where the model is.
        candidate_experts: Also keep the regions through every expert (K more passes), so that retrieval scores each
            candidate report through the expert of its own text. That favours candidates of the image's modality.
        controls: Also keep features that nobody trained: `raw_pixels`, and with `untrained`, `random_weights`.
        untrained: The same model with fresh weights, on `device`.

    Raises:
        ValueError: If the loader yields no batch.
    """
    every: list[Tensor] = []
    others: dict[str, list[Tensor]] = {}
    images: list[ImageEmbedding] = []
    texts: list[TextEmbedding | None] = []
    present: list[Tensor] = []
    masks: list[Tensor] = []
    samples: list[Sample] = []
    with evaluating(model), evaluating(untrained), torch.inference_mode():
        for batch in loader:
            moved = batch.to(device)
            images.append(_to_cpu(model.encode_image(moved.image, modality=moved.modality)))
            if controls:
                for name, feature in control_features(moved, untrained).items():
                    others.setdefault(name, []).append(feature)
            if candidate_experts:
                every.append(_through_every_expert(model, moved.image))
            texts.append(None if moved.tokens is None else _to_cpu(model.encode_text(moved.tokens)))
            present.append(_present(batch))
            masks.append(_on_grid(batch))
            samples.extend(batch.samples)
    if not images:
        raise ValueError("the loader yielded no batch")
    text = _text_fields(images, texts, torch.cat(present))
    return Evidence(
        image_embed=torch.cat([image.embed for image in images]),
        regions=torch.cat([image.regions for image in images]),
        image_logits=torch.cat([image.logits for image in images]),
        has_report=torch.cat(present),
        text_embed=text["text_embed"],
        words=text["words"],
        word_mask=text["word_mask"],
        text_logits=text["text_logits"],
        samples=tuple(samples),
        modalities=tuple(model.modalities),
        logit_scale=model.logit_scale.detach().item(),
        local_similarity=model.local_similarity,
        candidate_regions=torch.cat(every, dim=1) if every else None,
        features={name: torch.cat(parts) for name, parts in others.items()},
        masks=joined if (joined := torch.cat(masks)).any() else None,
    )


def control_features(batch: Batch, untrained: JointEncoder | None = None) -> dict[str, Tensor]:
    """Give features of a batch that nobody trained, on the CPU.

    Returns:
        `raw_pixels` [B, 3·16·16], the image averaged over a grid; and `random_weights` [B, E] of an untrained model.
    """
    pixels = torch.nn.functional.adaptive_avg_pool2d(batch.image.float(), RAW_GRID)
    features = {"raw_pixels": pixels.flatten(1).cpu()}
    if untrained is not None:
        fresh = untrained.encode_image(batch.image, modality=batch.modality, regions=False)
        features["random_weights"] = fresh.embed.float().cpu()
    return features


def _on_grid(batch: Batch) -> Tensor:
    """Bring masks to the grid: [B, MASK_GRID, MASK_GRID] bool, a cell True where at least half of it is marked."""
    if batch.mask is None:
        return torch.zeros(len(batch.image), MASK_GRID, MASK_GRID, dtype=torch.bool)
    return (torch.nn.functional.interpolate(batch.mask.float(), (MASK_GRID, MASK_GRID), mode="area")[:, 0] >= 0.5).cpu()


def _through_every_expert(model: JointEncoder, image: Tensor) -> Tensor:
    """Give regions [K, B, D, G, G] of images through each of the K experts."""
    passes = []
    for expert in range(len(model.modalities)):
        chosen = torch.full((len(image),), expert, dtype=torch.int64, device=image.device)
        passes.append(model.encode_image(image, expert=chosen).regions.float().cpu())
    return torch.stack(passes)


def make_context(
    model: JointEncoder,
    tokenizer: Tokenizer,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    resamples: int = 1000,
    block: int = 128,
) -> Context:
    """Make the context of a model: prompts are encoded in evaluation mode, `block` at a time."""

    def encode_text(prompts: Sequence[str]) -> TextEmbedding:
        with evaluating(model), torch.inference_mode():
            parts = [
                _to_cpu(model.encode_text(tokenizer(prompts[start : start + block]).to(device)))
                for start in range(0, len(prompts), block)
            ]
        return _join(parts)

    return Context(tuple(model.modalities), encode_text, tokenizer, seed=seed, resamples=resamples)


def evaluate_all(
    evidence: Evidence,
    context: Context,
    names: Sequence[str],
    *,
    ready: Mapping[str, Task] | None = None,
    others: Mapping[str, Evidence] | None = None,
) -> dict[str, Any]:
    """Run tasks by name and give their results as plain data, fit for JSON.

    Args:
        evidence: What the model said of a split.
        context: What tasks need beside it.
        names: Names of `medmoe.tasks.TASKS`, or of `ready`.
        ready: Tasks with settings of their own (other prompts, fewer corruptions), by name.
        others: Stand-ins for the model (`medmoe.tasks.stand_ins`), whose figures become controls by name.

    Images of modalities that the model lacks are shown to tasks that see foreign ones only; of the others, the details
    count them as `foreign`.

    Returns:
        `{"tasks": {TASK: {METRIC: {"value", "low", "high", "n", "controls"}}}, "details": {TASK: {…}}}`.

    Raises:
        ConfigError: If a name is unknown; nothing has run then.
    """
    from medmoe.tasks import TASKS, foreign  # these import this file
    from medmoe.tasks.stand_ins import compared

    own = dict(ready or {})
    for name in names:
        if name not in own and name not in TASKS:
            raise ConfigError(unknown("task", name, {**TASKS, **own}), where="--tasks")
    results: dict[str, Any] = {"tasks": {}, "details": {}}
    known, strange = foreign.without_foreign(evidence), foreign.count_foreign(evidence)
    seeing, narrowed = foreign.fit_and_tune_known(context), foreign.without_foreign_in(context)
    for name in names:
        task = own[name] if name in own else TASKS[name]()
        if getattr(task, "sees_foreign", False) or not strange:
            judged, seen, beside = evidence, seeing, dict(others or {})
        else:
            judged, seen = known, narrowed
            beside = {name: foreign.without_foreign(other) for name, other in (others or {}).items()}
        if len(judged):
            result = compared(task, task.evaluate(judged, seen), beside, seen)
        else:
            result = skipped("every image is of a modality that the model lacks")
        results["tasks"][name] = {metric: figure.to_json() for metric, figure in result.metrics.items()}
        results["details"][name] = {**result.details, **({"foreign": strange} if strange else {})}
    return results


class evaluating:  # noqa: N801 - used like a function, as `torch.inference_mode` is
    """Put a model into evaluation mode for the body of a `with`, and back afterwards."""

    def __init__(self, model: object) -> None:
        self.module = model if isinstance(model, torch.nn.Module) else None
        self.training = False

    def __enter__(self) -> None:
        if self.module is not None:
            self.training = self.module.training
            self.module.eval()

    def __exit__(self, *_: object) -> None:
        if self.module is not None:
            self.module.train(self.training)


def _present(batch: Batch) -> Tensor:
    size = len(batch.image)
    if len(batch.samples) != size:
        raise ValueError(f"a batch of {size} images carries {len(batch.samples)} samples; evaluation needs one each")
    if batch.tokens is None or batch.has_report is None:
        return torch.zeros(size, dtype=torch.bool)
    return batch.has_report.cpu()


def _text_fields(images: list[ImageEmbedding], texts: list[TextEmbedding | None], present: Tensor) -> dict[str, Tensor]:
    """Join the text side of the batches, zero where there is no report."""
    width = max((text.words.shape[1] for text in texts if text is not None), default=0)
    embed, words, mask, logits = [], [], [], []
    for image, text in zip(images, texts, strict=True):
        size, depth = image.regions.shape[:2]
        embed.append(torch.zeros_like(image.embed) if text is None else text.embed)
        words.append(torch.zeros(size, width, depth) if text is None else _pad_words(text.words, width))
        mask.append(torch.zeros(size, width, dtype=torch.bool) if text is None else _pad_words(text.word_mask, width))
        logits.append(torch.zeros_like(image.logits) if text is None else text.logits)
    return {
        "text_embed": torch.cat(embed).masked_fill(~present[:, None], 0.0),
        "words": torch.cat(words).masked_fill(~present[:, None, None], 0.0),
        "word_mask": torch.cat(mask) & present[:, None],
        "text_logits": torch.cat(logits).masked_fill(~present[:, None], 0.0),
    }


def _join(parts: list[TextEmbedding]) -> TextEmbedding:
    """Join blocks of texts into one, each padded to the longest."""
    width = max(part.words.shape[1] for part in parts)
    return TextEmbedding(
        embed=torch.cat([part.embed for part in parts]),
        words=torch.cat([_pad_words(part.words, width) for part in parts]),
        word_mask=torch.cat([_pad_words(part.word_mask, width) for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        report_logits=torch.cat([part.report_logits for part in parts]),
    )


def _pad_words(words: Tensor, width: int) -> Tensor:
    """Pad [B, N, …] to `width` words with zero (False)."""
    missing = words.new_zeros(len(words), width - words.shape[1], *words.shape[2:])
    return torch.cat([words, missing], dim=1)


def _to_cpu(value: Any) -> Any:
    """Copy a dataclass of tensors to the CPU, floats as float32."""
    moved: dict[str, Any] = {}
    for item in fields(value):
        part = getattr(value, item.name)
        if isinstance(part, Tensor):
            moved[item.name] = part.cpu().float() if part.is_floating_point() else part.cpu()
        elif is_dataclass(part):
            moved[item.name] = _to_cpu(part)
    return replace(value, **moved)
