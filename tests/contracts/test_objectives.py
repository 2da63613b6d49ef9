"""What every row of `OBJECTIVES` promises."""

import dataclasses

import pytest
import torch

from medmoe import layers
from medmoe.errors import ConfigError
from medmoe.objectives import OBJECTIVES, total_loss
from medmoe.types import Batch, ImageEmbedding, Output, Routing, TextEmbedding, Tokens

B, D, G, N, E, K, V = 5, 6, 3, 4, 8, 3, 7
each = pytest.mark.parametrize("name", sorted(OBJECTIVES))
INPUTS = (
    "image.embed",
    "image.regions",
    "image.logits",
    "image.word_logits",
    "image.region_word_logits",
    "text.embed",
    "text.words",
    "text.logits",
    "text.report_logits",
)


def _output(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=draw).to(dtype).requires_grad_()

    logits = leaf(B, K)
    routing = Routing(logits, logits.argmax(1, keepdim=True), torch.ones(B, 1))
    lengths = torch.tensor([4, 2, 0, 3, 1])
    return Output(
        image=ImageEmbedding(
            leaf(B, E), leaf(B, D, G, G), routing, logits, word_logits=leaf(B, V), region_word_logits=leaf(B, V)
        ),
        text=TextEmbedding(leaf(B, E), leaf(B, N, D), torch.arange(N)[None] < lengths[:, None], leaf(B, K), leaf(B, K)),
        logit_scale=torch.tensor(14.0, requires_grad=True),
    )


def _batch():
    ids = torch.tensor([[1, 2, 6, 2], [1, 3, 0, 0], [1, 4, 4, 5], [1, 2, 6, 2], [1, 5, 3, 0]])
    mask = ids > 0
    return Batch(
        image=torch.zeros(B, 3, 2, 2),
        keys=tuple("abcde"),
        tokens=Tokens(ids, mask, ids, mask),
        has_report=torch.tensor([True, True, False, True, True]),
        report_id=torch.tensor([0, 1, 2, 0, 3]),
        modality=torch.tensor([0, -1, 2, 1, 1]),
    )


def _permute(value, order):
    moved = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, torch.Tensor) and item.ndim:
            moved[field.name] = item[order]
        elif dataclasses.is_dataclass(item):
            moved[field.name] = _permute(item, order)
    return dataclasses.replace(value, **moved)


def _leaves(output):
    return {path: getattr(getattr(output, path.split(".")[0]), path.split(".")[1]) for path in INPUTS}


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_a_finite_float32_scalar_with_a_finite_gradient(name, dtype):
    output = _output(dtype)
    loss = OBJECTIVES[name](output, _batch())
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    gradients = [leaf.grad for leaf in _leaves(output).values() if leaf.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@each
def test_it_is_computed_in_float32_under_autocast(name):
    plain = OBJECTIVES[name](_output(), _batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = OBJECTIVES[name](_output(), _batch())
    torch.testing.assert_close(inside, plain)


@each
def test_permuting_the_batch_changes_nothing(name):
    order = torch.tensor([3, 0, 4, 2, 1])
    plain = OBJECTIVES[name](_output(), _batch())
    torch.testing.assert_close(OBJECTIVES[name](_permute(_output(), order), _permute(_batch(), order)), plain)


@each
def test_a_sample_without_report_and_modality_changes_nothing(name):
    output, batch = _output(), _batch()
    batch = dataclasses.replace(batch, modality=torch.tensor([0, -1, -1, 1, 1]))
    others = torch.tensor([0, 1, 3, 4])
    plain = OBJECTIVES[name](_permute(output, others), _permute(batch, others))
    torch.testing.assert_close(OBJECTIVES[name](output, batch), plain)


@each
def test_it_is_none_when_its_fields_are_absent(name):
    bare = Batch(image=torch.zeros(B, 3, 2, 2), keys=tuple("abcde"))
    assert OBJECTIVES[name](dataclasses.replace(_output(), text=None), bare) is None
    nothing = dataclasses.replace(
        bare, has_report=torch.zeros(B, dtype=torch.bool), modality=torch.full((B,), -1), report_id=torch.arange(B)
    )
    assert OBJECTIVES[name](_output(), nothing) is None


@each
def test_a_batch_that_says_nothing_of_reports_has_them_all(name):
    batch = dataclasses.replace(_batch(), has_report=None, report_id=None)
    assert OBJECTIVES[name](_output(), batch).isfinite()


@each
def test_it_does_not_touch_what_it_reads(name):
    output, kept = _output(), _output()
    OBJECTIVES[name](output, _batch()).backward()
    for path, leaf in _leaves(output).items():
        assert torch.equal(leaf, _leaves(kept)[path])


def test_the_total_is_the_weighted_sum_of_the_active_terms():
    output, batch = _output(), dataclasses.replace(_batch(), modality=None)
    loss = total_loss(output, batch, {"global": 0.5, "local": 2.0, "report_type": 1.0, "image_modality": 0.0})
    assert set(loss.terms) == {"global", "local"}
    assert loss.inactive == ("report_type",)
    torch.testing.assert_close(loss.total.detach(), 0.5 * loss.terms["global"] + 2.0 * loss.terms["local"])
    assert loss.total.requires_grad
    assert not loss.terms["local"].requires_grad


def test_options_reach_their_objective():
    plain = total_loss(_output(), _batch(), {"local": 1.0})
    sharp = total_loss(_output(), _batch(), {"local": 1.0}, {"local": {"tau_scale": 1.0, "chunk": 2}})
    assert sharp.total < plain.total


def test_a_total_of_nothing_is_zero():
    loss = total_loss(_output(), dataclasses.replace(_batch(), modality=None), {"image_modality": 1.0})
    assert loss.total.item() == 0
    assert loss.inactive == ("image_modality",)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"lokal": 1.0}, {}, "unknown objective 'lokal' .did you mean 'local'"),
        ({"local": 1.0}, {"globl": {}}, "did you mean 'global'"),
        ({"local": 1.0}, {"local": {"tau_atention": 1.0}}, "did you mean 'tau_attention'"),
        ({"local": 1.0}, {"local": {"batch": 1.0}}, "objectives.local: unknown option 'batch'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(weights, options, message):
    with pytest.raises(ConfigError, match=message):
        total_loss(_output(), _batch(), weights, options)


@each
@pytest.mark.parametrize("negatives", ["batch", "modality"])
def test_it_is_the_same_where_values_can_not_be_looked_at(name, negatives, monkeypatch):
    options = {"negatives": negatives} if name in ("local", "late_interaction") else {}
    found = []
    for readable in (True, False):
        monkeypatch.setattr(layers, "readable", lambda value, readable=readable: readable)
        output = _output()
        loss = OBJECTIVES[name](output, _batch(), **options)
        loss.backward()
        leaves = [_get(output, path) for path in INPUTS]
        found.append([loss, *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)])
    for looked, blind in zip(*found, strict=True):
        torch.testing.assert_close(blind, looked, atol=1e-6, rtol=1e-5)


@each
@pytest.mark.parametrize("negatives", ["batch", "modality"])
def test_it_reads_nothing_from_a_device(name, negatives):
    options = {"negatives": negatives, "chunk": 2} if name in ("local", "late_interaction") else {}
    output = _on(_output(), "meta")  # where whatever would wait for a value raises
    loss = OBJECTIVES[name](output, _batch().to("meta"), **options)
    loss.backward()
    assert loss.shape == ()
    assert loss.device.type == "meta"


@each
def test_where_values_can_not_be_looked_at_nothing_to_learn_from_is_zero(name, monkeypatch):
    monkeypatch.setattr(layers, "readable", lambda value: False)
    nobody = dataclasses.replace(_batch(), has_report=torch.zeros(B, dtype=torch.bool), modality=torch.full((B,), -1))
    loss = OBJECTIVES[name](_output(), nobody)
    loss.backward()
    assert loss.item() == 0


def _get(value, path):
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _on(value, device):
    moved = {}
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if isinstance(part, torch.Tensor):
            part = part.detach().to(device).requires_grad_(part.requires_grad)
        elif dataclasses.is_dataclass(part):
            part = _on(part, device)
        moved[field.name] = part
    return dataclasses.replace(value, **moved)
