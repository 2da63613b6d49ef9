from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import medmoe
from medmoe.data.sources.manifest import ManifestSource
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import ConfigError, DataError
from medmoe.evaluate import anew, evaluate, gather
from medmoe.model import MedVLM
from medmoe.report.details import items
from medmoe.tasks.outcomes import FIGURES, folded
from medmoe.tasks.zero_shot import ZeroShot
from micro import image_rows, write_manifest


@pytest.fixture(scope="module")
def model(run: Path) -> MedVLM:
    return medmoe.from_pretrained(run)


def test_gathering_keeps_every_sample_in_its_order_whatever_the_batch(model: MedVLM):
    source = PhantomSource(12, size=32, seed=1)
    small = gather(model, source, batch_size=5, workers=0)
    large = gather(model, source, batch_size=64, workers=0)
    keys = [source.facts(index).key for index in range(len(source))]
    assert [sample.key for sample in small.samples] == [sample.key for sample in large.samples] == keys
    torch.testing.assert_close(small.image_embed, large.image_embed)
    torch.testing.assert_close(small.text_embed, large.text_embed)


def test_bad_samples_are_left_out_only_when_asked(model: MedVLM, tmp_path: Path):
    rows = image_rows(tmp_path, 5)
    path = write_manifest(tmp_path, rows)
    (tmp_path / rows[2]["image"]).write_bytes(b"no image")
    source = ManifestSource(path)
    with pytest.raises(DataError, match=r"manifest\.csv:3: image image-3\.jpg: not a readable image"):
        gather(model, source, workers=0)
    evidence = gather(model, source, workers=0, on_bad_sample="skip")
    assert [sample.patient for sample in evidence.samples] == ["p1", "p2", "p4", "p5"]


def test_the_same_seed_gives_the_same_figures(model: MedVLM):
    evidence = gather(model, PhantomSource(72, size=32, seed=2), workers=0)
    first, second = (evaluate(model, evidence, ["zeroshot_retrieval"], seed=5, resamples=20) for _ in range(2))
    other = evaluate(model, evidence, ["zeroshot_retrieval"], seed=6, resamples=20)
    assert first == second
    name = "report_to_image_recall@5"
    one, another = (found["tasks"]["zeroshot_retrieval"][name] for found in (first, other))
    assert one["value"] == another["value"]
    assert one["controls"]["shuffled"] != another["controls"]["shuffled"]


def test_only_the_tasks_asked_for_are_run(model: MedVLM):
    evidence = gather(model, PhantomSource(12, size=32), workers=0)
    assert list(evaluate(model, evidence, ["routing"], resamples=5)["tasks"]) == ["routing"]
    with pytest.raises(ConfigError, match="unknown task 'rooting'"):
        evaluate(model, evidence, ["rooting"])


def test_candidate_experts_keeps_the_regions_through_every_expert(model: MedVLM):
    source = PhantomSource(6, size=32, seed=1)
    plain, every = gather(model, source, workers=0), gather(model, source, workers=0, candidate_experts=True)
    assert plain.candidate_regions is None
    assert every.candidate_regions is not None
    assert every.candidate_regions.shape == (len(model.modalities), *plain.regions.shape)
    chosen = every.image_logits.argmax(dim=1)
    torch.testing.assert_close(every.candidate_regions[chosen, torch.arange(len(chosen))], plain.regions)


def test_a_model_is_run_again_over_changed_images(model: MedVLM):
    source = PhantomSource(6, size=32, seed=1)
    plain = gather(model, source, workers=0)
    again = anew(model, source)
    same = again(lambda index, sample: sample)
    torch.testing.assert_close(same.image_embed, plain.image_embed)
    black = again(lambda index, sample: replace(sample, image=sample.image * 0) if index == 2 else sample)
    differs = (black.image_embed - plain.image_embed).abs().amax(dim=1) > 1e-4
    assert differs.nonzero().flatten().tolist() == [2]
    assert black.samples[2].report == plain.samples[2].report


def test_items_are_judged_by_the_prompts_that_the_task_has(model: MedVLM):
    evidence = gather(model, PhantomSource(120, size=32, seed=2), workers=0)
    shipped = ZeroShot()
    worded = {label: tuple(reversed(texts))[:1] for label, texts in shipped.prompts.findings.items()}
    own = ZeroShot(prompts=replace(shipped.prompts, findings=worded))
    results = evaluate(model, evidence, [own.name], ready={own.name: own}, items=True, resamples=5)
    figure = results["tasks"][own.name]["balanced_accuracy"]["value"]
    kept = items(results["details"][own.name], "balanced_accuracy")
    assert kept is not None
    assert kept.groups is not None
    path = tuple(group.replace("/", "|") for group in kept.groups)
    assert folded(kept.values, path) == pytest.approx(figure, abs=1e-9)
    plain = items(
        evaluate(model, evidence, [own.name], items=True, resamples=5)["details"][own.name], "balanced_accuracy"
    )
    assert plain is not None
    assert not np.array_equal(plain.values, kept.values)


def test_outcomes_of_items_fold_to_the_figures_themselves(model: MedVLM):
    evidence = gather(model, PhantomSource(120, size=32, seed=2), workers=0)
    names = ["routing", "zeroshot_retrieval", "zeroshot_classification", "grounding"]
    results = evaluate(model, evidence, names, items=True, resamples=5)
    assert "items" not in evaluate(model, evidence, ["routing"], resamples=5)["details"]["routing"]
    for task, figure in FIGURES.values():
        kept = items(results["details"][task], figure)
        assert kept is not None
        assert kept.groups is not None
        path = tuple(group.replace("/", "|") for group in kept.groups)
        assert folded(kept.values, path) == pytest.approx(results["tasks"][task][figure]["value"], abs=1e-9)
