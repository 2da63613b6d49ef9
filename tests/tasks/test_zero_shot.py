"""Zero-shot classification with evidence whose right answer is known."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from constructed import context, encode_text, evidence, holding, sample
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch.nn.functional import normalize

from medmoe.errors import ConfigError, DataError
from medmoe.tasks.base import Evidence
from medmoe.tasks.prompts import load_prompts
from medmoe.tasks.zero_shot import ZeroShot, class_sets, ensembles

NAMES = ("nodule", "consolidation", "pneumothorax")


def of_labels(labels: list[tuple[str, ...] | None], modality: str = "xray", source: str | None = "made") -> Evidence:
    samples = [sample(i, None, modality, own, patient=f"p{i}", source=source) for i, own in enumerate(labels)]
    return evidence(samples)


def knowing(labels: list[tuple[str, ...]], modality: str = "xray") -> Evidence:
    """Give images that are what the prompts of their first label say."""
    found = of_labels(list(labels), modality)
    wordings = [load_prompts().of(own[0] if own else "no_finding", modality) for own in labels]
    embed = torch.cat([ensembles(encode_text(own), torch.zeros(len(own), dtype=torch.long), 1) for own in wordings])
    return replace(found, image_embed=embed.float(), regions=holding([own[0] for own in wordings]))


def three(each: int = 8) -> list[tuple[str, ...]]:
    return [(name,) for name in NAMES for _ in range(each)]


def test_images_like_their_prompts_score_one() -> None:
    metrics = ZeroShot().evaluate(knowing(three()), context()).metrics
    for name in ("balanced_accuracy", "accuracy", "auroc", "balanced_accuracy/xray", "auroc/xray"):
        assert (metrics[name].value, metrics[name].low, metrics[name].high) == (1, 1, 1)
    assert metrics["local_balanced_accuracy"].value == 1
    assert metrics["combined_balanced_accuracy"].value == 1


def test_controls_are_chance_majority_and_shuffled_labels() -> None:
    labels = [("nodule",)] * 20 + [("consolidation",)] * 10 + [("pneumothorax",)] * 10
    metrics = ZeroShot().evaluate(knowing(labels), context()).metrics
    balanced = metrics["balanced_accuracy"].controls
    assert balanced["chance"] == balanced["majority"] == pytest.approx(1 / 3)
    assert balanced["shuffled"] == pytest.approx(1 / 3, abs=0.05)
    assert balanced["shuffled"] < balanced["shuffled_high"] < 0.8
    assert metrics["accuracy"].controls["majority"] == pytest.approx(0.5)
    assert metrics["auroc"].controls["shuffled"] == pytest.approx(0.5, abs=0.05)


def test_random_images_lie_at_chance_and_so_do_shuffled_labels() -> None:
    metric = ZeroShot().evaluate(of_labels(list(three(60))), context()).metrics["balanced_accuracy"]
    assert metric.value == pytest.approx(1 / 3, abs=0.12)
    assert metric.value < metric.controls["shuffled_high"]
    assert metric.controls["shuffled_high"] == pytest.approx(1 / 3 + 0.08, abs=0.03)
    assert metric.n == 180


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_constant_or_nan_images_are_at_most_at_chance(value: float) -> None:
    found = of_labels(list(three()))
    flat = replace(
        found, image_embed=torch.full_like(found.image_embed, value), regions=torch.full_like(found.regions, value)
    )
    result = ZeroShot().evaluate(flat, context())
    for name, metric in result.metrics.items():
        if "/" not in name:
            assert metric.value <= metric.controls["chance"] + 1e-9, name
    json.dumps(result.details, allow_nan=False)


def test_classes_are_the_findings_that_stand_alone_often_enough() -> None:
    labels = [("a",)] * 6 + [("b",)] * 5 + [("a", "b")] * 9 + [("c",)] * 4 + [()] * 7
    (own,) = class_sets(of_labels(labels), fewest=5)
    assert own.names == ("a", "b")
    assert own.dropped == {"c": 4}
    assert (own.true >= 0).sum() == 11
    assert own.findings == ("a", "b")


def test_a_general_label_gives_way_to_the_finer_ones_it_comes_with() -> None:
    labels = [("normal",)] * 20 + [("pneumonia", "bacterial")] * 9 + [("pneumonia", "viral")] * 8
    (own,) = class_sets(of_labels(labels), fewest=5)
    assert own.names == ("bacterial", "normal", "viral")
    assert own.dropped == {"pneumonia": 17}
    assert own.findings == ("bacterial", "normal", "pneumonia", "viral")


def test_a_rare_companion_does_not_remove_its_finding() -> None:
    labels = [("covid",)] * 20 + [("covid", "ards")] * 8 + [("klebsiella",)] * 6
    (own,) = class_sets(of_labels(labels), fewest=5)
    assert own.names == ("covid", "klebsiella")
    assert (own.true >= 0).all()


def test_no_finding_is_a_class_only_where_every_image_has_one_answer() -> None:
    single = [("a",)] * 5 + [("b",)] * 5 + [()] * 6
    (own,) = class_sets(of_labels(single), fewest=5)
    assert own.names == ("a", "b", "no_finding")
    assert (own.true == 2).sum() == 6
    (several,) = class_sets(of_labels([*single, ("a", "b")]), fewest=5)
    assert several.names == ("a", "b")


def test_images_that_nobody_annotated_are_left_out() -> None:
    (own,) = class_sets(of_labels([("a",)] * 5 + [None] * 5 + [("b",)] * 5), fewest=5)
    assert len(own.rows) == 10


def test_sets_are_averaged_within_a_modality_and_named_where_there_are_several() -> None:
    one, two = knowing(three()), of_labels(list(three()), source=None)
    mri = knowing([("glioma",)] * 6 + [("meningioma",)] * 6, "mri")
    samples = (*one.samples, *two.samples, *mri.samples)
    joined = replace(
        evidence(samples),
        image_embed=torch.cat([one.image_embed, -one.image_embed, mri.image_embed]),
    )
    metrics = ZeroShot().evaluate(joined, context()).metrics
    assert metrics["accuracy/xray/made"].value == 1
    assert metrics["accuracy/xray/unnamed"].value < 0.1
    within = metrics["accuracy/xray/unnamed"].value
    assert metrics["accuracy/xray"].value == pytest.approx((1 + within) / 2)
    assert metrics["accuracy"].value == pytest.approx((metrics["accuracy/xray"].value + 1) / 2)
    assert not any(name.startswith("accuracy/mri/") for name in metrics)


def test_details_tell_classes_prompts_and_confusion() -> None:
    details = ZeroShot().evaluate(knowing([*three(), ("rarely",)]), context()).details
    (group,) = details["groups"]
    assert details["prompts"] == load_prompts().fingerprint
    assert group["classes"] == {"consolidation": 8, "nodule": 8, "pneumothorax": 8}
    assert group["dropped"] == {"rarely": 1}
    assert group["confusion"] == [[8, 0, 0], [0, 8, 0], [0, 0, 8]]
    assert group["origins"]["nodule"].startswith("phantom")


def test_two_findings_always_together_have_an_auroc_against_the_rest_but_no_classes() -> None:
    found = ZeroShot().evaluate(of_labels([("a", "b")] * 6 + [()] * 2 + [("a",)] * 4), context())
    assert "auroc" in found.metrics
    assert "balanced_accuracy" not in found.metrics


def test_one_label_for_all_is_no_question_and_the_task_is_skipped() -> None:
    result = ZeroShot().evaluate(of_labels([("cardiac_echo",)] * 20, "ultrasound"), context())
    assert not result.metrics
    assert "two findings" in result.details["skipped"]
    assert result.details["left_out"] == [{"source": "made", "modality": "ultrasound", "images": 20}]


def test_ensembles_average_unit_vectors_and_come_out_at_unit_length() -> None:
    text = encode_text(["one", "two", "three"])
    text = replace(text, embed=text.embed * torch.tensor([[1.0], [5.0], [2.0]]))
    made = ensembles(text, torch.tensor([0, 0, 1]), 2)
    unit = torch.nn.functional.normalize(text.embed.double(), dim=1)
    torch.testing.assert_close(made[0], torch.nn.functional.normalize(unit[0] + unit[1], dim=0))
    torch.testing.assert_close(made.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (ZeroShot().evaluate(of_labels(list(three())), context(seed=2)).metrics for _ in range(2))
    assert first == second


@cache
def worded(name: str) -> torch.Tensor:
    own = load_prompts().of(name, "xray")
    return ensembles(encode_text(own), torch.zeros(len(own), dtype=torch.long), 1)[0]


def noisy(kinds: list[tuple[str, ...]], *, first: int, noise: float = 3.0) -> Evidence:
    """Give images that are a little like the prompts of all of their labels."""
    samples = [sample(first + i, None, "xray", own, patient=f"p{first + i}") for i, own in enumerate(kinds)]
    found = evidence(samples, seed=first)
    clean = torch.stack([torch.stack([worded(name) for name in own or ("no_finding",)]).sum(dim=0) for own in kinds])
    return replace(found, image_embed=normalize(clean + noise * found.image_embed.double(), dim=1).float())


SEVERAL: list[tuple[str, ...]] = [("stone",), ("mass",), ("stone", "mass"), ()]


def probabilities(found: Evidence) -> np.ndarray:
    names = ("mass", "stone", "no_finding")
    text = torch.stack([worded(name) for name in names])
    return torch.softmax(10.0 * found.image_embed.double() @ text.T, dim=1)[:, :2].numpy()


def test_average_precision_and_auroc_are_those_of_scikit_learn() -> None:
    judged = noisy(SEVERAL * 12, first=0)
    metrics = ZeroShot().evaluate(judged, context()).metrics
    truth = np.array([["mass" in own, "stone" in own] for own in SEVERAL * 12])
    scores = probabilities(judged)
    assert 0.55 < metrics["auroc"].value < 0.99
    assert metrics["auroc"].value == pytest.approx(roc_auc_score(truth, scores, average="macro"), abs=1e-9)
    assert metrics["ap"].value == pytest.approx(average_precision_score(truth, scores, average="macro"), abs=1e-9)
    assert metrics["ap"].controls["majority"] == metrics["ap"].controls["prompt_prior"] == 0.5
    assert metrics["ap"].controls["chance"] == pytest.approx(metrics["ap"].controls["shuffled"], abs=0.02)
    assert "f1" not in metrics


def test_f1_is_at_the_threshold_that_validation_chose() -> None:
    judged, tune = noisy(SEVERAL * 12, first=0), noisy(SEVERAL * 15, first=1000)
    result = ZeroShot().evaluate(judged, replace(context(), tune=tune))
    (group,) = result.details["groups"]
    tuned, shown = probabilities(tune), np.array([["mass" in own, "stone" in own] for own in SEVERAL * 15])
    expected = []
    for column, name in enumerate(("mass", "stone")):
        threshold = group["thresholds"][name]
        best = max(f1_score(shown[:, column], tuned[:, column] >= value) for value in tuned[:, column])
        assert f1_score(shown[:, column], tuned[:, column] >= threshold) == pytest.approx(best)
        truth = np.array([name in own for own in SEVERAL * 12])
        expected.append(f1_score(truth, probabilities(judged)[:, column] >= threshold))
    assert result.metrics["f1"].value == pytest.approx(np.mean(expected), abs=1e-9)
    assert result.metrics["f1"].controls["chance"] == pytest.approx(2 / 3)
    turned = replace(judged, image_embed=-judged.image_embed)
    other = ZeroShot().evaluate(turned, replace(context(), tune=tune))
    assert other.details["groups"][0]["thresholds"] == group["thresholds"]


def test_a_finding_that_validation_never_shows_has_no_threshold() -> None:
    judged = noisy(SEVERAL * 12, first=0)
    tune = noisy([("stone",), ()] * 15, first=1000)
    result = ZeroShot().evaluate(judged, replace(context(), tune=tune))
    assert list(result.details["groups"][0]["thresholds"]) == ["stone"]
    assert result.metrics["f1"].controls["chance"] == pytest.approx(2 / 3)
    elsewhere = replace(context(), tune=of_labels([("stone",), ()] * 4, source="another"))
    nowhere = ZeroShot().evaluate(judged, elsewhere)
    assert nowhere.details["groups"][0]["thresholds"] == {}
    assert "f1" not in nowhere.metrics


def test_validation_patients_among_the_evaluated_are_an_error_but_training_ones_are_not_read() -> None:
    judged = noisy(SEVERAL * 3, first=0)
    with pytest.raises(DataError, match="12 patients of the validation split"):
        ZeroShot().evaluate(judged, replace(context(), tune=judged))
    assert ZeroShot().evaluate(judged, replace(context(), fit=judged)).metrics


def test_the_prompt_prior_is_the_class_that_the_mean_image_is_most_like() -> None:
    labels = [("nodule",)] * 20 + [("consolidation",)] * 5 + [("pneumothorax",)] * 5
    result = ZeroShot().evaluate(knowing(labels), context())
    assert result.details["groups"][0]["prompt_prior"] == "nodule"
    assert result.metrics["accuracy"].controls["prompt_prior"] == pytest.approx(20 / 30)
    assert result.metrics["balanced_accuracy"].controls["prompt_prior"] == pytest.approx(1 / 3)
    assert result.metrics["auroc"].controls["prompt_prior"] == 0.5


def own_prompts(folder: Path, findings: dict[str, list[str]], **more: object) -> ZeroShot:
    path = folder / "own.json"
    path.write_text(json.dumps({"groups": [{"origin": "me", "findings": findings, **more}]}), encoding="utf-8")
    return ZeroShot(prompts=load_prompts(path))


def test_a_class_that_prompts_lack_is_left_out_and_chance_counts_the_others(tmp_path: Path) -> None:
    task = own_prompts(tmp_path, {name: [name] for name in NAMES if name != "nodule"})
    result = task.evaluate(of_labels(list(three())), context())
    assert result.details["without_prompts"] == [{"source": "made", "modality": "xray", "classes": {"nodule": 8}}]
    (group,) = result.details["groups"]
    assert list(group["classes"]) == ["consolidation", "pneumothorax"]
    assert result.metrics["balanced_accuracy"].n == 16
    assert result.metrics["balanced_accuracy"].controls["chance"] == 0.5


def test_a_prompt_file_that_leaves_nothing_to_tell_apart_stops_with_what_is_missing(tmp_path: Path) -> None:
    task = own_prompts(tmp_path, {"nodule": ["a nodule"]})
    with pytest.raises(ConfigError, match=r"own\.json: no wordings for consolidation, pneumothorax, no_finding of"):
        task.evaluate(of_labels(list(three())), context())


def test_two_findings_need_no_wording_of_their_absence_and_one_does(tmp_path: Path) -> None:
    task = own_prompts(tmp_path, {name: [name] for name in NAMES}, sources=["made"])
    result = task.evaluate(of_labels(list(three())), context())
    (group,) = result.details["groups"]
    assert list(group["prompts"]) == ["consolidation", "nodule", "pneumothorax"]
    assert set(group["origins"].values()) == {"me"}
    assert result.details["prompts"] == task.prompts.fingerprint
    with pytest.raises(ConfigError, match="no wordings for no_finding"):
        task.evaluate(of_labels([("nodule",)] * 8 + [()] * 8), context())
