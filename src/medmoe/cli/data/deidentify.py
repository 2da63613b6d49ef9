"""The command that copies data without whom it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import Json, check_least, say, write_json
from medmoe.errors import ConfigError

_SHOWN = 10


def deidentify(
    source: Annotated[Path, typer.Argument(help="A folder of DICOM, JPEG, PNG and NIfTI files, or a manifest.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty, apart from the source.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="File of the secret that pseudonyms come from; made if absent. Without it, one is thrown away."
        ),
    ] = None,
    dates: Annotated[str, typer.Option(help="remove, or shift by the patient's own number of days.")] = "remove",
    keep: Annotated[
        str, typer.Option(help="Comma-separated: characteristics, device, institution, descriptions.")
    ] = "",
    burned_in: Annotated[str, typer.Option(help="report, blank or refuse what looks like burned-in text.")] = "report",
    reports: Annotated[str, typer.Option(help="Structured reports: refuse, or clean their text by rule.")] = "refuse",
    text: Annotated[
        list[str], typer.Option("--text", help="A further text column to clean; repeatable.", show_default=False)
    ] = [],  # noqa: B006 - typer reads it, nobody changes it
    keep_column: Annotated[
        list[str], typer.Option("--keep-column", help="A column to keep as it is; repeatable.", show_default=False)
    ] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run of the same key.")] = False,
    json: Json = None,
) -> None:
    """Copy a folder or manifest without what names patients; exit 1 where a file could not be cleaned."""
    from medmoe.data.curation.deidentify import LOG, TEXTS, check_place, write_map
    from medmoe.data.curation.deidentify import deidentify as run
    from medmoe.data.curation.deidentify_key import new_secret, open_secret
    from medmoe.data.curation.deidentify_one import Way, summed
    from medmoe.data.curation.deidentify_rules import Options

    check_least(workers, 1, "--workers")
    if resume and key is None:
        raise ConfigError("a run without a key can't be gone on with", where="--resume", remedy="give --key")
    kept = frozenset(name.strip() for name in keep.split(",") if name.strip())
    options = Options(dates, kept, reports)
    if key is not None and out.resolve() in (key.resolve(), *key.resolve().parents):
        raise ConfigError("the key would lie in the output", where="--key", remedy="keep it where the data came from")
    if source.exists():
        check_place(source if source.is_dir() else source.parent, out)
    way = Way(open_secret(key) if key is not None else new_secret(), options, burned_in)
    result = run(source, out, way, texts=(*TEXTS, *text), keep_columns=keep_column, workers=workers, resume=resume)
    counts = dict(summed(result.records))
    for what, count in sorted(counts.items()):
        say(f"{count} {what}")
    flagged = [record for record in result.records if record.file and record.burned_in]
    done = "made black" if burned_in == "blank" else "see the log"
    say(f"{len(flagged)} with regions that look like burned-in text ({done})")
    if result.dropped:
        say(f"columns left out: {', '.join(result.dropped)}")
    for name, reason in result.refused[:_SHOWN]:
        say(f"left out: {name}: {reason}")
    if len(result.refused) > _SHOWN:
        say(f"left out: {len(result.refused) - _SHOWN} more")
    if key is not None:
        listed = key.with_name(f"{key.name}.{out.name}.jsonl")
        write_map(listed, result)
        say(f"which file became which: {listed} (keep it with the key)")
    say(f"log: {out / LOG}")
    write_json({"counts": counts, "burned_in": len(flagged), "dropped": result.dropped, "log": str(out / LOG)}, json)
    if result.refused:
        raise typer.Exit(1)
