"""Scores of corrupted images against those of the clean ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import context
from pixel_model import LEVEL, counting, images, look, looking

from medmoe.data.corruptions import CORRUPTIONS
from medmoe.errors import ConfigError
from medmoe.tasks.robustness import Corrupted, Robustness, changed, together

SMALL = Robustness(fewest=2, fewest_pairs=4, corruptions=("noise", "window_shift", "vignette"), levels=(1, 5))


def corrupted(samples: list, name: str, level: int, seed: int = 0) -> list:
    return [Corrupted((name,), level, seed)(i, own) for i, own in enumerate(samples)]


def brute_routing(samples: list, modality: str) -> float:
    """Route by the nearest grey level, image by image."""
    right = []
    for own in samples:
        if own.modality == modality:
            nearest = min(LEVEL, key=lambda other: abs(own.image.mean() - LEVEL[other]))
            right.append(nearest == modality)
    return float(np.mean(right))


def test_drops_are_clean_less_the_mean_over_levels() -> None:
    samples = images()
    found = SMALL.evaluate(look(samples), looking(samples))
    for name, modality in (("window_shift", "ct"), ("vignette", "fundus"), ("noise", "xray")):
        at = [brute_routing(corrupted(samples, name, level), modality) for level in (1, 5)]
        metric = found.metrics[f"{name}_routing_mean_drop/{modality}"]
        assert metric.value == pytest.approx(brute_routing(samples, modality) - np.mean(at), abs=1e-12)
        assert metric.n == 8
        curve = found.details["curves"][name]["routing"]["groups"][modality]
        assert curve == {"clean": 1.0, "levels": pytest.approx(at)}
    assert found.metrics["window_shift_routing_mean_drop/ct"].value > 0


def test_zero_shot_and_retrieval_drop_where_the_embedding_does() -> None:
    samples = images()
    found = SMALL.evaluate(look(samples), looking(samples))
    curve = found.details["curves"]["vignette"]
    assert curve["zeroshot"]["groups"]["fundus/made"] == {"clean": 1.0, "levels": [1.0, 0.0]}
    assert curve["zeroshot"]["levels"] == [1.0, 0.0]
    assert curve["retrieval"]["groups"]["fundus"]["clean"] == 1.0
    assert found.metrics["vignette_zeroshot_mean_drop"].value == 0.5
    assert found.metrics["vignette_retrieval_mean_drop"].value > 0


def test_the_mean_is_over_corruptions_and_then_modalities() -> None:
    samples = images()
    metrics = SMALL.evaluate(look(samples), looking(samples)).metrics
    own = {
        "xray": ["noise_routing_mean_drop/xray"],
        "ct": ["noise_routing_mean_drop/ct", "window_shift_routing_mean_drop/ct"],
        "fundus": ["noise_routing_mean_drop/fundus", "vignette_routing_mean_drop/fundus"],
    }
    means = {name: np.mean([metrics[each].value for each in every]) for name, every in own.items()}
    for name, expected in means.items():
        assert metrics[f"routing_mean_drop/{name}"].value == pytest.approx(expected, abs=1e-12)
        assert metrics[f"routing_mean_drop/{name}"].n == 8
    assert metrics["routing_mean_drop"].value == pytest.approx(np.mean(list(means.values())), abs=1e-12)


def test_controls_are_the_clean_score_and_the_way_down_to_chance() -> None:
    samples = images()
    metrics = SMALL.evaluate(look(samples), looking(samples)).metrics
    assert metrics["routing_mean_drop"].controls == pytest.approx({"chance": 0, "clean": 1, "to_chance": 2 / 3})
    assert metrics["zeroshot_mean_drop"].controls == pytest.approx({"chance": 0, "clean": 1, "to_chance": 0.5})
    assert metrics["retrieval_mean_drop"].controls["to_chance"] == pytest.approx(1 - 5 / 8)


def test_the_interval_is_paired_so_that_unchanged_answers_have_none() -> None:
    samples = images()
    wrong = look(samples)
    wrong = replace(wrong, image_logits=wrong.image_logits[torch.randperm(24, generator=torch.Generator())])
    found = SMALL.evaluate(wrong, replace(context(), again=lambda change: wrong))
    for metric in found.metrics.values():
        assert (metric.value, metric.low, metric.high) == (0, 0, 0)
    assert found.metrics["routing_mean_drop"].controls["clean"] < 1


def test_the_interval_of_a_drop_is_that_of_the_differences() -> None:
    samples = images(60)
    bad = look(samples)
    again = replace(bad, image_logits=bad.image_logits.clone())
    again.image_logits[:30:3] = torch.eye(6)[1]  # half of the radiographs go to another expert
    task = replace(SMALL, corruptions=("noise",), levels=(1,))
    metric = task.evaluate(bad, replace(context(resamples=2000), again=lambda _: again)).metrics
    found = metric["noise_routing_mean_drop/xray"]
    assert found.value == 0.5
    # patients of the radiographs own one each: a binomial of 20 trials
    half = 1.96 * np.sqrt(0.25 / 20)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.06)


def test_corruptions_of_different_modalities_share_a_pass() -> None:
    present = ("ct", "ultrasound", "pathology", "fundus")
    groups = together(list(CORRUPTIONS), CORRUPTIONS, present)
    assert sorted(name for group in groups for name in group) == sorted(CORRUPTIONS)
    assert len(groups) == 7
    for group in groups:
        for modality in present:
            assert sum(CORRUPTIONS[name].suits(modality) for name in group) <= 1


def test_sharing_a_pass_changes_nothing() -> None:
    samples = images()
    alone = corrupted(samples, "vignette", 3)
    shared = [Corrupted(("window_shift", "vignette"), 3, 0)(i, own) for i, own in enumerate(samples)]
    for own, other in zip(alone, shared, strict=True):
        assert np.array_equal(own.image, other.image) == (own.modality != "ct")


def test_the_images_are_run_once_for_each_level_of_each_group() -> None:
    samples = images()
    watched, asked = counting(looking(samples))
    details = SMALL.evaluate(look(samples), watched).details
    assert [(change.names, change.level) for change in asked] == [
        (("noise",), 1),
        (("noise",), 5),
        (("window_shift", "vignette"), 1),
        (("window_shift", "vignette"), 5),
    ]
    assert details["passes"] == 4


def test_draws_depend_on_seed_corruption_level_and_place() -> None:
    own = images(1, ("ct",))[0]
    base = Corrupted(("noise",), 3, 0)(0, own).image
    assert np.array_equal(base, Corrupted(("noise",), 3, 0)(0, own).image)
    for other in (Corrupted(("noise",), 3, 1)(0, own), Corrupted(("noise",), 3, 0)(1, own)):
        assert not np.array_equal(base, other.image)


def test_images_of_unknown_modality_get_only_what_suits_all() -> None:
    own = replace(images(1)[0], modality=None)
    assert Corrupted(("stain", "vignette"), 3, 0)(0, own) is own
    assert Corrupted(("blur",), 3, 0)(0, own) is not own


def test_what_suits_no_image_is_named_and_costs_nothing() -> None:
    samples = images(12, ("ct",))
    task = replace(SMALL, corruptions=("stain", "noise"), levels=(2,))
    watched, asked = counting(looking(samples))
    details = task.evaluate(look(samples), watched).details
    assert details["not_applicable"] == ["stain"]
    assert len(asked) == 1
    assert "stain" not in details["curves"]


def test_without_the_images_the_task_is_skipped() -> None:
    found = SMALL.evaluate(look(images()), context())
    assert not found.metrics
    assert "at hand" in found.details["skipped"]


def test_without_a_router_labels_and_reports_it_is_skipped_with_each_reason() -> None:
    samples = [replace(own, labels=None, report=None) for own in images()]
    bare = replace(look(images()), samples=tuple(samples), has_report=torch.zeros(24, dtype=torch.bool))
    bare = replace(bare, image_logits=torch.zeros(24, 0), regions=torch.zeros(24, 0, 1, 1))
    found = SMALL.evaluate(bare, looking(samples))
    assert not found.metrics
    assert set(found.details["left_out"]) == {"routing", "zeroshot", "retrieval"}


def test_a_model_without_router_and_local_features_keeps_its_other_scores() -> None:
    samples = images()

    def strip(found: object) -> object:
        return replace(found, image_logits=torch.zeros(24, 0), regions=torch.zeros(24, 0, 1, 1))

    run = looking(samples).again
    found = SMALL.evaluate(strip(look(samples)), replace(context(), again=lambda change: strip(run(change))))
    assert "zeroshot_mean_drop" in found.metrics
    assert "routing_mean_drop" not in found.metrics
    assert "router" in found.details["left_out"]["routing"]


def test_an_unknown_corruption_is_an_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'blur'"):
        replace(SMALL, corruptions=("blurr",)).evaluate(look(images()), looking(images()))


def test_other_images_than_those_judged_are_an_error() -> None:
    samples = images()
    with pytest.raises(ValueError, match="aren't those"):
        changed(look(samples), looking(samples[::-1]), Corrupted(("noise",), 1, 0))
    with pytest.raises(ValueError, match="at hand"):
        changed(look(samples), context(), Corrupted(("noise",), 1, 0))


def test_retrieval_is_among_at_most_so_many_reports() -> None:
    samples = images(30, ("ct",))
    task = replace(SMALL, corruptions=("noise",), levels=(1,), most_pairs=11)
    assert task.evaluate(look(samples), looking(samples)).metrics["retrieval_mean_drop"].n == 11


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_useless_embeddings_have_nothing_to_lose(value: float) -> None:
    samples = images()
    found = look(samples)
    useless = replace(
        found,
        image_embed=torch.full_like(found.image_embed, value),
        image_logits=torch.full_like(found.image_logits, value),
    )
    metrics = SMALL.evaluate(useless, replace(context(), again=lambda change: useless)).metrics
    assert {metric.value for metric in metrics.values()} == {0.0}


def test_the_same_seed_gives_the_same_bytes() -> None:
    samples = images()
    first, second = (SMALL.evaluate(look(samples), looking(samples, seed=3)) for _ in range(2))
    assert first == second
    json.dumps([{n: m.to_json() for n, m in first.metrics.items()}, first.details], allow_nan=False)
