"""The same tasks within each value of a column."""

from dataclasses import replace

import pytest
import torch
from constructed import context, evidence, holding, sample

from medmoe.errors import ConfigError
from medmoe.tasks import evaluate_all
from medmoe.tasks.base import Evidence
from medmoe.tasks.subsets import evaluate_by, rows_by, take


def mixed() -> Evidence:
    """Give 14 X-ray images of one data set, 12 CT images of another, 3 of a third and one of none, interleaved."""
    sources = ["a"] * 14 + ["b"] * 12 + ["c"] * 3 + [None]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist()
    samples = [
        sample(i, f"word{i} here", "ct" if sources[i] == "b" else "xray", source=sources[i], patient=f"p{i // 2}")
        for i in order
    ]
    found = evidence(samples, regions=holding([own.report or "" for own in samples]))
    masks = torch.zeros(30, 64, 64, dtype=torch.bool)
    masks[:, 0, 0] = torch.tensor([i % 2 == 0 for i in order])
    every = torch.arange(6)[:, None, None, None, None] + found.regions[None]
    return replace(found, masks=masks, candidate_regions=every, features={"raw": found.image_embed[:, :3]})


def test_evidence_of_some_images_keeps_every_part_of_them_in_order() -> None:
    whole, rows = mixed(), [5, 0, 29]
    part = take(whole, rows)
    assert [own.key for own in part.samples] == [whole.samples[row].key for row in rows]
    for name in ("image_embed", "regions", "image_logits", "has_report", "text_embed", "words", "word_mask", "masks"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name
    assert part.candidate_regions is not None
    assert whole.candidate_regions is not None
    assert torch.equal(part.candidate_regions, whole.candidate_regions[:, rows])
    assert torch.equal(part.features["raw"], whole.features["raw"][rows])
    assert len(take(whole, [])) == 0


def test_each_value_is_judged_as_if_it_were_alone() -> None:
    whole = mixed()
    found = evaluate_by(whole, context(), ["routing", "zeroshot_retrieval"], "source")
    assert list(found["values"]) == ["a", "b"]
    for value, own in found["values"].items():
        alone = take(whole, [row for row, own in enumerate(whole.samples) if own.source == value])
        assert own["tasks"] == evaluate_all(alone, context(), ["routing", "zeroshot_retrieval"])["tasks"]
    assert found["values"]["a"]["images"] == 14
    assert found["values"]["a"]["patients"] == 7
    assert found["values"]["a"]["tasks"]["zeroshot_retrieval"]["report_to_image_recall@1/xray"]["n"] == 14


def test_values_with_too_few_images_or_none_are_named_with_the_reason() -> None:
    found = evaluate_by(mixed(), context(), ["routing"], "source")
    assert found["left_out"] == {"c": "3 images, fewer than 10", "unknown": "1 images have no value"}
    assert "c" in evaluate_by(mixed(), context(), ["routing"], "source", fewest=3)["values"]


def test_chance_of_routing_one_modality_alone_is_among_all_the_model_knows() -> None:
    own = evaluate_by(mixed(), context(), ["routing"], "source")["values"]["b"]["tasks"]["routing"]
    for name in ("image_router_accuracy", "image_router_accuracy/ct", "image_router_balanced_accuracy"):
        assert own[name]["controls"] == {"chance": pytest.approx(1 / 6)}


def test_a_column_that_samples_lack_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"unknown column .sauce."):
        rows_by(mixed(), "sauce")
