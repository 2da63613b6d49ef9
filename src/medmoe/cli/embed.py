"""`medmoe embed`: what a model makes of every image, as a Parquet file or a folder of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import BadSample, Columns, Device, check_device, open_data, pairs_of, say


def embed(
    model: Annotated[Path, typer.Argument(help="Run folder or saved model.")],
    data: Annotated[str, typer.Option(help="Manifest or folder; several joined with ::.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write; with --format npy a folder.")],
    split: Annotated[str, typer.Option(help="A split of the manifest, or all.")] = "all",
    batch_size: Annotated[int, typer.Option(help="Images encoded at a time.")] = 64,
    workers: Annotated[int, typer.Option(help="Loader processes.")] = 1,
    on_bad_sample: BadSample = "raise",
    device: Device = "cpu",
    format: Annotated[str, typer.Option(help="parquet, or npy: arrays that can be memory-mapped.")] = "parquet",
    dtype: Annotated[str, typer.Option(help="float32, or float16 in half the space.")] = "float32",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 to compute in bfloat16.")] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the image encoder first: pays from some thousand images on.")
    ] = False,
    text: Annotated[bool, typer.Option(help="Whether reports are embedded too.")] = True,
    chunk: Annotated[int, typer.Option(help="Images after which a stopped run goes on.")] = 8192,
    column: Columns = [],  # noqa: B006
) -> None:
    """Write one row an image: key, routed modality, image embedding and, with a report, text embedding.

    A run that was stopped goes on where it was when the same command is given again.
    """
    from medmoe.build import load_model
    from medmoe.embed import write_embeddings

    loaded = load_model(model).to(check_device(device))
    source = open_data(data, split, pairs_of(column, "--column"), skip_bad=on_bad_sample == "skip")
    done = write_embeddings(
        loaded,
        source,
        out,
        format=format,
        batch_size=batch_size,
        workers=workers,
        on_bad_sample=on_bad_sample,
        device=device,
        dtype=dtype,
        precision=precision,
        compiled=compiled,
        text=text,
        chunk=chunk,
        tell=say,
    )
    skipped = f", {len(source) - done.count} bad ones skipped" if done.count < len(source) else ""
    resumed = f", {done.resumed} of them by the run that was stopped" if done.resumed else ""
    say(f"{done.count} images → {out}{skipped}{resumed}")
