"""Frozen features on disk, and features that nobody trained."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import blobs, three
from constructed import evidence, sample
from torch.nn.functional import adaptive_avg_pool2d

from medmoe.build import build_model
from medmoe.config import ModelConfig, parse
from medmoe.data.contract import declare
from medmoe.data.preprocess import Preprocess
from medmoe.data.sources.base import ChangedSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.data.text import ReportTokenizer
from medmoe.errors import DataError
from medmoe.evaluate import fingerprint, gather, untrained
from medmoe.model import MedVLM
from medmoe.tasks.base import Evidence
from medmoe.tasks.features import FORM, Fingerprint, load_evidence, of_samples, of_weights, save_evidence
from medmoe.types import Box, Sample
from small_runs import batch_of, built

MADE_FROM = Fingerprint("aa", "bb", "cc")
SETTINGS = {
    "modalities": ["xray", "ct", "mri", "ultrasound", "pathology", "fundus"],
    "embed_dim": 8,
    "vision": {"image_size": 32, "channels": [4, 4, 8, 8]},
    "text": {"width": 8, "heads": 2, "depth": 1},
    "experts": {"width": 4, "grid": 4},
}


@pytest.fixture(scope="module")
def source() -> PhantomSource:
    return PhantomSource(6, size=32, seed=1)


@pytest.fixture(scope="module")
def model(source: PhantomSource) -> MedVLM:
    reports = [source.facts(index).report or "" for index in range(len(source))]
    return build_model(parse(ModelConfig, SETTINGS), ReportTokenizer.train(reports, vocab_size=200), seed=3).eval()


def same(one: Evidence, other: Evidence) -> None:
    for name in ("image_embed", "regions", "image_logits", "has_report", "text_embed", "words", "word_mask"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert list(one.features) == list(other.features)
    assert all(torch.equal(one.features[name], other.features[name]) for name in one.features)
    assert (one.modalities, one.logit_scale, one.local_scale) == (
        other.modalities,
        other.logit_scale,
        other.local_scale,
    )
    assert [replace(own, image=0) for own in one.samples] == [replace(own, image=0) for own in other.samples]


def test_saved_evidence_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    box = Box("nodule", 0.1, 0.2, 0.3, 0.4, phrase="a nodule")
    samples = [sample(0, "a nodule", labels=("nodule",), boxes=(box,), patient="p"), sample(1, labels=()), sample(2)]
    found = replace(evidence(samples), features={"raw_pixels": torch.randn(3, 5)}, candidate_regions=torch.randn(2, 3))
    path = save_evidence(tmp_path / "deep" / "own.npz", found, MADE_FROM)
    back = load_evidence(path, MADE_FROM)
    same(found, back)
    assert back.candidate_regions is not None
    assert back.samples[0].boxes == (box,)
    assert back.samples[1].labels == ()
    assert [own.name for own in path.parent.iterdir()] == ["own.npz"]


def test_models_with_different_preprocessing_cant_share_an_evaluation(tmp_path: Path) -> None:
    ours, theirs = (json.dumps(declare(Preprocess(16, window=window))) for window in ("header", "lung"))
    path = save_evidence(tmp_path / "own.npz", blobs(three(2)), replace(MADE_FROM, preprocess=ours))
    with pytest.raises(DataError, match=r"another preprocess \(step 'read': window 'header' and 'lung'\)"):
        load_evidence(path, replace(MADE_FROM, preprocess=theirs))


def test_evidence_of_another_fingerprint_is_refused_and_told_apart(tmp_path: Path) -> None:
    path = save_evidence(tmp_path / "own.npz", blobs(three(2)), MADE_FROM)
    with pytest.raises(DataError, match=r"another preprocess \(preprocess bb, now dd\); delete it"):
        load_evidence(path, replace(MADE_FROM, preprocess="dd"))
    with pytest.raises(DataError, match="another model and data"):
        load_evidence(path, replace(MADE_FROM, model="x", data="y"))
    assert len(load_evidence(path)) == 6
    assert MADE_FROM.file_name() != replace(MADE_FROM, options="controls").file_name()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_holds_no_features_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own\.npz: holds no saved features"):
        load_evidence(path)


def test_archives_of_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    with pytest.raises(DataError, match="no such file"):
        load_evidence(path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(DataError, match="holds no saved features"):
        load_evidence(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("image_embed.npy", "text")
    with pytest.raises(DataError, match="holds no saved features"):
        load_evidence(path)
    np.savez(path, settings=np.frombuffer(b'{"form": 99}', dtype=np.uint8))
    with pytest.raises(DataError, match="another form"):
        load_evidence(path)
    settings = {"form": FORM, "fingerprint": {}, "regoins": 3, "samples": [], "modalities": []}
    np.savez(path, settings=np.frombuffer(json.dumps(settings).encode(), dtype=np.uint8))
    with pytest.raises(DataError, match="did you mean 'regions'"):
        load_evidence(path)


def test_objects_in_an_archive_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, settings=np.array([{"form": 1}], dtype=object))
    with pytest.raises(DataError, match="holds no saved features"):
        load_evidence(path)


def test_the_fingerprint_of_a_model_follows_every_weight_and_setting() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(()), "c": torch.zeros(2, dtype=torch.bfloat16)}
    first = of_weights(weights, {"width": 1})
    assert first == of_weights(dict(reversed(weights.items())), {"width": 1})
    changed = [
        of_weights(weights, {"width": 2}),
        of_weights({**weights, "a": torch.zeros(3, 2)}, {"width": 1}),
        of_weights({**weights, "b": torch.tensor(1 + 1e-7)}, {"width": 1}),
        of_weights({**weights, "c": torch.zeros(2, dtype=torch.float16)}, {"width": 1}),
    ]
    assert len({first, *changed}) == 5


class Listed:
    """Samples in a list; a missing one is bad."""

    def __init__(self, samples: list[Sample | None]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        found = self.samples[index]
        if found is None:
            raise DataError("not a readable image", where=f"row {index}")
        return found

    def facts(self, index: int) -> Sample:
        return replace(self[index], image=np.zeros((0, 0), dtype=np.uint8))


def test_the_fingerprint_of_samples_follows_facts_and_pixels() -> None:
    def own(report: str = "a", pixel: int = 0) -> Sample:
        return Sample("key", np.full((2, 2), pixel, dtype=np.uint8), report, labels=("a",))

    listed: list[list[Sample | None]] = [
        [],
        [own()],
        [own(), own()],
        [own("b"), own()],
        [own(), own(pixel=1)],
        [None, own()],
        [own(), replace(own(), labels=())],
        [own(), replace(own(), image=np.zeros((4, 1), dtype=np.uint8))],
    ]
    prints = [of_samples(Listed(samples)) for samples in listed]
    assert len(set(prints)) == len(prints)
    assert prints == [of_samples(Listed(samples)) for samples in listed]
    whole = Listed([replace(own(), mask=np.ones((2, 2), dtype=np.bool_))])
    assert of_samples(whole) == of_samples(Listed([own()]))
    assert of_samples(whole, masks=True) != of_samples(Listed([own()]), masks=True)


def test_controls_are_averaged_pixels_and_the_same_model_with_fresh_weights(
    model: MedVLM, source: PhantomSource
) -> None:
    assert gather(model, source, workers=0).features == {}
    found = gather(model, source, workers=0, controls=True, batch_size=4)
    assert found.features["raw_pixels"].shape == (len(source), 3 * 16 * 16)
    assert found.features["random_weights"].shape == found.image_embed.shape
    assert not torch.allclose(found.features["random_weights"], found.image_embed, atol=1e-3)
    fresh = untrained(model)
    alone = gather(fresh, source, workers=0, controls=True)
    torch.testing.assert_close(alone.image_embed, found.features["random_weights"])
    assert torch.equal(alone.features["raw_pixels"], found.features["raw_pixels"])
    assert adaptive_avg_pool2d(torch.arange(32.0 * 32).view(1, 1, 32, 32), 16)[0, 0, 0, 0] == 16.5


def test_cached_features_are_taken_again_and_only_under_their_own_fingerprint(
    model: MedVLM, source: PhantomSource, tmp_path: Path
) -> None:
    first = gather(model, source, workers=0, cache=tmp_path, controls=True)
    (path,) = tmp_path.iterdir()
    assert path.name == fingerprint(model, source, _options(controls=True)).file_name()
    marked = replace(first, image_embed=first.image_embed + 1)
    save_evidence(path, marked, fingerprint(model, source, _options(controls=True)))
    same(gather(model, source, workers=0, cache=tmp_path, controls=True), marked)
    same(gather(model, source, workers=0, cache=tmp_path), replace(first, features={}))
    brighter = ChangedSource(source, lambda index, own: replace(own, image=own.image // 2))
    assert not torch.equal(gather(model, brighter, workers=0, cache=tmp_path).image_embed, first.image_embed)
    other = gather(untrained(model), source, workers=0, cache=tmp_path)
    assert not torch.equal(other.image_embed, first.image_embed)
    assert len(list(tmp_path.iterdir())) == 4


def _options(*, controls: bool) -> str:
    return f"on_bad_sample=raise candidate_experts=False controls={controls} masks=False"


def test_untrained_batch_norms_take_the_statistics_of_phantoms_and_normalise() -> None:
    model = built("model.vision.norm=batch", "model.pool_norm=batch")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh, again = untrained(model), untrained(model)
    assert not fresh.training
    images = batch_of(model).image
    with torch.inference_mode():
        levels = [(one.vision(images), one.encode_image(images).embed) for one in (fresh, again)]
    for level in levels[0][0].levels:
        assert 0.2 < level.std() < 5  # without statistics the coarser levels nearly vanish
    assert torch.equal(levels[0][1], levels[1][1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
