import math

import pytest
import torch

from medmoe.objectives import info_nce
from medmoe.objectives.contrastive import symmetric_cross_entropy


def _pairs(count=6, width=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw), torch.randn(count, width, generator=draw)


def _by_loops(image, text, scale, report_id, mask):
    """The mean over both directions, samples and positives of −log softmax, one number at a time."""
    image = [(row / row.norm()).tolist() for row in image.double()]
    text = [(row / row.norm()).tolist() for row in text.double()]
    here = [i for i, present in enumerate(mask) if present]
    logit = {(i, j): scale * sum(a * b for a, b in zip(image[i], text[j], strict=True)) for i in here for j in here}
    total = 0.0
    for i in here:
        same = [p for p in here if report_id[p] == report_id[i]]
        over_reports = math.log(sum(math.exp(logit[i, j]) for j in here))
        over_images = math.log(sum(math.exp(logit[j, i]) for j in here))
        total += sum(over_reports - logit[i, p] + over_images - logit[p, i] for p in same) / len(same)
    return total / (2 * len(here))


@pytest.mark.parametrize("report_id", [[0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 1, 0], [7, 7, 7, 7, 7, 7]])
@pytest.mark.parametrize("mask", [[True] * 6, [True, False, True, True, True, False]])
def test_info_nce_is_the_mean_over_positives_and_both_directions(report_id, mask):
    image, text = _pairs()
    got = info_nce(image, text, 7.0, report_id=torch.tensor(report_id), mask=torch.tensor(mask))
    assert got.item() == pytest.approx(_by_loops(image, text, 7.0, report_id, mask), abs=1e-5)


def test_without_equal_reports_it_is_plain_cross_entropy():
    image, text = _pairs()
    logits = 3.0 * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T
    target = torch.arange(6)
    plain = (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
    torch.testing.assert_close(info_nce(image, text, torch.tensor(3.0)), plain)


def test_the_length_of_an_embedding_does_not_matter():
    image, text = _pairs()
    torch.testing.assert_close(info_nce(5 * image, 0.1 * text, 3.0), info_nce(image, text, 3.0))


def test_a_masked_sample_changes_nothing_and_gets_no_gradient():
    image, text = _pairs()
    mask = torch.tensor([True, True, False, True, True, True])
    image.requires_grad_()
    loss = info_nce(image, text, 3.0, mask=mask)
    loss.backward()
    assert image.grad[2].abs().max() == 0
    torch.testing.assert_close(loss.detach(), info_nce(image.detach()[mask], text[mask], 3.0))


def test_everything_masked_is_zero_with_zero_gradient():
    image, text = _pairs()
    image.requires_grad_()
    loss = info_nce(image, text, 3.0, mask=torch.zeros(6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert image.grad.abs().max() == 0


def test_equal_reports_are_not_pushed_apart():
    image = torch.eye(4)[[0, 0, 1, 2]]
    apart = info_nce(image, image, 50.0)
    together = info_nce(image, image, 50.0, report_id=torch.tensor([0, 0, 1, 2]))
    assert apart > math.log(2) / 2 - 1e-4  # two queries of four can't tell their twins apart
    assert together.item() == pytest.approx(math.log(2) / 2, abs=1e-4)  # the least value: the mean of log |P(i)|
    logits = torch.zeros(4, 4).requires_grad_()
    symmetric_cross_entropy(logits, report_id=torch.tensor([0, 0, 1, 2])).backward()
    assert torch.equal(logits.grad[0, 0], logits.grad[0, 1])


def test_half_precision_is_computed_in_float32():
    image, text = _pairs()
    half = info_nce(image.bfloat16(), text.bfloat16(), 100.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, info_nce(image.bfloat16().float(), text.bfloat16().float(), 100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(image, text, 100.0)
    torch.testing.assert_close(inside, info_nce(image, text, 100.0))


def test_its_gradient_is_that_of_finite_differences():
    image, text = (part.double().requires_grad_() for part in _pairs(4, 3))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    ids, mask = torch.tensor([0, 1, 0, 2]), torch.tensor([True, True, True, False])
    assert torch.autograd.gradcheck(lambda i, t, s: info_nce(i, t, s, report_id=ids, mask=mask), (image, text, scale))
