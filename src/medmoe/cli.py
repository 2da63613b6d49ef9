"""The command line: each command reads its options, calls the library, and prints what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from medmoe.errors import ConfigError, UserError, unknown

if TYPE_CHECKING:
    from medmoe.config import RunConfig
    from medmoe.data.sources.base import Source

app = typer.Typer(
    name="medmoe",
    help="Train, evaluate and use vision-language models over your own medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and look after data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()
DEVICES = ("cpu", "cuda", "mps")
ALL_TASKS = ("routing", "zeroshot_retrieval", "zeroshot_classification", "grounding")

Json = Annotated[str | None, typer.Option("--json", help="Write what was printed as JSON; - for standard output.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="Change a value of the configuration, a.b=1; repeatable.", show_default=False)
]
Columns = Annotated[
    list[str], typer.Option("--column", help="Map a manifest column, ours=theirs; repeatable.", show_default=False)
]
BadSample = Annotated[str, typer.Option(help="raise, or skip into the run's quarantine.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]


def main() -> None:
    """Run the command line: a user's mistake prints one line and exits with 2."""
    from medmoe.train import Interrupted

    try:
        app(prog_name="medmoe")
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False)
        sys.exit(2)
    except Interrupted as stop:
        Console(stderr=True, soft_wrap=True).print(_escape(str(stop)), highlight=False)
        sys.exit(130)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _say(text: str) -> None:
    """Print a line as it is: paths aren't broken into several lines, brackets aren't markup."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _write_json(value: Any, target: str | None) -> None:
    if target is None:
        return
    text = json.dumps(value, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{target} can't be written ({error.strerror})", where="--json", remedy="give a file, or - for the screen"
        ) from None


def _pairs(values: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for value in values:
        ours, equals, theirs = value.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"got {value!r}, allowed: name=value", where=option)
        pairs[ours] = theirs
    return pairs


def _check_device(device: str) -> str:
    import torch

    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigError(unknown("device", kind, DEVICES), where="--device")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} can't be used ({str(error).splitlines()[0]})", where="--device", remedy="try cpu"
        ) from None
    return device


@app.command()
def doctor(json_to: Json = None) -> None:
    """Tell what works on this machine, what is missing and how to get it."""
    from medmoe.doctor import diagnose

    checks = diagnose()
    if json_to != "-":
        table = Table("", "what", "found", "how to get it")
        for check in checks:
            mark = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]"}.get(check.status, "[red]problem[/]")
            table.add_row(mark, *map(_escape, (check.name, check.detail, check.remedy)))
        console.print(table)
    _write_json([{"name": c.name, "status": c.status, "detail": c.detail, "remedy": c.remedy} for c in checks], json_to)
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="tiny, medmoe or no_experts; see `medmoe config`.")],
    train_data: Annotated[str, typer.Option(help="Manifest or folder; several joined with ::.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    val_data: Annotated[str | None, typer.Option(help="Manifest or folder of the validation set.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on; train where there are splits.")] = None,
    val_split: Annotated[str | None, typer.Option(help="Split to validate on; val where there are splits.")] = None,
    init: Annotated[
        list[str], typer.Option(help="Start from MODEL, or vision=FILE, text=FOLDER; repeatable.", show_default=False)
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    resume: Annotated[str | None, typer.Option(help="latest: go on with the run in --out, if any.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a batch.")] = None,
    accum_freq: Annotated[int | None, typer.Option(help="Batches of a step.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and augmentation.")] = None,
    on_bad_sample: Annotated[str | None, typer.Option(help="raise, or skip into the run's quarantine.")] = None,
    device: Device = "cpu",
    settings: Settings = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
) -> None:
    """Train a recipe on images and their reports."""
    from medmoe.progress import Progress
    from medmoe.rundir import RunFolder, command_line
    from medmoe.summary import gallery, write_run_report
    from medmoe.train import fit

    flags = {
        "data.batch_size": batch_size,
        "train.accum_freq": accum_freq,
        "train.precision": precision,
        "data.workers": workers,
        "train.seed": seed,
        "data.on_bad_sample": on_bad_sample,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    given += [f"data.columns.{ours}={json.dumps(theirs)}" for ours, theirs in _pairs(column, "--column").items()]
    config, parts = _recipe(recipe, [*given, *settings], init=init)
    if resume not in (None, "latest"):
        raise ConfigError(f"got {resume!r}, allowed: latest", where="--resume")
    _check_device(device)
    columns, skip_bad = config.data.columns, config.data.on_bad_sample == "skip"
    train = _open(train_data, train_split, columns, usual="train", skip_bad=skip_bad)
    val = _open(val_data, val_split, columns, usual="val", skip_bad=skip_bad) if val_data else None
    about = {"command": command_line(), "train_data": train_data, "val_data": val_data}
    run = RunFolder(out, resume=resume == "latest", about=about)
    with Progress(config, console) as progress:

        def watch(row: dict[str, Any]) -> None:
            if row["kind"] == "train" and row["step"] == 1:
                _tell_init(run.path, parts)
            progress(row)

        model = fit(config, train=train, val=val, run=run, init=parts, device=device, watch=watch)
    if run.quarantine.is_file():
        count = len(run.quarantine.read_text(encoding="utf-8").splitlines())
        _say(f"bad samples skipped: {count}, listed in {run.quarantine}")
    items = gallery(model, val, per_modality=3) if val is not None else []
    page = write_run_report(run.path, gallery=items)
    _say(f"model: {run.path / 'model'}\nreport: {page}")


def _tell_init(run: Path, parts: dict[str, str]) -> None:
    """Say which of the weights a run starts from were used and which were not."""
    loads = json.loads((run / "run.json").read_text(encoding="utf-8"))["initialised_from"]
    for part, report in loads.items():
        _say(f"{part} from {parts[part]}: {report}")


@app.command("eval")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Run folder or saved model.")],
    data: Annotated[str, typer.Option(help="Manifest or folder; several joined with ::.")],
    split: Annotated[str, typer.Option(help="A split of the manifest, or all.")] = "test",
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated.")] = ",".join(ALL_TASKS),
    batch_size: Annotated[int, typer.Option(help="Images encoded at a time.")] = 64,
    workers: Annotated[int, typer.Option(help="Loader processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Of bootstrap and permutations.")] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 1000,
    candidate_experts: Annotated[
        bool, typer.Option(help="Score each candidate report through its own text's expert: K more passes.")
    ] = False,
    on_bad_sample: BadSample = "raise",
    device: Device = "cpu",
    column: Columns = [],  # noqa: B006
    json_to: Json = None,
) -> None:
    """Evaluate a model on a split: figures with n, 95 % intervals over patients, and controls."""
    from medmoe.build import load_model
    from medmoe.evaluate import evaluate, gather
    from medmoe.rundir import command_line, git_commit, machine, versions
    from medmoe.summary import gallery, write_run_report
    from medmoe.tasks import TASKS

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    for name in names or [""]:
        if name not in TASKS:
            raise ConfigError(unknown("task", name, TASKS), where="--tasks")
    loaded = load_model(model).to(_check_device(device))
    source = _open(data, split, _pairs(column, "--column"), skip_bad=on_bad_sample == "skip")
    evidence = gather(
        loaded,
        source,
        batch_size=batch_size,
        workers=workers,
        on_bad_sample=on_bad_sample,
        device=device,
        candidate_experts=candidate_experts,
    )
    results = evaluate(loaded, evidence, names, seed=seed, resamples=resamples)
    results["about"] = {
        "command": command_line(),
        "model": str(model),
        "data": data,
        "split": split,
        "images": len(evidence),
        "skipped": len(source) - len(evidence),
        "seed": seed,
        "resamples": resamples,
        "candidate_experts": candidate_experts,
        "preprocess_fingerprint": (loaded.assets.preprocess if loaded.assets else {}).get("fingerprint"),
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(),
    }
    if json_to != "-":
        _print_results(results)
        if results["about"]["skipped"]:
            _say(f"bad samples skipped: {results['about']['skipped']} of {len(source)}")
    _write_json(results, json_to)
    if (model / "metrics.jsonl").is_file():
        page = write_run_report(model, results=results, gallery=gallery(loaded, source, per_modality=4))
        if json_to != "-":
            _say(f"report: {page}")


def _print_results(results: dict[str, Any]) -> None:
    from medmoe.tasks import table

    for task, metrics in results["tasks"].items():
        if not metrics:
            reason = results["details"].get(task, {}).get("skipped", "no figures")
            _say(f"{task}: {reason}")
            continue
        shown = Table(
            Column("metric", overflow="fold"),
            "value",
            "95 % interval",
            "n",
            "controls",
            title=task,
            title_justify="left",
        )
        for row in table({"tasks": {task: metrics}}):
            shown.add_row(*map(_escape, row[1:]))
        console.print(shown)


@app.command()
def embed(
    model: Annotated[Path, typer.Argument(help="Run folder or saved model.")],
    data: Annotated[str, typer.Option(help="Manifest or folder; several joined with ::.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    split: Annotated[str, typer.Option(help="A split of the manifest, or all.")] = "all",
    batch_size: Annotated[int, typer.Option(help="Images encoded at a time.")] = 64,
    workers: Annotated[int, typer.Option(help="Loader processes.")] = 1,
    on_bad_sample: BadSample = "raise",
    device: Device = "cpu",
    column: Columns = [],  # noqa: B006
) -> None:
    """Write one row an image: key, routed modality, image embedding and, with a report, text embedding."""
    from medmoe.build import load_model
    from medmoe.embed import write_embeddings

    loaded = load_model(model).to(_check_device(device))
    source = _open(data, split, _pairs(column, "--column"), skip_bad=on_bad_sample == "skip")
    rows = write_embeddings(
        loaded, source, out, batch_size=batch_size, workers=workers, on_bad_sample=on_bad_sample, device=device
    )
    skipped = f", {len(source) - rows} bad ones skipped" if rows < len(source) else ""
    _say(f"{rows} images → {out}{skipped}")


@app.command()
def models(
    describe_name: Annotated[str | None, typer.Option("--describe", help="Measure a model by name.")] = None,
    json_to: Json = None,
) -> None:
    """List the models that can be created by name, or measure one."""
    from medmoe.recipes.models import MODELS, create_model, list_models

    if describe_name is None:
        if json_to != "-":
            for name in list_models():
                _say(f"{name}: {(MODELS[name].__doc__ or '').splitlines()[0]}")
        _write_json(list_models(), json_to)
        return
    from medmoe.describe import describe

    made = create_model(describe_name)
    facts = describe(made, name=describe_name, image_size=MODELS[describe_name]().model.vision.image_size)
    if json_to != "-":
        table = Table("what", "value")
        counts = {f"parameters: {part}": count for part, count in facts["parameters"].items()}
        for key, value in {**facts, **counts}.items():
            if key != "parameters":
                table.add_row(key, f"{value:.3f}" if isinstance(value, float) else _escape(str(value)))
        console.print(table)
    _write_json(facts, json_to)


@app.command()
def config(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    settings: Settings = [],  # noqa: B006
) -> None:
    """Print the whole configuration of a recipe as JSON."""
    sys.stdout.write(_recipe(recipe, settings)[0].model_dump_json(indent=2) + "\n")


@data_app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write; must be new or empty.")],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 600,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Another seed gives other patients.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Write generated phantoms of six modalities with reports and exact truth, as a manifest folder."""
    from medmoe.data.sources.phantom import write_phantoms

    path = write_phantoms(out, patients=patients, size=size, seed=seed, workers=workers)
    _say(f"manifest: {path}")


def _recipe(name: str, settings: list[str], *, init: Sequence[str] = ()) -> tuple[RunConfig, dict[str, str]]:
    """Give a recipe's configuration and the parts it starts from.

    `--init` is MODEL, vision=FILE or text=FOLDER; a model or text folder brings its own configuration, which settings
    then change.
    """
    from medmoe.build import adopt
    from medmoe.config import override
    from medmoe.recipes import RECIPES

    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    parts = {}
    for value in init:
        part, equals, source = value.partition("=")
        parts[part if equals else "model"] = source if equals else value
    return override(adopt(RECIPES[name](), parts), settings), parts


def _open(
    spec: str, split: str | None, columns: dict[str, str], *, usual: str | None = None, skip_bad: bool = False
) -> Source:
    """Open a source; without a split, take the usual one of a manifest that has splits.

    No task or objective reads masks or gaze maps yet, so they stay unread.
    """
    from medmoe.data.sources.concat import open_source

    wanted = split or usual
    return open_source(
        spec,
        split=None if wanted == "all" else wanted,
        fallback=split is None,
        columns=columns,
        check_files=not skip_bad,
        maps=False,
    )


if __name__ == "__main__":
    main()
