from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_metadata, read_table

from medmoe.data.sources.manifest import ManifestSource
from medmoe.embed import write_embeddings
from medmoe.errors import DataError, UserError
from medmoe.predictor import Predictor
from medmoe.types import Sample
from micro import image_rows, write_manifest


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.from_pretrained(run)


@pytest.fixture
def source(tmp_path: Path) -> ManifestSource:
    rows = image_rows(tmp_path, 7)
    rows[4].update(text="", label="")
    return ManifestSource(write_manifest(tmp_path, rows))


def test_the_file_holds_what_the_predictor_says_of_each_image(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    out = tmp_path / "new" / "embeddings.parquet"
    assert write_embeddings(predictor.model, source, out, batch_size=3, workers=0) == 7
    table = read_table(out).to_pydict()
    samples = [source[index] for index in range(7)]
    images = [sample.image for sample in samples]
    assert table["key"] == [sample.key for sample in samples]
    assert table["modality"] == [sample.modality for sample in samples]
    assert table["routed"] == [routed.modality for routed in predictor.route(images)]
    np.testing.assert_allclose(table["image_embed"], predictor.encode_image(images).numpy(), atol=1e-6)
    for sample, embed in zip(samples, table["text_embed"], strict=True):
        if sample.report is None:
            assert embed is None
        else:
            np.testing.assert_allclose(embed, predictor.encode_text(sample.report)[0].numpy(), atol=1e-5)


def test_the_file_says_which_preprocessing_it_was_made_with(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    out = tmp_path / "embeddings.parquet"
    write_embeddings(predictor.model, source, out, workers=0)
    kept = read_metadata(out).metadata
    assert kept[b"preprocess_fingerprint"].decode() == predictor.preprocess.fingerprint()


class Stopping:
    """A source whose third sample is stopped by Ctrl-C."""

    def __init__(self, source: ManifestSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise KeyboardInterrupt
        return self.source[index]

    def facts(self, index: int) -> Sample:
        return self.source.facts(index)


def test_an_interrupted_run_leaves_no_file_and_an_old_one_as_it_was(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(predictor.model, Stopping(source), folder / "e.parquet", batch_size=2, workers=0)
    assert list(folder.iterdir()) == []
    (folder / "e.parquet").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(predictor.model, Stopping(source), folder / "e.parquet", batch_size=2, workers=0)
    assert [path.name for path in folder.iterdir()] == ["e.parquet"]
    assert (folder / "e.parquet").read_bytes() == b"old"


def test_bad_samples_are_left_out_only_when_asked(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    (tmp_path / "image-2.jpg").write_bytes(b"no image")
    out = tmp_path / "e.parquet"
    with pytest.raises(DataError, match=r"manifest\.csv:2: image image-2\.jpg"):
        write_embeddings(predictor.model, source, out, workers=0)
    assert not out.exists()
    assert write_embeddings(predictor.model, source, out, workers=0, on_bad_sample="skip") == 6
    assert len(read_table(out)) == 6


def test_a_folder_is_no_file_to_write(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    with pytest.raises(UserError, match="is a folder; give the name of a Parquet file"):
        write_embeddings(predictor.model, source, tmp_path, workers=0)


def test_no_gradient_is_kept(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    write_embeddings(predictor.model, source, tmp_path / "e.parquet", workers=0)
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
    assert not torch.is_inference_mode_enabled()
