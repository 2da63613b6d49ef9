"""`medmoe index build` and `medmoe search`: find the images of a collection that a text or an image is most like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medmoe.cli.common import Json, check_least, console, escape, say, write_json
from medmoe.errors import ConfigError, DataError

KEYS = "keys.parquet"


def build(
    embeddings: Annotated[Path, typer.Argument(help="What `medmoe embed` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    kind: Annotated[str, typer.Option(help="exact, or hnsw: approximate, for millions (needs faiss).")] = "exact",
) -> None:
    """Make an index of the images' embeddings."""
    from medmoe.data.tables import Embeddings, write_keys
    from medmoe.folder import PREPROCESS, write_text_atomically
    from medmoe.index import make_index

    rows = Embeddings(embeddings)
    fingerprint, contract = rows.about.get("fingerprint"), rows.about.get("preprocess")
    if fingerprint is None or contract is None:
        raise DataError("says nothing of the model it is of", where=str(embeddings), remedy="embed the images again")
    index = None
    for part in rows.images():
        if index is None:
            index = make_index(kind, part.shape[1], fingerprint=fingerprint)
        index.add(part, fingerprint=fingerprint)
    if index is None:
        raise DataError("holds no embeddings", where=str(embeddings))
    index.save(out)
    write_keys(out / KEYS, rows.keys())
    write_text_atomically(out / PREPROCESS, contract + "\n")
    say(f"{len(index)} images → {out}")


def search(
    index: Annotated[Path, typer.Argument(help="Folder that `medmoe index build` wrote.")],
    model: Annotated[Path, typer.Option(help="Run folder or saved model that embedded the images.")],
    text: Annotated[str | None, typer.Option(help="What to look for, as a report would say it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image to find the like of.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    json_to: Json = None,
) -> None:
    """List the images of an index that a text or an image is most like."""
    from medmoe.data.contract import refuse_mixed
    from medmoe.data.tables import read_keys
    from medmoe.folder import PREPROCESS, fingerprint_of, read_json
    from medmoe.index import load_index
    from medmoe.predictor import Predictor

    if (text is None) == (image is None):
        raise ConfigError("give either --text or --image", where="medmoe search")
    check_least(k, 1, "-k")
    found = load_index(index)
    keys = read_keys(index / KEYS)
    predictor = Predictor.from_pretrained(model)
    assert predictor.model.assets is not None
    refuse_mixed(
        read_json(index / PREPROCESS),
        predictor.model.assets.preprocess,
        what="the index and the model",
        where=str(index),
        remedy="search with the model that it was built with, or build an index of this one's embeddings",
    )
    own = fingerprint_of(predictor.model.state_dict(), predictor.model.assets)
    query = predictor.encode_image(image) if text is None else predictor.encode_text(text)
    hits = found.search(query, k, fingerprint=own)
    rows = [
        {"key": keys[row], "score": round(float(score), 4)}
        for score, row in zip(hits.score[0], hits.row[0], strict=True)
    ]
    if json_to != "-":
        table = Table("score", "image")
        for row in rows:
            table.add_row(f"{row['score']:.3f}", escape(str(row["key"])))
        console.print(table)
    write_json(rows, json_to)
