"""Phantoms must be reproducible, and what they say of themselves must be exactly true of their pixels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from medmoe.data.sources.base import Source
from medmoe.data.sources.phantom import FINDINGS, PhantomSource
from medmoe.data.sources.phantom_anatomy import ANATOMY, SECTOR, Scene, polar
from medmoe.data.sources.phantom_canvas import canvas
from medmoe.data.sources.phantom_case import plan
from medmoe.data.sources.phantom_findings import KINDS, cover
from medmoe.errors import DataError
from medmoe.modalities import SIX

PATIENTS = 240


@pytest.fixture(scope="module")
def source():
    return PhantomSource(PATIENTS, size=48, seed=5)


@pytest.fixture(scope="module")
def samples(source):
    return [source[i] for i in range(len(source))]


def same(a, b):
    return (
        np.array_equal(a.image, b.image)
        and np.array_equal(a.mask, b.mask)
        and np.array_equal(a.gaze, b.gaze)
        and (a.key, a.report, a.labels, a.boxes, a.view, a.offset_days, a.prior, a.domain)
        == (b.key, b.report, b.labels, b.boxes, b.view, b.offset_days, b.prior, b.domain)
    )


def test_the_phantom_is_a_source(source):
    assert isinstance(source, Source)


def test_the_same_seed_gives_the_same_pixels_and_text(source, samples):
    again = PhantomSource(PATIENTS, size=48, seed=5)
    assert all(same(again[i], samples[i]) for i in range(0, len(source), 7))


def test_another_seed_gives_other_pixels_text_and_patients(samples):
    other = PhantomSource(12, size=48, seed=6)
    for i in range(12):
        assert not np.array_equal(other[i].image, samples[i].image)
        assert other[i].patient != samples[i].patient


def test_a_patient_is_the_same_whatever_the_number_of_patients(samples):
    few = PhantomSource(25, size=48, seed=5)
    assert all(same(few[i], samples[i]) for i in range(len(few)))


def test_a_pickled_source_yields_the_same(source, samples):
    assert same(pickle.loads(pickle.dumps(source))[3], samples[3])


def test_facts_are_the_sample_without_pixels(source, samples):
    for i, sample in enumerate(samples[:60]):
        facts = source.facts(i)
        assert facts.image.shape == (0, 0)
        assert facts.image.dtype == np.uint8
        assert facts.mask is None
        assert facts.gaze is None
        for field in (
            "key",
            "report",
            "modality",
            "labels",
            "boxes",
            "view",
            "offset_days",
            "prior",
            "domain",
            "study",
        ):
            assert getattr(facts, field) == getattr(sample, field)


def test_a_negative_index_counts_from_the_end(source, samples):
    assert same(source[-1], samples[-1])


def test_an_index_past_the_end_ends_iteration(source):
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("modality", SIX)
def test_colour_is_rgb_and_grey_is_two_dimensional(samples, modality):
    own = [s for s in samples if s.modality == modality]
    shape = (48, 48, 3) if modality in {"pathology", "fundus"} else (48, 48)
    assert {s.image.shape for s in own} == {shape}
    assert {s.image.dtype for s in own} == {np.dtype(np.uint8)}
    assert all(s.image.std() > 10 for s in own)


def test_modalities_and_findings_are_balanced(samples):
    first = [s for s in samples if s.prior is None]
    assert {m: sum(s.modality == m for s in first) for m in SIX} == dict.fromkeys(SIX, PATIENTS // 6)
    many = PhantomSource(1200, size=32, seed=1)
    facts = [f for f in (many.facts(i) for i in range(len(many))) if f.prior is None]
    count = np.bincount([len(f.labels) for f in facts]) / len(facts)
    assert np.allclose(count, [0.10, 0.60, 0.30], atol=0.035)
    for modality, names in FINDINGS.items():
        share = [sum(name in f.labels for f in facts if f.modality == modality) for name in names]
        assert min(share) > 0.65 * np.mean(share)


@pytest.mark.parametrize("modality", SIX)
def test_every_modality_has_four_findings_and_shows_each(modality):
    assert len(FINDINGS[modality]) >= 4
    source = PhantomSource(60, size=32, modalities=(modality,))
    assert {name for i in range(60) for name in source.facts(i).labels} == set(FINDINGS[modality])


def test_boxes_enclose_the_mask_tightly(samples):
    for sample in samples:
        covered = np.zeros_like(sample.mask)
        for box in sample.boxes:
            x0, y0, x1, y1 = (round(edge * 48) for edge in (box.x0, box.y0, box.x1, box.y1))
            assert 0 <= x0 < x1 <= 48
            assert 0 <= y0 < y1 <= 48
            covered[y0:y1, x0:x1] = True
            inside = sample.mask[y0:y1, x0:x1]
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
        assert not (sample.mask & ~covered).any()


def test_labels_boxes_and_mask_agree(samples):
    for sample in samples:
        assert sample.labels == tuple(box.label for box in sample.boxes)
        assert len(set(sample.labels)) == len(sample.labels)
        assert set(sample.labels) <= set(FINDINGS[sample.modality])
        assert sample.mask.any() == bool(sample.labels)


@pytest.mark.parametrize("size", [32, 64])
def test_findings_are_from_a_few_pixels_to_half_the_image(size):
    source = PhantomSource(500, size=size, seed=2)
    sides = [max(b.x1 - b.x0, b.y1 - b.y0) for i in range(len(source)) for b in source.facts(i).boxes]
    assert min(sides) * 64 >= 3.9
    assert 0.4 < max(sides) < 0.75


def test_findings_lie_all_over_the_image(samples):
    for modality in SIX:
        centres = np.array(
            [((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2) for s in samples if s.modality == modality for b in s.boxes]
        )
        assert (centres.std(0) > 0.09).all()


@pytest.mark.parametrize(("modality", "name"), [(m, name) for m, names in FINDINGS.items() for name in names])
def test_painting_a_finding_changes_its_mask_most(modality, name):
    pixels = canvas(48)
    for patient in range(100):
        study = plan(1, patient, modality, 0)
        finding = next((f for f in study.findings if f.name == name), None)
        if finding is not None:
            break
    scene = Scene(pixels, pixels.frame(study.pose), study.view, np.random.default_rng(0))
    before = ANATOMY[modality](scene)
    after, alpha = before.copy(), cover(scene, modality, finding)
    KINDS[modality][name].paint(after, alpha, scene, finding)
    changed = np.abs(after - before).reshape(-1, 48, 48).mean(0)
    inside = alpha > 0.5
    assert changed[inside].mean() > 0.04
    assert changed[inside].mean() > 4 * changed[~inside].mean()


def test_findings_are_inside_the_ultrasound_sector():
    pixels = canvas(48)
    for patient in range(300):
        study = plan(2, patient, "ultrasound", 0)
        scene = Scene(pixels, pixels.frame(study.pose), study.view, np.random.default_rng(0))
        depth, ray = polar(scene.frame)
        sector = (depth > SECTOR[0]) & (depth < SECTOR[1]) & (np.abs(ray) < SECTOR[2])
        for finding in study.findings:
            mask = cover(scene, "ultrasound", finding) > 0.5
            assert sector[mask].mean() > 0.9, (finding, sector[mask].mean())


def test_gaze_dwells_on_findings(samples):
    for sample in samples:
        assert sample.gaze.dtype == np.float32
        assert sample.gaze.shape == (48, 48)
        assert sample.gaze.min() >= 0
        assert sample.gaze.max() == pytest.approx(1)
    found = [s for s in samples if s.labels]
    assert np.mean([s.gaze[s.mask].mean() / s.gaze[~s.mask].mean() for s in found]) > 2


def test_normal_images_have_no_label_box_or_mask(samples):
    normal = [s for s in samples if s.labels == ()]
    assert normal
    for sample in normal:
        assert sample.boxes == ()
        assert not sample.mask.any()


def test_about_one_patient_in_seven_is_followed_up():
    assert 1100 < len(PhantomSource(1000, size=32)) < 1200


def test_a_follow_up_shares_the_patient_and_refers_to_the_prior(samples):
    by_key = {s.key: s for s in samples}
    later = [s for s in samples if s.prior is not None]
    assert later
    for sample in later:
        first = by_key[sample.prior]
        assert (sample.patient, sample.modality, sample.view, sample.domain) == (
            first.patient, first.modality, first.view, first.domain,
        )  # fmt: skip
        assert sample.study != first.study
        assert sample.offset_days > first.offset_days == 0


def test_keys_are_unique_and_hold_a_file_name(samples):
    keys = [s.key for s in samples]
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and " " not in key for key in keys)


def test_both_sites_and_every_view_occur(samples):
    assert {s.domain for s in samples} == {"site A", "site B"}
    assert {s.view for s in samples if s.modality == "mri"} == {"axial T1", "axial T2", "axial FLAIR"}
    assert {s.view for s in samples if s.modality == "fundus"} == {"OD", "OS"}
    assert {s.source for s in samples} == {"phantom"}


def test_modalities_can_be_told_apart_by_simple_statistics(samples):
    def statistics(sample):
        rgb = np.broadcast_to(np.atleast_3d(sample.image), (48, 48, 3)) / 255.0
        grey = rgb.mean(2)
        rough = np.abs(np.diff(grey, axis=0)).mean()
        colour = np.abs(rgb[..., 0] - rgb[..., 1]).mean()
        return [rough, colour, grey.std(), *grey.reshape(4, 12, 4, 12).mean((1, 3)).ravel()]

    x = np.array([statistics(s) for s in samples])
    x = (x - x.mean(0)) / x.std(0)
    y = np.array([SIX.index(s.modality) for s in samples])
    half = np.arange(len(y)) < len(y) // 2
    centroids = np.stack([x[half & (y == k)].mean(0) for k in range(6)])
    guess = ((x[~half, None] - centroids) ** 2).sum(2).argmin(1)
    assert (guess == y[~half]).mean() >= 0.9


def test_chosen_modalities_alone_appear_and_in_turn():
    source = PhantomSource(6, size=32, modalities=("fundus", "ct"))
    first = [f.modality for f in (source.facts(i) for i in range(len(source))) if f.prior is None]
    assert first == ["fundus", "ct"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"patients": 0}, "at least 1"),
        ({"patients": 3, "size": 16}, "32..1024"),
        ({"patients": 3, "seed": -1}, "negative"),
        ({"patients": 3, "modalities": ("fundos",)}, "did you mean 'fundus'"),
        ({"patients": 3, "modalities": ()}, "choose from xray"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_one_line(arguments, words):
    with pytest.raises(DataError, match=r"^[^\n]*$") as caught:
        PhantomSource(**arguments)
    assert words in str(caught.value)
