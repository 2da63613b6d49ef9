"""`medmoe data label`: what each row's image and text are, by rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmoe.cli.common import Json, check_device, check_least, say, write_json
from medmoe.cli.data.scan import print_rules

if TYPE_CHECKING:
    from medmoe.data.curation.label_table import Labelled


def label(
    manifest: Annotated[Path, typer.Argument(help="Manifest, or the folder that holds it.")],
    out: Annotated[
        Path | None, typer.Option(help="Manifest to write; without, only counts are told.", show_default=False)
    ] = None,
    conflicts: Annotated[
        Path | None, typer.Option(help="CSV file of the images about which rules differ.", show_default=False)
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Keep the modalities that are given, and judge the rules by them.")
    ] = False,
    pixels: Annotated[bool, typer.Option(help="Measure the pixels: the weakest rules.")] = True,
    datasets: Annotated[bool, typer.Option(help="Look for names of public data sets in paths.")] = True,
    model: Annotated[
        Path | None,
        typer.Option(help="Run whose image router is to be asked too; it decides nothing.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; for --model.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes that read.")] = 1,
    json: Json = None,
) -> None:
    """Say of each row which modality its image is and what kind of text it has, with the rule and how sure that is.

    Rules look at the file's header and pixels, its path and its text, not at the column `modality` (but see --trust).
    """
    from medmoe.data.curation.label_rules import DATASET, FAMILIES
    from medmoe.data.curation.label_table import label_manifest, moved, write_conflicts
    from medmoe.data.sources.manifest_table import find_manifest
    from medmoe.data.sources.manifest_write import write_manifest

    check_least(workers, 1, "--workers")
    router = None if model is None else _routed(manifest, model, check_device(device))
    done = label_manifest(
        manifest,
        trust=trust,
        pixels=pixels,
        families=FAMILIES if datasets else tuple(name for name in FAMILIES if name != DATASET),
        workers=workers,
        router=router,
        tell=lambda count, total: say(f"{count}/{total} files read") if count % 1000 == 0 else None,
    )
    _print(done)
    if out is not None:
        rows = moved(done.rows, find_manifest(manifest).parent, out.parent)
        say(f"manifest: {write_manifest(rows, out)}")
    if conflicts is not None:
        say(f"conflicts: {write_conflicts(done.tally.conflicts, conflicts)}")
    counts = done.tally.as_dict() | {"reports": done.reports, "unreadable": done.unreadable}
    write_json(counts | ({"agreed": done.agreed[0], "differ": done.agreed[1]} if done.agreed else {}), json)


def _print(done: Labelled) -> None:
    """Print counts by rule, kinds of text, and what differs."""
    say(f"{len(done.rows)} rows" + (f", {done.unreadable} files can't be read" if done.unreadable else ""))
    print_rules(done.tally.as_dict())
    for name, rules in done.reports.items():
        say(f"  {name}: " + ", ".join(f"{rule} {count}" for rule, count in rules.items()))
    if done.agreed:
        say(f"of those given, {done.agreed[0]} decisions are the same and {done.agreed[1]} differ or were not made")
    for row in done.tally.conflicts[:10]:
        said = {name: value for name, value in row.items() if value and name not in ("image", "rule", "confidence")}
        say(f"  {row['image']}: " + ", ".join(f"{name} {value}" for name, value in said.items()))
    if len(done.tally.conflicts) > 10:
        say(f"  and {len(done.tally.conflicts) - 10} more (--conflicts FILE)")


def _routed(manifest: Path, model: Path, device: str) -> dict[str, str]:
    """Ask a model's image router about every image that it can read."""
    from medmoe.data.sources.manifest_table import find_manifest
    from medmoe.data.sources.manifest_write import read_all
    from medmoe.errors import DataError
    from medmoe.predictor import Predictor

    predictor = Predictor.from_pretrained(model, device=device)
    path = find_manifest(manifest)
    images = list(dict.fromkeys(read_all(path)["image"].drop_null().to_pylist()))

    def ask(some: list[str]) -> dict[str, str]:
        try:
            routed = predictor.route([path.parent / image for image in some])
        except DataError:  # a file that can't be read, which the rules count
            return {} if len(some) == 1 else {name: said for image in some for name, said in ask([image]).items()}
        return {image: one.modality for image, one in zip(some, routed, strict=True)}

    size = predictor.batch_size
    parts = [ask(images[start : start + size]) for start in range(0, len(images), size)]
    return {image: modality for part in parts for image, modality in part.items()}
