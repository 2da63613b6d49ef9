"""The command line: each command reads its options, calls the library, and prints what came out."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from medmoe.cli import ablate, bench, embed, evaluate, export, holdout, index, models, report, runs, train
from medmoe.cli.common import escape
from medmoe.cli.data import data_app
from medmoe.errors import UserError

app = typer.Typer(
    name="medmoe",
    help="Train, evaluate and use vision-language models over your own medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(models.doctor)
app.command()(train.train)
app.command("eval")(evaluate.evaluate_command)
app.command()(embed.embed)
app.command()(index.search)
app.command()(export.export)
app.command()(ablate.ablate)
app.command()(holdout.holdout)
app.command()(bench.bench)
app.command()(report.report)
app.command()(runs.runs)
app.command()(models.models)
app.command()(models.config)

app.add_typer(data_app, name="data")

index_app = typer.Typer(help="Make indexes of embeddings to search.", no_args_is_help=True)
index_app.command()(index.build)
app.add_typer(index_app, name="index")


def main() -> None:
    """Run the command line: a user's mistake prints one line and exits with 2."""
    from medmoe.signals import Interrupted

    try:
        app(prog_name="medmoe")
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)
    except Interrupted as stop:
        Console(stderr=True, soft_wrap=True).print(escape(str(stop)), highlight=False)
        sys.exit(stop.code)
