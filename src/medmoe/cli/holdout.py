"""`medmoe holdout`: a router judged on every source that it wasn't fitted to, and one fitted to all, with a gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmoe.cli.common import Columns, Json, Settings, console, made_by, open_data, pairs_of, recipe_of, say, write_json

if TYPE_CHECKING:
    from medmoe.data.sources.base import Source
    from medmoe.holdout.folds import Facts
    from medmoe.holdout.run import Setup
    from medmoe.model import MedVLM


def holdout(
    data: Annotated[str, typer.Argument(help="Manifest with the columns modality, source and split, or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder of all folds; what is done in it isn't run again.")],
    recipe: Annotated[str, typer.Option(help="Recipe with a descriptor as image encoder.")] = "router",
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.", min=1)] = 3,
    views: Annotated[int, typer.Option(help="How often each image is measured: as it is, then changed.", min=1)] = 1,
    together: Annotated[
        int | None, typer.Option(help="Leave the sources out in so many groups, not one by one.", min=2)
    ] = None,
    modalities: Annotated[bool, typer.Option(help="Also leave out each modality as a whole.")] = True,
    right: Annotated[float, typer.Option(help="Share of the images taken that should be right.", min=0, max=1)] = 0.98,
    doubt: Annotated[
        float,
        typer.Option(help="How often it may be less over draws of the sources; 0.5: no margin.", min=0, max=0.5),
    ] = 0.05,
    pictures: Annotated[int, typer.Option(help="Generated pictures to turn away.", min=1)] = 360,
    judge: Annotated[bool, typer.Option(help="Judge the folds; without, only fit the model to all sources.")] = True,
    cache: Annotated[Path | None, typer.Option(help="Folder of measures; OUT/bank if left out.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", min=2)] = 1000,
    column: Columns = [],  # noqa: B006 - typer reads the default, nobody changes it
    settings: Settings = [],  # noqa: B006
    json_to: Json = None,
) -> None:
    """Leave out every source in turn, fit a router, judge it there: results.json, table.md; and OUT/model on all."""
    from medmoe.holdout.bank import make_bank
    from medmoe.holdout.folds import make_folds
    from medmoe.holdout.model import blank_model, measuring_of
    from medmoe.holdout.run import Setup, drawn_pictures, run_folds
    from medmoe.holdout.setting import Rules
    from medmoe.holdout.summary import summarise
    from medmoe.holdout.tables import write_page

    config, _ = recipe_of(recipe, settings)
    tell = (lambda text: None) if json_to == "-" else say
    source, facts = _open(data, {**config.data.columns, **pairs_of(column, "--column")})
    folds = make_folds(facts, together=together, modalities=modalities) if judge else []
    model = blank_model(config, facts.modalities, source)
    measuring, kept = measuring_of(model, config), cache or out / "bank"
    bank = make_bank(source, measuring, views, kept, tell=tell)
    drawn = make_bank(drawn_pictures(source, pictures), measuring, 1, kept, tell=tell)
    setup = Setup(facts, bank, drawn, config, Rules(right, doubt), measuring.fingerprint(source))
    out.mkdir(parents=True, exist_ok=True)
    if judge:
        outcomes = run_folds(setup, folds, seeds, out, tell=tell)
        results = summarise(outcomes, facts, resamples=resamples) | made_by(settings)
        page = write_page(results)
        (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (out / "table.md").write_text(page, encoding="utf-8")
        if json_to != "-":
            console.print(page, highlight=False, soft_wrap=True, markup=False)
        write_json(results, json_to)
    tell(f"model: {_fit_to_all(setup, model, out / 'model')}")


def _open(data: str, columns: dict[str, str]) -> tuple[Source, Facts]:
    """Open all splits of a manifest, one after the other."""
    from medmoe.data.sources.concat import ConcatSource
    from medmoe.holdout.folds import Facts

    parts = [(split, open_data(data, split, columns)) for split in ("train", "val", "test")]
    return ConcatSource([source for _, source in parts]), Facts.of(parts)


def _fit_to_all(setup: Setup, model: MedVLM, folder: Path) -> Path:
    """Fit to the training images of every source, set the gate, save."""
    import numpy as np

    from medmoe.holdout.folds import Fold
    from medmoe.holdout.model import save_router
    from medmoe.holdout.setting import fit_router

    facts = setup.facts
    nobody = Fold("none", np.zeros(len(facts.keys), dtype=bool), facts.modalities)
    router, gates = fit_router(setup.bank, facts, nobody, setup.config, setup.rules, seed=setup.config.train.seed)
    return save_router(model, router, next(iter(gates.values())), folder)
