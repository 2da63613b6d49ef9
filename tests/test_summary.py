from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import medmoe
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import DataError
from medmoe.model import MedVLM
from medmoe.predictor import Predictor
from medmoe.summary import gallery, points_right, summary, write_run_report
from medmoe.types import Box, Sample


@pytest.fixture(scope="module")
def model(run: Path) -> MedVLM:
    return medmoe.from_pretrained(run)


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


class Edited:
    """Phantoms of which some samples were edited; an edit that is an error is raised when the sample is read."""

    def __init__(self, edits: dict[int, dict[str, object] | DataError], patients: int = 24) -> None:
        self.source, self.edits = PhantomSource(patients, size=32, seed=4), edits

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        return self._edit(self.source[index], index)

    def facts(self, index: int) -> Sample:
        sample, edit = self.source.facts(index), self.edits.get(index, {})
        return sample if isinstance(edit, DataError) else dataclasses.replace(sample, **edit)

    def _edit(self, sample: Sample, index: int) -> Sample:
        edit = self.edits.get(index, {})
        if isinstance(edit, DataError):
            raise edit
        return dataclasses.replace(sample, **edit)


def with_boxes(source: Edited) -> list[int]:
    return [index for index in range(len(source)) if source.facts(index).boxes]


def test_the_gallery_takes_the_first_images_of_each_modality_that_have_a_box(model: MedVLM):
    source = Edited({})
    wanted: dict[str | None, list[str | None]] = {}
    for index in with_boxes(source):
        facts = source.facts(index)
        chosen = wanted.setdefault(facts.modality, [])
        if len(chosen) < 2:
            chosen.append(facts.report)
    items = gallery(model, source, per_modality=2)
    found: dict[str | None, list[str | None]] = {}
    for item in items:
        found.setdefault(item.modality, []).append(item.report)
    assert found == wanted
    assert len(found) == 6
    assert all(item.image.shape == (32, 32, 3) and item.image.dtype == np.uint8 for item in items)
    assert all(item.heatmap.shape == (4, 4) and item.boxes for item in items)


def test_the_gallery_leaves_out_what_it_can_not_use(model: MedVLM):
    first, second, third, fourth = with_boxes(Edited({}))[:4]
    source = Edited(
        {
            first: {"report": None},
            second: {"boxes": (Box("mass", 0.1, 0.1, 0.4, 0.4, phrase="words that are not there"),)},
            third: DataError("damaged"),
        }
    )
    items = gallery(model, source, per_modality=100)
    left = [source.facts(index).report for index in with_boxes(source) if index not in (first, second, third)]
    assert [item.report for item in items] == left
    assert source.facts(fourth).report == items[0].report


def test_an_item_shows_the_pixels_the_model_saw_and_the_heatmap_of_its_words(model: MedVLM):
    source = Edited({})
    index = with_boxes(source)[0]
    sample = source[index]
    item = gallery(model, source, per_modality=1)[0]
    box = sample.boxes[0]
    assert item.phrase == (box.phrase or box.label)
    grey = sample.image if sample.image.dtype == np.uint8 else np.round(sample.image * 255)
    np.testing.assert_allclose(item.image[..., 0], grey if grey.ndim == 2 else grey[..., 0], atol=1)
    heat = Predictor(model).heatmap(sample.image, item.phrase, report=sample.report)
    np.testing.assert_allclose(item.heatmap, heat, atol=1e-5)


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        ((0.30, 0.55, 0.45, 0.70), True),  # holds the centre (0.375, 0.625) of the hottest of 4 by 4 regions
        ((0.48, 0.55, 0.60, 0.70), True),  # half a region away
        ((0.52, 0.55, 0.60, 0.70), False),
        ((0.55, 0.30, 0.70, 0.45), False),  # rows and columns swapped
    ],
)
def test_a_heatmap_points_right_when_its_hottest_region_touches_the_box(
    box: tuple[float, float, float, float], hit: bool
):
    heat = np.zeros((4, 4), np.float32)
    heat[2, 1] = 1
    assert points_right(heat, [Box("mass", *box)]) is hit
    assert points_right(heat, []) is False


def row(kind: str, step: int, loss: float) -> dict[str, object]:
    return {"kind": kind, "step": step, "loss": loss, "terms": {"global": 1.25}}


def figure(value: float | None) -> dict[str, object]:
    return {"value": value, "low": None, "high": 0.75, "n": 40, "controls": {"chance": 0.1}}


def test_a_summary_words_the_last_rows_and_the_headline_figures_beside_their_controls():
    results = {
        "tasks": {
            "routing": {
                "image_router_accuracy": figure(0.5),
                "image_router_accuracy/ct": figure(None),
                "image_router_balanced_accuracy": figure(0.9),
            },
            "other": {"pointing": figure(0.1)},
        }
    }
    text = summary("night", [row("train", 1, 9.0), row("train", 2, 3.0), row("val", 2, 4.0)], results)
    lines = text.splitlines()
    assert lines[0] == "# Run night"
    assert "- train at step 2: loss 3.000 (global 1.250)" in lines
    assert "- val at step 2: loss 4.000 (global 1.250)" in lines
    assert "| image_router_accuracy | 0.500 | – – 0.750 | 40 | chance 0.100 |" in lines
    assert "| image_router_accuracy/ct | – | – – 0.750 | 40 | chance 0.100 |" in lines
    assert len([line for line in lines if line.startswith("|")]) == 4


def test_a_summary_of_a_run_without_rows_or_results_is_its_title():
    assert summary("empty", [], None).strip() == "# Run empty"


def test_the_report_is_one_file_that_loads_nothing_from_elsewhere(copied: Path, model: MedVLM):
    items = gallery(model, Edited({}), per_modality=1)
    page = write_run_report(copied, gallery=items).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert page.count("data:image/png;base64,") >= len(items)
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_a_report_keeps_the_evaluation_and_shows_it_again(copied: Path):
    results = {"tasks": {"routing": {"image_router_accuracy": figure(0.1234)}}, "details": {}, "about": {"images": 40}}
    write_run_report(copied, results=results)
    assert json.loads((copied / "evaluation.json").read_text(encoding="utf-8")) == results
    (copied / "report.html").unlink()
    again = write_run_report(copied).read_text(encoding="utf-8")
    assert "0.123" in again
    assert "| image_router_accuracy | 0.123 |" in (copied / "summary.md").read_text(encoding="utf-8")
