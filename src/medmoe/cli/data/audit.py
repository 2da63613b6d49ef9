"""`medmoe data audit`: what training and test have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medmoe.cli.common import Columns, Json, check_least, console, escape, pairs_of, say, write_json
from medmoe.errors import ConfigError

if TYPE_CHECKING:
    from medmoe.data.curation.audit import Audit


def audit(
    manifest: Annotated[Path, typer.Argument(help="Manifest with a column 'split', or the folder that holds it.")],
    against: Annotated[
        list[Path],
        typer.Option(help="Evaluation manifest that nothing but the test split may share with; repeatable."),
    ] = [],  # noqa: B006 - read only; Typer wants a list
    columns: Columns = [],  # noqa: B006
    within: Annotated[
        bool, typer.Option("--within", help="List pairs within a split too, for `medmoe data split --joined`.")
    ] = False,
    distance: Annotated[int, typer.Option(help="Bits of 256 that hashes may differ in, to be looked at.")] = 88,
    likeness: Annotated[float, typer.Option(help="From which two images show the same picture, up to 1.")] = 0.8,
    overlap: Annotated[float, typer.Option(help="Shared part of two reports, from which they are one.")] = 0.8,
    cache: Annotated[
        Path | None,
        typer.Option(help="Parquet file that keeps hashes and thumbnails for the next audit.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images, threads that compare.")] = 1,
    show: Annotated[int, typer.Option(help="Pairs of each kind to print.")] = 10,
    json_to: Json = None,
) -> None:
    """Find patients, studies, images and reports on both sides of a split; exit with 1 where there are any."""
    from medmoe.data.curation.audit import Options, rows_of, to_json
    from medmoe.data.curation.audit import audit as look
    from medmoe.data.curation.sheet import read_sheet

    for value, least, option in ((distance, 0, "--distance"), (workers, 1, "--workers"), (show, 0, "--show")):
        check_least(value, least, option)
    for share, option in ((likeness, "--likeness"), (overlap, "--overlap")):
        if not 0 < share <= 1:
            raise ConfigError(f"got {share:g}, allowed: above 0, up to 1", where=option)
    names = pairs_of(columns, "--column")
    sheets = [read_sheet(manifest, names), *(read_sheet(path, names) for path in against)]
    options = Options(distance, likeness, overlap, within, workers, cache)
    found = look(rows_of(sheets, within=within), options)
    _print(found, show)
    write_json(to_json(found, options), json_to)
    if found.leaks:
        raise typer.Exit(1)


def _print(found: Audit, show: int) -> None:
    """Print the counts, a few pairs of each kind, and what wasn't looked at."""
    from medmoe.data.curation.audit import KINDS, counts_of, summary

    rows = found.rows
    table = Table("shared", "between", "and", "count")
    for (kind, one, other), count in sorted(counts_of(found).items()):
        table.add_row(escape(kind), escape(one), escape(other), f"{count:,}")
    if found.leaks:
        console.print(table)
    for kind in KINDS:
        pairs = [pair for pair in found.pairs if pair.kind == kind and pair.leak]
        for pair in pairs[:show]:
            how = [f"likeness {pair.likeness:.2f}"] if pair.likeness < 1 else []
            how += [f"{pair.distance} bits", str(pair.orientation)] if pair.orientation else []
            told = f" ({', '.join(how)})" if how else ""
            say(f"{kind}: {rows.where(pair.one)} and {rows.where(pair.other)}{told}")
        if len(pairs) > show:
            say(f"{kind}: and {len(pairs) - show:,} more pairs; --json has them all")
    within = sum(not pair.leak for pair in found.pairs)
    if within:
        say(f"{within:,} pairs within a split, which are no leaks")
    for number, why in list(found.problems.items())[:show]:
        say(f"warning: {rows.where(number)}: the image wasn't compared ({why})")
    counts = summary(found)
    for name, words in (
        ("images_that_could_not_be_read", "images couldn't be read"),
        ("plain_images_left_out", "images show nothing (one grey level) and weren't compared"),
        ("short_reports_left_out", "reports are too short to tell anything and weren't compared"),
        (
            "rows_with_common_reports_left_out",
            "rows have a report of many patients: a template, and not compared",
        ),
    ):
        if counts[name]:
            say(f"warning: {counts[name]:,} {words}")
    verdict = "leaks" if found.leaks else "no leak was found"
    pairs_told = f"{found.compared:,} pairs of images, {found.candidates:,} of them looked at closely"
    say(f"{verdict}; {len(rows.places):,} rows, {pairs_told}")
