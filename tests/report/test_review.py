from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import Page, evaluation, figure, write, write_run

from medmoe.data.contract import declare
from medmoe.data.preprocess import Preprocess
from medmoe.errors import ConfigError
from medmoe.report import GalleryItem, read_runs, write_review
from medmoe.report.gallery import best_and_worst

EVIL = '<script>alert("x")</script>&\'"'


def review(folder: Path, *found: dict[str, Any], **options: Any) -> Page:
    names = "first", "second", "third"
    paths = [write(folder / f"{name}.json", own) for name, own in zip(names, found, strict=False)]
    return Page(write_review(folder / "page.html", read_runs(paths), resamples=50, **options))


def heat(*, at: tuple[int, int] = (1, 2), phrase: str = "mass", boxes: Any = ((0.5, 0.25, 0.75, 0.5),)) -> GalleryItem:
    hot = np.zeros((4, 4), dtype=np.float32)
    hot[at] = 1.0
    image = np.full((8, 8, 3), 90, dtype=np.uint8)
    return GalleryItem(image, hot, phrase, f"A {phrase}.", "ct", boxes, hit=at == (1, 2))


def test_the_page_requests_nothing_and_runs_nothing(tmp_path: Path):
    page = review(tmp_path, evaluation(), evaluation(better=0.1), galleries={"first": [heat()]})
    assert page.seen.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "audio", "video", "form"})
    assert page.handlers == []
    assert all(value.startswith(("#", "data:image/png;base64,")) for _, value in page.loads)
    assert re.search(r"https?://|url\(|@import", page.source) is None


def test_one_run_has_every_section(tmp_path: Path):
    runs = read_runs([write_run(tmp_path / "demo", evaluation())])
    page = Page(write_review(tmp_path / "page.html", runs, galleries={"demo": [heat()]}))
    anchors = [value[1:] for name, value in page.loads if name == "a"]
    assert anchors == [
        *("judged", "summary", "modalities", "results", "plots", "subgroups", "routing"),
        *("gallery", "audit", "training", "prompts", "origins"),
    ]
    assert all(f'id="{anchor}"' in page.source for anchor in anchors)


def test_the_first_lines_say_what_was_judged_and_warn(tmp_path: Path):
    page = review(tmp_path, evaluation(warnings=["the test set shares 2 patients with training"]))
    assert page.says("first judged on data/test, split test, 40 images.")
    assert page.text.index("1 warning") < page.text.index("What was judged")
    assert page.says("The test set shares 2 patients with training")


def test_a_run_without_anything_wrong_warns_of_nothing(tmp_path: Path):
    page = review(tmp_path, evaluation())
    assert page.says("No warning from what was checked.")
    assert page.says("first: 1 of 8 figures come from fewer than 20 items")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"audit": {"shared_patients": 3}}, "the test set isn’t apart from training: shared patients: 3."),
        ({"routing": {"outside": {"thermography": 4}}}, "thermography (4 images)"),
        ({"zeroshot_classification": {"missing_prompts": ["oedema"]}}, "the prompts have no wording for oedema"),
        ({"audit": None}, "Not checked whether training and test share patients"),
    ],
)
def test_what_is_wrong_with_the_test_is_told_first(tmp_path: Path, change: dict[str, Any], said: str):
    found = evaluation()
    found["details"] |= change
    assert said.lower() in review(tmp_path, found).text.split("What was judged")[0].lower()


def test_skipped_samples_and_missing_facts_are_told(tmp_path: Path):
    page = review(tmp_path, evaluation(skipped=2, preprocess_fingerprint=None, git_commit=None))
    assert page.says("2 bad samples were skipped; 40 were judged.")
    assert page.says("Not told how the images were preprocessed")
    assert page.says("Not told which commit made the figures")


def test_an_evaluation_without_figures_warns(tmp_path: Path):
    page = review(tmp_path, {"tasks": {}, "details": {}, "about": {}})
    assert page.says("No figure was computed.")


def test_a_checkpoint_with_other_preprocessing_warns(tmp_path: Path):
    runs = read_runs([write_run(tmp_path / "demo", evaluation(), preprocess="other")])
    page = Page(write_review(tmp_path / "page.html", runs))
    assert page.says("Judged with other preprocessing (abc) than the run’s model declares (other).")


def test_judging_on_the_training_data_warns(tmp_path: Path):
    found = evaluation(split="all")
    runs = read_runs([write_run(tmp_path / "demo", found, train_data="data/test/")])
    assert Page(write_review(tmp_path / "page.html", runs)).says("the data that it was trained on")


def test_different_data_refuse_the_comparison_with_the_reason(tmp_path: Path):
    page = review(tmp_path, evaluation(), evaluation(split="val"))
    assert page.says("B · second against A · first: no differences are given: different split (test and val).")
    assert page.says("A first judged on data/test, split test, 40 images; B second judged on data/test, split val")
    assert not page.says("paired, p")


def test_runs_with_other_preprocessing_warn_and_name_the_step(tmp_path: Path):
    other = evaluation(preprocess_fingerprint="def")
    page = review(tmp_path, evaluation(), other)
    assert page.says("different preprocessing (abc and def).")
    ours, theirs = (declare(Preprocess(size)) for size in (16, 24))
    page = review(tmp_path, evaluation(preprocess=ours), evaluation(preprocess=theirs))
    assert page.says("different preprocessing (step 'resize': longest_side 16 and 24; step 'pad': side 16 and 24).")


def test_other_seeds_prompts_and_tasks_warn(tmp_path: Path):
    other = evaluation(seed=1)
    other["details"]["zeroshot_classification"]["prompts"] = "beef"
    del other["tasks"]["routing"]
    page = review(tmp_path, evaluation(), other)
    assert page.says("different seeds of bootstrap and shuffles (0 and 1).")
    assert page.says("different prompts in zeroshot_classification (cafe and beef).")
    assert page.says("only one of the two was judged on routing.")


def test_two_runs_stand_side_by_side_with_paired_and_unpaired_differences(tmp_path: Path):
    page = review(tmp_path, evaluation(), evaluation(better=0.1))
    assert page.says("B − A: +0.400 [")
    assert page.says("paired, p < 0.001 (Holm 0.001)")
    assert page.says("unpaired: no outcomes item by item in the files")
    assert page.says("A · first")


def test_less_is_better_of_a_rank(tmp_path: Path):
    other = evaluation(better=1.0)
    page = review(tmp_path, evaluation(), other)
    assert '<b class="good">−1.000</b>' in page.source
    assert '<b class="bad">+1.000</b>' in review(tmp_path, other, evaluation()).source


def test_three_runs_are_compared_with_the_first(tmp_path: Path):
    page = review(tmp_path, evaluation(), evaluation(better=0.1), evaluation())
    assert page.says("B − A: ")
    assert page.says("C − A: 0.000")


def test_too_many_runs_are_refused(tmp_path: Path):
    runs = read_runs([write(tmp_path / f"{place}.json", evaluation()) for place in range(9)])
    with pytest.raises(ConfigError, match="1 to 8"):
        write_review(tmp_path / "page.html", runs)


def test_a_figure_of_few_items_is_greyed(tmp_path: Path):
    page = review(tmp_path, evaluation())
    assert page.says("n 12: n too small")
    assert '<td class="few">' in page.source
    assert not review(tmp_path, evaluation(), minimum=0).says("n too small")


def test_an_undefined_figure_is_said_to_be(tmp_path: Path):
    page = review(tmp_path, evaluation())
    assert "<b>undefined</b>" in page.source
    assert re.search(r"\b(nan|inf|None|null)\b", page.text) is None


def test_every_control_is_shown_with_its_interval(tmp_path: Path):
    page = review(tmp_path, evaluation())
    assert page.says("chance 0.100 · shuffled 0.100 (0.050 to 0.200)")
    assert page.says("raw pixels 0.600 · random weights 0.650")
    assert page.says("prompt prior 0.500")


def test_points_are_drawn_where_there_are_some(tmp_path: Path):
    page = review(tmp_path, evaluation())
    for words in ("mass area 0.750", "Precision and recall", "Reliability", "Noise, zeroshot", "mean"):
        assert page.says(words)
    assert 'class="diagonal"' in page.source
    assert page.source.count('class="flow ') >= 5  # two of them to the wrong expert


def test_of_several_runs_each_line_has_its_chart(tmp_path: Path):
    page = review(tmp_path, evaluation(), evaluation())
    assert page.says("ROC, mass")
    assert page.says("A area 0.750")
    assert page.says("Noise, zeroshot, mean")
    assert not page.says("Noise, zeroshot, ct")


def test_subgroups_audit_prompts_and_commands_are_there(tmp_path: Path):
    page = review(tmp_path, evaluation())
    for words in (
        *("Zero-shot classification, AUROC by sex", "female", "largest gap", "Nothing shared was found"),
        *("near duplicates", "phantom findings", "medmoe eval runs/a --data data/test", "torch 2.9", "f00"),
    ):
        assert page.says(words)


def test_a_leak_is_marked_in_the_audit(tmp_path: Path):
    found = evaluation()
    found["details"]["audit"] = {"identical_images": 2, "examples": ["a = b"]}
    assert review(tmp_path, found).says("Training and test share something.")


def test_logs_of_several_runs_lie_on_top_of_each_other(tmp_path: Path):
    runs = read_runs([write_run(tmp_path / name, evaluation()) for name in ("a", "b")])
    page = Page(write_review(tmp_path / "page.html", runs))
    assert page.says("Validation loss")
    assert page.says("medmoe train tiny")


def test_heatmaps_are_ranked_by_how_they_fit_their_boxes(tmp_path: Path):
    places = [(1, 2), (0, 0), (1, 2), (3, 3), (1, 2)]
    things = [heat(at=at, phrase=f"thing{place}") for place, at in enumerate(places)]
    shown = re.findall(r"“(thing\d)”</b> <small>(best|worst)", best_and_worst(things, each=2))
    assert shown == [("thing0", "best"), ("thing2", "best"), ("thing1", "worst"), ("thing3", "worst")]
    assert [word for _, word in re.findall(r"“(thing\d)”</b> <small>(best|worst)", best_and_worst(things[:3]))] == [
        *("best", "best", "worst")
    ]


def test_a_small_box_counts_by_the_region_it_lies_in():
    inside = heat(boxes=((0.55, 0.3, 0.6, 0.35),)).fit()
    assert inside is not None
    assert inside > 3
    assert heat(boxes=()).fit() is None
    assert heat(boxes=((0.0, 0.0, 1.0, 1.0),)).fit() is None
    assert "No image" in best_and_worst([heat(boxes=())])


def test_text_from_outside_is_escaped_everywhere(tmp_path: Path):
    found = json.loads(json.dumps(evaluation()).replace("mass", json.dumps(EVIL)[1:-1]))
    found["tasks"][EVIL] = {f"{EVIL}/{EVIL}": figure(0.5)}
    found["about"] |= {EVIL: EVIL, "command": EVIL, "warnings": [EVIL]}
    found["details"]["routing"]["modalities"] = [EVIL, "ct"]
    page = review(tmp_path, found, evaluation(), title=EVIL)
    assert "script" not in page.seen
    assert "<script" in page.text


def test_the_same_runs_make_the_same_page(tmp_path: Path):
    first = review(tmp_path, evaluation(), evaluation(better=0.1)).source
    assert review(tmp_path, evaluation(), evaluation(better=0.1)).source == first


@pytest.mark.parametrize(
    "key", ["roc", "pr", "reliability", "curves", "subgroups", "groups", "items", "image_by_text", "findings", "gate"]
)
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, {"a": 3}, [[1, 2]], {"a": {"b": [None]}}])
def test_details_of_an_odd_form_break_nothing(tmp_path: Path, key: str, value: Any):
    found = evaluation()
    for task in ("routing", "zeroshot_classification"):
        found["details"][task][key] = value
    assert review(tmp_path, found).says("What was judged")
