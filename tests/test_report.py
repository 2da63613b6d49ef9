from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medmoe.report import GalleryItem, write_report
from medmoe.report.charts import Series, bar, line_chart, ticks
from medmoe.report.figures import Figure, groups, metric_title, task_title, variant_title, variants
from medmoe.report.gallery import highlighted
from medmoe.report.markup import DASH, finite, number, tag
from medmoe.report.pictures import colours, picture, unit_range

VOID = {"meta", "img", "br"}
EVIL = '<script>alert("x")</script>&\'"'
NAMES = ["xray", "ct"]


class Reader(HTMLParser):
    """Checks that tags are balanced, and keeps what the page says and loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loads: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(name)
        self.loads += [value or "" for key, value in attrs if key in {"src", "href", "srcset", "action", "data"}]
        if name == "img":
            self.images.append(dict(attrs))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + "\n"


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def train(step: int, **terms: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "loss": sum(terms.values()),
        "terms": terms,
        "inactive": ["gaze"],
        "lr": 1e-3,
        "router_entropy": 0.5,
        "load": [0.25, 0.75],
    }


def val(step: int, **terms: float) -> dict[str, Any]:
    return {"kind": "val", "step": step, "loss": 1.0, "terms": terms, "image_router_accuracy": 0.9, "images": 8}


def figure(value: float | None, **controls: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.05, value + 0.05)
    return {"value": value, "low": low, "high": high, "n": 40, "controls": controls}


def evaluation() -> dict[str, Any]:
    tasks = {
        "routing": {"image_router_accuracy": figure(0.9, chance=0.5), "image_router_accuracy/ct": figure(0.8)},
        "zeroshot_retrieval": {
            "report_to_image_recall@5": figure(0.7, chance=0.1, shuffled=0.1, shuffled_low=0.05, shuffled_high=0.2),
            "report_to_image_recall@5/ct": figure(0.12, chance=0.1, shuffled=0.1, shuffled_low=0.0, shuffled_high=0.2),
            "report_to_image_recall@5/xray": figure(None, chance=0.1),
            "report_to_image_median_rank": figure(3.0, chance=20.0),
            "local_report_to_image_recall@5": figure(0.6, chance=0.1),
        },
        "grounding": {},
        "novel_task": {"score": figure(2.5)},
    }
    confusion = {"image": {"confusion": [[18, 2], [0, 0]]}, "text": {"confusion": [[20]]}}
    details = {"routing": {"modalities": NAMES, **confusion}, "grounding": {"skipped": "no image has boxes"}}
    return {"tasks": tasks, "details": details, "about": {"images": 40}}


def item(**changed: Any) -> GalleryItem:
    values = {
        "image": np.full((8, 16, 3), 90, dtype=np.uint8),
        "heatmap": np.arange(16, dtype=np.float32).reshape(4, 4),
        "phrase": "small nodule",
        "report": "There is a Small  nodule.",
        "modality": "ct",
        "boxes": [(0.5, 0.25, 0.75, 1.0)],
        "hit": True,
    }
    return GalleryItem(**{**values, **changed})


def write(folder: Path, **changed: Any) -> Reader:
    values: dict[str, Any] = {
        "title": "a run",
        "history": [train(1, **{"global": 3.0, "local": 2.0}), train(2, **{"global": 2.0}), val(2, **{"global": 2.5})],
        "results": evaluation(),
        "gallery": [item(), item(hit=False), item(modality="thermography", hit=None, boxes=())],
        "about": {"command": "medmoe train tiny", "seed": 3, "versions": {"torch": "2.14"}},
    }
    return read(write_report(folder / "report.html", **{**values, **changed}))


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path):
    page = write(tmp_path)
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert page.seen.isdisjoint({"script", "link", "iframe", "object", "base"})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"https?://|url\(|@import", text) is None


def test_every_section_of_a_full_run_is_there_and_linked(tmp_path: Path):
    page = write(tmp_path)
    anchors = [load[1:] for load in page.loads if load.startswith("#")]
    assert anchors == ["summary", "modalities", "curves", "results", "confusion", "gallery", "about"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{anchor}"' in text for anchor in anchors)
    assert '<html lang="en">' in text
    assert 'name="viewport"' in text


def test_text_from_outside_is_escaped_everywhere(tmp_path: Path):
    results = evaluation()
    results["tasks"][EVIL] = {EVIL: figure(0.5), f"x/{EVIL}": figure(0.5)}
    results["details"]["grounding"]["skipped"] = EVIL
    results["details"]["routing"]["modalities"] = [EVIL, "ct"]
    page = write(
        tmp_path,
        title=EVIL,
        history=[train(1, **{EVIL: 1.0})],
        results=results,
        gallery=[item(phrase="script", report=EVIL, modality=EVIL)],
        about={EVIL: EVIL, "nested": {EVIL: {EVIL: EVIL}}},
    )
    assert "script" not in page.seen
    assert "<script" in page.text


def test_every_logged_term_has_a_chart(tmp_path: Path):
    page = write(tmp_path)
    for title in ("Loss (weighted sum)", "Global", "Local", "Router entropy (nats)", "Learning rate"):
        assert title in page.text
    assert "Share of the images each expert gets" in page.text
    assert "Image router accuracy" in page.text


def test_a_term_that_was_never_active_is_named(tmp_path: Path):
    page = write(tmp_path)
    assert "Inactive throughout, their fields being absent from the data: gaze." in page.text
    assert "Inactive" not in write(tmp_path, history=[train(1, gaze=1.0)]).text


def test_load_of_unnamed_experts_is_numbered(tmp_path: Path):
    assert "expert 2 0.750" in write(tmp_path, results=None).text
    assert "ct 0.750" in write(tmp_path).text


@pytest.mark.parametrize("history", [[], [train(1, **{"global": 3.0})], [val(1, **{"global": 3.0})]])
def test_a_run_just_begun_has_a_page(tmp_path: Path, history: list[dict[str, Any]]):
    page = write(tmp_path, history=history, results=None, gallery=[], about={})
    assert "Not evaluated yet" in page.text
    assert "Heatmaps" not in page.text


def test_an_evaluation_without_tasks_has_a_page(tmp_path: Path):
    assert "Not evaluated yet" in write(tmp_path, results={"tasks": {}}).text


def test_a_skipped_task_says_why(tmp_path: Path):
    assert "Skipped: no image has boxes." in write(tmp_path).text


def test_what_is_not_a_number_is_a_dash(tmp_path: Path):
    results = evaluation()
    results["tasks"]["routing"]["image_router_accuracy"]["value"] = math.nan
    history = [train(1, **{"global": math.nan}), train(2, **{"global": math.inf})]
    page = write(tmp_path, history=history, results=results, about={"val_data": None})
    assert re.search(r"\b(nan|inf|None)\b", page.text) is None
    assert "No finite value was logged." in page.text
    assert DASH in page.text


def test_tables_show_value_interval_controls_and_n(tmp_path: Path):
    text = write(tmp_path).text
    for part in ("0.700", "[0.650, 0.750]", "chance 0.100 · shuffled 0.100 (0.050 to 0.200)", "n 40"):
        assert part.replace(" ", "\xa0") in text.replace(" ", "\xa0")


def test_a_figure_within_its_control_is_marked(tmp_path: Path):
    assert "not clear of shuffled" in write(tmp_path).text


def test_confusion_counts_what_is_right(tmp_path: Path):
    page = write(tmp_path)
    assert "18 of 20 to their own modality’s expert" in page.text
    assert "Text router" not in page.text.split("Router confusion")[-1]  # its matrix doesn't fit the names


def test_the_gallery_marks_words_boxes_and_verdicts(tmp_path: Path):
    page = write(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<mark>Small  nodule</mark>" in text
    assert '<rect x="8" y="2" width="4" height="6" class="box">' in text
    assert "✓ in the box" in page.text
    assert "✗ beside the box" in page.text
    assert "1 of 2 point into the box" in page.text
    assert page.text.index("ct \n") < page.text.index("thermography \n")


def test_every_picture_is_a_png_with_words_for_who_cannot_see_it(tmp_path: Path):
    page = write(tmp_path)
    assert len(page.images) == 6
    for found in page.images:
        assert found["alt"]
        data = base64.b64decode((found["src"] or "").split(",")[1])
        assert Image.open(io.BytesIO(data)).format == "PNG"


def test_the_hottest_region_is_ringed_at_its_centre(tmp_path: Path):
    write(tmp_path, gallery=[item()])
    assert 'cx="14" cy="7"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_picture_without_heatmap_is_the_image_itself():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (decode(picture(image)) == image).all()


def test_a_large_picture_is_embedded_small():
    assert decode(picture(np.zeros((1000, 500, 3), dtype=np.uint8))).shape == (320, 160, 3)


def test_heat_is_brightest_where_the_heatmap_is_largest():
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[1, 2] = 9.0
    shown = decode(picture(np.zeros((40, 40, 3), dtype=np.uint8), heat)).sum(axis=2)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (row // 10, column // 10) == (1, 2)


def test_a_flat_or_broken_heatmap_is_cold():
    assert (unit_range(np.full((2, 2), 3.0)) == 0).all()
    assert (unit_range(np.full((2, 2), np.nan)) == 0).all()
    assert unit_range(np.array([[np.nan, 1.0], [2.0, 3.0]])).tolist() == [[0.0, 0.0], [0.5, 1.0]]


def test_the_colour_map_only_grows_lighter():
    light = colours(np.linspace(0, 1, 50)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all()


@pytest.mark.parametrize(("phrase", "marks"), [("nodule", 1), ("no", 1), ("dule", 0), ("", 0), ("a.b", 0)])
def test_only_whole_words_are_marked(phrase: str, marks: int):
    assert highlighted("No nodules, one nodule.", phrase).count("<mark>") == marks


def test_a_value_is_judged_by_its_hardest_control():
    assert Figure("auroc", 0.9, 0.8, 1.0, 9, {"chance": 0.5, "shuffled_high": 0.7}).verdict() == (
        True,
        "clear of every control",
    )
    assert Figure("auroc", 0.9, 0.6, 1.0, 9, {"chance": 0.5, "shuffled_high": 0.7}).verdict() == (
        False,
        "not clear of shuffled",
    )
    assert Figure("auroc", 0.9, 0.6, 1.0).verdict() is None


def test_a_rank_is_better_when_lower():
    controls = {"chance": 20.0, "shuffled_low": 18.0, "shuffled_high": 22.0}
    assert Figure("image_to_report_median_rank", 3.0, 2.0, 4.0, 9, controls).verdict() == (
        True,
        "clear of every control",
    )
    assert Figure("image_to_report_median_rank", 17.0, 2.0, 19.0, 9, controls).verdict() == (
        False,
        "not clear of shuffled",
    )


def test_groups_come_in_the_modalities_order_with_all_first():
    own = {name: Figure("x", 0.5) for name in ("fundus", "elsewhere", "xray/a", "xray", "")}
    assert groups({"x": own}) == ["", "xray/a", "xray", "fundus", "elsewhere"]


def test_metrics_are_sorted_by_their_reading_and_worded():
    assert variants(["local_auroc", "auroc", "overall_local_x"]) == {
        "": ["auroc"],
        "local_": ["local_auroc"],
        "overall_local_": ["overall_local_x"],
    }
    assert metric_title("prompt_pointing") == "Pointing game"
    assert variant_title("unknown_") == "as evaluated"
    assert task_title("some_task") == "Some task"


def test_numbers_have_three_digits():
    shown = [number(value) for value in (1.0, 0.5, 3, 12.0, 99.96, 1234.5, -0.25, 0.0, True, "x")]
    assert shown == ["1.000", "0.500", "3", "12.0", "100", "1,234", "−0.250", "0.000", DASH, DASH]
    assert number(5e-5) == "5.0e-05"
    assert finite(math.inf) is None


def test_ticks_span_the_range_even_when_it_is_a_point():
    for low, high in ((0.0, 1.0), (-3.0, 17.0), (5.0, 5.0), (0.0, 0.0), (1e-6, 3e-6)):
        found = ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert 2 <= len(found) <= 8


def test_a_noisy_line_is_smoothed_and_a_quiet_one_is_not():
    noisy = [(float(step), float(step % 2)) for step in range(1000)]
    quiet = [(float(step), step / 1000) for step in range(1000)]
    assert line_chart("x", [Series("a", noisy, "s0")]).count("<polyline") == 2
    assert line_chart("x", [Series("a", noisy, "s0", raw=False)]).count("<polyline") == 1
    assert line_chart("x", [Series("a", quiet, "s0")]).count("<polyline") == 1


def test_a_chart_of_one_point_shows_the_point():
    assert "<circle" in line_chart("x", [Series("a", [(5.0, 2.0)], "train")], note="one")


def test_a_bar_says_in_words_what_it_shows_and_stays_in_its_track():
    drawn = bar(1.2, None, None, {"chance": 0.25})
    assert 'aria-label="1.20, chance 0.250"' in drawn
    assert 'width="120%"' not in drawn


def test_attributes_are_written_only_when_they_say_something():
    assert tag("p", None, "a<b", class_="x", hidden=True, id=None, title='"') == (
        '<p class="x" hidden title="&quot;">a&lt;b</p>'
    )
