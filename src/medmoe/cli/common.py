"""What commands share: options, opening sources and recipes, printing, writing JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from medmoe.errors import ConfigError, unknown

if TYPE_CHECKING:
    from medmoe.config import RunConfig
    from medmoe.data.sources.base import Source

console = Console()
DEVICES = ("cpu", "cuda", "mps")

Json = Annotated[str | None, typer.Option("--json", help="Write what was printed as JSON; - for standard output.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="Change a value of the configuration, a.b=1; repeatable.", show_default=False)
]
Columns = Annotated[
    list[str], typer.Option("--column", help="Map a manifest column, ours=theirs; repeatable.", show_default=False)
]
BadSample = Annotated[str, typer.Option(help="raise, or skip into the run's quarantine.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]


def escape(text: str) -> str:
    """Make text one line that holds no markup."""
    from rich import markup

    return markup.escape(" ".join(text.split()))


def say(text: str) -> None:
    """Print a line as it is: paths aren't broken into several lines, brackets aren't markup."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def write_json(value: Any, target: str | None) -> None:
    """Write a value as JSON to a file or, for `-`, to standard output; nothing for None."""
    if target is None:
        return
    text = json.dumps(value, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{target} can't be written ({error.strerror})", where="--json", remedy="give a file, or - for the screen"
        ) from None


def pairs_of(values: list[str], option: str) -> dict[str, str]:
    """Read `name=value` pairs of a repeatable option."""
    pairs = {}
    for value in values:
        ours, equals, theirs = value.partition("=")
        if not equals or not ours or not theirs:
            raise ConfigError(f"got {value!r}, allowed: name=value", where=option)
        pairs[ours] = theirs
    return pairs


def check_least(value: int, least: int, option: str) -> None:
    """Raise a ConfigError where a number is below the least that an option allows."""
    if value < least:
        raise ConfigError(f"got {value}, allowed: {least} or more", where=option)


def refuse_given(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Raise a ConfigError where a command was given one of these options, which would do nothing.

    Args:
        context: Of the command.
        names: Parameters of the command's function.
        why: With what they do nothing.
    """
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{options} would do nothing {why}", where="medmoe eval", remedy="leave it out")


def check_device(device: str) -> str:
    """Give the device back if it can be used, else raise a ConfigError."""
    import torch

    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise ConfigError(unknown("device", kind, DEVICES), where="--device")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} can't be used ({str(error).splitlines()[0]})", where="--device", remedy="try cpu"
        ) from None
    return device


def recipe_of(name: str, settings: list[str], *, init: Sequence[str] = ()) -> tuple[RunConfig, dict[str, str]]:
    """Give a recipe's configuration and the parts it starts from.

    `--init` is MODEL, vision=FILE or text=FOLDER; a model or text folder brings its own configuration, which settings
    then change.
    """
    from medmoe.build import adopt
    from medmoe.config import override
    from medmoe.recipes import RECIPES

    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    parts = {}
    for value in init:
        part, equals, source = value.partition("=")
        parts[part if equals else "model"] = source if equals else value
    return override(adopt(RECIPES[name](), parts), settings), parts


def open_data(
    spec: str,
    split: str | None,
    columns: dict[str, str],
    *,
    usual: str | None = None,
    skip_bad: bool = False,
    maps: bool = False,
) -> Source:
    """Open a source; without a split, take the usual one of a manifest that has splits.

    Masks and gaze maps stay unread unless `maps` asks for them: no objective reads them, of the tasks grounding does.
    """
    from medmoe.data.sources.concat import open_source

    wanted = split or usual
    return open_source(
        spec,
        split=None if wanted == "all" else wanted,
        fallback=split is None,
        columns=columns,
        check_files=not skip_bad,
        maps=maps,
        salvage=skip_bad,
    )


def made_by(settings: list[str]) -> dict[str, Any]:
    """Say what made a result: the command, its settings, versions, commit and machine."""
    from medmoe.rundir import command_line, git_commit, machine, versions

    return {
        "command": command_line(),
        "settings": settings,
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(),
    }
