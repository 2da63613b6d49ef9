"""`medmoe eval`: a model judged on a split, or on public benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from medmoe.cli.common import (
    BadSample,
    Columns,
    Device,
    Json,
    check_device,
    console,
    escape,
    open_data,
    pairs_of,
    say,
    write_json,
)
from medmoe.errors import ConfigError, unknown

if TYPE_CHECKING:
    from medmoe.data.sources.base import Source
    from medmoe.tasks import Evidence

DEFAULT_TASKS = ("routing", "zeroshot_retrieval", "zeroshot_classification", "grounding")


def evaluate_command(
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
    how = {"batch_size": batch_size, "workers": workers, "device": check_device(device)}
    if benchmark is not None:
        _on_benchmark(model, benchmark, root, prompts, {**how, "seed": seed, "resamples": resamples}, json_to)
        return
    assert data is not None
    asked = _Asked(
        model=model,
        data=data,
        splits={"split": split, "fit_split": fit_split, "tune_split": tune_split},
        tasks=[name.strip() for name in tasks.split(",") if name.strip()],
        prompts=prompts,
        seen={**how, "on_bad_sample": on_bad_sample, "cache": cache},
        columns=pairs_of(column, "--column"),
        options={"seed": seed, "resamples": resamples, "candidate_experts": candidate_experts},
        items=items,
        by=by,
    )
    _on_data(asked, json_to)


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
    from medmoe.evaluate import anew, evaluate, gather
    from medmoe.tasks import TASKS
    from medmoe.tasks.subsets import check_column

    for name in asked.tasks or [""]:
        if name not in TASKS:
            raise ConfigError(unknown("task", name, TASKS), where="--tasks")
    ready = _with_prompts(asked.prompts)
    loaded = _load(asked.model, asked.seen["device"])
    if asked.by is not None:
        check_column(asked.by)
    skip_bad, controls = asked.seen["on_bad_sample"] == "skip", _wants_controls(asked)
    how = {"skip_bad": skip_bad, "maps": "grounding" in asked.tasks}

    def seen(split: str | None) -> Evidence | None:
        if split is None:
            return None
        found = open_data(asked.data, split, asked.columns, **how)
        return gather(loaded, found, controls=controls, **asked.seen)

    source = open_data(asked.data, asked.splits["split"], asked.columns, **how)
    every = asked.options["candidate_experts"]
    evidence = gather(loaded, source, candidate_experts=every, controls=controls, **asked.seen)
    plain = {name: asked.seen[name] for name in ("batch_size", "workers", "device")}
    results = evaluate(
        loaded,
        evidence,
        asked.tasks,
        fit=seen(asked.splits["fit_split"]),
        tune=seen(asked.splits["tune_split"]),
        again=anew(loaded, source, **plain) if len(evidence) == len(source) else None,
        ready=ready,
        items=asked.items,
        by=asked.by,
        seed=asked.options["seed"],
        resamples=asked.options["resamples"],
    )
    results["about"] = {
        **_made_by(asked.model, loaded),
        "data": asked.data,
        **asked.splits,
        "images": len(evidence),
        "patients": len({sample.patient or sample.key for sample in evidence.samples}),
        "skipped": len(source) - len(evidence),
        **asked.options,
        "by": asked.by,
        "prompts": None if asked.prompts is None else str(asked.prompts),
    }
    _tell(asked, results, loaded, source, json_to)


def _wants_controls(asked: _Asked) -> bool:
    """Tell whether a task compares the model with features that nobody trained, and there is something to fit them."""
    from medmoe.tasks.stand_ins import TASKS

    return "linear_probe" in asked.tasks or (
        asked.splits["fit_split"] is not None and not set(TASKS).isdisjoint(asked.tasks)
    )


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

    suite = load_suite(name)
    if root is None:
        raise ConfigError("--benchmark needs the folder of its data sets", where="--root", remedy="add --root FOLDER")
    aloud, loaded = json_to != "-", _load(model, how["device"])

    def tell(line: str) -> None:
        if aloud:
            say(f"judging {line}")

    found = run_benchmark(suite, root, judge_of(loaded, **how), prompts=prompts, say=tell)
    if aloud:
        header, rows = table(found)
        shown = Table(*(Column(name, overflow="fold") for name in header), title=found["title"], title_justify="left")
        for row in rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
        for line in remarks(found):
            say(line)
    write_json({"benchmark": found, "about": {**_made_by(model, loaded), "root": str(root)}}, json_to)


def _load(path: Path, device: str) -> Any:
    """Open a model of ours, or of another library."""
    from medmoe.adapters import is_foreign, open_adapter
    from medmoe.build import load_model

    return (open_adapter(path) if is_foreign(path) else load_model(path)).to(device)


def _with_prompts(path: Path | None) -> dict[str, Any] | None:
    """Make the tasks that read prompts read a user's own."""
    from medmoe.tasks.few_shot import FewShot
    from medmoe.tasks.prompts import load_prompts
    from medmoe.tasks.zero_shot import ZeroShot

    if path is None:
        return None
    own = load_prompts(path)
    return {task.name: task for task in (ZeroShot(prompts=own), FewShot(prompts=own))}


def _made_by(path: Path, model: Any) -> dict[str, Any]:
    """Say what made a result: the command, the model and its preprocessing, versions, commit and machine."""
    from medmoe.model import MedVLM
    from medmoe.rundir import command_line, git_commit, machine, versions

    ours = isinstance(model, MedVLM)
    prepared = model.assets.preprocess if ours else model.about()
    return {
        "command": command_line(),
        "model": str(path),
        **({} if ours else {"adapter": prepared}),
        "preprocess_fingerprint": prepared.get("fingerprint"),
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
