"""Images of modalities that a model lacks: admitted when asked, and kept out of every figure but the gate's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medmoe.build import build_loader
from medmoe.data.collate import collate
from medmoe.data.preprocess import Preprocess
from medmoe.errors import ConfigError, DataError
from medmoe.evaluate import anew, evaluate, gather
from medmoe.model import MedVLM
from medmoe.tasks.few_shot import FewShot
from medmoe.tasks.foreign import count_foreign, take, without_foreign
from medmoe.tasks.robustness import Robustness
from medmoe.tasks.zero_shot import ZeroShot
from small_runs import Memory, built, micro, phantoms

KNOWN = ("xray", "ct", "mri", "ultrasound")
FOREIGN = ("pathology", "fundus")
ALL = phantoms(72)
OWN = Memory([sample for sample in ALL.samples if sample.modality in KNOWN])


@pytest.fixture(scope="module")
def model() -> MedVLM:
    """Give a model of four modalities that was never trained."""
    return built(source=OWN).eval()


def test_a_foreign_modality_has_no_index_and_keeps_its_name() -> None:
    prepared = [Preprocess(32)(sample) for sample in ALL.samples[:6]]
    batch = collate(prepared, None, modalities=KNOWN, foreign=True)
    assert batch.modality is not None
    expected = [KNOWN.index(s.modality) if s.modality in KNOWN else -1 for s in ALL.samples[:6]]
    assert batch.modality.tolist() == expected
    assert [sample.modality for sample in batch.samples] == [sample.modality for sample in ALL.samples[:6]]


def test_they_are_refused_unless_asked_for_and_in_training_always(model: MedVLM) -> None:
    with pytest.raises(DataError, match="unknown modality 'pathology'; allowed: ct, mri, ultrasound, xray; train with"):
        gather(model, ALL, workers=0)
    with pytest.raises(ConfigError, match="foreign: foreign modalities are for evaluation only"):
        build_loader(ALL, model, micro(), train=True, foreign=True)


@pytest.mark.parametrize("task", ["zeroshot_retrieval", "zeroshot_classification", "grounding", "few_shot"])
def test_every_figure_but_the_gates_is_as_if_they_were_not_there(model: MedVLM, task: str) -> None:
    mixed = gather(model, ALL, workers=0, foreign=True)
    fit = replace(mixed, samples=tuple(replace(s, patient=f"other {s.patient}") for s in mixed.samples))
    rows = [row for row, sample in enumerate(ALL.samples) if sample.modality in KNOWN]
    options = {"resamples": 5, "items": True, "ready": few(task)}
    found = evaluate(model, mixed, [task], fit=fit, **options)
    expected = evaluate(model, take(mixed, rows), [task], fit=take(fit, rows), **options)
    assert found["tasks"] == expected["tasks"]
    assert found["tasks"][task], found["details"]
    told = found["details"][task].pop("foreign")
    assert told == {name: sum(s.modality == name for s in ALL.samples) for name in told}
    assert set(told) == set(FOREIGN)
    assert found["details"] == expected["details"]


def few(task: str) -> dict[str, object]:
    """Give tasks that are content with few images of a class."""
    ready = (ZeroShot(fewest=2), FewShot(fewest=2, shots=(1,)))
    return {own.name: own for own in ready if own.name == task}


def test_robustness_corrupts_known_images_only(model: MedVLM) -> None:
    ready = {"robustness": Robustness(corruptions=("noise",), levels=(3,), fewest_pairs=5)}
    found, expected = (
        evaluate(
            model,
            gather(model, source, workers=0, foreign=True),
            ["robustness"],
            again=anew(model, source, foreign=True),
            ready=ready,
            resamples=5,
        )["tasks"]["robustness"]
        for source in (ALL, OWN)
    )
    assert found
    assert found.keys() == expected.keys()
    for name, figure in found.items():
        assert figure["n"] == expected[name]["n"]
        assert name.rpartition("/")[2] not in FOREIGN


def test_routing_counts_them_as_outside_and_the_gate_as_unknown(model: MedVLM) -> None:
    mixed = gather(model, ALL, workers=0, foreign=True)
    found = evaluate(model, mixed, ["routing", "ood"], again=anew(model, ALL, foreign=True), resamples=5)
    counts = count_foreign(mixed)
    assert found["details"]["routing"]["outside"] == counts
    assert found["tasks"]["routing"]["image_router_accuracy"]["n"] == len(OWN)
    gate = found["details"]["ood"]
    assert gate["unknown"] == {"modalities": sum(counts.values()), "pictures": len(ALL)}
    assert {name: own["images"] for name, own in gate["kinds"]["modalities"]["softmax"].items()} == counts
    assert found["tasks"]["ood"]["modalities_softmax_auroc"]["n"] == len(ALL)


def test_nothing_but_foreign_images_is_skipped_with_the_reason(model: MedVLM) -> None:
    only = Memory([sample for sample in ALL.samples if sample.modality in FOREIGN])
    found = evaluate(model, gather(model, only, workers=0, foreign=True), ["routing", "grounding"], items=True)
    assert found["tasks"] == {"routing": {}, "grounding": {}}
    assert found["details"]["routing"]["skipped"] == "no image has a modality that the model knows"
    assert found["details"]["grounding"]["skipped"] == "every image is of a modality that the model lacks"


def test_kept_evidence_with_foreign_images_is_refused_like_the_images(model: MedVLM, tmp_path: Path) -> None:
    first = gather(model, ALL, workers=0, foreign=True, cache=tmp_path)
    again = gather(model, ALL, workers=0, foreign=True, cache=tmp_path)
    assert torch.equal(first.image_embed, again.image_embed)
    with pytest.raises(DataError, match="unknown modality 'pathology'"):
        gather(model, ALL, workers=0, cache=tmp_path)


def test_taking_rows_takes_them_of_every_field(model: MedVLM) -> None:
    whole = gather(model, OWN, workers=0, candidate_experts=True, controls=True)
    rows = [5, 2, 9]
    part = take(whole, rows)
    assert [s.key for s in part.samples] == [OWN.samples[row].key for row in rows]
    assert whole.candidate_regions is not None
    assert part.candidate_regions is not None
    assert torch.equal(part.candidate_regions, whole.candidate_regions[:, rows])
    for name in ("image_embed", "regions", "image_logits", "has_report", "text_embed", "words", "word_mask"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[rows])
    assert torch.equal(part.text_logits, whole.text_logits[rows])
    assert {name: len(own) for name, own in part.features.items()} == {"raw_pixels": 3, "random_weights": 3}


def test_evidence_without_foreign_images_is_left_as_it_is(model: MedVLM) -> None:
    own = gather(model, OWN, workers=0)
    assert without_foreign(own) is own
    assert count_foreign(own) == {}
