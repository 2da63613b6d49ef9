import math
from types import SimpleNamespace

import pytest
import torch

from medmoe.objectives.routing import image_modality, report_type, router_distillation, routing_statistics
from medmoe.types import Routing


def _output(image, router=None, head=None):
    text = None if router is None else SimpleNamespace(logits=router, report_logits=head)
    return SimpleNamespace(image=SimpleNamespace(logits=image), text=text)


def _batch(modality=None, has_report=None):
    return SimpleNamespace(
        modality=None if modality is None else torch.tensor(modality),
        has_report=None if has_report is None else torch.tensor(has_report),
    )


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=draw).requires_grad_() for _ in range(3)]


def test_report_type_is_cross_entropy_of_head_and_router_where_report_and_modality_are_known(logits):
    image, router, head = logits
    loss = report_type(_output(image, router, head), _batch([2, -1, 0, 1], [True, True, True, False]))
    by_hand = [-torch.log_softmax(part, 1)[row, k] for part in (router, head) for row, k in ((0, 2), (2, 0))]
    torch.testing.assert_close(loss, sum(by_hand) / 4)


def test_report_type_can_reach_zero():
    sure = 100 * torch.eye(6)
    loss = report_type(_output(sure, sure, sure), _batch([0, 1, 2, 3, 4, 5]))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)  # a softmax before the cross-entropy would hold it above 1.04


def test_report_type_trains_the_text_router_and_not_the_image_router(logits):
    image, router, head = logits
    report_type(_output(image, router, head), _batch([0, 1, 2, 0])).backward()
    assert router.grad.abs().min() > 0
    assert head.grad.abs().min() > 0
    assert image.grad is None


def test_image_modality_needs_no_report(logits):
    image = logits[0]
    loss = image_modality(_output(image), _batch([2, -1, 0, -1], [False] * 4))
    rows = torch.log_softmax(image, 1)
    torch.testing.assert_close(loss, -(rows[0, 2] + rows[2, 0]) / 2)


def test_unknown_modalities_alone_leave_nothing_to_learn(logits):
    output, batch = _output(*logits), _batch([-1, -1, -1, -1])
    assert report_type(output, batch) is None
    assert image_modality(output, batch) is None
    assert report_type(output, _batch([0, -1, 0, 0], [False, True, False, False])) is None


def test_distillation_is_cross_entropy_with_the_text_router_over_samples_with_a_report(logits):
    image, router, head = logits
    loss = router_distillation(_output(image, router, head), _batch(has_report=[True, False, True, True]))
    rows = [
        -sum(torch.softmax(router[i], 0)[k] * torch.log_softmax(image[i], 0)[k] for k in range(3)) for i in (0, 2, 3)
    ]
    torch.testing.assert_close(loss, sum(rows) / 3)
    loss.backward()
    assert image.grad[1].abs().max() == 0
    assert image.grad[0].abs().min() > 0
    assert router.grad is None


def test_distillation_is_done_when_the_routers_agree(logits):
    image = logits[0]
    router_distillation(_output(image, image.detach(), image.detach()), _batch()).backward()
    torch.testing.assert_close(image.grad, torch.zeros(4, 3), atol=1e-6, rtol=0)


def test_distillation_without_reports_is_inactive(logits):
    assert router_distillation(_output(logits[0]), _batch()) is None
    assert router_distillation(_output(*logits), _batch(has_report=[False] * 4)) is None


def test_statistics_are_entropy_and_each_experts_share():
    logits = torch.tensor([[0.0, 0.0, 0.0], [200.0, 0.0, 0.0]], requires_grad=True)
    routing = Routing(logits=logits, expert=torch.tensor([[1], [0]]), weight=torch.ones(2, 1))
    found = routing_statistics(routing)
    assert found["entropy"].item() == pytest.approx(math.log(3) / 2)
    assert found["load"].tolist() == [0.5, 0.5, 0.0]
    assert not found["entropy"].requires_grad
