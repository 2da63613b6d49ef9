"""`medmoe data scan`: from a folder tree to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medmoe.cli.common import Json, check_least, say, write_json


def scan(
    folder: Annotated[Path, typer.Argument(help="Folder whose DICOM, NIfTI and picture files are wanted.")],
    out: Annotated[
        Path | None, typer.Option(help="Manifest to write; by default FOLDER/manifest.parquet.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Read files again that an earlier scan read.")] = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Read headers only: no hash, no check that pixels can be decoded.")
    ] = False,
    frames: Annotated[
        str, typer.Option(help="Of volumes and multi-frame files: middle, all, or N for every Nth.")
    ] = "middle",
    slices: Annotated[str, typer.Option(help="Of DICOM series of one-frame files: all, middle, or N.")] = "all",
    source: Annotated[
        str | None, typer.Option(help="Name of the data set; by default the topmost folder's.", show_default=False)
    ] = None,
    json: Json = None,
) -> None:
    """Write a manifest of every image in a folder tree, with what headers, reports, names and pixels tell of it.

    A scan that was stopped goes on where it was, and a later one reads only what is new or has changed. Files that are
    no images or can't be decoded are listed beside the manifest, with the reason.
    """
    from medmoe.data.curation.scan import scan as scan_tree
    from medmoe.data.curation.scan_rows import Choice

    check_least(workers, 1, "--workers")
    done = scan_tree(
        folder,
        out or folder / "manifest.parquet",
        workers=workers,
        again=again,
        pixels=not headers,
        choice=Choice(frames, slices, source),
        tell=lambda count, total: say(f"{count}/{total} files read") if count % 1000 == 0 else None,
    )
    _print(done.summary)
    say(f"manifest: {done.manifest}" if done.manifest else "no image found: no manifest was written")
    say(f"left out: {done.quarantine}")
    write_json(done.summary | {"manifest": str(done.manifest), "quarantine": str(done.quarantine)}, json)


def _print(summary: dict[str, Any]) -> None:
    """Print a scan's summary."""
    reading, files, series = summary["reading"], summary["files"], summary["series"]
    say(f"{summary['found']} files: {reading['read']} read, {reading['known']} known from an earlier scan")
    say(", ".join(f"{name} {count}" for name, count in files.items()))
    if summary["left_out"]:
        say("left out: " + ", ".join(f"{name} {count}" for name, count in summary["left_out"].items()))
    say(f"{summary['rows']} rows, {summary['with_text']} with a text, {summary['with_mask']} with a mask")
    for modality, sources in summary["modalities"].items():
        say(f"  {modality}: " + ", ".join(f"{name} {count}" for name, count in sources.items()))
    if series["stacks"]:
        say(f"{series['stacks']} series of several images: " + ", ".join(_series(series)))
    print_rules(summary["labels"])


def _series(series: dict[str, Any]) -> list[str]:
    ordered = [f"{count} ordered by {name}" for name, count in series["ordered_by"].items()]
    odd = {
        "with gaps": "with_gaps",
        "with several images at a place": "with_doubled_places",
        "localisers": "localisers",
    }
    return ordered + [f"{series[key]} {name}" for name, key in odd.items() if series[key]]


def print_rules(labels: dict[str, Any]) -> None:
    """Print how each rule fared."""
    say(f"modality decided of {labels['decided']}, not of {labels['undecided']}; rules differ on {labels['conflicts']}")
    if not labels["rules"]:
        return
    width = max(len(name) for name in labels["rules"])
    say(f"  {'rule':{width}} {'fired':>7} {'decided':>7} {'agreed':>7} {'contradicted':>12}")
    for name, count in labels["rules"].items():
        cells = f"{count['fired']:7} {count['decided']:7} {count['agreed']:7} {count['contradicted']:12}"
        say(f"  {name:{width}} {cells}")
