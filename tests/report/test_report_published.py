"""A benchmark's result on the page: our column beside the published ones, and what isn't on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluations import Page, evaluation, figure, write

from medmoe.errors import DataError
from medmoe.report import read_runs, write_review
from medmoe.report.checks import warnings


def benchmark(**changes: Any) -> dict[str, Any]:
    percent = {"GLoRIA": 50.0, "MedMoE": 78.32, "PMC-CLIP": None}
    other = {"metric": None, "fraction": None, "source": "https://example.org", "percent": percent, "note": None}
    auroc, accuracy = figure(0.625, n=8, chance=0.5), figure(0.5, n=8, chance=0.5)
    rows = [
        {
            "set": "rsna",
            "modality": "xray",
            "status": "evaluated",
            "metric": "auroc",
            "published": [other],
            "n": 8,
            "split": "8006",
            "ours": auroc,
            "figures": {"auroc": auroc, "accuracy": accuracy},
            "warnings": ["8 images on disk, 8,006 published"],
            "figure_readings": [{"GLoRIA": {"auroc": False}}],
        },
        {
            "set": "bach",
            "modality": "pathology",
            "status": "not on disk",
            "metric": "accuracy",
            "published": [other],
            "expected": "bach/truth.csv",
        },
    ]
    mean = {"metric": "auroc", "sets": ["rsna"], "of": 2, "value": 0.625, "low": 0.5, "high": 0.75}
    mean |= {"controls": {"chance": 0.5}}
    about = {"command": "medmoe eval runs/a --benchmark paper-table1 --root data", "model": "runs/a"}
    found = {"suite": "paper-table1", "title": "MedMoE, Table 1", "source": "https://example.org/table", "rows": rows}
    found |= {"protocol": "zero_shot", "fingerprint": "f00", "means": [mean], "notes": ["Prompts are ours."]}
    return {"benchmark": {**found, **changes}, "about": about}


def test_our_column_stands_beside_the_published_ones(tmp_path: Path):
    runs = read_runs([write(tmp_path / "table.json", benchmark())])
    page = Page(write_review(tmp_path / "page.html", runs))
    assert page.says("table judged on paper-table1: 1 of 2 data sets on disk.")
    for words in ("GLoRIA", "78.32", "50.00!", "?", "62.5 [57.5, 67.5]", "chance 50.0", "n 8: n too small"):
        assert page.says(words), words
    assert page.says("not on diskexpected bach/truth.csv")
    assert page.says("mean of 1 of 2rsna")
    assert page.source.count("<td>78.32</td>") == 3  # of both data sets, and the mean of the one that was judged
    assert page.says("rsna: 8 images on disk, 8,006 published")
    assert page.says("Prompts are ours.")
    assert page.says("medmoe eval runs/a --benchmark paper-table1 --root data")
    assert not page.says("no figure was computed")
    assert page.says("table: not checked whether training shares patients or images with rsna")
    assert warnings(runs)[0].startswith("table: 1 of 1 data sets of paper-table1 aren't comparable as they are")


def test_runs_on_one_suite_share_a_table_and_are_no_runs_to_pair_with_others(tmp_path: Path):
    paths = [write(tmp_path / "a.json", evaluation())]
    paths += [write(tmp_path / name, benchmark()) for name in ("one.json", "two.json")]
    page = Page(write_review(tmp_path / "page.html", read_runs(paths), resamples=5))
    assert page.source.count('<section id="published"') == 1
    assert page.source.count("MedMoE, Table 1</caption>") == 1
    assert page.source.count(">62.5</b>") == 4  # a figure and a mean of each
    assert 'id="summary"' in page.source
    assert not page.says("no differences are given")


def test_a_probe_has_a_line_for_each_share(tmp_path: Path):
    found = benchmark(protocol="linear_probe")
    row = found["benchmark"]["rows"][0]
    lists = [{**row["published"][0], "fraction": share, "percent": {"MedMoE": 80 + share}} for share in (0.01, 1.0)]
    row |= {"published": lists, "ours_metric": "auroc", "ours": {"0.01": figure(0.6), "1": figure(0.9)}}
    page = Page(write_review(tmp_path / "page.html", read_runs([write(tmp_path / "probe.json", found)])))
    for words in ("auroc @1%", "60.0 [55.0, 65.0]", "80.01", "auroc @100%", "90.0 [85.0, 95.0]", "81.00"):
        assert page.says(words), words


@pytest.mark.parametrize("broken", [{}, {"rows": []}, [1], {**benchmark()["benchmark"], "rows": [{"set": "rsna"}]}])
def test_what_is_no_result_of_a_benchmark_is_refused(tmp_path: Path, broken: object):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"benchmark": broken}), encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.json: (isn't the result|a data set) of"):
        read_runs([path])


def test_the_reason_for_no_heatmaps_stands_on_the_page(tmp_path: Path):
    runs = read_runs([write(tmp_path / "a.json", evaluation())])
    page = Page(write_review(tmp_path / "page.html", runs, unseen={"a": "a model of kind 'open_clip' has none"}))
    assert page.says("No heatmaps: a model of kind 'open_clip' has none.")
