"""The command that writes a manifest as tars for training, and checks tars that were written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import Columns, Json, console, pairs_of, say, write_json
from medmoe.errors import ConfigError


def shard(
    manifest: Annotated[str | None, typer.Argument(help="Manifest or its folder.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tars: new, empty, or half written before.")] = None,
    split: Annotated[str | None, typer.Option(help="One split; without, each in a folder of its own.")] = None,
    samples_per_shard: Annotated[int, typer.Option(help="Samples of a tar.")] = 1000,
    max_mb: Annotated[float | None, typer.Option(help="Megabytes of images after which the next tar begins.")] = None,
    images: Annotated[str, typer.Option(help="copy, png, npy (all exact), or jpg, which loses some.")] = "copy",
    shuffle: Annotated[int | None, typer.Option(help="Seed of an order to write in; the manifest's without.")] = None,
    window: Annotated[str, typer.Option(help="Of DICOM and NIfTI files: header, usual, full, lung, …")] = "header",
    on_bad_sample: Annotated[str, typer.Option(help="raise, or skip into OUT/quarantine.jsonl.")] = "raise",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    check: Annotated[Path | None, typer.Option(help="Compare a folder's tars with its checksums.")] = None,
    column: Columns = [],  # noqa: B006 - typer reads the default, nobody changes it
    json: Json = None,
) -> None:
    """Write the images and facts of a manifest as WebDataset tars, or check such tars."""
    if check is not None:
        if manifest is not None or out is not None:
            raise ConfigError("--check reads a folder and writes nothing", where="medmoe data shard", remedy="leave "
                              "out the manifest and --out")  # fmt: skip
        raise typer.Exit(_check(check, json))
    if manifest is None or out is None:
        raise ConfigError("a manifest and --out, or --check DIR, are needed", where="medmoe data shard")
    from rich.progress import Progress

    from medmoe.data.sources.shard_write import write_shards

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("tars")
        done = write_shards(
            manifest,
            out,
            split=None if split == "all" else split,
            samples_per_shard=samples_per_shard,
            max_mb=max_mb,
            images=images,
            shuffle=shuffle,
            window=window,
            on_bad_sample=on_bad_sample,
            workers=workers,
            watch=lambda made, of: bar.update(task, completed=made, total=of),
            columns=pairs_of(column, "--column"),
        )
    for folder in done:
        more = f", {folder.skipped} bad samples left out" if folder.skipped else ""
        more += f"; {folder.before} of the tars were there before" if folder.before else ""
        say(f"{folder.folder}: {folder.samples} samples in {folder.shards} tars, {folder.bytes / 1e6:.1f} MB{more}")
    write_json([asdict(folder) for folder in done], json)


def _check(folder: Path, target: str | None) -> int:
    """Say of each tar whether it is what was written; 1 where one isn't."""
    from medmoe.data.sources.shard_folder import check_shards

    found = list(check_shards(folder))
    for name, _, wrong in found:
        if wrong:
            say(f"{name}: {wrong}")
    bad = sum(bool(wrong) for _, _, wrong in found)
    say(f"{folder}: {len(found) - bad} of {len(found)} tars are what was written")
    write_json([{"shard": name, **asdict(row), "wrong": wrong} for name, row, wrong in found], target)
    return int(bad > 0)
