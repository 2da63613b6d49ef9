"""Template reports must read as sentences, vary over rows and stay the same for each."""

from __future__ import annotations

import string

import pytest

from medmoe.data.templates import join, readable, report_from_labels, wording


@pytest.mark.parametrize(
    ("labels", "modality", "words"),
    [
        (["moderate_npdr", "maculopathy"], "fundus", "moderate non-proliferative diabetic retinopathy and maculopathy"),
        (["no_dr"], "fundus", "no diabetic retinopathy"),
        (["lung_adenocarcinoma"], "pathology", "an adenocarcinoma of the lung"),
        (["benign_lung"], "pathology", "benign lung tissue"),
        (["cardiac_echo"], "ultrasound", "the chambers of the heart"),
        (["RBC", "WBC"], "microscopy", "red blood cells and white blood cells"),
        (["pneumonia", "bacterial"], "xray", "bacterial pneumonia"),
        (["polyp", "sessile"], "endoscopy", "a sessile polyp"),
        (["adenocarcinoma", "viral"], "pathology", "a viral adenocarcinoma"),
        (["viral"], "xray", "a viral infection"),
        (["covid-19", "ards"], "ct", "COVID-19 and acute respiratory distress syndrome"),
        (["Pleural Effusion", "MR"], "xray", "pleural effusion and MR"),
        (["mass", "cyst", "edema"], "ct", "a mass, a cyst and edema"),
    ],
)
def test_labels_read_sensibly(labels, modality, words):
    for row in range(20):
        assert words.lower() in report_from_labels(labels, modality=modality, row=row).lower()


def test_reports_vary_over_rows_and_seeds_but_stay_the_same_for_each():
    reports = [report_from_labels(["mass"], modality="ct", row=row) for row in range(50)]
    assert len(set(reports)) == len(wording().finding)
    assert reports == [report_from_labels(["mass"], modality="ct", row=row) for row in range(50)]
    assert reports != [report_from_labels(["mass"], modality="ct", row=row, seed=1) for row in range(50)]


@pytest.mark.parametrize("labels", [[], ["normal"], ["No Abnormality"]])
def test_no_finding_is_worded_as_normal(labels):
    reports = {report_from_labels(labels, modality="xray", body_part="chest", row=row) for row in range(50)}
    assert len(reports) == len(wording().normal)
    assert all("normal" in report.lower() or "no abnormality" in report.lower() for report in reports)


def test_what_was_imaged_is_said_where_it_is_known():
    full = report_from_labels(["mass"], modality="ct", body_part="Abdomen", view="Axial")
    assert "axial ct scan of the abdomen" in full.lower()
    assert "of tissue from several organs" in report_from_labels(
        ["mass"], modality="pathology", body_part="multi-organ"
    )
    assert "image" in report_from_labels(["mass"], view="nos - not specified")
    assert "specified" not in report_from_labels(["mass"], view="nos - not specified")


def test_every_wording_is_a_whole_sentence_with_known_gaps():
    known = wording()
    for gaps, sentences in (({"image", "finding"}, known.finding + known.absent), ({"image"}, known.normal)):
        for sentence in sentences:
            fields = {field.lower() for _, field, _, _ in string.Formatter().parse(sentence) if field}
            assert fields == gaps
            assert sentence.endswith(".")


def test_every_report_begins_with_a_capital_and_has_no_underscore():
    for label in wording().names:
        for row in range(6):
            report = report_from_labels([label], modality="mri", row=row)
            assert report[0].isupper()
            assert not set("_{}") & set(report)


def test_names_are_listed_as_in_a_sentence():
    assert join([]) == ""
    assert join(["a"]) == "a"
    assert readable("severe NPDR") == "severe non-proliferative diabetic retinopathy"
