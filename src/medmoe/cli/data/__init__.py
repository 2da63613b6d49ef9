"""The commands that make and look after data: one file each, listed here."""

from __future__ import annotations

import typer

from medmoe.cli.data.importing import import_command
from medmoe.cli.data.phantom import phantom
from medmoe.cli.data.shard import shard

data_app = typer.Typer(help="Make and look after data.", no_args_is_help=True)
data_app.command()(phantom)
data_app.command()(shard)
data_app.command("import")(import_command)
