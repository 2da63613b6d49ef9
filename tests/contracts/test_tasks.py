"""What every row of `TASKS` keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medmoe.metrics import Metric
from medmoe.tasks import TASKS, Context, Evidence
from medmoe.types import Box, Sample, TextEmbedding

MODALITIES = ("xray", "ct")
FINDINGS = ("nodule", "mass")


class Words:
    def words(self, report: str) -> list[str]:
        return report.split()

    def find(self, report: str, phrase: str) -> list[int]:
        return [i for i, word in enumerate(self.words(report)) if word == phrase][:1]


def encode_text(prompts: list[str]) -> TextEmbedding:
    generator = torch.Generator().manual_seed(len(prompts))
    words = torch.randn(len(prompts), 3, 8, generator=generator)
    blank = torch.zeros(len(prompts), 2)
    mask = torch.ones(len(prompts), 3, dtype=torch.bool)
    return TextEmbedding(normalize(words.sum(dim=1), dim=1), words, mask, blank, blank)


def facts(i: int, *, bare: bool, split: str) -> Sample:
    empty = np.zeros((0, 0), dtype=np.uint8)
    if bare:
        return Sample(f"row:{i}", empty)
    label = FINDINGS[i // 2 % 2]
    box = Box(label, 0.1, 0.1, 0.5, 0.4)
    report = f"a {label} number{i}"
    patient = f"{split}{i // 3}"
    return Sample(f"row:{i}", empty, report, modality=MODALITIES[i % 2], labels=(label,), boxes=(box,), patient=patient)


def evidence(*, bare: bool = False, fill: float | None = None, split: str = "test") -> Evidence:
    count, generator = 40, torch.Generator().manual_seed(len(split))

    def random(*shape: int) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=generator)
        return drawn if fill is None else torch.full_like(drawn, fill)

    has_report = torch.full((count,), not bare)
    return Evidence(
        image_embed=normalize(random(count, 8), dim=1),
        regions=random(count, 8, 4, 4),
        image_logits=random(count, 2),
        has_report=has_report,
        text_embed=normalize(random(count, 8), dim=1),
        words=random(count, 3, 8),
        word_mask=has_report[:, None].expand(-1, 3),
        text_logits=random(count, 2),
        samples=tuple(facts(i, bare=bare, split=split) for i in range(count)),
        modalities=MODALITIES,
        logit_scale=5.0,
    )


def context(*, fill: float | None = None) -> Context:
    def again(change: object) -> Evidence:
        return evidence(fill=fill)

    fit, tune = evidence(split="fit"), evidence(split="tune")
    return Context(MODALITIES, encode_text, Words(), seed=1, resamples=50, fit=fit, tune=tune, again=again)


@pytest.fixture(params=sorted(TASKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_task_bears_the_name_of_its_row(name: str) -> None:
    assert TASKS[name].name == name


def test_a_task_gives_metrics_with_intervals_controls_and_modalities(name: str) -> None:
    result = TASKS[name]().evaluate(evidence(), context())
    assert result.metrics
    for metric_name, metric in result.metrics.items():
        assert isinstance(metric, Metric)
        assert metric.n > 0
        assert metric.controls, metric_name
        assert metric.low <= metric.high
        assert metric_name.split("/")[1:2] in ([], ["xray"], ["ct"])
    json.dumps([metric.to_json() for metric in result.metrics.values()], allow_nan=False)
    json.dumps(result.details, allow_nan=False)


def test_a_task_repeats_itself_to_the_last_digit(name: str) -> None:
    first, second = (TASKS[name]().evaluate(evidence(), context()) for _ in range(2))
    assert first == second


def test_a_task_without_its_data_is_skipped_with_a_reason(name: str) -> None:
    result = TASKS[name]().evaluate(evidence(bare=True), context())
    assert not result.metrics
    assert result.details["skipped"]


@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_useless_embeddings_never_beat_chance(name: str, fill: float) -> None:
    for metric_name, metric in TASKS[name]().evaluate(evidence(fill=fill), context(fill=fill)).metrics.items():
        if "median_rank" not in metric_name:
            assert metric.value <= metric.controls["chance"] + 1e-9, metric_name


def test_patients_of_one_id_in_two_data_sets_are_drawn_apart(name: str):
    def told(rename: bool) -> dict[str, Metric]:
        own = evidence()
        samples = []
        for one in own.samples:
            patient = f"{one.modality}{one.patient}" if rename else one.patient
            samples.append(replace(one, source=f"set of {one.modality}", patient=patient))
        own = replace(own, samples=tuple(samples))
        return TASKS[name]().evaluate(own, replace(context(), again=lambda change: own)).metrics

    assert told(rename=False) == told(rename=True)
