"""Collecting evidence, evaluating by name, and the table of results."""

import json

import numpy as np
import pytest
import torch
from constructed import Splitter, evidence, sample
from constructed import context as constructed_context
from torch import Tensor, nn
from torch.nn.functional import normalize

from medmoe.errors import ConfigError
from medmoe.tasks import TASKS, collect, evaluate_all, make_context
from medmoe.tasks.figures import Figure, by_group, mean
from medmoe.tasks.summary import HEADER, table
from medmoe.types import Batch, ImageEmbedding, Routing, TextEmbedding, Tokens


class Tiny(nn.Module):
    """A joint encoder of one linear layer on each side, with dropout to tell training from evaluation."""

    modalities = ("xray", "ct")
    local_similarity = "late_interaction"

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(3, 4)
        self.text = nn.Embedding(50, 4)
        self.dropout = nn.Dropout(0.9)
        self.scale = nn.Parameter(torch.tensor(7.0))

    @property
    def logit_scale(self) -> Tensor:
        return 1.0 * self.scale

    def encode_image(self, image: Tensor, *, modality: Tensor | None = None, regions: bool = True) -> ImageEmbedding:
        feature = self.dropout(self.image(image.mean(dim=(2, 3))))
        local = feature[:, :, None, None].expand(-1, -1, 2, 2)
        logits = feature[:, :2]
        routing = Routing(logits, logits.argmax(dim=1, keepdim=True), torch.ones(len(image), 1))
        return ImageEmbedding(normalize(feature, dim=1), local if regions else local[:, :0], routing, logits)

    def encode_text(self, tokens: Tokens) -> TextEmbedding:
        words = self.dropout(self.text(tokens.ids)) * tokens.mask[:, :, None]
        embed = normalize(words.sum(dim=1), dim=1)
        return TextEmbedding(embed, words, tokens.word_mask, words.sum(dim=1)[:, :2], words.sum(dim=1)[:, 2:])


class Numbers(Splitter):
    """A tokenizer that gives each word a number by its length."""

    def __call__(self, reports: list[str | None]) -> Tokens:
        listed = [self.words(report or "") for report in reports]
        longest = max(len(words) for words in listed)
        ids = torch.tensor([[len(word) for word in words] + [0] * (longest - len(words)) for words in listed])
        mask = ids > 0
        return Tokens(ids, mask, torch.arange(longest).expand_as(ids), mask)


def batch(reports: list[str | None], first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(first)
    image = torch.randn(len(reports), 3, 4, 4, generator=generator)
    return Batch(
        image,
        tuple(str(i) for i in range(len(reports))),
        tokens=Numbers()(reports) if any(reports) else None,
        has_report=torch.tensor([report is not None for report in reports]),
        samples=tuple(sample(first + i, report) for i, report in enumerate(reports)),
    )


def test_collect_joins_batches_of_different_length() -> None:
    model = Tiny()
    found = collect(model, [batch(["one two", None]), batch(["a b c d"], 2), batch([None], 3)])
    assert len(found) == 4
    assert found.words.shape == (4, 4, 4)
    assert found.word_mask.sum(dim=1).tolist() == [2, 0, 4, 0]
    assert found.has_report.tolist() == [True, False, True, False]
    assert found.text_embed[1].tolist() == [0] * 4
    assert found.text_logits[3].tolist() == [0, 0]
    assert found.modalities == ("xray", "ct")
    assert found.logit_scale == 7
    assert [own.key for own in found.samples] == ["row:0", "row:1", "row:2", "row:3"]


def test_collect_evaluates_and_gives_the_model_back_as_it_was() -> None:
    model = Tiny().train()
    first, second = (collect(model, [batch(["one two"])]) for _ in range(2))
    assert torch.equal(first.image_embed, second.image_embed)
    assert torch.equal(first.words, second.words)
    assert model.training
    model.eval()
    collect(model, [batch(["one"])])
    assert not model.training


def test_collected_rows_are_what_the_model_says_of_each_image() -> None:
    model = Tiny().eval()
    data = batch(["one two", "three"])
    found = collect(model, [data])
    with torch.no_grad():
        torch.testing.assert_close(found.image_embed, model.encode_image(data.image).embed)
        torch.testing.assert_close(found.words, model.encode_text(data.tokens).words)


def test_a_split_without_any_report_has_no_words() -> None:
    found = collect(Tiny(), [batch([None, None])])
    assert found.words.shape == (2, 0, 4)
    assert not found.has_report.any()
    results = evaluate_all(found, make_context(Tiny(), Numbers(), resamples=20), list(TASKS))
    assert "skipped" in results["details"]["zeroshot_retrieval"]


def test_an_encoder_that_is_no_module_is_collected_too() -> None:
    class Plain:
        def __init__(self) -> None:
            own = Tiny().eval()
            self.modalities, self.logit_scale = own.modalities, own.logit_scale
            self.local_similarity = own.local_similarity
            self.encode_image, self.encode_text = own.encode_image, own.encode_text

    assert len(collect(Plain(), [batch(["one"])])) == 1


def test_an_empty_loader_or_batches_without_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no batch"):
        collect(Tiny(), [])
    with pytest.raises(ValueError, match="carries 0 samples"):
        collect(Tiny(), [Batch(torch.zeros(1, 3, 4, 4), ("a",))])


def test_prompts_are_encoded_the_same_in_blocks() -> None:
    model = Tiny().train()
    prompts = ["one", "two words", "and three words", "x"]
    whole = make_context(model, Numbers()).encode_text(prompts)
    parts = make_context(model, Numbers(), block=1).encode_text(prompts)
    torch.testing.assert_close(whole.embed, parts.embed)
    torch.testing.assert_close(whole.words, parts.words)
    assert torch.equal(whole.word_mask, parts.word_mask)
    assert model.training


def test_an_unknown_task_is_named_with_its_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'grounding'"):
        evaluate_all(evidence([sample(0, "a")]), constructed_context(), ["routing", "groundng"])


def test_results_are_json_and_their_table_has_a_row_for_each_metric() -> None:
    found = evidence([sample(i, f"word{i} here", "xray" if i % 2 else "ct") for i in range(24)])
    results = evaluate_all(found, constructed_context(), list(TASKS))
    again = json.loads(json.dumps(results, allow_nan=False))
    rows = table(again)
    assert all(len(row) == len(HEADER) for row in rows)
    count = sum(len(metrics) or 1 for metrics in results["tasks"].values())
    assert len(rows) == count
    assert next(row[:5] for row in rows if row[1] == "image_router_accuracy") == (
        "routing",
        "image_router_accuracy",
        "1.000",
        "1.000 to 1.000",
        "24",
    )
    skipped = [row for row in rows if row[1] == "skipped"]
    assert [row[0] for row in skipped] == [
        "zeroshot_classification",
        "grounding",
        "linear_probe",
        "few_shot",
        "ood",
        "robustness",
    ]
    short = table(again, per_modality=False)
    assert not any("/" in row[1] for row in short)


def test_undefined_figures_are_worded() -> None:
    metric = {"value": None, "low": None, "high": 0.5, "n": 0, "controls": {"chance": None}}
    (row,) = table({"tasks": {"t": {"a_median_rank": metric}}})
    assert row == ("t", "a_median_rank", "undefined", "undefined to 0.5", "0", "chance undefined")


def test_a_mean_of_figures_averages_values_draws_and_shared_controls() -> None:
    one = Figure(0.2, np.array([0.1, 0.3]), 4, {"chance": 0.5, "own": 1.0}, np.array([0.0, 0.2]), np.array([0.0, 0.4]))
    two = Figure(0.6, np.array([0.5, 0.9]), 6, {"chance": 0.3}, np.array([0.4, 0.6]), np.array([0.2, 0.2]))
    found = mean([one, two])
    assert found.value == pytest.approx(0.4)
    assert found.draws == pytest.approx([0.3, 0.6])
    assert found.n == 10
    assert found.controls == {"chance": pytest.approx(0.4)}
    assert found.metric().controls["shuffled"] == pytest.approx(0.3)
    bare = mean([one, Figure(0.6, np.array([0.5, 0.9]), 6)])
    assert "shuffled" not in bare.metric().controls


def test_groups_without_a_figure_are_left_out_of_its_mean() -> None:
    one, two = Figure(0.2, np.zeros(2), 4), Figure(0.6, np.zeros(2), 6)
    named = by_group({"ct": {"a": one, "b": one}, "mri": {"a": two}})
    assert named["a"].value == pytest.approx(0.4)
    assert named["b"].value == 0.2
    assert set(named) == {"a", "a/ct", "a/mri", "b", "b/ct"}
