"""`medmoe report`: one or several evaluated runs as one page to hand to a reviewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmoe.cli.common import check_least, open_data, say
from medmoe.errors import ConfigError, UserError

if TYPE_CHECKING:
    from medmoe.report import GalleryItem, Run


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders or evaluation files; the first is compared with.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default=False)] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            help="In place of the page: put one run's tables by source between the marks of this file.",
            show_default=False,
        ),
    ] = None,
    heatmaps: Annotated[
        int, typer.Option(help="Images a modality to find the best and worst heatmaps among; 0: none.")
    ] = 12,
    minimum: Annotated[int, typer.Option(help="Items below which a figure is greyed.")] = 20,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of paired differences.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of bootstrap and sign flips.")] = 0,
) -> None:
    """Write one self-contained page: warnings first, figures with controls, comparisons, plots, heatmaps, commands."""
    from medmoe.report import read_runs, write_review
    from medmoe.report.checks import warnings

    least = ((heatmaps, 0, "--heatmaps"), (minimum, 0, "--minimum"), (resamples, 1, "--resamples"), (seed, 0, "--seed"))
    for value, lowest, option in least:
        check_least(value, lowest, option)
    if markdown is not None:
        _as_markdown(runs, markdown, minimum)
        return
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{out} isn't an HTML file", where="--out", remedy="give a file such as report.html")
    found = read_runs(runs)
    galleries: dict[str, list[GalleryItem]] = {}
    unseen: dict[str, str] = {}
    for run in found if heatmaps else ():
        if not run.benchmark:
            items = _gallery(run, heatmaps)
            if isinstance(items, str):
                unseen[run.name] = items
                say(f"{run.name}: no heatmaps ({items})")
            else:
                galleries[run.name] = items
    how = {"minimum": minimum, "resamples": resamples, "seed": seed}
    page = write_review(out, found, galleries=galleries, unseen=unseen, title=title, **how)
    for warning in warnings(found):
        say(f"warning: {warning}")
    say(f"report: {page}")


def _as_markdown(runs: list[str], page: Path, minimum: int) -> None:
    from medmoe.report import read_runs, write_markdown

    if len(runs) != 1:
        raise ConfigError(f"got {len(runs)} runs, allowed: one", where="--markdown")
    if page.is_dir() or page.suffix.lower() != ".md":
        raise ConfigError(f"{page} isn't a Markdown file", where="--markdown", remedy="give a file such as figures.md")
    say(f"figures: {write_markdown(page, read_runs(runs)[0].results, minimum=minimum)}")


def _gallery(run: Run, heatmaps: int) -> list[GalleryItem] | str:
    """Look at images of the run's evaluated data again; where they can't be had, or show nothing, the reason."""
    model = run.path if run.path.is_dir() else Path(str(run.about.get("model", "")))
    data, split, columns = (run.about.get(key) for key in ("data", "split", "columns"))
    if not model.is_dir() or not data:
        return "its model or data isn’t here"
    from medmoe.adapters import is_foreign, open_adapter
    from medmoe.build import load_model
    from medmoe.summary import gallery

    try:
        loaded = open_adapter(model) if is_foreign(model) else load_model(model)
        source = open_data(str(data), None if split is None else str(split), dict(columns or {}), skip_bad=True)
        found = gallery(loaded, source, per_modality=heatmaps)
    except UserError as error:
        return str(error)
    return found or "no report of the judged images names what its boxes show"
