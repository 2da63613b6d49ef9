"""Who chooses the expert, how many, and what gradient flows back."""

import pytest
import torch

from medmoe.errors import ConfigError, ModelError
from medmoe.experts.router import ROUTERS, Router, RouterHead, Scores, image_statistics, select, soften
from medmoe.types import Pyramid

IMAGE_LOGITS = torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 1.0, 3.0], [1.0, 2.0, 0.0]])
TEXT_LOGITS = IMAGE_LOGITS.flip(1)


def scores(**changes) -> Scores:
    image = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fields = {
        "image_logits": IMAGE_LOGITS,
        "text_logits": TEXT_LOGITS,
        "has_report": None,
        "modality": torch.tensor([2, 0, 1, -1]),
        "image": image,
        **changes,
    }
    return Scores(**fields)


def test_text_source_follows_the_report():
    assert Router("text")(scores()).expert[:, 0].tolist() == TEXT_LOGITS.argmax(1).tolist()


def test_text_source_falls_back_to_pixels_where_there_is_no_report():
    routing = Router("text")(scores(has_report=torch.tensor([True, False, True, False])))
    assert routing.expert[:, 0].tolist() == [2, 1, 0, 1]
    assert Router("text")(scores(text_logits=None)).expert[:, 0].tolist() == IMAGE_LOGITS.argmax(1).tolist()


def test_image_source_follows_the_pixels():
    assert Router("image")(scores()).expert[:, 0].tolist() == [0, 1, 2, 1]


def test_label_source_is_an_oracle_and_unlabelled_images_go_by_their_pixels():
    assert Router("label")(scores()).expert[:, 0].tolist() == [2, 0, 1, 1]


def test_label_source_without_labels_says_so():
    with pytest.raises(ModelError, match="needs the modality"):
        Router("label")(scores(modality=None))


def test_random_source_is_fixed_for_an_image_and_spread_over_the_experts():
    image = torch.randn(600, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    many = scores(image=image, image_logits=torch.zeros(600, 3))
    first, again = Router("random")(many).expert[:, 0], Router("random")(many).expert[:, 0]
    assert torch.equal(first, again)
    assert torch.bincount(first, minlength=3).min() > 150
    order = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    shuffled = scores(image=image[order], image_logits=torch.zeros(600, 3))
    assert torch.equal(Router("random")(shuffled).expert[:, 0], first[order])


def test_uniform_source_gives_every_expert_the_same_weight():
    routing = Router("uniform")(scores())
    assert routing.expert.sort(dim=1).values.tolist() == [[0, 1, 2]] * 4
    torch.testing.assert_close(routing.weight, torch.full((4, 3), 1 / 3))


def test_top_k_keeps_the_best_and_renormalises():
    routing = select(IMAGE_LOGITS, selection="top_k", k=2)
    assert routing.expert[0].tolist() == [0, 2]
    torch.testing.assert_close(routing.weight.sum(dim=1), torch.ones(4))
    alpha = IMAGE_LOGITS.softmax(1)
    torch.testing.assert_close(routing.weight[0], alpha[0, [0, 2]] / alpha[0, [0, 2]].sum())


def test_soft_selection_keeps_every_probability():
    routing = select(IMAGE_LOGITS, selection="soft")
    torch.testing.assert_close(routing.weight, IMAGE_LOGITS.softmax(1).sort(dim=1, descending=True).values)


@pytest.mark.parametrize(
    ("gradient", "value_is_one", "flows"), [("none", 1, 0), ("alpha", 0, 1), ("straight_through", 1, 1)]
)
def test_hard_selection_sends_back_only_the_gradient_asked_for(gradient, value_is_one, flows):
    logits = IMAGE_LOGITS.clone().requires_grad_()
    routing = select(logits, selection="hard", gradient=gradient)
    assert torch.allclose(routing.weight, torch.ones(4, 1)) == bool(value_is_one)
    (routing.weight.sum() + 0 * logits.sum()).backward()
    assert bool(logits.grad.abs().max() > 0) == bool(flows)


def test_an_annealed_choice_goes_from_all_experts_equally_to_the_one():
    router, hard = Router("image", anneal=4), Router("image")(scores())
    for seen in range(4):
        routing = router(scores())
        assert routing.expert.tolist() == [[0, 1, 2]] * 4
        expected = torch.full((4, 3), (1 - seen / 4) / 3)
        expected[torch.arange(4), hard.expert[:, 0]] += seen / 4
        torch.testing.assert_close(routing.weight, expected)
    for _ in range(2):
        routing = router(scores())
        assert torch.equal(routing.expert, hard.expert)
        assert torch.equal(routing.weight, hard.weight)


def test_an_annealed_choice_is_hard_in_evaluation_and_counts_only_training():
    router = Router("image", anneal=4).eval()
    assert router(scores()).expert.shape == (4, 1)
    assert int(router.seen) == 0
    assert router.train()(scores()).expert.shape == (4, 3)
    assert int(router.seen) == 1


def test_how_far_annealing_has_come_is_saved_and_without_it_nothing_is():
    router, other = Router("image", anneal=4), Router("image", anneal=4)
    for _ in range(4):
        router(scores())
    other.load_state_dict(router.state_dict())
    assert other(scores()).expert.shape == (4, 1)
    assert list(Router("image").state_dict()) == []


def test_softening_keeps_the_gradient_of_the_choice():
    logits = IMAGE_LOGITS.clone().requires_grad_()
    soften(select(logits, gradient="straight_through"), 0.5).weight[:, 0].sum().backward()
    assert logits.grad.abs().max() > 0


def test_the_head_gives_logits_not_probabilities():
    head = RouterHead(5, 7, 3)
    logits = head(torch.randn(4, 5))
    assert logits.shape == (4, 3)
    assert not torch.allclose(logits.sum(dim=1), torch.ones(4))


def test_image_statistics_are_the_mean_and_spread_of_every_channel():
    level = torch.randn(2, 3, 4, 4)
    statistics = image_statistics(Pyramid((level,)))
    torch.testing.assert_close(statistics[:, :3], level.mean(dim=(2, 3)))
    torch.testing.assert_close(statistics[:, 3:], level.flatten(2).std(dim=2, unbiased=False), atol=1e-4, rtol=1e-4)


def test_constant_images_have_finite_gradients():
    level = torch.ones(1, 2, 4, 4, requires_grad=True)
    image_statistics(Pyramid((level,))).sum().backward()
    assert level.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Router("imge"), "did you mean 'image'"),
        (lambda: select(IMAGE_LOGITS, selection="hrad"), "did you mean 'hard'"),
        (lambda: select(IMAGE_LOGITS, gradient="alfa"), "did you mean 'alpha'"),
        (lambda: Router("text", selection="soft", anneal=3), "the selection is 'soft'"),
        (lambda: Router("uniform", anneal=3), "the selection is 'soft'"),
    ],
)
def test_unknown_names_say_what_is_allowed(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize("name", ROUTERS)
def test_every_source_ignores_the_order_of_the_batch(name):
    order = torch.tensor([2, 0, 3, 1])
    base = scores()
    moved = Scores(
        *(
            None if x is None else x[order]
            for x in (base.image_logits, base.text_logits, None, base.modality, base.image)
        )
    )
    straight, permuted = Router(name)(base), Router(name)(moved)
    assert torch.equal(straight.expert[order], permuted.expert)
    torch.testing.assert_close(straight.weight[order], permuted.weight)
