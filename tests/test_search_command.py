"""From images to answers by the command line: embed, index, search."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from pyarrow.parquet import read_table

from medmoe.predictor import Predictor
from micro import image_rows, medmoe, train, write_manifest


@pytest.fixture
def embedded(run: Path, tmp_path: Path) -> Path:
    manifest = write_manifest(tmp_path, image_rows(tmp_path, 9))
    said = medmoe("embed", run, "--data", manifest, "--out", tmp_path / "e.parquet", "--workers", 0)
    assert said.code == 0, said
    return tmp_path


@pytest.mark.parametrize("format", ["parquet", "npy"])
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_an_image_is_found_by_itself_and_by_text_as_the_predictor_ranks_them(
    run: Path, embedded: Path, kind: str, format: str
):
    if kind == "hnsw" and importlib.util.find_spec("faiss") is None:
        pytest.skip("faiss isn't installed")
    out = embedded / f"e.{format}"
    words = ("--data", embedded / "manifest.csv", "--out", out, "--workers", 0, "--format", format)
    assert medmoe("embed", run, *words).code == 0
    said = medmoe("index", "build", out, "--out", embedded / "index", "--kind", kind)
    assert (said.code, said.out) == (0, f"9 images → {embedded / 'index'}\n")
    said = medmoe(
        "search", embedded / "index", "--model", run, "--image", embedded / "image-4.jpg", "-k", 3, "--json", "-"
    )
    assert said.code == 0, said
    rows = json.loads(said.out)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert (rows[0]["key"], rows[0]["score"], len(rows)) == ("manifest.csv:4", 1.0, 3)

    said = medmoe("search", embedded / "index", "--model", run, "--text", "a mass", "--json", "-")
    predictor = Predictor.from_pretrained(run)
    images = predictor.encode_image([embedded / f"image-{number}.jpg" for number in range(1, 10)])
    cosine = (images @ predictor.encode_text("a mass").T).squeeze(1)
    keys = read_table(embedded / "e.parquet")["key"].to_pylist()
    found = {row["key"]: row["score"] for row in json.loads(said.out)}
    assert found == pytest.approx(dict(zip(keys, cosine.tolist(), strict=True)), abs=1e-4)


def test_another_model_than_the_one_that_embedded_is_refused(run: Path, embedded: Path, phantoms: Path):
    assert medmoe("index", "build", embedded / "e.parquet", "--out", embedded / "index").code == 0
    assert train(phantoms, embedded / "other", "--set", "train.seed=5").code == 0
    said = medmoe("search", embedded / "index", "--model", embedded / "other", "--text", "a mass")
    assert "vectors of the embedding" in said.mistake
    assert "embed them with the model that the index was built with" in said.mistake


def test_models_with_different_preprocessing_cant_share_an_index(run: Path, embedded: Path, phantoms: Path):
    assert medmoe("index", "build", embedded / "e.parquet", "--out", embedded / "index").code == 0
    assert train(phantoms, embedded / "other", "--set", "model.vision.window=full").code == 0
    said = medmoe("search", embedded / "index", "--model", embedded / "other", "--text", "a mass")
    assert (
        f"{embedded / 'index'}: the index and the model don't share their preprocessing (step 'read': window 'header' "
        "and 'full'); search with the model that it was built with"
    ) in said.mistake


def test_mistakes_are_told_in_one_line(run: Path, embedded: Path):
    index = embedded / "index"
    assert (
        "unknown index 'tree'"
        in medmoe("index", "build", embedded / "e.parquet", "--out", index, "--kind", "tree").mistake
    )
    (embedded / "broken.parquet").write_bytes(b"no table")
    assert "can't be read" in medmoe("index", "build", embedded / "broken.parquet", "--out", index).mistake
    assert "index.json: no such file" in medmoe("search", index, "--model", run, "--text", "a").mistake
    assert medmoe("index", "build", embedded / "e.parquet", "--out", index).code == 0
    for words in ((), ("--text", "a", "--image", "b")):
        assert "give either --text or --image" in medmoe("search", index, "--model", run, *words).mistake
    assert "-k: got 0, allowed: 1 or more" in medmoe("search", index, "--model", run, "--text", "a", "-k", 0).mistake
    said = medmoe("index", "build", embedded / "e.parquet", "--out", embedded)
    assert "something other than an index is here" in said.mistake
