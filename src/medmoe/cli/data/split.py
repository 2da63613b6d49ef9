"""`medmoe data split`: who is trained on, who is validated on and who is kept for the test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from medmoe.cli.common import Json, check_least, console, escape, say, write_json
from medmoe.errors import ConfigError

if TYPE_CHECKING:
    from medmoe.data.curation.split import Split

_SHOWN = 30


def split(
    manifest: Annotated[Path, typer.Argument(help="Manifest, or the folder that holds it.")],
    out: Annotated[Path, typer.Option(help="New manifest to write, with the column 'split'.")],
    fractions: Annotated[str, typer.Option(help="Share of each split.")] = "train=0.8,val=0.1,test=0.1",
    seed: Annotated[int, typer.Option(help="Another seed deals otherwise.")] = 0,
    by: Annotated[
        str | None, typer.Option(help="Column whose equal values stay together, besides patients.", show_default=False)
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Earlier manifest whose patients stay where they are there.", show_default=False),
    ] = None,
    afresh: Annotated[bool, typer.Option("--afresh", help="Don't keep the splits that the manifest has.")] = False,
    by_hash: Annotated[
        bool, typer.Option("--by-hash", help="A keyed hash of the patient decides alone: nothing need be kept.")
    ] = False,
    joined: Annotated[
        Path | None,
        typer.Option(help="What `medmoe data audit --within --json` wrote: rows that share a picture stay together."),
    ] = None,
    json_to: Json = None,
) -> None:
    """Deal the rows of a manifest into splits: by patient, balanced by modality and label, old patients kept."""
    from medmoe.data.curation.audit import joined_rows
    from medmoe.data.curation.sheet import read_sheet, sheet_of
    from medmoe.data.curation.split import check_fractions, deal, kept_from, units_of, with_splits
    from medmoe.data.sources.manifest_table import find_manifest
    from medmoe.data.sources.manifest_write import read_all, write_manifest
    from medmoe.folder import read_json

    check_least(seed, 0, "--seed")
    wanted = check_fractions(fractions)
    if keep is not None and afresh:
        raise ConfigError("--keep and --afresh are opposites", where="medmoe data split", remedy="give one of them")
    if out.exists():
        raise ConfigError(f"{out} is there already", where="--out", remedy="choose a new file")
    path = find_manifest(manifest)
    table = read_all(path)
    sheet = sheet_of(table, path)
    if by is not None and by not in table.column_names:
        raise ConfigError(f"no column {by!r}; there are: {', '.join(table.column_names)}", where="--by")
    pairs = [] if joined is None else joined_rows(read_json(joined), sheet, where=str(joined))
    groups = None if by is None else table[by].to_pylist()
    old = kept_from(read_sheet(keep), sheet) if keep is not None else None if afresh else sheet.column("split")
    found = deal(sheet, units_of(sheet, by=groups, joined=pairs, seed=seed), wanted, kept=old, by_hash=by_hash)
    write_manifest(with_splits(table, found.splits, path.parent, out.parent), out)
    _show(found)
    if found.torn:
        say(f"warning: {found.torn} groups of joined patients were kept in several splits; --afresh deals them again")
    say(f"manifest: {out} ({found.kept:,} of {len(found.units):,} patients or groups kept their split)")
    if not by_hash:
        say(f"when it grows: append rows to it, or give --keep {out}; then everybody stays where he is")
    write_json({"wanted": wanted, "kept": found.kept, "torn": found.torn, "table": found.table()}, json_to)


def _show(found: Split) -> None:
    """Print how many patients of each modality and label are where, and the shares wanted."""
    table = Table("modality", "label", *found.wanted)
    lines: list[dict[str, Any]] = found.table()
    everything = (f"{share:.1%} wanted" for share in found.wanted.values())
    table.add_row("", "", *everything)
    for line in lines[:_SHOWN]:
        cells = [f"{line[name]['patients']:,} ({line[name]['share']:.1%})" for name in found.wanted]
        if line["modality"] is None:
            cells = [f"{cell}, {line[name]['rows']:,} rows" for cell, name in zip(cells, found.wanted, strict=True)]
        table.add_row(escape(line["modality"] or "all patients"), escape(line["label"] or ""), *cells)
    console.print(table)
    if len(lines) > _SHOWN:
        say(f"and {len(lines) - _SHOWN} more labels; --json has them all")
