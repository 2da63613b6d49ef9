"""`medmoe eval` and `medmoe embed`: what a model makes of a split."""

from __future__ import annotations

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
    from medmoe.tasks import Evidence

ALL_TASKS = ("routing", "zeroshot_retrieval", "zeroshot_classification", "grounding")


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Run folder or saved model.")],
    data: Annotated[str, typer.Option(help="Manifest or folder; several joined with ::.")],
    split: Annotated[str, typer.Option(help="A split of the manifest, or all.")] = "test",
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated.")] = ",".join(ALL_TASKS),
    fit_split: Annotated[
        str | None, typer.Option(help="Split of --data that probes are fitted on, such as train.", show_default=False)
    ] = None,
    tune_split: Annotated[
        str | None, typer.Option(help="Split of --data that thresholds are chosen on, such as val.", show_default=False)
    ] = None,
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
    from medmoe.evaluate import anew, evaluate, gather
    from medmoe.rundir import command_line, git_commit, machine, versions
    from medmoe.summary import gallery, write_run_report
    from medmoe.tasks import TASKS

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    for name in names or [""]:
        if name not in TASKS:
            raise ConfigError(unknown("task", name, TASKS), where="--tasks")
    loaded = load_model(model).to(check_device(device))
    columns, skip_bad = pairs_of(column, "--column"), on_bad_sample == "skip"
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "workers": workers,
        "device": device,
    }

    def seen(wanted: str | None) -> Evidence | None:
        if wanted is None:
            return None
        found = open_data(data, wanted, columns, skip_bad=skip_bad)
        return gather(loaded, found, on_bad_sample=on_bad_sample, **how)

    source = open_data(data, split, columns, skip_bad=skip_bad)
    evidence = gather(loaded, source, on_bad_sample=on_bad_sample, candidate_experts=candidate_experts, **how)
    results = evaluate(
        loaded,
        evidence,
        names,
        fit=seen(fit_split),
        tune=seen(tune_split),
        again=anew(loaded, source, **how) if len(evidence) == len(source) else None,
        seed=seed,
        resamples=resamples,
    )
    results["about"] = {
        "command": command_line(),
        "model": str(model),
        "data": data,
        "split": split,
        "fit_split": fit_split,
        "tune_split": tune_split,
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
            say(f"bad samples skipped: {results['about']['skipped']} of {len(source)}")
    write_json(results, json_to)
    if (model / "metrics.jsonl").is_file():
        page = write_run_report(model, results=results, gallery=gallery(loaded, source, per_modality=4))
        if json_to != "-":
            say(f"report: {page}")


def _print_results(results: dict[str, Any]) -> None:
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

    loaded = load_model(model).to(check_device(device))
    source = open_data(data, split, pairs_of(column, "--column"), skip_bad=on_bad_sample == "skip")
    rows = write_embeddings(
        loaded, source, out, batch_size=batch_size, workers=workers, on_bad_sample=on_bad_sample, device=device
    )
    skipped = f", {len(source) - rows} bad ones skipped" if rows < len(source) else ""
    say(f"{rows} images → {out}{skipped}")
