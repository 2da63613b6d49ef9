"""`medmoe data import`: a public data set, as it lies on disk, to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmoe.cli.common import Json, pairs_of, say, write_json
from medmoe.errors import ConfigError

if TYPE_CHECKING:
    from medmoe.data.importers.common import Importer
    from medmoe.data.importers.run import Outcome


def import_command(
    name: Annotated[str, typer.Argument(help="The data set; --list shows them.", show_default=False)] = "",
    folder: Annotated[Path | None, typer.Argument(help="Its folder, as published.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Manifest to write: .parquet, .csv or .jsonl.")] = None,
    split: Annotated[list[str], typer.Option(help="Only this split; repeatable.", show_default=False)] = [],  # noqa: B006
    choices: Annotated[
        list[str],
        typer.Option("--option", help="An option of the data set, name=value; repeatable.", show_default=False),
    ] = [],  # noqa: B006
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Write full paths, not relative to the manifest.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a missing image instead of listing it.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the data sets and their options.")] = False,
    json: Json = None,
) -> None:
    """Write the manifest of a public data set. Nothing is downloaded."""
    from medmoe.data.importers import IMPORTERS, importer
    from medmoe.data.importers.run import import_set

    if show:
        write_json([_facts(row) for row in IMPORTERS.values()], json)
        for row in IMPORTERS.values() if json != "-" else ():
            _print_row(row)
        return
    if not name or folder is None or out is None:
        remedy = "say: medmoe data import NAME FOLDER --out manifest.parquet, or --list"
        raise ConfigError("NAME, FOLDER and --out are needed", remedy=remedy)
    chosen = importer(name)
    outcome = import_set(
        chosen, folder, out, options=pairs_of(choices, "--option"), splits=split, absolute=absolute, strict=strict
    )
    write_json(_summary(chosen, outcome), json)
    if json != "-":
        _print_outcome(chosen, outcome)


def _facts(row: Importer) -> dict[str, object]:
    options = {
        name: {"default": o.default, "allowed": list(o.allowed), "help": o.help} for name, o in row.options.items()
    }
    return {
        "name": row.name,
        "title": row.title,
        "url": row.url,
        "terms": row.terms,
        "modality": row.modality,
        "needs": row.needs,
        "splits": row.splits,
        "options": options,
    }


def _print_row(row: Importer) -> None:
    say(f"{row.name}: {row.title} ({row.modality}), {row.url}")
    say(f"    needs: {row.needs}")
    say(f"    splits: {row.splits}")
    say(f"    terms: {row.terms}")
    for name, option in row.options.items():
        allowed = f" [{', '.join(option.allowed)}]" if option.allowed else ""
        say(f"    --option {name}={option.default or '…'}: {option.help}{allowed}")


def _summary(row: Importer, outcome: Outcome) -> dict[str, object]:
    return {
        "name": row.name,
        "manifest": str(outcome.manifest),
        "rows": outcome.rows,
        "missing": outcome.missing,
        "quarantine": None if outcome.quarantine is None else str(outcome.quarantine),
        "splits": outcome.splits,
        "modalities": outcome.modalities,
        "notes": list(outcome.notes),
        "terms": row.terms,
    }


def _print_outcome(row: Importer, outcome: Outcome) -> None:
    say(f"manifest: {outcome.manifest} ({outcome.rows} images)")
    for what, counts in (("splits", outcome.splits), ("modalities", outcome.modalities)):
        if counts:
            say(f"{what}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    if outcome.quarantine is not None:
        say(f"missing: {outcome.missing} files, listed in {outcome.quarantine}")
    for note in outcome.notes:
        say(f"note: {note}")
    say(f"terms: {row.terms}; {row.url}")
