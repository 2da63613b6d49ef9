"""From configuration to objects: the only file that knows both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.config import (
    DataConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
    RunConfig,
    TextConfig,
    VisionConfig,
    parse,
)
from medmoe.data.contract import DECLARED, declare
from medmoe.data.crops import RandomCrop
from medmoe.data.loader import Loader
from medmoe.data.plan import PLAIN, Layout
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import Source, by_shard, reduced, shards_of, shown, sizes_of
from medmoe.data.sources.remembered import RememberedSource
from medmoe.data.text import ReportTokenizer
from medmoe.data.transforms import Augment
from medmoe.distributed import ALONE, current
from medmoe.encoders.cached_text import CachedText
from medmoe.encoders.pretrained import LoadReport, load_matching
from medmoe.encoders.text import TEXT, HFText
from medmoe.encoders.vision import VISION
from medmoe.errors import ConfigError, DataError, ModelError, unknown
from medmoe.experts.low_rank import LowRankExpert
from medmoe.experts.moe import EXPERTS, MixtureOfExperts
from medmoe.experts.router import Router, RouterHead
from medmoe.folder import CONFIG, GATE, PREPROCESS, WEIGHTS, Assets, find_folder, read_json, read_weights
from medmoe.gate import Gate
from medmoe.layers import NORMS
from medmoe.modalities import in_order, resolve
from medmoe.model import MedVLM
from medmoe.objectives import LOCAL_SIMILARITIES
from medmoe.types import Sample


def build_vision(config: VisionConfig) -> nn.Module:
    """Build an image encoder: a row of `VISION`, or else a timm name."""
    if config.norm not in NORMS:
        raise ConfigError(unknown("norm", config.norm, NORMS), where="model.vision.norm")
    if config.name == "tiny":
        return VISION["tiny"](channels=config.channels, norm=config.norm, recompute=config.checkpoint)
    if config.norm != VisionConfig().norm:
        raise ConfigError(
            f"norm={config.norm} is a choice for 'tiny'; {config.name!r} has its own norms",
            where="model.vision.norm",
            remedy="leave it out",
        )
    if config.name == "descriptor":
        if config.checkpoint:
            raise ConfigError("'descriptor' learns nothing, so nothing is kept", where="model.vision.checkpoint")
        return VISION["descriptor"](config.image_size, measures=config.measures)
    return VISION["timm"](config.name, image_size=config.image_size, recompute=config.checkpoint)


def build_text(config: TextConfig) -> nn.Module:
    """Build a text encoder with fresh weights."""
    if config.name == "tiny":
        return TEXT["tiny"](
            config.vocab_size,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            max_pieces=config.max_pieces,
        )
    if config.name != "hf":
        raise ConfigError(unknown("text encoder", config.name, TEXT), where="model.text.name")
    if config.hf is None:
        raise ConfigError(
            "a Hugging Face text encoder needs its configuration",
            where="model.text.hf",
            remedy="start with --init text=FOLDER",
        )
    return TEXT["hf"](config.hf, last_layers=config.last_layers, pool=config.pool, frozen=config.frozen)


def build_experts(config: ExpertConfig, channels: Sequence[int], modalities: int) -> MixtureOfExperts:
    """Build the experts of an arrangement."""
    if config.name not in EXPERTS:
        raise ConfigError(unknown("expert", config.name, EXPERTS), where="model.experts.name")
    if config.shared == 0 and not config.special:
        raise ConfigError("neither shared nor special experts", where="model.experts", remedy="set shared=1")
    if config.growing and (config.zero or not config.special):
        raise ConfigError("growing experts are special ones that don't start at zero", where="model.experts.growing")

    if config.rank is not None and (config.shared == 0 or not config.special or config.growing):
        raise ConfigError(
            "low-rank experts are special ones beside a shared one, and don't grow",
            where="model.experts.rank",
            remedy="set shared=1, special=true and growing=false",
        )

    def expert(*, zero: bool) -> nn.Module:
        return EXPERTS[config.name](
            channels,
            width=config.width,
            grid=config.grid,
            levels=config.levels,
            kernel=config.kernel,
            layers=config.layers,
            conv=config.conv,
            norm=config.norm,
            interpolation=config.interpolation,
            upsample=config.upsample,
            zero=zero,
        )

    def special_expert() -> nn.Module:
        if config.rank is None:
            return expert(zero=config.zero)
        return LowRankExpert(channels, rank=config.rank, width=config.width, grid=config.grid, levels=config.levels)

    special = [special_expert() for _ in range(modalities if config.special else 0)]
    return MixtureOfExperts([expert(zero=False) for _ in range(config.shared)], special, growing=config.growing)


def build_route(config: RouterConfig, source: str, *, anneal: int = 0) -> Router:
    """Build the choice of experts for one source of scores; in training it may harden over `anneal` batches."""
    return Router(source, selection=config.selection, k=config.k, gradient=config.gradient, anneal=anneal)


def build_model(config: ModelConfig, tokenizer: ReportTokenizer, *, seed: int = 0) -> MedVLM:
    """Build a model with fresh weights, drawn from the seed and nothing else.

    Args:
        config: Its `modalities` must be set.
        tokenizer: Saved with the model; a `tiny` text encoder takes its vocabulary's size.
        seed: Of the weights.
    """
    modalities = config.modalities
    if not modalities:
        raise ConfigError("no modalities", where="model.modalities", remedy="name them, or train on labelled data")
    modalities = tuple(resolve(name, where="model.modalities") for name in modalities)
    if config.text.name == "tiny":
        text = config.text.model_copy(update={"vocab_size": tokenizer.vocab_size})
        config = config.model_copy(update={"text": text})
    elif config.text.hf is not None and tokenizer.vocab_size > config.text.hf.get("vocab_size", tokenizer.vocab_size):
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} pieces, the text encoder {config.text.hf['vocab_size']}",
            where="model.text",
            remedy="use the tokenizer of the encoder's own folder",
        )
    if config.local_similarity not in LOCAL_SIMILARITIES:
        known = unknown("similarity", config.local_similarity, LOCAL_SIMILARITIES)
        raise ConfigError(known, where="model.local_similarity")
    config = config.model_copy(update={"modalities": modalities})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vision, text_encoder = build_vision(config.vision), build_text(config.text)
        channels: Sequence[int] = vision.channels  # type: ignore[assignment]
        hidden, count = config.router.hidden, len(modalities)
        model = MedVLM(
            vision=vision,
            text=text_encoder,
            experts=build_experts(config.experts, channels, count),
            image_router=RouterHead(2 * sum(channels), hidden, count),
            text_router=RouterHead(text_encoder.width, hidden, count),  # type: ignore[arg-type]
            train_route=build_route(config.router, config.router.train, anneal=config.router.anneal_steps),
            infer_route=build_route(config.router, config.router.infer),
            modalities=modalities,
            embed_dim=config.embed_dim,
            local_dim=config.experts.width,
            pool=config.pool,
            pool_norm=config.pool_norm,
            local_similarity=config.local_similarity,
            special_projection=config.special_projection,
            report_words=tokenizer.vocab_size if config.report_words else 0,
            region_words=tokenizer.vocab_size if config.region_words else 0,
        )
    preprocess = Preprocess(size=config.vision.image_size, window=config.vision.window)
    model.assets = Assets(
        config=config.model_dump(mode="json"),
        preprocess=declare(preprocess),
        tokenizer=tokenizer,
    )
    return model


def load_model(path: Path | str) -> MedVLM:
    """Load a saved model from a folder, a run, or a run's newest checkpoint.

    Raises:
        ModelError: If the folder, its configuration or its weights can't be used.
    """
    folder = find_folder(path)
    config = parse(ModelConfig, read_json(folder / CONFIG), where=str(folder / CONFIG))
    model = build_model(config, ReportTokenizer.load(folder))
    saved = read_json(folder / PREPROCESS)
    try:
        preprocess = preprocess_of(saved)  # rejects what this version can't do
    except ConfigError as error:
        what = f"{error.where}: {error.what}"
        remedy = error.remedy or "use the release that wrote it, or save the model again"
        raise ModelError(what, where=str(folder / PREPROCESS), remedy=remedy) from None
    own = {"image_size": preprocess.size, "window": preprocess.window}
    for name, value in own.items():
        if value != getattr(config.vision, name):
            raise ModelError(
                f"{name} {value!r}, but that of {CONFIG} is {getattr(config.vision, name)!r}",
                where=str(folder / PREPROCESS),
                remedy="restore the file that was edited, or save the model again",
            )
    if "steps" not in saved:  # of an earlier release
        saved = declare(preprocess)
    put_weights(model, read_weights(folder / WEIGHTS), where=str(folder / WEIGHTS), remedy="save the model again")
    assert model.assets is not None
    gate = read_json(folder / GATE) if (folder / GATE).is_file() else None
    if gate is not None:
        gate = Gate.from_dict(gate, where=str(folder / GATE)).to_dict()
    model.assets = Assets(model.assets.config, preprocess=saved, tokenizer=model.assets.tokenizer, gate=gate)
    return model.eval()


def put_weights(model: MedVLM, weights: Mapping[str, Tensor], *, where: str, remedy: str) -> None:
    """Put saved weights into a model built for them.

    Raises:
        ModelError: If a weight is missing, unexpected or of another shape.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # torch names every tensor that is missing, unexpected or of another shape
        first = " ".join(str(error).split("\n", 2)[1].split())
        raise ModelError(f"weights don't fit the configuration ({first[:200]})", where=where, remedy=remedy) from None


def preprocess_of(saved: dict[str, Any]) -> Preprocess:
    """Give the preprocessing that a model folder declares."""
    return Preprocess.from_dict({key: value for key, value in saved.items() if key not in DECLARED})


def tokenizer_of(model: MedVLM) -> ReportTokenizer:
    """Give the tokenizer that travels with a model."""
    assert model.assets is not None
    assert isinstance(model.assets.tokenizer, ReportTokenizer)
    return model.assets.tokenizer


def facts_of(source: Source, *, skip_bad: bool = False) -> Iterator[Sample]:
    """Go through the facts of a source's samples, without pixels; a bad one is an error, or left out."""
    for index in range(len(source)):
        try:
            yield source.facts(index)
        except DataError:
            if not skip_bad:
                raise


def resolve_data(config: RunConfig, source: Source) -> tuple[RunConfig, list[str]]:
    """Fill in what only the training data knows: the modalities, and give the reports.

    Raises:
        ConfigError: If no sample has a modality, or none has a report; or as `build_layout`, before a run begins.
    """
    build_layout(source, config.data)
    where = f"--train-data {getattr(source, 'path', '')}".rstrip()
    present, reports = set(), []
    for sample in facts_of(source, skip_bad=config.data.on_bad_sample == "skip"):
        if sample.modality:
            present.add(sample.modality)
        if sample.report:
            reports.append(sample.report)
    if not reports:
        raise ConfigError("no training sample has a report or label", where=where, remedy="add a text column")
    if config.model.modalities is None:
        if not present:
            raise ConfigError("no training sample has a modality", where=where, remedy="add a modality column")
        model = config.model.model_copy(update={"modalities": in_order(present)})
        config = config.model_copy(update={"model": model})
    return config, reports


def build_tokenizer(config: TextConfig, reports: Sequence[str], *, folder: Path | None = None) -> ReportTokenizer:
    """Take the tokenizer of a folder, or train a vocabulary on reports."""
    if folder is not None:
        return ReportTokenizer.load(folder, max_words=config.max_words, max_pieces=config.max_pieces)
    tokenizer = ReportTokenizer.train(reports, vocab_size=config.vocab_size, max_words=config.max_words)
    tokenizer.max_pieces = config.max_pieces
    return tokenizer


def build_loader(
    source: Source,
    model: MedVLM,
    config: RunConfig,
    *,
    train: bool,
    start: int = 0,
    quarantine: Path | None = None,
    foreign: bool = False,
    alone: bool = True,
) -> Loader:
    """Build the loader that feeds a model from a source.

    Args:
        source: The samples.
        model: The model.
        config: The recipe.
        train: Whether to shuffle without end and augment.
        start: The first step of training.
        quarantine: File of bad samples that were skipped.
        foreign: Whether modalities that the model lacks are admitted.
        alone: Whether this process reads all of each batch; else the processes that train together share it.
    """
    world = ALONE if alone else current()
    assert model.assets is not None
    data = config.data
    augment = Augment(strength=data.augment, flip=data.flip) if train and data.augment > 0 else None
    preprocess = preprocess_of(model.assets.preprocess)
    source = shown(source, preprocess.window)
    layout = build_layout(source, config.data) if train else PLAIN
    if layout.shards is not None:
        source = by_shard(source)
    crop = RandomCrop(chance=data.crop) if train and data.crop > 0 else None
    if train and data.scaled_decode:
        source = reduced(source, preprocess.size if crop is None else crop.needs(preprocess.size))
    if train and data.cache_mb > 0:
        source = RememberedSource(source, preprocess.shrink, data.cache_mb)
    return Loader(
        source,
        preprocess,
        tokenizer_of(model),
        modalities=model.modalities,
        batch_size=data.batch_size,
        train=train,
        augment=augment,
        augment_on=data.augment_on,
        crop=crop,
        batching=data.batching,
        within_fraction=data.within_fraction,
        balance=data.balance,
        seed=config.train.seed,
        workers=data.workers,
        start=start,
        on_bad_sample=data.on_bad_sample,
        quarantine=quarantine,
        foreign=foreign,
        layout=layout,
        rank=world.rank,
        world=world.size,
        patience=config.train.stall_seconds,
    )


def build_layout(source: Source, config: DataConfig) -> Layout:
    """Say what a source is made of, as far as the order of its samples is to go by it.

    Raises:
        ConfigError: If the factors aren't as many as the sources, or an order by tars is asked for and there are none.
    """
    if config.shuffle == "global":
        return Layout(sizes_of(source), config.upsampling)
    shards = shards_of(source)
    if shards is None:
        what = "an order by tars is asked for, and the training data has none"
        raise ConfigError(what, where="data.shuffle", remedy="use 'global', or write tars with `medmoe data shard`")
    return Layout(sizes_of(source), config.upsampling, shards, config.shuffle_window)


def build_text_cache(model: MedVLM, config: RunConfig, run: Path) -> CachedText | None:
    """Open what is known of reports under a frozen text encoder; None for another one, or where nothing is kept.

    Args:
        model: With the weights that it keeps.
        config: Its `train.text_cache` says whether and where.
        run: The run's folder, in which it is kept unless another folder is named.
    """
    settings = config.train
    if not settings.text_cache or not isinstance(model.text, HFText) or not model.text.frozen:
        return None
    folder = run / "cache" / "text" if settings.text_cache is True else Path(settings.text_cache)
    return CachedText.in_folder(model.text, folder, limit_mb=settings.text_cache_mb, kind=settings.text_cache_type)


def initialise(model: MedVLM, parts: dict[str, str]) -> dict[str, LoadReport]:
    """Start parts of a model from saved weights, and say which were used.

    Args:
        model: Changed in place.
        parts: `model` → a run or model folder; `vision` or `text` → a folder or safetensors file.
    """
    modules: dict[str, nn.Module] = {"model": model, "vision": model.vision, "text": model.text}
    reports = {}
    for part, source in parts.items():
        if part not in modules:
            raise ConfigError(unknown("part", part, modules), where="--init")
        grown = model.experts.grown.clone()
        reports[part] = load_matching(modules[part], find_folder(source) if part == "model" else source)
        if any(name.startswith("experts.special") for name in reports[part].missing):
            model.experts.grown.copy_(grown)  # of experts that weren't brought, the saved model can't say it
    return reports


def adopt(config: RunConfig, parts: dict[str, str]) -> RunConfig:
    """Take over from saved parts what the configuration must know before anything is built.

    A saved model brings its whole model configuration; a Hugging Face text folder brings its encoder.
    """
    if "model" in parts:
        folder = find_folder(parts["model"])
        saved = parse(ModelConfig, read_json(folder / CONFIG), where=str(folder / CONFIG))
        return config.model_copy(update={"model": saved})
    if "text" in parts:
        hf = read_json(Path(parts["text"]) / CONFIG)
        text = config.model.text.model_copy(update={"name": "hf", "hf": hf})
        return config.model_copy(update={"model": config.model.model_copy(update={"text": text})})
    return config
