"""Word heatmaps against boxes, with features planted where they belong."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import WIDTH, code, context, evidence, sample

from medmoe.tasks.base import Evidence
from medmoe.tasks.grounding import Grounding, _other_images, find_items, heatmaps, size_of
from medmoe.tasks.heatmaps import (
    SIDE,
    attention_heatmaps,
    contrast_to_noise,
    dot_heatmaps,
    inside,
    late_heatmaps,
    peaks,
    rescaled,
    standardised,
    upsample,
)
from medmoe.types import Box

GRID = 8
REPORT = "there is a nodule here"


def cell_box(label: str, column: int, row: int, phrase: str | None = None) -> Box:
    return Box(label, column / GRID, row / GRID, (column + 1) / GRID, (row + 1) / GRID, phrase)


def planted(count: int = 12, *, modality: str = "xray", right: bool = True) -> Evidence:
    """Give images whose region at the box (or far from it) holds the word."""
    rng = np.random.default_rng(0)
    regions = 0.01 * torch.randn(count, WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(0))
    samples = []
    for i in range(count):
        column, row = (int(v) for v in rng.integers(0, GRID, 2))
        at = (column, row) if right else ((column + 4) % GRID, (row + 4) % GRID)
        regions[i, :, at[1], at[0]] += 5 * code("nodule")
        samples.append(sample(i, REPORT, modality, boxes=(cell_box("nodule", column, row),), patient=f"p{i // 2}"))
    return evidence(samples, regions=regions)


def test_a_planted_word_is_pointed_at_in_every_reading() -> None:
    metrics = Grounding().evaluate(planted(), context()).metrics
    for reading in ("", "attention_", "prompt_"):
        assert metrics[f"{reading}pointing"].value == 1
        assert metrics[f"{reading}pointing/xray"].n == 12
        assert metrics[f"{reading}contrast"].value > 1


def test_a_word_planted_elsewhere_never_hits_and_has_negative_contrast() -> None:
    metrics = Grounding().evaluate(planted(right=False), context()).metrics
    assert metrics["pointing"].value == 0
    assert metrics["contrast"].value < 0


def test_controls_are_the_dilated_area_the_centre_and_other_images() -> None:
    controls = Grounding().evaluate(planted(40), context()).metrics["pointing"].controls
    margin = 0.5 / GRID
    boxes = [item.boxes for item in find_items(planted(40), context())[0]]
    areas = [
        np.prod([min(own[0, side + 2] + margin, 1) - max(own[0, side] - margin, 0) for side in (0, 1)]) for own in boxes
    ]
    assert controls["chance"] == pytest.approx(np.mean(areas), abs=0.002)
    assert controls["shuffled"] == pytest.approx(controls["chance"], abs=0.04)
    assert controls["shuffled"] < controls["shuffled_high"] < 0.3
    assert 0 <= controls["centre"] < 0.3


def test_random_heatmaps_lie_within_the_shuffled_bounds() -> None:
    found = planted(60)
    noise = torch.randn(found.regions.shape, generator=torch.Generator().manual_seed(5))
    metric = Grounding().evaluate(replace(found, regions=noise), context()).metrics["pointing"]
    assert metric.controls["shuffled_low"] <= metric.value <= metric.controls["shuffled_high"]


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), float("inf")])
def test_flat_or_nan_heatmaps_miss_at_no_contrast(value: float) -> None:
    found = planted()
    flat = replace(found, regions=torch.full_like(found.regions, value))
    for name, metric in Grounding().evaluate(flat, replace(context(), tune=planted())).metrics.items():
        assert metric.value == (0.5 if "auroc" in name else 0), name


def test_figures_are_averaged_over_modalities() -> None:
    good, bad = planted(4), planted(8, modality="ct", right=False)
    joined = evidence([*good.samples, *bad.samples], regions=torch.cat([good.regions, bad.regions]))
    metrics = Grounding().evaluate(joined, context()).metrics
    assert metrics["pointing/xray"].value == 1
    assert metrics["pointing/ct"].value == 0
    assert metrics["pointing"].value == 0.5
    assert metrics["pointing"].n == 12


def test_a_finding_with_several_boxes_counts_once_and_any_of_them_is_a_hit() -> None:
    regions = 0.01 * torch.ones(1, WIDTH, GRID, GRID)
    regions[0, :, 6, 6] += 5 * code("nodule")
    boxes = (cell_box("nodule", 0, 0), cell_box("nodule", 6, 6))
    result = Grounding().evaluate(evidence([sample(0, REPORT, boxes=boxes)], regions=regions), context())
    assert result.metrics["pointing"].value == 1
    assert result.metrics["pointing"].n == 1


def test_the_phrase_of_a_box_is_looked_for_before_its_label() -> None:
    boxes = (cell_box("effusion", 0, 0, "fluid here"), cell_box("nodule", 1, 1), cell_box("free_air", 2, 2))
    report = "there is fluid here and a nodule and free air"
    items, left_out = find_items(evidence([sample(0, report, boxes=boxes)]), context())
    assert [(item.phrase, item.words) for item in items] == [
        ("fluid here", (2, 3)),
        ("nodule", (6,)),
        ("free air", (8, 9)),
    ]
    assert left_out == {}


def test_what_the_report_does_not_name_is_counted() -> None:
    boxes = (cell_box("nodule", 0, 0), cell_box("mass", 1, 1))
    samples = [sample(0, REPORT, boxes=boxes), sample(1, None, boxes=boxes), sample(2, REPORT, boxes=())]
    result = Grounding().evaluate(evidence(samples), context())
    assert result.details["left_out"] == {"findings not named in the report": 1, "images without a report": 1}
    assert result.details["findings"] == {"xray/nodule": 1}
    assert "shuffled" not in result.metrics["pointing"].controls


def test_words_cut_off_from_a_long_report_are_not_asked_for() -> None:
    found = planted(2)
    cut = replace(found, word_mask=found.word_mask & (torch.arange(5) < 3), words=found.words)
    result = Grounding().evaluate(cut, context())
    assert not result.metrics
    assert result.details["left_out"] == {"findings not named in the report": 2}


def test_images_of_unknown_modality_are_a_group_of_their_own() -> None:
    found = planted(3)
    nameless = replace(found, samples=tuple(replace(own, modality=None) for own in found.samples))
    result = Grounding().evaluate(nameless, context())
    assert result.metrics["pointing/unknown"].n == 3
    json.dumps(result.details)


def test_without_boxes_the_task_is_skipped() -> None:
    result = Grounding().evaluate(evidence([sample(0, REPORT)]), context())
    assert not result.metrics
    assert "boxes" in result.details["skipped"]


def test_attention_matches_a_loop_from_the_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    regions, words = torch.randn(5, 3, 3, generator=generator), torch.randn(6, 5, generator=generator)
    mask = torch.tensor([True, True, False, True, True, False])
    real = [i for i in range(6) if mask[i]]
    expected = torch.zeros(9)
    flat = regions.flatten(1)
    for word in (1, 3):
        share = torch.zeros(9)
        for region in range(9):
            total = sum(torch.exp(words[other] @ flat[:, region]) for other in real)
            share[region] = torch.exp(words[word] @ flat[:, region]) / total
        expected += torch.exp(4 * share) / torch.exp(4 * share).sum()
    chosen = torch.tensor([False, True, False, True, False, False])
    found = attention_heatmaps(regions[None], words[None], mask[None], chosen[None])
    torch.testing.assert_close(found[0], expected.view(3, 3))


def test_dot_heatmaps_keep_rows_and_columns_apart() -> None:
    regions = torch.zeros(2, 4, 4)
    regions[:, 1, 3] = torch.tensor([2.0, 1.0])
    heat = dot_heatmaps(regions[None], torch.tensor([[3.0, 1.0]]))
    assert heat[0, 1, 3] == 7
    x, y = peaks(upsample(heat), 4)[0]
    assert (x, y) == pytest.approx((3.5 / 4, 1.5 / 4))


def test_level_maxima_point_at_their_middle_and_flat_maps_nowhere() -> None:
    maps = np.zeros((2, SIDE, SIDE))
    maps[0, 10:14, 20:24] = 1
    points = peaks(maps, SIDE)
    assert points[0] == pytest.approx((22 / SIDE, 12 / SIDE))
    assert np.isnan(points[1]).all()


def test_a_map_flat_but_for_rounding_is_flat() -> None:
    heat = upsample(torch.full((1, 5, 5), 0.1) + 1e-9 * torch.randn(1, 5, 5))
    assert np.isnan(peaks(heat, 5)).all()
    assert not standardised(heat).any()


def test_inside_marks_the_union_of_dilated_boxes() -> None:
    boxes = np.array([[0.0, 0.0, 0.25, 0.5], [0.5, 0.5, 0.75, 1.0]])
    assert inside(boxes, 0.0).mean() == pytest.approx(0.25)
    assert inside(boxes, 0.125).mean() == pytest.approx(0.375 * 0.625 + 0.5 * 0.625)


def test_a_box_smaller_than_a_point_still_has_a_contrast() -> None:
    regions = torch.zeros(1, WIDTH, GRID, GRID)
    regions[0, :, 2, 2] = code("nodule")
    tiny = Box("nodule", 0.3126, 0.3126, 0.3127, 0.3127)
    result = Grounding().evaluate(evidence([sample(0, REPORT, boxes=(tiny,))], regions=regions), context())
    assert result.metrics["pointing"].value == 1
    assert result.metrics["contrast"].value > 1


def test_a_box_over_the_whole_image_has_no_contrast() -> None:
    found = planted(2)
    whole = tuple(replace(own, boxes=(Box("nodule", 0.0, 0.0, 1.0, 1.0),)) for own in found.samples)
    assert Grounding().evaluate(replace(found, samples=whole), context()).metrics["contrast"].value == 0


def test_shuffled_heatmaps_never_come_from_the_same_image() -> None:
    rows = [3, 3, 4, 7, 7, 7]
    orders = _other_images(rows, 50, np.random.default_rng(0))
    assert all(rows[other] != rows[item] for order in orders for item, other in enumerate(order))
    assert _other_images([3, 3], 5, np.random.default_rng(0)) == []


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (Grounding().evaluate(planted(), context(seed=4)).metrics for _ in range(2))
    assert first == second


def random_maps(count: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Give heatmaps, one of them with ties, and as many marked areas."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(count, SIDE, SIDE))
    maps[0] = np.round(maps[0])
    target = np.stack([inside(np.sort(rng.random((2, 2, 2)), axis=1).reshape(2, 4), 0.0) for _ in range(count)])
    return maps, target


def test_contrast_to_noise_is_its_formula_whatever_the_scale() -> None:
    maps, target = random_maps()
    found = contrast_to_noise(standardised(maps), target)
    for value, heat, own in zip(found, maps, target, strict=True):
        spread = np.sqrt(heat[own].var() + heat[~own].var())
        assert value == pytest.approx((heat[own].mean() - heat[~own].mean()) / spread, abs=1e-9)
    np.testing.assert_allclose(contrast_to_noise(standardised(7 * maps - 3), target), found, atol=1e-9)


def test_two_level_heatmaps_without_noise_have_no_ratio() -> None:
    target = np.zeros((1, SIDE, SIDE), bool)
    target[0, :9, :9] = True
    assert contrast_to_noise(standardised(target.astype(float)), target).tolist() == [0]


def test_rescaled_maps_run_from_zero_to_one_and_flat_ones_mark_nothing() -> None:
    maps = np.stack([np.arange(SIDE * SIDE, dtype=float).reshape(SIDE, SIDE), np.full((SIDE, SIDE), 3.0)])
    found = rescaled(maps)
    assert (found[0].min(), found[0].max()) == (0, 1)
    assert not found[1].any()


def test_planted_words_lie_over_their_boxes_by_every_measure() -> None:
    metrics = Grounding().evaluate(planted(), replace(context(), tune=planted(8))).metrics
    for reading in ("", "attention_", "prompt_"):
        assert metrics[f"{reading}mask_auroc"].value > 0.95
        assert metrics[f"{reading}mask_auroc"].controls["shuffled"] < 0.7
        assert metrics[f"{reading}cnr"].value > 1
        assert metrics[f"{reading}iou"].value > 0.4 > metrics[f"{reading}iou"].controls["shuffled_high"]
        assert metrics[f"{reading}iou"].controls["chance"] == pytest.approx(1 / 64, abs=0.002)
        assert f"{reading}iou/xray" in metrics


def test_the_threshold_is_the_best_one_for_validation_images_alone() -> None:
    tune = planted(8, modality="ct")
    items, _ = find_items(tune, context())
    target = np.stack([inside(item.boxes, 0.0) for item in items])
    unit = rescaled(heatmaps(items, tune, context())[""])
    means = {}
    for threshold in np.linspace(0.05, 0.95, 19):
        marked = unit >= threshold
        both, either = (marked & target).sum(axis=(1, 2)), (marked | target).sum(axis=(1, 2))
        means[round(float(threshold), 2)] = np.mean(both / either)
    for judged in (planted(), planted(right=False)):
        chosen = Grounding().evaluate(judged, replace(context(), tune=tune)).details["iou"]
        assert chosen["raw"] == pytest.approx(max(means, key=means.__getitem__))
        assert set(chosen) == {"raw", "attention", "prompt"}


def test_without_validation_images_there_is_no_overlap_and_it_is_said_why() -> None:
    nothing = evidence([sample(0, REPORT)])
    for tune, reason in ((None, "no evidence"), (nothing, "no validation image")):
        result = Grounding().evaluate(planted(), replace(context(), tune=tune))
        assert not any("iou" in name for name in result.metrics)
        assert reason in result.details["iou"]["skipped"]


def test_sizes_go_by_the_share_of_the_image_that_boxes_cover() -> None:
    for side, expected in ((0.16, "small"), (0.18, "medium"), (0.29, "medium"), (0.31, "large"), (1.0, "large")):
        assert size_of(np.array([[0.0, 0.0, side, side]])) == expected
    twice = np.array([[0.0, 0.0, 0.16, 0.16]] * 3)
    assert size_of(twice) == "small"
    assert size_of(np.array([[0.0, 0.0, 0.16, 0.16], [0.5, 0.5, 0.66, 0.66]])) == "medium"


def test_figures_of_each_size_are_of_that_size_alone() -> None:
    found = planted(12)
    grown = [
        replace(own, boxes=(Box("nodule", 0.0, 0.0, 1.0, 0.5),)) if i < 5 else own
        for i, own in enumerate(found.samples)
    ]  # fmt: skip
    result = Grounding().evaluate(replace(found, samples=tuple(grown)), context())
    metrics = result.metrics
    assert result.details["sizes"] == {"xray/large": 5, "xray/small": 7}
    assert (metrics["small_pointing"].value, metrics["small_pointing/xray"].n) == (1, 7)
    assert metrics["large_pointing"].n == 5
    total = 7 * metrics["small_mask_auroc"].value + 5 * metrics["large_mask_auroc"].value
    assert metrics["mask_auroc"].value == pytest.approx(total / 12)
    assert not any(name.startswith(("medium_", "small_attention", "small_prompt")) for name in metrics)
    fewer = Grounding(fewest=6).evaluate(replace(found, samples=tuple(grown)), context()).metrics
    assert "large_pointing" not in fewer


def test_without_local_features_the_task_is_skipped() -> None:
    found = planted(3)
    bare = replace(found, regions=torch.zeros(3, 0, 1, 1), words=torch.zeros(3, 5, 0))
    result = Grounding().evaluate(bare, context())
    assert not result.metrics
    assert "local" in result.details["skipped"]


def masked(count: int = 12) -> Evidence:
    """Give images with a mask of a pancreas where the region holds the word, and no boxes."""
    rng = np.random.default_rng(1)
    regions = 0.01 * torch.randn(count, WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    samples = []
    for i in range(count):
        column, row = (int(v) for v in rng.integers(0, GRID, 2))
        regions[i, :, row, column] += 5 * code("pancreas")
        masks[i, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
        made = sample(i, "the pancreas is seen", "ct", labels=("abdomen_pancreas",), source="nih-pancreas-ct")
        samples.append(made)
    return replace(evidence(samples, regions=regions), masks=masks)


def test_a_mask_judges_as_the_box_around_it_does() -> None:
    by_mask = Grounding().evaluate(masked(), context())
    corners = [np.argwhere(mask.numpy()) for mask in masked().masks]
    boxes = [
        Box("pancreas", own[0][1] / SIDE, own[0][0] / SIDE, (own[-1][1] + 1) / SIDE, (own[-1][0] + 1) / SIDE)
        for own in corners
    ]
    boxed = [replace(own, boxes=(box,)) for own, box in zip(masked().samples, boxes, strict=True)]
    by_box = Grounding().evaluate(replace(masked(), samples=tuple(boxed), masks=None), context())
    assert by_mask.details["places"] == {"mask": 12}
    assert by_box.details["places"] == {"boxes": 12}
    assert by_mask.metrics["pointing"].value == by_box.metrics["pointing"].value == 1
    for name, figure in by_mask.metrics.items():
        assert figure.value == pytest.approx(by_box.metrics[name].value), name
        for control in {"chance", "centre"} & set(figure.controls):  # a point on a box's very edge lies in it
            assert figure.controls[control] == pytest.approx(by_box.metrics[name].controls[control]), name


def test_a_mask_of_something_the_report_does_not_name_is_left_out() -> None:
    lungs = [replace(own, source="covid-chestxray") for own in masked().samples]
    result = Grounding().evaluate(replace(masked(), samples=tuple(lungs)), context())
    assert result.metrics == {}
    assert result.details["left_out"] == {"findings not named in the report": 12}
    several = [replace(own, source="mine", labels=("cyst", "pancreas")) for own in masked().samples]
    _, left_out = find_items(replace(masked(), samples=tuple(several)), context())
    assert left_out == {"masks of which nobody says what they show": 12}


def test_boxes_count_before_a_mask_of_the_same_finding() -> None:
    samples = [replace(own, boxes=(cell_box("pancreas", 0, 0),)) for own in masked().samples]
    items, _ = find_items(replace(masked(), samples=tuple(samples)), context())
    assert [item.mask is None for item in items] == [True] * 12


def test_a_box_is_found_by_the_words_that_template_reports_use_for_its_label() -> None:
    items, left_out = find_items(
        evidence([sample(0, "smear showing red blood cells", boxes=(cell_box("RBC", 1, 1),))]), context()
    )
    assert [item.phrase for item in items] == ["red blood cells"]
    assert left_out == {}


def test_late_interaction_is_read_as_each_words_softmax_over_regions():
    draw = torch.Generator().manual_seed(3)
    regions, words = torch.randn(2, 4, 3, 3, generator=draw), torch.randn(2, 5, 4, generator=draw)
    chosen = torch.tensor([[True, False, True, False, False], [False, False, False, True, False]])
    got = late_heatmaps(regions, words, chosen, tau_region=7.0)
    for image in range(2):
        expected = torch.zeros(9)
        for word in chosen[image].nonzero().flatten().tolist():
            cosine = torch.cosine_similarity(regions[image].flatten(1).T, words[image, word][None], dim=1)
            expected += torch.softmax(7.0 * cosine, dim=0)
        torch.testing.assert_close(got[image].flatten(), expected)


def test_the_attention_reading_is_that_of_the_models_local_similarity():
    found, known = replace(planted(), local_similarity="late_interaction"), context()
    late, other = (
        heatmaps(find_items(one, known)[0], one, known) for one in (found, replace(found, local_similarity="attention"))
    )
    assert np.array_equal(late[""], other[""])
    assert not np.allclose(late["attention_"], other["attention_"])
    assert Grounding().evaluate(found, known).metrics["attention_pointing"].value == 1
