"""Parts of a batch give the gradients of the whole: for every objective, size of part and arrangement."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medmoe.caching import Way, backward_in_parts, bounded, check_separable, forward_in_parts
from medmoe.encoders.pretrained import freeze, training
from medmoe.errors import ConfigError
from medmoe.experts.router import Router
from medmoe.model import MedVLM
from medmoe.objectives import OBJECTIVES, total_loss
from medmoe.objectives.contrastive import symmetric_cross_entropy
from medmoe.train import Interrupted, autocast
from medmoe.types import Batch, ImageEmbedding, Loss, Output, Routing, TextEmbedding, over_tensors, tensors_of
from micro import medmoe as command
from micro import train as train_command
from small_runs import BERT, batch_of, losses, phantoms, same_weights, stop_at, train
from small_runs import built as built_small

WORDS = ("model.report_words=true", "model.region_words=true")
EVERY = dict.fromkeys(OBJECTIVES, 0.5)

Gradients = dict[str, Tensor]


def built(*settings: str) -> MedVLM:
    """A micro model in float64: what then differs isn't rounding."""
    return built_small(*settings).double()


def batch_for(model: MedVLM) -> Batch:
    batch = batch_of(model)
    return replace(batch, image=batch.image.to(model.log_scale.dtype))


def loss_of(output: Output, batch: Batch, weights: dict[str, float] = EVERY) -> Loss:
    return total_loss(output, batch, weights)


def gradients(model: MedVLM) -> Gradients:
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def at_once(model: MedVLM, batch: Batch, loss_of: Callable[..., Loss] = loss_of) -> tuple[Loss, Gradients]:
    loss = loss_of(model(batch), batch)
    loss.total.backward()
    return loss, gradients(model)


def in_parts(
    model: MedVLM, batch: Batch, size: int, loss_of: Callable[..., Loss] = loss_of, **way: Any
) -> tuple[Loss, Gradients]:
    loss, _ = backward_in_parts(model, batch, loss_of, Way(size, **way))
    return loss, gradients(model)


def farthest(found: Gradients, expected: Gradients) -> float:
    """The largest difference, relative to a parameter's gradient; one that is next to nothing, to the whole's."""
    assert found.keys() == expected.keys()
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    return max(
        float((found[name] - value).norm() / torch.maximum(value.norm(), 1e-3 * whole))
        for name, value in expected.items()
    )


def ragged(batch: Batch) -> Batch:
    """Three of eight samples lose their reports, one its modality."""
    assert batch.tokens is not None
    assert batch.modality is not None
    has = torch.tensor([True, False, True, True, False, True, False, True])
    tokens = replace(
        batch.tokens, mask=batch.tokens.mask & has[:, None], word_mask=batch.tokens.word_mask & has[:, None]
    )
    modality = batch.modality.clone()
    modality[2] = -1
    return replace(batch, tokens=tokens, has_report=has, modality=modality)


def moved(model: MedVLM) -> MedVLM:
    """Move parameters that start at zero away from there, so that every gradient is more than nothing."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    return training(model)


# The same gradients


@pytest.mark.parametrize("name", [*OBJECTIVES, "all"])
def test_parts_give_the_gradient_of_the_whole_batch(name: str):
    model = moved(built(*WORDS))
    batch = ragged(batch_for(model))
    objective = partial(loss_of, weights=EVERY if name == "all" else {name: 1.0})
    expected_loss, expected = at_once(model, batch, objective)
    loss, found = in_parts(model, batch, 3, objective)
    assert not loss.inactive
    torch.testing.assert_close(loss.total, expected_loss.total.detach())
    assert loss.terms.keys() == expected_loss.terms.keys()
    assert farthest(found, expected) < 1e-10


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 100])
def test_whatever_the_size_of_a_part(size: int):
    model = moved(built(*WORDS))
    batch = ragged(batch_for(model))
    expected = at_once(model, batch)[1]
    assert expected["vision.stages.0.0.weight"].dtype == torch.float64
    assert farthest(in_parts(model, batch, size)[1], expected) < 1e-10


ARRANGEMENTS: dict[str, tuple[str, ...]] = {
    "shared and special": ("model.experts.shared=1",),
    "special projection": ("model.special_projection=true", "model.pool=pyramid"),
    "growing": ("model.experts.growing=true",),
    "top two": ("model.router.selection=top_k",),
    "soft": ("model.router.selection=soft",),
    "straight through": ("model.router.gradient=straight_through",),
    "alpha, by the image": ("model.router.gradient=alpha", "model.router.train=image"),
    "at random": ("model.router.train=random",),
    "hardening": ("model.router.anneal_steps=4",),
    "low rank": ("model.experts.shared=1", "model.experts.rank=2"),
    "layer norms": ("model.experts.norm=layer", "model.vision.norm=layer"),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_whatever_the_arrangement(name: str):
    model = moved(built(*WORDS, *ARRANGEMENTS[name]))
    batch = ragged(batch_for(model))
    twin = copy.deepcopy(model)
    assert farthest(in_parts(model, batch, 3)[1], at_once(twin, batch)[1]) < 1e-10
    for name, value in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value, msg=name)


def test_an_expert_that_only_one_part_chose_gets_its_gradient_and_one_that_none_chose_gets_none():
    model = moved(built("model.router.train=label"))
    batch = replace(batch_for(model), modality=torch.tensor([0, 0, 0, 0, 0, 0, 0, 1]))
    expected = at_once(model, batch, partial(loss_of, weights={"local": 1.0}))[1]
    found = in_parts(model, batch, 2, partial(loss_of, weights={"local": 1.0}))[1]
    assert any(name.startswith("experts.special.1") for name in found)
    assert not any(name.startswith("experts.special.2") for name in found)
    assert farthest(found, expected) < 1e-10


def test_word_pieces_of_other_parts_count_in_the_regions_scores():
    model = moved(built(*WORDS))
    batch = batch_for(model)
    whole = model(batch).image.region_word_logits
    output, _ = forward_in_parts(model, batch, Way(3))
    torch.testing.assert_close(output.image.region_word_logits, whole.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", ["text", "vision", "experts", "log_scale", "vision.stages.0"])
def test_frozen_parts_stay_without_gradient(pattern: str):
    model = moved(built(*WORDS))
    freeze(model, [pattern])
    batch = ragged(batch_for(model))
    found, expected = in_parts(model, batch, 3)[1], at_once(model, batch)[1]
    assert not any(name == pattern or name.startswith(pattern + ".") for name in found)
    assert farthest(found, expected) < 1e-10


def test_a_text_encoder_that_learns_nothing_is_run_once_a_part():
    hf = f"model.text.hf={BERT}".replace("'", '"')
    model = moved(built("model.text.name=hf", hf, "model.text.last_layers=2", "model.text.frozen=true"))
    batch = batch_for(model)
    seen: list[int] = []
    model.text.register_forward_hook(lambda *_: seen.append(1))
    found = in_parts(model, batch, 2, partial(loss_of, weights={"global": 0.5, "local": 0.5}))[1]
    assert len(seen) == 4
    assert farthest(found, at_once(model, batch, partial(loss_of, weights={"global": 0.5, "local": 0.5}))[1]) < 1e-10


def test_the_last_part_is_run_once_and_the_others_twice():
    model = moved(built())
    seen: list[bool] = []
    model.vision.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    in_parts(model, batch_for(model), 3)
    assert seen == [False, False, True, True, True]


def test_random_layers_draw_the_same_in_both_passes_and_other_numbers_for_each_part():
    model = moved(built(*WORDS, "model.router.train=label"))
    model.text.blocks[0].dropout = 0.3  # type: ignore[index, union-attr]
    batch = batch_for(model)
    batch = replace(batch, pieces=torch.arange(2, 200))  # whatever they are: the same for both
    torch.manual_seed(3)
    outputs = [model(batch.part(slice(start, start + 2))) for start in (0, 2, 4, 6)]  # graphs of all parts, all kept
    after = torch.rand(3)
    joined = iter([torch.cat(v) if v[0].ndim else v[0] for v in zip(*map(tensors_of, outputs), strict=True)])
    loss_of(over_tensors(outputs[0], lambda _: next(joined)), batch).total.backward()
    expected = gradients(model)
    torch.manual_seed(3)
    found = in_parts(model, batch, 2)[1]
    assert torch.equal(torch.rand(3), after)  # the next step goes on where the first pass ended
    assert farthest(found, expected) < 1e-10
    torch.manual_seed(4)
    assert farthest(in_parts(model, batch, 2)[1], expected) > 1e-2


def test_float32_gradients_of_parts_are_those_of_the_whole_but_for_rounding():
    model = moved(built_small(*WORDS, "model.vision.norm=layer"))
    batch = ragged(batch_for(model))
    expected, found = at_once(model, batch)[1], in_parts(model, batch, 3)[1]
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    assert max(float((found[name] - value).norm() / whole) for name, value in expected.items()) < 1e-5
    precise = at_once(model.double(), replace(batch, image=batch.image.double()))[1]
    assert farthest(found, precise) < 3 * farthest(expected, precise)


def test_bf16_gradients_of_parts_are_those_of_the_whole_within_its_precision():
    model = moved(built_small(*WORDS))
    batch = ragged(batch_for(model))
    context = partial(autocast, "bf16", "cpu")
    with context():
        output = model(batch)
    loss_of(output, batch).total.backward()
    expected = gradients(model)
    found = in_parts(model, batch, 3, autocast=context)[1]
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert farthest(found, expected) < 0.2
    precise = at_once(model, batch)[1]
    assert farthest(found, precise) < 2 * farthest(expected, precise)


def test_the_share_of_an_accumulated_batch_scales_its_gradient():
    model = moved(built())
    batch = batch_for(model)
    expected = at_once(model, batch)[1]
    backward_in_parts(model, batch, loss_of, Way(3), share=0.25)
    assert farthest({name: 4 * value for name, value in gradients(model).items()}, expected) < 1e-10


def test_a_batch_with_nothing_to_learn_from_leaves_no_gradient():
    model = moved(built())
    batch = replace(batch_for(model), modality=None, has_report=torch.zeros(8, dtype=torch.bool))
    loss, found = in_parts(model, batch, 3)
    assert (float(loss.total), loss.terms, found) == (0.0, {}, {})


def test_other_processes_outputs_can_join_the_loss_between_the_passes():
    model = moved(built())
    batch = batch_for(model)
    only = {"global": 0.5, "local": 0.5}
    expected = at_once(model, batch, partial(loss_of, weights=only))[1]
    total: Gradients = {}
    halves = [slice(0, 4), slice(4, 8)]
    with torch.no_grad():
        theirs = [model(batch.part(rows)) for rows in halves]
    for rank in range(2):

        def gathered(output: Output, _: Batch, rank: int = rank) -> Loss:
            both = [output if place == rank else theirs[place] for place in range(2)]
            pairs = zip(*map(tensors_of, both), strict=True)
            joined = iter([torch.cat(pair) if pair[0].ndim else output.logit_scale for pair in pairs])
            return loss_of(over_tensors(output, lambda _: next(joined)), batch, only)

        mine = in_parts(model, batch.part(halves[rank]), 3, gathered)[1]
        total = {name: total.get(name, 0) + value for name, value in mine.items()}
    total["log_scale"] = total["log_scale"] / 2  # each process has the whole gradient of what the loss reads directly
    assert farthest(total, expected) < 1e-10


# What it needs


def test_validation_in_parts_says_what_the_whole_says():
    model = moved(built(*WORDS)).eval()
    batch = ragged(batch_for(model))
    output, facts = forward_in_parts(model, batch, Way(3))
    with torch.no_grad():
        expected = loss_of(model(batch), batch)
    found = loss_of(output, facts)
    assert found.terms.keys() == expected.terms.keys()
    torch.testing.assert_close(found.total, expected.total)


def test_a_part_of_a_batch_has_its_rows_of_every_field_and_no_needless_padding():
    model = built()
    batch = replace(ragged(batch_for(model)), pieces=torch.tensor([4, 5]), mask=torch.rand(8, 1, 32, 32))
    part = batch.part(slice(2, 4))
    assert batch.tokens is not None
    assert part.tokens is not None
    assert part.image.data_ptr() == batch.image[2:].data_ptr()
    assert (part.keys, part.samples) == (batch.keys[2:4], batch.samples[2:4])
    assert part.pieces is batch.pieces
    for name in ("report_id", "has_report", "modality", "mask"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[2:4]), name
    longest = int(batch.tokens.mask[2:4].sum(1).max())
    assert part.tokens.ids.shape == (2, longest)
    assert torch.equal(part.tokens.ids, batch.tokens.ids[2:4, :longest])
    assert part.tokens.word_mask.shape == (2, batch.tokens.word_mask.shape[1])
    assert batch.part(slice(1, 2)).tokens is not None  # a report without any piece
    assert replace(batch, tokens=None).part(slice(0, 3)).tokens is None


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (["model.vision.norm=batch"], "--set model.vision.norm=group"),
        (["model.pool_norm=batch"], "--set model.pool_norm=layer"),
        (["model.experts.norm=batch"], "--set model.experts.norm=group"),
        (
            ["model.vision.norm=batch", "model.pool_norm=batch"],
            "--set model.vision.norm=group and --set model.pool_norm=layer",
        ),
    ],
)
def test_batch_norms_in_training_are_refused_with_what_to_set_instead(settings: list[str], remedy: str):
    with pytest.raises(ConfigError, match="BatchNorm") as error:
        check_separable(training(built(*settings)))
    assert str(error.value).endswith(f"; {remedy}")


def test_frozen_batch_norms_mix_nothing_and_are_allowed():
    model = built("model.vision.norm=batch")
    freeze(model, ["vision"])
    check_separable(moved(model))
    batch = batch_for(model)
    training(model)
    assert farthest(in_parts(model, batch, 3)[1], at_once(model, batch)[1]) < 1e-10


def test_a_batch_norm_does_break_it():
    model = moved(built("model.vision.norm=batch"))
    batch = batch_for(model)
    assert farthest(in_parts(model, batch, 3)[1], at_once(model, batch)[1]) > 0.01


def test_objectives_over_many_pairs_take_them_in_chunks_unless_the_recipe_says():
    model = built()
    output = model(batch_for(model))
    assert bounded({"local": {"negatives": "modality"}}, output) == {"local": {"negatives": "modality"}}
    wide = over_tensors(output, lambda value: value if value.ndim == 0 else value[:1].expand(4096, *value.shape[1:]))
    options = bounded({"local": {"negatives": "modality"}}, wide)
    assert options["local"].keys() == {"negatives", "chunk"}
    assert 1 <= options["late_interaction"]["chunk"] < 4096
    assert bounded({"late_interaction": {"chunk": 7}}, wide)["late_interaction"] == {"chunk": 7}
    assert bounded({}, replace(wide, text=None)) == {}


class TwoTowers(nn.Module):
    """As little of a model as parts go through, without anything that reads values."""

    region_words = None

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.text = nn.Linear(12, 4), nn.Embedding(50, 4)

    def forward(self, batch: Batch) -> Output:
        assert batch.tokens is not None
        image, words = self.vision(batch.image.flatten(1)), self.text(batch.tokens.ids)
        routing = Routing(image, image.argmax(1, keepdim=True), image[:, :1])
        return Output(
            ImageEmbedding(image, image[:, :, None, None], routing, image),
            TextEmbedding(words.mean(1), words[:, :1], batch.tokens.word_mask[:, :1], image, image),
            image.new_tensor(10.0),
        )


def test_no_value_is_read_from_the_device():
    model: Any = TwoTowers().to("meta")
    batch = batch_for(built())
    batch = replace(batch, image=batch.image[:, :, :2, :2])

    def contrast(output: Output, batch: Batch) -> Loss:
        assert output.text is not None
        assert batch.modality is not None
        assert batch.modality.device.type == "meta"
        assert batch.image.device.type == "cpu"  # the pixels of the whole stay where they are
        logits = output.logit_scale * output.image.embed @ output.text.embed.T
        return Loss(symmetric_cross_entropy(logits, report_id=batch.report_id), {})

    backward_in_parts(model, batch, contrast, Way(3, "meta"))
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
def test_on_cuda_parts_give_the_gradient_of_the_whole_and_dropout_is_replayed():
    model = moved(built(*WORDS)).cuda()
    batch = ragged(batch_for(model))
    found = in_parts(model, batch, 3, device="cuda")[1]
    assert farthest(found, at_once(model, batch.to("cuda"))[1]) < 1e-4
    model.text.blocks[0].dropout = 0.3  # type: ignore[index, union-attr]
    twice = []
    for _ in range(2):
        torch.manual_seed(3)
        twice.append(in_parts(model, batch, 3, device="cuda")[1])
    assert farthest(twice[0], twice[1]) < 1e-4


# Runs


def test_a_run_in_parts_has_the_losses_of_a_run_at_once(tmp_path: Path):
    settings = (
        "train.accum_freq=2",
        "train.ema=0.9",
        "train.lr=0.0001",
        "model.vision.norm=layer",
        "model.experts.growing=true",
    )
    train(tmp_path / "whole", *settings, val=phantoms())
    train(tmp_path / "parts", *settings, "train.micro_batch=3", val=phantoms())
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    assert losses(tmp_path / "parts")[0] == pytest.approx(losses(tmp_path / "whole")[0], rel=1e-6)


def test_an_interrupted_run_in_parts_goes_on_as_if_it_had_not_been(tmp_path: Path):
    settings = ("train.micro_batch=3", "model.router.anneal_steps=4")
    model = train(tmp_path / "whole", *settings)
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", *settings, watch=stop_at(3))
    again = train(tmp_path / "broken", *settings, resume=True)
    router = model.train_route
    assert isinstance(router, Router)
    assert int(router.seen) == 6
    assert same_weights(model, again)


def test_the_command_takes_a_micro_batch_and_refuses_the_recipe_with_batch_norms(tmp_path: Path, phantoms: Path):
    said = train_command(phantoms, tmp_path / "refused", "--micro-batch", 4)
    assert "train.micro_batch" in said.mistake
    assert "--set model.vision.norm=group and --set model.pool_norm=layer" in said.mistake
    norms = ("--set", "model.vision.norm=group", "--set", "model.pool_norm=layer")
    assert train_command(phantoms, tmp_path / "run", "--micro-batch", 4, *norms).code == 0
    assert command("train", "tiny", "--train-data", phantoms, "--out", tmp_path / "x", "--micro-batch", 0).code == 2
