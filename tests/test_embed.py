from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_metadata, read_table

from medmoe.data.contract import declare
from medmoe.data.sources.base import ChangedSource, Source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.rows import Rows
from medmoe.data.tables import Embeddings
from medmoe.embed import Embedded, write_embeddings
from medmoe.errors import ConfigError, DataError, UserError
from medmoe.folder import fingerprint_of
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
    assert write_embeddings(predictor.model, source, out, batch_size=3, workers=0) == Embedded(7, 0)
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
    assert json.loads(kept[b"preprocess"]) == declare(predictor.preprocess)


class Watching:
    """A source that writes down which samples are read."""

    def __init__(self, source: Source, read: list[int]) -> None:
        self.source, self.read = source, read

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        return self.source[index]

    def facts(self, index: int) -> Sample:
        return self.source.facts(index)


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
    out = tmp_path / "out" / "e.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(predictor.model, Stopping(source), out, batch_size=2, workers=0)
    assert not out.exists()
    out.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(predictor.model, Stopping(source), out, batch_size=2, workers=0)
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize(("format", "dtype"), [("parquet", "float32"), ("parquet", "float16"), ("npy", "float16")])
def test_a_run_that_was_killed_goes_on_where_it_stopped_and_gives_the_same_bytes(
    predictor: Predictor, source: ManifestSource, tmp_path: Path, format: str, dtype: str
):
    how = {"format": format, "dtype": dtype, "batch_size": 2, "chunk": 2, "workers": 0}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert write_embeddings(predictor.model, source, whole, **how) == Embedded(7, 0)
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(predictor.model, Stopping(source), parted, **how)
    parts = tmp_path / ".parted.parts"
    assert sorted(path.name for path in parts.iterdir()) == ["part-000000000000.parquet", "state.json"]
    (parts / ".part-000000000002.parquet.tmp").write_bytes(b"torn")  # what a kill within a part leaves
    read: list[int] = []
    assert write_embeddings(predictor.model, Watching(source, read), parted, **how) == Embedded(7, 2)
    assert read == [2, 3, 4, 5, 6]
    assert not parts.exists()
    assert contents(parted) == contents(whole)


def contents(path: Path) -> dict[str, bytes]:
    """Give the bytes of a file, or of the files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def test_parts_of_another_model_or_data_or_settings_are_not_gone_on_with(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    out = tmp_path / "e.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(predictor.model, Stopping(source), out, batch_size=2, chunk=2, workers=0)
    remedy = "go on with the same, or delete this folder"
    with pytest.raises(UserError, match=rf"since then this changed: dtype \(float32, now float16\); {remedy}"):
        write_embeddings(predictor.model, source, out, batch_size=2, chunk=2, workers=0, dtype="float16")
    with pytest.raises(UserError, match="since then this changed: the data; "):
        write_embeddings(predictor.model, Rows(source, range(6)), out, batch_size=2, chunk=2, workers=0)
    other = copy.deepcopy(predictor.model)
    other.image_projection.bias.data[0] += 1e-3
    with pytest.raises(UserError, match="since then this changed: the model; "):
        write_embeddings(other, source, out, batch_size=2, chunk=2, workers=0)
    assert write_embeddings(predictor.model, source, out, batch_size=2, chunk=2, workers=0) == Embedded(7, 2)


def test_a_folder_of_arrays_holds_what_the_parquet_file_holds(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    write_embeddings(predictor.model, source, tmp_path / "e.parquet", batch_size=3, chunk=3, workers=0)
    write_embeddings(predictor.model, source, tmp_path / "e", format="npy", batch_size=3, chunk=3, workers=0)
    table = read_table(tmp_path / "e.parquet").to_pydict()
    images = np.load(tmp_path / "e" / "image_embed.npy", mmap_mode="r")
    texts = np.load(tmp_path / "e" / "text_embed.npy", mmap_mode="r")
    assert (images.dtype, images.shape) == (np.float32, (7, 16))
    np.testing.assert_array_equal(images, np.array(table["image_embed"], np.float32))
    facts = read_table(tmp_path / "e" / "facts.parquet").to_pydict()
    assert {name: facts[name] for name in ("key", "modality", "routed")} == {
        name: table[name] for name in ("key", "modality", "routed")
    }
    assert facts["has_text"] == [True, True, True, True, False, True, True]
    for row, embed in enumerate(table["text_embed"]):
        np.testing.assert_array_equal(texts[row], np.full(16, np.nan) if embed is None else np.float32(embed))
    one, other = Embeddings(tmp_path / "e.parquet"), Embeddings(tmp_path / "e")
    assert one.about == other.about == json.loads((tmp_path / "e" / "about.json").read_text())
    assert one.keys() == other.keys() == table["key"]
    assert (len(one), len(other)) == (7, 7)
    np.testing.assert_array_equal(np.concatenate(list(one.images())), np.concatenate(list(other.images(2))))


def test_float16_and_bf16_change_an_embedding_by_no_more_than_they_round(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    found = {}
    for name, how in {"fp32": {}, "float16": {"dtype": "float16"}, "bf16": {"precision": "bf16"}}.items():
        write_embeddings(predictor.model, source, tmp_path / name, workers=0, **how)
        found[name] = np.concatenate(list(Embeddings(tmp_path / name).images())).astype(np.float64)
    assert 0 < np.abs(found["float16"] - found["fp32"]).max() < 1e-3
    assert np.abs(found["bf16"] - found["fp32"]).max() > 0
    assert ((found["bf16"] * found["fp32"]).sum(axis=1) > 0.99).all()


def test_the_whole_model_and_its_preprocessing_make_the_fingerprint(predictor: Predictor):
    model = predictor.model
    assert model.assets is not None
    own = fingerprint_of(model.state_dict(), model.assets)
    assert own == fingerprint_of(copy.deepcopy(model).state_dict(), model.assets)
    changed = copy.deepcopy(model)
    changed.image_projection.bias.data[0] += 1e-3
    assert fingerprint_of(changed.state_dict(), model.assets) != own
    edited = copy.deepcopy(model.assets.preprocess)
    edited["steps"][2]["value"] = 0.5  # under the fingerprint that it had
    for preprocess in ({**model.assets.preprocess, "fingerprint": "x"}, edited):
        other = dataclasses.replace(model.assets, preprocess=preprocess)
        assert fingerprint_of(model.state_dict(), other) != own


def test_reports_are_left_out_when_not_asked_for(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    write_embeddings(predictor.model, source, tmp_path / "e.parquet", workers=0, text=False)
    assert read_table(tmp_path / "e.parquet")["text_embed"].null_count == 7


def test_no_expert_runs(predictor: Predictor, source: ManifestSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predictor.model.experts, "forward", lambda *_: pytest.fail("an expert ran"))
    assert write_embeddings(predictor.model, source, tmp_path / "e.parquet", workers=0).count == 7


def test_a_part_of_bad_samples_alone_is_skipped_but_not_a_source_of_them(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    for number in (3, 4):
        (tmp_path / f"image-{number}.jpg").write_bytes(b"no image")
    how = {"batch_size": 2, "chunk": 2, "workers": 0, "on_bad_sample": "skip"}
    assert write_embeddings(predictor.model, source, tmp_path / "e.parquet", **how).count == 5
    with pytest.raises(DataError, match="none of 2 samples is good"):
        write_embeddings(predictor.model, Rows(source, [2, 3]), tmp_path / "none.parquet", **how)


def test_a_modality_that_the_model_lacks_is_an_error_even_where_bad_samples_are_skipped(
    predictor: Predictor, source: ManifestSource, tmp_path: Path
):
    strange = ChangedSource(source, lambda index, sample: dataclasses.replace(sample, modality="oct"))
    with pytest.raises(DataError, match="oct"):
        write_embeddings(predictor.model, strange, tmp_path / "e.parquet", workers=0, on_bad_sample="skip")
    assert not (tmp_path / "e.parquet").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"format": "csv"}, "--format: unknown format 'csv'"),
        ({"dtype": "int8"}, "--dtype: unknown dtype 'int8'"),
        ({"precision": "fp8"}, "--precision: unknown precision 'fp8'"),
        ({"chunk": 0}, "--chunk: got 0, allowed: 1 or more"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(
    predictor: Predictor, source: ManifestSource, tmp_path: Path, setting: dict[str, object], message: str
):
    with pytest.raises(ConfigError, match=message):
        write_embeddings(predictor.model, source, tmp_path / "e.parquet", workers=0, **setting)
    assert not list(tmp_path.glob(".e.*"))


def test_a_folder_with_something_else_is_not_written_over(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    with pytest.raises(UserError, match="something other than embeddings is here"):
        write_embeddings(predictor.model, source, tmp_path, format="npy", workers=0)
    assert (tmp_path / "manifest.csv").is_file()


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_embeddings(source: ManifestSource, tmp_path: Path, run: Path):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    for name, compiled in (("plain", False), ("compiled", True)):
        model = Predictor.from_pretrained(run).model
        write_embeddings(model, source, tmp_path / name, batch_size=4, workers=0, compiled=compiled)
    plain, compiled_rows = (
        np.concatenate(list(Embeddings(tmp_path / name).images())) for name in ("plain", "compiled")
    )
    np.testing.assert_allclose(compiled_rows, plain, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_embeds_as_the_cpu_does(source: ManifestSource, tmp_path: Path, run: Path):
    found = {}
    for device in ("cpu", "cuda"):
        model = Predictor.from_pretrained(run, device=device).model
        write_embeddings(model, source, tmp_path / device, batch_size=3, workers=0, device=device)
        found[device] = np.concatenate(list(Embeddings(tmp_path / device).images()))
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-3)


def test_bad_samples_are_left_out_only_when_asked(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    (tmp_path / "image-2.jpg").write_bytes(b"no image")
    out = tmp_path / "e.parquet"
    with pytest.raises(DataError, match=r"manifest\.csv:2: image image-2\.jpg"):
        write_embeddings(predictor.model, source, out, workers=0)
    assert not out.exists()
    shutil.rmtree(tmp_path / ".e.parquet.parts")
    assert write_embeddings(predictor.model, source, out, workers=0, on_bad_sample="skip").count == 6
    assert len(read_table(out)) == 6


def test_a_folder_is_no_file_to_write(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    with pytest.raises(UserError, match="is a folder; give the name of a Parquet file"):
        write_embeddings(predictor.model, source, tmp_path, workers=0)


def test_no_gradient_is_kept(predictor: Predictor, source: ManifestSource, tmp_path: Path):
    write_embeddings(predictor.model, source, tmp_path / "e.parquet", workers=0)
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
    assert not torch.is_inference_mode_enabled()
