"""`medmoe eval`: a model judged on a split, or on public benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from medmoe.cli.common import (
    BadSample,
    Columns,
    Device,
    Json,
    check_device,
    check_least,
    console,
    escape,
    open_data,
    pairs_of,
    refuse_given,
    say,
    write_json,
)
from medmoe.errors import ConfigError, unknown

if TYPE_CHECKING:
    from medmoe.data.sources.base import Source
    from medmoe.doubts import Doubts
    from medmoe.tasks import Evidence
    from medmoe.tasks.prompts import Prompts

# Options that only one of the two ways of evaluating reads.
_OF_DATA = [
    *("split", "tasks", "fit_split", "tune_split", "cache", "items", "by"),
    *("candidate_experts", "on_bad_sample", "column"),
]
_OF_BENCHMARK = ("root",)
# Tasks that hold learnt features against those that nobody trained.
_WITH_CONTROLS = {"linear_probe", "few_shot", "ood"}
DEFAULT_TASKS = ("routing", "zeroshot_retrieval", "zeroshot_classification", "grounding")


def evaluate_command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Run folder, saved model, or another library's model folder.")],
    data: Annotated[
        str | None, typer.Option(help="Manifest or folder; several joined with ::.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="A split of the manifest, or all.")] = "test",
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated.")] = ",".join(DEFAULT_TASKS),
    fit_split: Annotated[
        str | None, typer.Option(help="Split of --data that probes are fitted on, such as train.", show_default=False)
    ] = None,
    tune_split: Annotated[
        str | None, typer.Option(help="Split of --data that thresholds are chosen on, such as val.", show_default=False)
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="Public benchmark in place of --data: paper-table1, a data set, a file.", show_default=False),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark's data sets, each in its own.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts of your own in place of ours, JSON.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep embeddings in for the next time.", show_default=False)
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Also judge within each source, modality, view or domain.", show_default=False),
    ] = None,
    items: Annotated[
        bool, typer.Option("--items", help="Keep each item's outcome, so that `medmoe report` compares runs in pairs.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images encoded at a time.")] = 64,
    workers: Annotated[int, typer.Option(help="Loader processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Of bootstrap and permutations.")] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 1000,
    candidate_experts: Annotated[
        bool, typer.Option(help="Score each candidate report through its own text's expert: K more passes.")
    ] = False,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="Admit modalities the model lacks, to the gate only; with ood always.")
    ] = False,
    on_bad_sample: BadSample = "raise",
    device: Device = "cpu",
    column: Columns = [],  # noqa: B006
    json_to: Json = None,
) -> None:
    """Evaluate a model on a split or a public benchmark: figures with n, 95 % intervals over patients, and controls."""
    if (data is None) == (benchmark is None):
        raise ConfigError(
            "got both or none of --data and --benchmark", where="medmoe eval", remedy="give one of the two"
        )
    check_least(resamples, 1, "--resamples")
    check_least(seed, 0, "--seed")
    refuse_given(context, *((_OF_BENCHMARK, "with --data") if benchmark is None else (_OF_DATA, "with --benchmark")))
    how = {"batch_size": batch_size, "workers": workers, "device": check_device(device)}
    if benchmark is not None:
        _on_benchmark(model, benchmark, root, prompts, {**how, "seed": seed, "resamples": resamples}, json_to)
        return
    assert data is not None
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    splits = {"split": split, "fit_split": fit_split, "tune_split": tune_split}
    seen = {**how, "on_bad_sample": on_bad_sample, "cache": cache, "foreign": foreign or "ood" in names}
    options = {"seed": seed, "resamples": resamples, "candidate_experts": candidate_experts}
    columns = pairs_of(column, "--column")
    _on_data(_Asked(model, data, splits, names, prompts, seen, columns, options, items, by), json_to)


@dataclass(frozen=True)
class _Asked:
    """What an evaluation on a manifest was asked for.

    Attributes:
        model: The model's folder.
        data: The manifest or folder.
        splits: `split`, `fit_split` and `tune_split`; None: none.
        tasks: Names of tasks.
        prompts: A file of prompts, or None for ours.
        seen: How images are read and encoded.
        columns: Our manifest columns → the file's.
        options: Seed, resamples, and whether candidates are scored through their own experts.
        items: Whether each item's outcome is kept.
        by: The column within whose values the tasks are run too, or None.
    """

    model: Path
    data: str
    splits: dict[str, str | None]
    tasks: list[str]
    prompts: Path | None
    seen: dict[str, Any]
    columns: dict[str, str]
    options: dict[str, Any]
    items: bool
    by: str | None


def _on_data(asked: _Asked, json_to: str | None) -> None:
    from medmoe.doubts import doubts
    from medmoe.evaluate import anew, evaluate, gather
    from medmoe.tasks import TASKS
    from medmoe.tasks.features import of_samples
    from medmoe.tasks.subsets import check_column

    for name in asked.tasks or [""]:
        if name not in TASKS:
            raise ConfigError(unknown("task", name, TASKS), where="--tasks")
    own = _own_prompts(asked.prompts)
    loaded = _load(asked.model, asked.seen["device"])
    if asked.by is not None:
        check_column(asked.by)
    controls = _wants_controls(asked)
    skip_bad = asked.seen["on_bad_sample"] == "skip"
    how = {"skip_bad": skip_bad, "maps": "grounding" in asked.tasks}

    def seen(split: str | None) -> Evidence | None:
        if split is None:
            return None
        found = open_data(asked.data, split, asked.columns, **how)
        return gather(loaded, found, controls=controls, **asked.seen)

    source = open_data(asked.data, asked.splits["split"], asked.columns, **how)
    doubtful = doubts(asked.model, loaded, source, asked.tasks, prompts=own)
    _warn(doubtful.warnings, json_to)
    every = asked.options["candidate_experts"]
    evidence = gather(loaded, source, candidate_experts=every, controls=controls, **asked.seen)
    plain = {name: asked.seen[name] for name in ("batch_size", "workers", "device", "foreign")}
    results = evaluate(
        loaded,
        evidence,
        asked.tasks,
        fit=seen(asked.splits["fit_split"]),
        tune=seen(asked.splits["tune_split"]),
        again=anew(loaded, source, **plain) if len(evidence) == len(source) else None,
        ready=_with_prompts(own),
        items=asked.items,
        by=asked.by,
        seed=asked.options["seed"],
        resamples=asked.options["resamples"],
    )
    if doubtful.audit:
        results["details"]["audit"] = doubtful.audit
    about = {
        "warnings": doubtful.warnings,
        **_made_by(asked.model, loaded),
        "data": asked.data,
        "data_fingerprint": of_samples(source),
        "leak_check": doubtful.leak_check,
        **asked.splits,
        "images": len(evidence),
        "patients": len({sample.person or sample.key for sample in evidence.samples}),
        "skipped": len(source) - len(evidence),
        **asked.options,
        "by": asked.by,
        "prompts": None if asked.prompts is None else str(asked.prompts),
        **({"columns": asked.columns} if asked.columns else {}),
    }
    _tell(asked, {"about": about, **results}, loaded, source, json_to)


def _warn(warnings: Sequence[str], json_to: str | None) -> None:
    """Print warnings before everything else; beside JSON on standard output they go to standard error."""
    for warning in warnings:
        if json_to == "-":
            typer.echo(f"warning: {warning}", err=True)
        else:
            say(f"warning: {warning}")


def _wants_controls(asked: _Asked) -> bool:
    """Tell whether a task compares the model with features that nobody trained, and there is something to fit them."""
    from medmoe.tasks.stand_ins import TASKS

    asked_for = _WITH_CONTROLS if asked.splits["fit_split"] is None else _WITH_CONTROLS | TASKS
    return not asked_for.isdisjoint(asked.tasks)


def _tell(asked: _Asked, results: dict[str, Any], loaded: Any, source: Source, json_to: str | None) -> None:
    """Print results, write them, and write the run's page where the model lies in a run."""
    from medmoe.summary import gallery, write_run_report

    aloud, skipped = json_to != "-", results["about"]["skipped"]
    if aloud:
        _print_results(results)
        if skipped:
            say(f"bad samples skipped: {skipped} of {len(source)}")
    write_json(results, json_to)
    if (asked.model / "metrics.jsonl").is_file():
        page = write_run_report(asked.model, results=results, gallery=gallery(loaded, source, per_modality=4))
        if aloud:
            say(f"report: {page}")


def _on_benchmark(
    model: Path, name: str, root: Path | None, prompts: Path | None, how: dict[str, Any], json_to: str | None
) -> None:
    """Fill a paper's table from the data sets under a folder."""
    from medmoe.benchmarks import judge_of, load_suite, remarks, run_benchmark, table
    from medmoe.doubts import of_leaks, of_preprocessing

    suite = load_suite(name)
    if root is None:
        raise ConfigError("--benchmark needs the folder of its data sets", where="--root", remedy="add --root FOLDER")
    aloud, loaded = json_to != "-", _load(model, how["device"])
    told = of_preprocessing(loaded)
    _warn(told, json_to)

    def tell(line: str) -> None:
        if aloud:
            say(f"judging {line}")

    def check(source: Source) -> Doubts:
        return of_leaks(model, loaded, source)

    found = run_benchmark(suite, root, judge_of(loaded, **how), prompts=prompts, check=check, say=tell)
    if aloud:
        _print_table(found["title"], *table(found))
        for line in remarks(found):
            say(line)
    about = {"warnings": told, **_made_by(model, loaded), "root": str(root)}
    write_json({"about": about, "benchmark": found}, json_to)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a paper's table without breaking its figures: in two parts where the terminal is narrower than it."""

    def part(columns: Sequence[int]) -> Table:
        shown = Table(*(Column(header[place], no_wrap=True) for place in columns), title=title, title_justify="left")
        for row in rows:
            shown.add_row(*(escape(row[place]) for place in columns))
        return shown

    from medmoe.benchmarks.table import OWN_COLUMNS

    own, others = list(range(len(OWN_COLUMNS))), list(range(len(OWN_COLUMNS), len(header)))
    whole = part([*own, *others])
    wide = console.measure(whole, options=console.options.update(width=10_000)).maximum
    if wide <= console.width or not console.is_terminal:
        Console(file=console.file, width=max(wide, console.width)).print(whole)
        return
    console.print(part(own))
    console.print(part([0, *others]))


def _load(path: Path, device: str) -> Any:
    """Open a model of ours, or of another library."""
    from medmoe.adapters import is_foreign, open_adapter
    from medmoe.build import load_model

    return (open_adapter(path) if is_foreign(path) else load_model(path)).to(device)


def _own_prompts(path: Path | None) -> Prompts | None:
    from medmoe.tasks.prompts import load_prompts

    return None if path is None else load_prompts(path)


def _with_prompts(own: Prompts | None) -> dict[str, Any] | None:
    """Make the tasks that read prompts read a user's own."""
    from medmoe.tasks.few_shot import FewShot
    from medmoe.tasks.robustness import Robustness
    from medmoe.tasks.zero_shot import ZeroShot

    if own is None:
        return None
    return {task.name: task for task in (ZeroShot(prompts=own), FewShot(prompts=own), Robustness(prompts=own))}


def _made_by(path: Path, model: Any) -> dict[str, Any]:
    """Say what made a result: the command, the model and its preprocessing, versions, commit and machine."""
    from medmoe.build import preprocess_of
    from medmoe.data.contract import declare
    from medmoe.model import MedVLM
    from medmoe.rundir import command_line, git_commit, machine, versions

    ours = isinstance(model, MedVLM)
    prepared = {} if ours else model.about()
    pixels = declare(preprocess_of(model.assets.preprocess)) if ours else prepared
    return {
        "command": command_line(without=["--json"]),
        "model": str(path),
        **({} if ours else {"adapter": prepared}),
        "preprocess_fingerprint": pixels.get("fingerprint"),
        **({"preprocess": pixels} if ours else {}),
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(),
    }


def _print_results(results: dict[str, Any]) -> None:
    """Print the figures of each task, and then those of each value of the column asked for."""
    from medmoe.tasks import table

    for task, metrics in results["tasks"].items():
        if not metrics:
            reason = results["details"].get(task, {}).get("skipped", "no figures")
            say(f"{task}: {reason}")
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
            shown.add_row(*map(escape, row[1:]))
        console.print(shown)
    by = results.get("by", {})
    for value, found in by.get("values", {}).items():
        say(f"{by['column']} {value}: {found['images']} images of {found['patients']} patients")
        for task, metrics in found["tasks"].items():
            first = {name: figure for name, figure in metrics.items() if "/" not in name}
            for row in table({"tasks": {task: first}}) if first else []:
                say(f"  {row[0]} {row[1]}: {row[2]} ({row[3]}), n {row[4]}; {row[5]}")
    for value, reason in by.get("left_out", {}).items():
        say(f"{by['column']} {value}: left out, {reason}")
