"""`medmoe runs`: which runs there are, how far they came, and in what they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import Json, say, write_json
from medmoe.errors import ConfigError

_COMPARE = "compare"


def runs(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FOLDER]... | compare RUN RUN...",
            help="Run folders or folders that hold some, the current one by default; or compare and two to eight runs.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str],
        typer.Option(help="Only runs where a column or setting is so, recipe=tiny or train.lr>=0.001; repeatable."),
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    sort: Annotated[
        str | None, typer.Option(help="Column or setting to sort by, -val_loss for the largest first.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="With compare: also write one self-contained page.", show_default=False)
    ] = None,
    json: Json = None,
) -> None:
    """List runs, or compare some: settings that differ, curves side by side, final figures."""
    given = folders or ["."]
    if given[0] == _COMPARE:
        if where or sort:
            raise ConfigError("--where and --sort would do nothing with compare", remedy="leave them out")
        _compare(given[1:], html, json)
        return
    if html is not None:
        raise ConfigError("--html would do nothing without compare", remedy="medmoe runs compare RUN RUN --html FILE")
    from medmoe.runs import chosen, find_runs, ordered, read_state, table

    found = [read_state(path) for path in find_runs(given)]
    kept = ordered(chosen(found, where), sort)
    write_json([run.summary for run in kept], json)
    if json == "-":
        return
    if not kept:
        say(f"no run{' of ' + str(len(found)) if found else ''} {'meets that' if found else 'in ' + ', '.join(given)}")
        return
    say(table(kept))


def _compare(given: list[str], html: Path | None, json: str | None) -> None:
    """Compare runs given by their folders."""
    from medmoe.runs import compare, find_runs, read_state, write_comparison
    from medmoe.runs.comparison import lines

    found = compare([read_state(path) for path in find_runs(given)])
    write_json(found.plain, json)
    if html is not None:
        write_comparison(html, found)
    if json != "-":
        say(lines(found))
        if html is not None:
            say(f"page: {html}")
