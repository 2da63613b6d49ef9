"""The commands that make and look after data: one file each, listed here."""

from __future__ import annotations

import typer

from medmoe.cli.data.audit import audit
from medmoe.cli.data.deidentify import deidentify
from medmoe.cli.data.importing import import_command
from medmoe.cli.data.label import label
from medmoe.cli.data.phantom import phantom
from medmoe.cli.data.scan import scan
from medmoe.cli.data.shard import shard
from medmoe.cli.data.split import split

data_app = typer.Typer(help="Make and look after data.", no_args_is_help=True)
data_app.command()(scan)
data_app.command("import")(import_command)
data_app.command()(label)
data_app.command()(split)
data_app.command()(audit)
data_app.command()(deidentify)
data_app.command()(shard)
data_app.command()(phantom)
