"""`medmoe bench`: what each part costs beside a plain reference, a peer library and the hardware's floor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmoe.cli.common import Device, Json, check_device, say, write_json
from medmoe.errors import ConfigError, UserError, unknown

if TYPE_CHECKING:
    from medmoe.speed.item import Item, Size


def bench(
    names: Annotated[
        str,
        typer.Argument(help="Items, joined with commas; all; list: what there is; scaling: how cost grows."),
    ],
    rounds: Annotated[
        int | None, typer.Option(help="Repetitions of each way, in turn, instead of the item's own.", min=1)
    ] = None,
    device: Device = "cpu",
    small: Annotated[bool, typer.Option("--small", help="Shrink the inputs: only to see that all runs.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Append the table to this page, with what made it.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write an SVG of every figure beside its target.")] = None,
    json_to: Json = None,
) -> None:
    """Time items of the speed suite, each interleaved with what it is held against, and check their targets."""
    from medmoe.speed.item import Row, Size
    from medmoe.speed.items import ITEMS
    from medmoe.speed.measure import measure
    from medmoe.speed.tables import about, as_json, chart, words
    from medmoe.speed.tables import markdown as table

    if names == "scaling":
        _scaling(Size(check_device(device), small=small), rounds, plot, json_to)
        return
    if names == "list":
        for item in ITEMS.values():
            say(f"{item.name}: {item.about}")
        return
    size = Size(check_device(device), small=small)
    facts = about(size)
    rows: list[Row] = []
    for item in _chosen(names):
        try:
            row = measure(item, size, rounds=rounds)
        except UserError as error:  # the other items still run, and the row says why
            row = Row(item.name, item.about, item.floor, skipped=str(error))
        rows.append(row)
        if json_to != "-":
            for line in words(row):
                say(line)
            write_json({"about": facts, "rows": [as_json(one) for one in rows]}, json_to)
    if json_to == "-":
        write_json({"about": facts, "rows": [as_json(one) for one in rows]}, json_to)
    if plot is not None:
        _write(plot, chart(rows), append=False)
    if markdown is not None:
        _write(markdown, f"\n{_made(facts, names)}\n\n{table(rows)}", append=True)


def _scaling(size: Size, rounds: int | None, plot: Path | None, json_to: str | None) -> None:
    """Time the expert stage and the local loss over each of their sizes, and fit how they grow."""
    from medmoe.speed.scaling import SMALL, scaling
    from medmoe.speed.tables import about

    found = scaling(rounds=rounds or 5, device=size.device, **(SMALL if size.small else {}))
    for curve in found.curves if json_to != "-" else ():
        spread = "" if curve.error is None else f" ± {curve.error:.2f}"
        say(f"{curve.part}: {curve.letter} {curve.sizes[0]}–{curve.sizes[-1]}: exponent {curve.exponent:.2f}{spread}")
    write_json({"about": about(size), **found.to_dict()}, json_to)
    if plot is not None:
        from medmoe.speed.scaling import picture

        _write(plot, picture(found), append=False)


def _chosen(names: str) -> list[Item]:
    """Find the items of a list of names.

    Raises:
        ConfigError: If one is unknown.
    """
    from medmoe.speed.items import ITEMS

    chosen = list(ITEMS) if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in ITEMS:
            raise ConfigError(unknown("item", name, ITEMS), remedy="see `medmoe bench list`")
    return [ITEMS[name] for name in chosen]


def _made(facts: dict[str, Any], names: str) -> str:
    machine = facts["machine"]
    commit = (facts["git_commit"] or "no git checkout")[:7]
    return (
        f"`medmoe bench {names}` at commit `{commit}` on {machine['device']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, torch {facts['versions'].get('torch')}:"
    )


def _write(path: Path, text: str, *, append: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path} can't be written ({error.strerror})", remedy="give another file") from None
