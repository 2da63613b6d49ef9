"""`medmoe models`, `config` and `doctor`: what there is."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.table import Table

from medmoe.cli.common import Json, Settings, console, escape, recipe_of, say, write_json


def doctor(json_to: Json = None) -> None:
    """Tell what works on this machine, what is missing and how to get it."""
    from medmoe.doctor import diagnose

    checks = diagnose()
    if json_to != "-":
        table = Table("", "what", "found", "how to get it")
        for check in checks:
            mark = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]"}.get(check.status, "[red]problem[/]")
            table.add_row(mark, *map(escape, (check.name, check.detail, check.remedy)))
        console.print(table)
    write_json([{"name": c.name, "status": c.status, "detail": c.detail, "remedy": c.remedy} for c in checks], json_to)
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(1)


def models(
    describe_name: Annotated[str | None, typer.Option("--describe", help="Measure a model by name.")] = None,
    json_to: Json = None,
) -> None:
    """List the models that can be created by name, or measure one."""
    from medmoe.recipes.models import MODELS, create_model, list_models

    if describe_name is None:
        if json_to != "-":
            for name in list_models():
                say(f"{name}: {(MODELS[name].__doc__ or '').splitlines()[0]}")
        write_json(list_models(), json_to)
        return
    from medmoe.describe import describe

    made = create_model(describe_name)
    facts = describe(made, name=describe_name, image_size=MODELS[describe_name]().model.vision.image_size)
    if json_to != "-":
        table = Table("what", "value")
        counts = {f"parameters: {part}": count for part, count in facts["parameters"].items()}
        for key, value in {**facts, **counts}.items():
            if key != "parameters":
                table.add_row(key, f"{value:.3f}" if isinstance(value, float) else escape(str(value)))
        console.print(table)
    write_json(facts, json_to)


def config(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    settings: Settings = [],  # noqa: B006
) -> None:
    """Print the whole configuration of a recipe as JSON."""
    sys.stdout.write(recipe_of(recipe, settings)[0].model_dump_json(indent=2) + "\n")
