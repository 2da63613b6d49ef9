"""`medmoe train`: a recipe on images and their reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmoe.cli.common import Columns, Device, Settings, check_device, console, open_data, pairs_of, recipe_of, say
from medmoe.errors import ConfigError

if TYPE_CHECKING:
    from medmoe.config import RunConfig
    from medmoe.data.sources.base import Source
    from medmoe.model import MedVLM
    from medmoe.rundir import RunFolder

Track = Annotated[
    str | None, typer.Option(help="tensorboard, wandb, mlflow: show the metrics there too; several joined with commas.")
]


def train(
    recipe: Annotated[str, typer.Argument(help="tiny, medmoe or no_experts; see `medmoe config`.")],
    train_data: Annotated[str, typer.Option(help="Manifest or folder; several joined with ::.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    val_data: Annotated[str | None, typer.Option(help="Manifest or folder of the validation set.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on; train where there are splits.")] = None,
    val_split: Annotated[str | None, typer.Option(help="Split to validate on; val where there are splits.")] = None,
    train_data_upsampling_factors: Annotated[
        str | None, typer.Option(help="How often samples of each source come, as 1::2.5; as many as in --train-data.")
    ] = None,
    init: Annotated[
        list[str], typer.Option(help="Start from MODEL, or vision=FILE, text=FOLDER; repeatable.", show_default=False)
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    resume: Annotated[str | None, typer.Option(help="latest: go on with the run in --out, if any.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a batch.")] = None,
    accum_freq: Annotated[int | None, typer.Option(help="Batches of a step.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Images in memory with their activations at a time; the batch stays whole.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Put the step through torch.compile.")] = False,
    text_cache: Annotated[
        Path | None, typer.Option(help="Folder for a frozen text encoder's features; runs may share it.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and augmentation.")] = None,
    on_bad_sample: Annotated[str | None, typer.Option(help="raise, or skip into the run's quarantine.")] = None,
    track: Track = None,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Go on though the recipe or the data are others than the run's.")
    ] = False,
    device: Device = "cpu",
    settings: Settings = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
) -> None:
    """Train a recipe on images and their reports; `torchrun -m medmoe train …` does so in several processes."""
    from medmoe.distributed import joined
    from medmoe.rundir import RunFolder, command_line, writing
    from medmoe.trackers import trackers

    flags = {
        "data.batch_size": batch_size,
        "train.accum_freq": accum_freq,
        "train.micro_batch": micro_batch,
        "train.precision": precision,
        "train.compile": compile or None,
        "train.text_cache": None if text_cache is None else str(text_cache),
        "data.workers": workers,
        "train.seed": seed,
        "data.on_bad_sample": on_bad_sample,
        "train.track": None if track is None else track.replace(" ", "").split(","),
        "data.upsampling": _factors(train_data_upsampling_factors),
    }
    config, parts = recipe_of(recipe, [*_given(flags, column), *settings], init=init)
    if resume not in (None, "latest"):
        raise ConfigError(f"got {resume!r}, allowed: latest", where="--resume")
    trackers(config.train.track)  # says what is missing before anything is read or written
    columns, skip_bad = config.data.columns, config.data.on_bad_sample == "skip"
    with joined(check_device(device), timeout=config.train.stall_seconds) as world:
        train = open_data(train_data, train_split, columns, usual="train", skip_bad=skip_bad)
        val = open_data(val_data, val_split, columns, usual="val", skip_bad=skip_bad) if val_data else None
        about = {"command": command_line(), "train_data": train_data, "val_data": val_data, "processes": world.size}
        run = RunFolder(out, resume=resume == "latest", about=about, writes=world.first)
        if world.first:
            _tell_before(config, parts, out, resume=resume is not None)
        model = _fit(config, train, val, run, parts, world.device(device), allow_changes)
        if world.first:
            with writing(out, "the model is saved"):
                _tell_result(run, model, val)


def _begins(run: Path, steps: int) -> str:
    """Say where a run goes on, or that it doesn't."""
    from medmoe.checkpoint import found

    folders = found(run)
    if not folders:
        return f"nothing to go on from in {run}: a new run"
    return f"going on in {run}, whose newest checkpoint is of step {int(folders[-1].name[5:])} of {steps}"


def _fit(
    config: RunConfig,
    train: Source,
    val: Source | None,
    run: RunFolder,
    parts: dict[str, str],
    device: str,
    allow_changes: bool,
) -> MedVLM:
    """Train, and show how it goes."""
    from medmoe.progress import Progress
    from medmoe.train import fit

    with Progress(config, console) as progress:

        def watch(row: dict[str, Any]) -> None:
            if row["kind"] == "train" and row["step"] == 1:
                _tell_init(run.path, parts)
            progress(row)

        return fit(
            config, train=train, val=val, run=run, init=parts, device=device, allow_changes=allow_changes, watch=watch
        )


def _given(flags: dict[str, Any], column: list[str]) -> list[str]:
    """Word the flags that were given as settings."""
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    return given + [f"data.columns.{our}={json.dumps(their)}" for our, their in pairs_of(column, "--column").items()]


def _factors(text: str | None) -> list[float] | None:
    """Read `1::2.5`."""
    try:
        return None if text is None else [float(part) for part in text.split("::")]
    except ValueError:
        where = "--train-data-upsampling-factors"
        raise ConfigError(f"got {text!r}, allowed: numbers such as 1::2.5", where=where) from None


def _tell_before(config: RunConfig, parts: dict[str, str], out: Path, *, resume: bool) -> None:
    """Say where the run goes on, and where a frozen text encoder would stay random."""
    if resume:
        say(_begins(out, config.train.steps))
    text = config.model.text
    if text.name == "hf" and text.frozen and not parts and not (out / "checkpoints").is_dir():
        say("warning: the text encoder is frozen with random weights; start it from --init text=FOLDER")


def _tell_result(run: RunFolder, model: MedVLM, val: Source | None) -> None:
    """Write the run's report, and say what was left out and where all is."""
    from medmoe.summary import gallery, write_run_report

    if run.quarantine.is_file():
        count = len(run.quarantine.read_text(encoding="utf-8").splitlines())
        say(f"bad samples skipped: {count}, listed in {run.quarantine}")
    items = gallery(model, val, per_modality=3) if val is not None else []
    page = write_run_report(run.path, gallery=items)
    say(f"model: {run.path / 'model'}\nreport: {page}")


def _tell_init(run: Path, parts: dict[str, str]) -> None:
    """Say which of the weights a run starts from were used and which were not."""
    loads = json.loads((run / "run.json").read_text(encoding="utf-8"))["initialised_from"]
    for part, report in loads.items():
        say(f"{part} from {parts[part]}: {report}")
