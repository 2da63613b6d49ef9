"""Configuration: typed, frozen, round-trips through JSON, and rejects unknown keys with the nearest known one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medmoe.errors import ConfigError, unknown

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """A frozen group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class VisionConfig(Config):
    """The image encoder.

    Attributes:
        name: `tiny`, `descriptor`, or a timm backbone with `features_only` (`swin-t`, `resnet50`, …).
        image_size: Side of the square input in pixels.
        window: How DICOM and NIfTI values become grey levels: `header`, `usual`, `full`, a named window (`lung`), or
            three for three channels (`lung+soft_tissue+bone`); see `medmoe.data.reading.Reading`.
        channels: C_l of `tiny`; other encoders know their own.
        norm: Norm of `tiny`: group, layer or batch.
        measures: What `descriptor` takes: some of colour, grey_levels, layout and texture.
        checkpoint: Whether its blocks are run again in the backward, so that training holds less of them (activation
            checkpointing); not for encoders with batch norms, nor for `descriptor`.
    """

    name: str = "tiny"
    image_size: int = Field(64, ge=32)
    window: str = "header"
    channels: tuple[int, ...] = (32, 64, 128, 256)
    norm: str = "group"
    measures: tuple[str, ...] = ("colour", "grey_levels", "layout", "texture")
    checkpoint: bool = False


class TextConfig(Config):
    """The text encoder.

    Attributes:
        name: `tiny` (trained from scratch) or `hf` (a Hugging Face BERT-style encoder).
        hf: Configuration of the Hugging Face encoder, for `hf`.
        last_layers: How many last layers of `hf` are summed.
        pool: How `hf` pools a report: `mean` or `cls`.
        frozen: Whether the `hf` encoder stays as it is.
        width: Width of `tiny`.
        depth: Layers of `tiny`.
        heads: Attention heads of `tiny`.
        vocab_size: Word pieces of the encoder; `tiny` learns up to so many from the training reports.
        max_words: N; of a longer report, sentences are sampled in training.
        max_pieces: Longest report in word pieces, in evaluation.
    """

    name: str = "tiny"
    hf: dict[str, Any] | None = None
    last_layers: int = Field(4, ge=1)
    pool: Literal["mean", "cls"] = "mean"
    frozen: bool = True
    width: int = 128
    depth: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    vocab_size: int = Field(4000, ge=64)
    max_words: int = Field(64, ge=1)
    max_pieces: int = Field(256, ge=8)


class RouterConfig(Config):
    """The router.

    Attributes:
        train: Source of the choice in training: text, image, label, random or uniform.
        infer: Source of the choice at inference.
        selection: hard, top_k or soft.
        k: Experts an image with top_k.
        gradient: none, alpha or straight_through.
        anneal_steps: Training batches over which all experts equally become the hard choice; 0: hard from the first.
        hidden: Width of the hidden layer.
    """

    train: str = "text"
    infer: str = "image"
    selection: str = "hard"
    k: int = Field(2, ge=1)
    gradient: str = "none"
    anneal_steps: int = Field(0, ge=0)
    hidden: int = 128


class ExpertConfig(Config):
    """The experts.

    Attributes:
        name: A row of `EXPERTS`.
        shared: How many experts see every image.
        special: Whether there is one expert for each modality.
        zero: Whether the special experts start as zero (for shared + special).
        growing: Whether the special experts start as one and part at `train.grow_at`.
        width: D.
        grid: G.
        levels: Pyramid levels the local path reads, 0 the finest.
        kernel: Side of the convolutions.
        layers: Convolution layers.
        conv: dense or separable.
        norm: group, layer (each place by itself) or batch.
        interpolation: grid, or flattened: a known defect, to compare with.
        upsample: Whether coarse levels are brought to the grid first, before the block (the paper's), or last: two
            thirds of the multiply-adds.
        rank: Rank of the special experts' maps, which then are low-rank corrections of the shared expert; None: whole
            experts.
    """

    name: str = "pyramid"
    shared: int = Field(0, ge=0)
    special: bool = True
    zero: bool = False
    growing: bool = False
    width: int = 192
    grid: int = 28
    levels: tuple[int, ...] = (0, 1, 2, 3)
    kernel: int = 3
    layers: int = Field(3, ge=0)
    conv: str = "separable"
    norm: str = "group"
    interpolation: str = "grid"
    upsample: str = "first"
    rank: int | None = Field(None, ge=1)


class ModelConfig(Config):
    """A whole model.

    Attributes:
        modalities: Experts' modalities in order; None takes those of the training data.
        embed_dim: E.
        pool: How levels become the global feature: `last` (its mean) or `pyramid` (mean and maximum of all).
        pool_norm: How that feature is normalised: `layer`, or `batch` (learns faster; forbids gradient caching).
        local_similarity: How words and regions are compared at inference: `attention` for models trained with the
            objective `local`, `late_interaction` for those trained with that one.
        special_projection: Whether the global embedding, too, passes experts: a projection for each modality, which
            starts at zero, is added to the common one.
        report_words: A head for the objective `report_words`: which word pieces the image's report has.
        region_words: A head for the objective `region_words`: the same, from the regions.
    """

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    router: RouterConfig = RouterConfig()
    experts: ExpertConfig = ExpertConfig()
    modalities: tuple[str, ...] | None = None
    embed_dim: int = 512
    pool: str = "last"
    pool_norm: str = "layer"
    local_similarity: str = "attention"
    special_projection: bool = False
    report_words: bool = False
    region_words: bool = False


class DataConfig(Config):
    """How training data is fed.

    Attributes:
        batch_size: Images of a step.
        batching: `mixed` over modalities, or `within`: part of each batch from one modality.
        within_fraction: That part.
        balance: 0 samples modalities as they come, 1 equally often.
        augment: Strength of augmentation, 0 to switch it off.
        augment_on: Who augments: each sample the `worker` that read it, or whole batches the `device` of the model.
        flip: Whether images may be mirrored; reports that say left or right become false.
        crop: Share of the training images of which a random part is taken, mirrored or not; for training a router
            without reports, of which findings are cropped away.
        upsampling: How often a sample of each source that `::` joins comes, beside those of the others; empty: equally
            often. `[1, 2.5]` shows those of the second 2.5 times while those of the first are shown once.
        shuffle: `global`: over all samples. `shards`: tars are drawn one after the other and read through, and as many
            as hold `shuffle_window` samples are shuffled among each other; for slow disks and networks.
        shuffle_window: Those samples.
        workers: Loader processes.
        cache_mb: Megabytes of images, shrunk to the model's size, that each loader process keeps after reading them.
        scaled_decode: Whether JPEGs larger than the model's images are decoded at 1/2, 1/4 or 1/8 of their size, never
            below it: faster, and about 2 of 255 grey levels off; in training only, never in evaluation.
        on_bad_sample: `raise`, or `skip` into the run's quarantine.
        columns: Our manifest columns → the file's.
    """

    batch_size: int = Field(64, ge=2)
    batching: Literal["mixed", "within"] = "mixed"
    within_fraction: float = Field(0.5, gt=0, le=1)
    balance: float = Field(0.0, ge=0, le=1)
    augment: float = Field(1.0, ge=0)
    augment_on: Literal["worker", "device"] = "worker"
    flip: bool = False
    crop: float = Field(0.0, ge=0, le=1)
    upsampling: tuple[float, ...] = ()
    shuffle: Literal["global", "shards"] = "global"
    shuffle_window: int = Field(10_000, ge=1)
    workers: int = Field(1, ge=0)
    cache_mb: int = Field(0, ge=0)
    scaled_decode: bool = False
    on_bad_sample: Literal["raise", "skip"] = "raise"
    columns: dict[str, str] = {}


class TrainConfig(Config):
    """The training run.

    Attributes:
        steps: Optimiser steps.
        lr: Peak learning rate of AdamW.
        weight_decay: Of matrices only.
        betas: AdamW's.
        warmup: Share of the steps with rising rate; then cosine to zero.
        clip: Largest gradient norm.
        accum_freq: Batches of a step; adds no negatives.
        micro_batch: Images that are on the device with their activations at a time; loss and gradient stay those of the
            whole batch. None: all of the batch.
        precision: fp32 or bf16 (autocast).
        compile: Whether forward and objectives go through torch.compile.
        compile_backend: What compiles them: inductor, or another of torch's, such as eager, which only traces.
        text_cache: Whether a frozen text encoder's features of each report are kept on disk, in the run folder; or the
            folder to keep them in, which several runs may share.
        text_cache_mb: Megabytes that may be kept; a report beyond them is encoded anew each time.
        text_cache_type: float32, or float16: half the space, features rounded to three digits.
        shard: Whether the backbones' weights, gradients and optimiser memory are in parts, one in each process. One
            process alone holds them whole.
        ema: Decay of an averaged copy of the weights that is evaluated and saved, or None.
        grow_at: Share of the steps after which growing experts part.
        freeze: Patterns of parameter names that stay as they are.
        log_every: Steps between lines of the metrics.
        val_every: Steps between validations.
        save_every: Steps between checkpoints.
        keep: Checkpoints kept.
        keep_best: Whether the one with the least validation loss is kept too; it is judged where validation and saving
            meet.
        save_beside: Whether checkpoints are written by a thread while training goes on.
        bad_steps: Steps in a row that may be skipped because their loss or gradient isn't finite; one more stops the
            run.
        spike: Robust deviations above the median of recent losses from which a loss is too high; where it stays so, the
            run goes back to a checkpoint from before and leaves out the batches that led there; see
            `medmoe.guards.Spikes`. None: nothing of it.
        spike_window: Losses that the median is taken of; a checkpoint must be half as many steps older than the spike.
        rewinds: How often a run may go back so; at one spike more it ends.
        stall_seconds: Seconds after which a batch that doesn't come, or a process that doesn't, ends the run.
        seed: Of weights, data order and augmentation.
        track: Other programs that are shown the metrics, rows of `medmoe.trackers.TRACKERS`.
    """

    steps: int = Field(1000, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = Field(0.1, ge=0, le=1)
    clip: float = Field(1.0, gt=0)
    accum_freq: int = Field(1, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    compile_backend: str = "inductor"
    text_cache: bool | str = True
    text_cache_mb: int = Field(2048, ge=1)
    text_cache_type: Literal["float32", "float16"] = "float32"
    shard: bool = False
    ema: float | None = Field(None, gt=0, lt=1)
    grow_at: float = Field(0.4, gt=0, lt=1)
    freeze: tuple[str, ...] = ()
    log_every: int = Field(10, ge=1)
    val_every: int = Field(200, ge=1)
    save_every: int = Field(200, ge=1)
    keep: int = Field(2, ge=1)
    keep_best: bool = False
    save_beside: bool = True
    bad_steps: int = Field(10, ge=0)
    spike: float | None = Field(None, gt=0)
    spike_window: int = Field(200, ge=8)
    rewinds: int = Field(3, ge=0)
    stall_seconds: float = Field(1800, gt=0)
    seed: int = 0
    track: tuple[str, ...] = ()


class RunConfig(Config):
    """A recipe: everything a run depends on but its data.

    Attributes:
        recipe: Its name.
        objectives: Weight of each objective; one left out isn't computed.
        objective_options: Options of single objectives.
    """

    recipe: str
    model: ModelConfig = ModelConfig()
    objectives: dict[str, float] = {"global": 0.5, "local": 0.5, "report_type": 2.0}
    objective_options: dict[str, dict[str, Any]] = {}
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()


def parse(kind: type[C], values: Mapping[str, Any], *, where: str | None = None) -> C:
    """Check plain values against a configuration class.

    Raises:
        ConfigError: Naming the first wrong key, what was got and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(kind, error), where=where) from None


def override(config: C, settings: list[str]) -> C:
    """Change values by `a.b=1` settings; the right side is JSON, or else a string.

    Raises:
        ConfigError: If a setting has no `=`, its key is unknown or its value isn't allowed.

    >>> override(TrainConfig(), ["steps=5"]).steps
    5
    """
    values = config.model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"got {setting!r}, allowed: key=value", where="--set")
        *path, last = key.strip().split(".")
        target: Any = values
        options = path[:1] == ["objective_options"]  # an objective gets its first option by naming it
        for part in path:
            if options and isinstance(target, dict):
                target.setdefault(part, {})
            target = target.get(part) if isinstance(target, dict) else None
        free = options or path[-1:] in (["objectives"], ["columns"], ["hf"])
        if not isinstance(target, dict) or (last not in target and not free):
            raise ConfigError(unknown("key", key.strip(), keys(config)), where="--set", remedy="see `medmoe config`")
        target[last] = _value(text)
    return parse(type(config), values, where="--set")


def changes(had: Mapping[str, Any], has: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Say which values of plain configurations differ: dotted key → words.

    >>> changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    {'a.c': 'a.c was 2, now 3'}
    """
    told: dict[str, str] = {}
    for name in {**had, **has}:
        one, other, key = had.get(name), has.get(name), f"{prefix}{name}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            told |= changes(one, other, f"{key}.")
        elif json.loads(json.dumps(one)) != json.loads(json.dumps(other)):
            told[key] = f"{key} was {one!r}, now {other!r}"
    return told


def keys(config: Config) -> list[str]:
    """List every dotted key of a configuration."""

    def walk(value: Any, prefix: str) -> list[str]:
        if isinstance(value, dict) and value:
            return [key for name, item in value.items() for key in walk(item, f"{prefix}.{name}" if prefix else name)]
        return [prefix]

    return walk(config.model_dump(), "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _explain(kind: type[Config], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = keys(kind.model_construct()) if kind is not RunConfig else keys(RunConfig(recipe=""))
        return unknown("key", key, allowed)
    return f"{key} = {first.get('input')!r}: {first['msg'][0].lower() + first['msg'][1:]}"
