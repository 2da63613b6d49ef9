"""`medmoe embed`: what a model makes of every image, as a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import BadSample, Columns, Device, check_device, open_data, pairs_of, say


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
