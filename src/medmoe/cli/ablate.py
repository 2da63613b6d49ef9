"""`medmoe ablate`: a grid of recipes over seeds, compared item by item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmoe.cli.common import (
    Device,
    Json,
    Settings,
    check_device,
    check_least,
    console,
    escape,
    made_by,
    say,
    write_json,
)
from medmoe.errors import ConfigError, UserError

if TYPE_CHECKING:
    from medmoe.ablation.tables import Shown


def ablate(
    grid: Annotated[str, typer.Argument(help="Grid: routing, designs or local_path.")],
    out: Annotated[Path, typer.Option(help="Folder of all runs; what is done in it isn't run again.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    arms: Annotated[str | None, typer.Option(help="Arms of the grid, comma-separated; all if left out.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Compare every arm with this one, not with the one it names.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe that the arms change; the grid's own if left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of every run.")] = None,
    patients: Annotated[
        str | None, typer.Option(help="Patients to train on; several, comma-separated, give a curve.")
    ] = None,
    test_patients: Annotated[int, typer.Option(help="Phantom patients to judge on.")] = 1200,
    train_data: Annotated[str | None, typer.Option(help="Manifest or folder, in place of phantoms.")] = None,
    test_data: Annotated[str | None, typer.Option(help="Manifest or folder to judge on.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Its split; train where there are splits.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Its split; test where there are splits.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Run or model that all start from, whatever fits; {seed} stands for the seed.", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time; one for each core if left out, 0 runs them in this process.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", min=2)] = 2000,
    device: Device = "cpu",
    settings: Settings = [],  # noqa: B006 - typer reads the default, nobody changes it
    json_to: Json = None,
) -> None:
    """Train and judge every arm of a grid with every seed, and compare them: results.json, table.md, table.html."""
    from medmoe.ablation.plan import Data, make_plan
    from medmoe.ablation.results import summarise
    from medmoe.ablation.run import cores, run_all
    from medmoe.ablation.tables import shown, write_tables

    check_least(seeds, 1, "--seeds")
    check_least(1 if jobs is None else jobs, 0, "--jobs")
    plan = make_plan(
        out,
        grid,
        seeds=seeds,
        arms=_names(arms),
        recipe=recipe,
        settings=[*settings, *([] if steps is None else [f"train.steps={steps}"])],
        train=None if train_data is None else Data(train_data, train_split),
        test=None if test_data is None else Data(test_data, test_split),
        sizes=_sizes(patients),
        test_patients=test_patients,
        init=init,
    )
    if reference is not None and reference not in plan.arms:
        raise ConfigError(f"{reference!r} is none of the arms: {', '.join(plan.arms)}", where="--reference")
    tell = (lambda text: None) if json_to == "-" else say
    workers = cores() if jobs is None else jobs
    failed = run_all(plan.every(), out, workers=workers, device=check_device(device), tell=tell)
    results = summarise(plan, reference=reference, resamples=resamples) | made_by(settings)
    page = write_tables(out, results)
    if json_to != "-":
        _show(shown(results))
        say(f"tables: {page}")
    write_json(results, json_to)
    if failed:
        raise _failure(out, failed, len(plan.every()))


def _failure(out: Path, failed: dict[str, str], runs: int) -> UserError:
    folder, problem = next(iter(failed.items()))
    return UserError(
        f"{len(failed)} of {runs} runs failed ({problem})",
        where=str(out / folder / "log.txt"),
        remedy="the same command runs them again",
    )


def _names(arms: str | None) -> list[str]:
    return [name.strip() for name in (arms or "").split(",") if name.strip()]


def _sizes(patients: str | None) -> list[int]:
    sizes = []
    for part in (patients or "").replace(",", " ").split():
        if not part.isdigit() or int(part) < 1:
            raise ConfigError(f"got {part!r}, allowed: counts such as 600,1200,3600", where="--patients")
        sizes.append(int(part))
    return sizes


def _show(tables: list[Shown]) -> None:
    from rich.table import Column, Table

    for table in tables:
        view = Table(*(Column(name, overflow="fold") for name in table.heading), title=table.title)
        for row in table.rows:
            view.add_row(*map(escape, row))
        console.print(view)
