"""The command that writes generated images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import say


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
    say(f"manifest: {path}")
