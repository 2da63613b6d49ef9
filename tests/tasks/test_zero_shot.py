"""Zero-shot classification with evidence whose right answer is known."""

import json
from dataclasses import replace

import pytest
import torch
from constructed import context, encode_text, evidence, holding, sample

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
