"""A phantom's report must say what is in the image: the finding, its place, size and change, and nothing absent."""

from __future__ import annotations

import re

import numpy as np
import pytest

from medmoe.data.sources import phantom_case
from medmoe.data.sources.phantom import FINDINGS, PhantomSource
from medmoe.data.sources.phantom_case import plan
from medmoe.data.sources.phantom_reports import SEVERITY_CUTS, SIZE_CUTS, wording
from medmoe.data.sources.phantom_shapes import Finding
from medmoe.modalities import SIX

DENIED = r"(?:no|neither|negative for|no evidence of|there is no)\b[^.]*"
SIDES = dict.fromkeys(("xray", "ct", "mri"), ("right", "left"))
SIDES |= dict.fromkeys(("ultrasound", "pathology"), ("left", "right"))
SEED = 3


@pytest.fixture(scope="module")
def facts():
    source = PhantomSource(900, seed=SEED)
    return [source.facts(i) for i in range(len(source))]


def sentences(report):
    return re.findall(r"[^.]+\.", report)


def nouns(modality, name):
    return wording()["noun"][modality][name]["words"]


def says(text, words):
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


def described(fact, box):
    """The sentence that describes a box: the first with its phrase."""
    return next(s for s in sentences(fact.report) if box.phrase in s)


def test_reports_have_two_to_five_sentences_of_at_most_45_words(facts):
    for fact in facts:
        assert 2 <= len(sentences(fact.report)) <= 5, fact.report
        assert len(fact.report.split()) <= 45, fact.report


def test_wording_is_filled_in_and_tidy(facts):
    for fact in facts:
        assert not re.search(r"[{}]|  |\ba a\b| \.", fact.report), fact.report
        assert all(s.strip()[0].isupper() for s in sentences(fact.report))


def test_wording_varies(facts):
    assert len({f.report for f in facts}) > 0.95 * len(facts)
    table = wording()
    roles = [table["finding"], table["second_finding"], table["negation"], *table["change"].values()]
    roles += [own[role] for own in table["modality"].values() for role in ("opening", "normal", "closing")]
    assert min(len(templates) for templates in roles) >= 4


def test_the_phrase_of_a_box_is_in_the_report_and_names_the_finding(facts):
    for fact in facts:
        for box in fact.boxes:
            assert box.phrase in fact.report
            assert box.phrase.lower() in [words.lower() for words in nouns(fact.modality, box.label)]


def test_the_main_noun_is_used_three_times_in_four(facts):
    main = [b.phrase.lower() == nouns(f.modality, b.label)[0].lower() for f in facts for b in f.boxes]
    assert 0.7 < np.mean(main) < 0.8


def test_no_noun_of_a_modality_holds_another():
    for modality, names in FINDINGS.items():
        for name in names:
            others = [words for other in names if other != name for words in nouns(modality, other)]
            assert not any(says(other, words) for words in nouns(modality, name) for other in others)


def test_every_label_is_affirmed_and_what_is_denied_is_no_label(facts):
    for fact in facts:
        denied = " ".join(s for s in sentences(fact.report) if re.match(rf"\s*{DENIED}", s, re.IGNORECASE))
        affirmed = " ".join(s for s in sentences(fact.report) if not re.match(rf"\s*{DENIED}", s, re.IGNORECASE))
        for name in FINDINGS[fact.modality]:
            named = any(says(affirmed, words) for words in nouns(fact.modality, name))
            cleared = re.search(r"resol|clear", affirmed, re.IGNORECASE) is not None
            if name in fact.labels:
                assert named
                assert not any(says(denied, words) for words in nouns(fact.modality, name)), fact.report
            else:
                assert not named or (fact.prior is not None and cleared), fact.report


def test_about_half_of_the_reports_deny_something(facts):
    denies = [
        any(
            re.match(rf"\s*{DENIED}", s, re.IGNORECASE) and says(s, words)
            for s in sentences(f.report)
            for name in FINDINGS[f.modality]
            for words in nouns(f.modality, name)
        )
        for f in facts
    ]
    assert 0.4 < np.mean(denies) < 0.6


@pytest.mark.parametrize("modality", SIX)
def test_location_words_agree_with_the_box(facts, modality):
    own = wording()["modality"][modality]
    for fact in facts:
        if fact.modality != modality:
            continue
        for box in fact.boxes:
            text = described(fact, box)
            for words in ("right eye", "left eye"):
                text = text.replace(words, "")
            x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            if modality == "fundus":
                nasal = x >= 0.5 if fact.view == "OD" else x < 0.5
                side, other = ("nasal", "temporal") if nasal else ("temporal", "nasal")
            else:
                side, other = SIDES[modality] if x < 0.5 else SIDES[modality][::-1]
            level = own["level"][sum(y >= cut for cut in own["cuts"])]
            assert says(text, side), text
            assert not says(text, other), text
            assert says(text, level), text
            assert not any(says(text, word) for word in own["level"] if word != level), text


def test_the_optic_disc_is_nasal():
    """The brightest yellow of a normal eye, the disc, lies in the half that reports call nasal."""
    source = PhantomSource(80, seed=1, modalities=("fundus",))
    for i in range(len(source)):
        sample = source[i]
        if sample.labels == ():
            bright = sample.image[..., 1].astype(float)
            right = bright[:, 32:].max() > bright[:, :32].max()
            assert right == (sample.view == "OD")


def test_size_words_agree_with_the_box(facts):
    for fact in facts:
        for box in fact.boxes:
            longest = max(box.x1 - box.x0, box.y1 - box.y0)
            word = "small" if longest < SIZE_CUTS[0] else "moderate" if longest < SIZE_CUTS[1] else "large"
            assert says(described(fact, box), word)


def test_severity_words_agree_with_the_contrast(facts):
    for fact in facts:
        patient = int(fact.patient.split("-")[1])
        study = plan(SEED, patient, fact.modality, int(fact.prior is not None))
        for finding, box in zip(study.findings, fact.boxes, strict=True):
            text = described(fact, box)
            assert (says(text, "subtle") or says(text, "faint")) == (finding.contrast < SEVERITY_CUTS[0])
            assert (says(text, "prominent") or says(text, "conspicuous")) == (finding.contrast >= SEVERITY_CUTS[1])


def test_every_report_is_of_its_modality_alone(facts):
    """No report's text occurs in two modalities."""
    owner = {}
    for fact in facts:
        assert owner.setdefault(fact.report, fact.modality) == fact.modality


def test_follow_ups_say_what_changed(facts):
    by_key = {f.key: f for f in facts}
    seen = set()
    for fact in facts:
        if fact.prior is None:
            assert not re.search(r"prior|previous|interval|earlier", fact.report, re.IGNORECASE)
            continue
        first = by_key[fact.prior]
        patient = int(fact.patient.split("-")[1])
        change = plan(SEED, patient, fact.modality, 1).change
        seen.add(change.how)
        assert (change.name in fact.labels) == (change.how != "resolved")
        assert (change.name in first.labels) == (change.how != "appeared")
        words = {
            "grown": "larger|growth",
            "shrunk": "smaller|decrease",
            "resolved": "resol|clear",
            "appeared": "new|appear",
        }
        assert re.search(words[change.how], fact.report, re.IGNORECASE), fact.report
        if change.how in {"grown", "shrunk"}:
            now, then = (next(b for b in f.boxes if b.label == change.name) for f in (fact, first))
            ratio = (now.x1 - now.x0) * (now.y1 - now.y0) / ((then.x1 - then.x0) * (then.y1 - then.y0))
            assert ratio > 1.15 if change.how == "grown" else ratio < 0.87
    assert seen == {"grown", "shrunk", "resolved", "appeared"}


def test_where_no_room_is_left_an_old_finding_changes_instead(monkeypatch):
    monkeypatch.setitem(
        phantom_case.REGIONS, "ct", phantom_case.Region(((0.0, 0.0, 1.0, 1.0),), ((0.0, 0.0, 9.0, 9.0),), lateral=9.0)
    )
    old = Finding("mass", 0.2, 0.1, 0.2, 1.0, 0.0, 1.0, 0)
    first = phantom_case.Study("ct", 0, phantom_case.Pose(), "axial", "site A", (old,))
    how = {phantom_case._follow(np.random.default_rng(k), first).change.how for k in range(20)}
    assert how == {"grown", "resolved"}
