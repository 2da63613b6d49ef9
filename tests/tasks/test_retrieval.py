"""Retrieval with evidence whose right answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from constructed import WIDTH, context, evidence, holding, sample

from medmoe.metrics import hits_at_k
from medmoe.objectives import late_interaction_similarity, word_region_similarity
from medmoe.tasks.base import Evidence
from medmoe.tasks.retrieval import Retrieval
from medmoe.tasks.similarity import local_similarity, of_pairs
from medmoe.types import Sample

DIRECTIONS = ("report_to_image", "image_to_report")


def made(count: int = 12, modalities: tuple[str, ...] = ("xray", "ct"), *, perfect: bool = False) -> Evidence:
    reports = [f"finding{i} in place{i} of {modality}" for modality in modalities for i in range(count)]
    samples = [sample(i, report, modalities[i // count], patient=f"p{i // 2}") for i, report in enumerate(reports)]
    found = evidence(samples)
    return replace(found, image_embed=found.text_embed, regions=holding(reports)) if perfect else found


def test_perfect_embeddings_score_one_in_every_variant_and_direction() -> None:
    metrics = Retrieval().evaluate(made(perfect=True), context()).metrics
    for prefix in ("", "local_", "global_", "overall_", "overall_local_", "overall_global_"):
        for direction in DIRECTIONS:
            found = metrics[f"{prefix}{direction}_recall@1"]
            assert (found.value, found.low, found.high) == (1, 1, 1)
            assert metrics[f"{prefix}{direction}_median_rank"].value == 1


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_constant_or_nan_embeddings_score_nothing(value: float) -> None:
    found = made()
    flat = replace(
        found,
        image_embed=torch.full_like(found.image_embed, value),
        text_embed=torch.full_like(found.text_embed, value),
        regions=torch.full_like(found.regions, value),
        words=torch.full_like(found.words, value),
    )
    metrics = Retrieval().evaluate(flat, context()).metrics
    assert all(metric.value == 0 for name, metric in metrics.items() if "recall" in name)


def test_random_embeddings_lie_at_chance_and_below_the_shuffled_bound() -> None:
    metrics = Retrieval().evaluate(made(count=100, modalities=("mri",)), context()).metrics
    found = metrics["global_report_to_image_recall@10"]
    assert found.controls["chance"] == pytest.approx(0.1)
    assert found.value == pytest.approx(0.1, abs=0.09)
    assert found.controls["shuffled"] == pytest.approx(0.1, abs=0.03)
    assert found.low <= found.value <= found.high
    assert found.controls["shuffled_low"] < found.controls["shuffled"] < found.controls["shuffled_high"]


def test_perfect_embeddings_lie_at_chance_when_pairs_are_shuffled() -> None:
    metrics = Retrieval().evaluate(made(count=100, modalities=("mri",), perfect=True), context()).metrics
    found = metrics["report_to_image_recall@5"]
    assert found.controls["shuffled"] == pytest.approx(0.05, abs=0.02)
    assert found.controls["shuffled_high"] < 0.2


def test_the_name_is_the_mean_over_modalities_and_overall_ranks_all() -> None:
    metrics = Retrieval().evaluate(made(), context()).metrics
    name = "report_to_image_recall@5"
    assert metrics[name].value == pytest.approx((metrics[f"{name}/xray"].value + metrics[f"{name}/ct"].value) / 2)
    assert metrics[name].n == 24
    assert metrics[name].controls["chance"] == pytest.approx(5 / 12)
    assert metrics[f"overall_{name}"].controls["chance"] == pytest.approx(5 / 24)


def test_directions_and_similarities_match_a_plain_computation() -> None:
    found = made(modalities=("xray",))
    metrics = Retrieval().evaluate(found, context()).metrics
    cosine = (found.image_embed @ found.text_embed.T).numpy()
    local = word_region_similarity(found.regions, found.words, found.word_mask).numpy()
    pairs = np.eye(12, dtype=bool)
    for prefix, matrix in (("", 10 * cosine + 10 * local), ("local_", local), ("global_", cosine)):
        assert metrics[f"{prefix}image_to_report_recall@5"].value == hits_at_k(matrix, pairs, 5).mean()
        assert metrics[f"{prefix}report_to_image_recall@5"].value == hits_at_k(matrix.T, pairs, 5).mean()


def test_reports_of_equal_text_count_as_hits_for_each_other() -> None:
    reports = ["Clear  lungs." if i % 2 else "clear lungs." for i in range(5)] + [f"mass{i}" for i in range(5)]
    found = evidence([sample(i, report) for i, report in enumerate(reports)])
    found = replace(found, image_embed=found.text_embed, regions=holding(reports))
    result = Retrieval().evaluate(found, context())
    assert result.metrics["image_to_report_recall@1"].value == 1
    assert result.metrics["image_to_report_recall@1"].controls["chance"] == pytest.approx(1 / 6)
    assert result.metrics["report_to_image_recall@1"].value == 1
    assert result.metrics["report_to_image_recall@1"].controls["chance"] == pytest.approx(0.5 * 0.5 + 0.5 * 0.1)
    assert result.details["candidates"]["xray"] == {"pairs": 10, "distinct_reports": 6, "from_template": 0}


def test_a_template_that_many_images_share_is_one_candidate() -> None:
    reports = ["template"] * 20 + [f"mass{i}" for i in range(10)]
    found = evidence([sample(i, report) for i, report in enumerate(reports)])
    toward = found.text_embed + 2 * found.text_embed[0]  # every image is most like the template
    metrics = Retrieval().evaluate(replace(found, image_embed=toward / toward.norm(dim=1, keepdim=True)), context())
    assert metrics.metrics["global_image_to_report_recall@1"].value == pytest.approx(20 / 30)
    assert metrics.metrics["global_image_to_report_recall@5"].value == 1


def test_images_without_a_report_are_no_candidates() -> None:
    found = made(modalities=("xray",), perfect=True)
    samples = [*found.samples[:-1], replace(found.samples[-1], report=None)]
    present = found.has_report.clone()
    present[-1] = False
    result = Retrieval().evaluate(replace(found, samples=tuple(samples), has_report=present), context())
    assert result.metrics["report_to_image_recall@1"].n == 11


def test_a_small_modality_is_left_out_of_the_mean_and_named() -> None:
    found = evidence([sample(i, f"word{i}", "xray" if i < 10 else "ct") for i in range(13)])
    result = Retrieval().evaluate(found, context())
    assert "report_to_image_recall@5/ct" not in result.metrics
    assert result.details["left_out"] == {"ct": 3}
    assert result.metrics["overall_report_to_image_recall@5"].n == 13


def test_overall_figures_of_many_images_are_of_a_drawn_subset() -> None:
    result = Retrieval(most=15).evaluate(made(), context())
    assert result.details["overall"]["pairs"] == 15
    assert result.metrics["overall_image_to_report_recall@1"].n == 15


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (Retrieval().evaluate(made(), context(seed=3)).metrics for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("count", "reason"), [(0, "no image"), (4, "fewer than 10")])
def test_without_enough_reports_the_task_is_skipped(count: int, reason: str) -> None:
    found = evidence([sample(i, "words" if i < count else None) for i in range(12)])
    result = Retrieval().evaluate(found, context())
    assert not result.metrics
    assert reason in result.details["skipped"]


def test_a_report_without_a_word_is_like_no_image() -> None:
    found = evidence([sample(0, "some words"), sample(1, ".")])
    matrices = of_pairs(found, [0, 1])
    assert np.isnan(matrices["local"][:, 1]).all()
    assert np.isfinite(matrices["local"][:, 0]).all()


def test_blocks_of_images_change_nothing() -> None:
    regions = torch.randn(300, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    words = torch.randn(70, 3, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(70, 3, dtype=torch.bool)
    torch.testing.assert_close(local_similarity(regions, words, mask), word_region_similarity(regions, words, mask))


def test_a_model_without_local_features_is_judged_by_the_global_similarity_alone() -> None:
    whole = replace(made(), image_logits=torch.zeros(24, 0), text_logits=torch.zeros(24, 0))
    found = replace(whole, regions=torch.zeros(24, 0, 1, 1), words=torch.zeros(*whole.words.shape[:2], 0))
    metrics = Retrieval().evaluate(found, context()).metrics
    expected = Retrieval().evaluate(whole, context()).metrics
    assert not [name for name in metrics if "local_" in name]
    for prefix in ("", "overall_"):
        for name in ("report_to_image_recall@5", "image_to_report_median_rank"):
            known = expected[f"{prefix}global_{name}"]
            assert metrics[f"{prefix}{name}"] == metrics[f"{prefix}global_{name}"] == known


def test_a_model_with_local_features_needs_no_router() -> None:
    found = made()
    without = replace(found, image_logits=torch.zeros(24, 0), text_logits=torch.zeros(24, 0))
    assert Retrieval().evaluate(without, context()) == Retrieval().evaluate(found, context())


def test_candidates_can_be_scored_through_their_own_texts_expert():
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(2, 3, 8, 2, 2, generator=generator)  # K = 2 experts, 3 images
    words, mask = torch.randn(3, 4, 8, generator=generator), torch.ones(3, 4, dtype=torch.bool)
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    embed = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=1)
    found = Evidence(
        image_embed=embed,
        regions=regions[0],
        image_logits=logits,
        has_report=torch.ones(3, dtype=torch.bool),
        text_embed=embed,
        words=words,
        word_mask=mask,
        text_logits=logits,
        samples=tuple(Sample(key=str(i), image=np.zeros((0, 0), np.uint8)) for i in range(3)),
        modalities=("xray", "ct"),
        logit_scale=1.0,
        candidate_regions=regions,
    )
    local = torch.from_numpy(of_pairs(found, [0, 1, 2])["local"])
    through = [word_region_similarity(one, words, mask) for one in regions]
    torch.testing.assert_close(local, torch.stack([through[0][:, 0], through[1][:, 1], through[0][:, 2]], dim=1))


def test_the_local_similarity_is_the_models_and_so_is_its_weight():
    texts = ["a nodule here", "an effusion", "nothing"]
    regions = torch.randn(3, WIDTH, 4, 4, generator=torch.Generator().manual_seed(5))
    plain = evidence([sample(i, text) for i, text in enumerate(texts)], regions=regions)
    late = replace(plain, local_similarity="late_interaction")
    assert (plain.local_scale, late.local_scale) == (10, 20)
    for found, compare in ((plain, word_region_similarity), (late, late_interaction_similarity)):
        got = of_pairs(found, [0, 1, 2])
        local = compare(found.regions, found.words.float(), found.word_mask)
        np.testing.assert_allclose(got["local"], local.numpy(), atol=1e-5)
        combined = found.logit_scale * got["global"] + found.local_scale * got["local"]
        np.testing.assert_allclose(got["combined"], combined, atol=1e-4)
