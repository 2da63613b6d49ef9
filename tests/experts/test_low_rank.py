"""The low-rank expert against the matrices it stands for."""

import pytest
import torch

from medmoe.errors import ConfigError
from medmoe.experts.low_rank import LowRankExpert
from medmoe.experts.moe import MixtureOfExperts
from medmoe.experts.pyramid import PyramidExpert
from medmoe.layers import to_grid
from medmoe.types import Pyramid, Routing

CHANNELS = (6, 8)


def pyramid(batch: int = 3) -> Pyramid:
    generator = torch.Generator().manual_seed(0)
    return Pyramid(
        tuple(torch.randn(batch, c, s, s, generator=generator) for c, s in zip(CHANNELS, (8, 2), strict=True))
    )


def trained(rank: int = 2, **options) -> LowRankExpert:
    """Give an expert that has left zero."""
    torch.manual_seed(1)
    expert = LowRankExpert(CHANNELS, rank=rank, width=5, grid=4, **{"levels": (0, 1), **options})
    torch.nn.init.normal_(expert.up.weight)
    return expert


def test_it_starts_at_zero_but_can_learn():
    expert = LowRankExpert(CHANNELS, rank=2, width=5, grid=4, levels=(0, 1))
    regions = expert(pyramid())
    assert regions.shape == (3, 5, 4, 4)
    assert regions.abs().max() == 0
    (regions - 1).square().sum().backward()
    assert expert.up.weight.grad.abs().max() > 0


def test_it_adds_a_map_of_the_rank_asked_for_to_each_level():
    expert, levels = trained(rank=2), pyramid()
    up = expert.up.weight[:, :, 0, 0]
    expected = torch.zeros(3, 5, 4, 4)
    for place, feature in enumerate(levels.levels):
        whole = up[:, 2 * place : 2 * place + 2] @ expert.down[place].weight[:, :, 0, 0]  # [D, C_l]
        assert torch.linalg.matrix_rank(whole) == 2
        expected += torch.einsum("dc,bchw->bdhw", whole, to_grid(feature, 4))
    torch.testing.assert_close(expert(levels), expected, atol=1e-5, rtol=1e-4)


def test_it_weighs_a_part_of_a_whole_expert():
    def weighs(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert weighs(LowRankExpert((24, 48), rank=4, width=64, levels=(0, 1))) == 4 * (24 + 48 + 2 * 64)
    assert weighs(LowRankExpert((24, 48), rank=4, width=64, levels=(0, 1))) * 10 < weighs(
        PyramidExpert((24, 48), width=64, levels=(0, 1), kernel=1, conv="dense")
    )


def test_beside_a_shared_expert_it_changes_only_the_images_that_chose_it():
    shared = PyramidExpert(CHANNELS, width=5, grid=4, levels=(0, 1))
    model = MixtureOfExperts([shared], [LowRankExpert(CHANNELS, rank=1, width=5, grid=4, levels=(0, 1)), trained()])
    routing = Routing(torch.zeros(3, 2), torch.tensor([[0], [1], [0]]), torch.ones(3, 1))
    change = (model(pyramid(), routing) - shared(pyramid())).abs().amax(dim=(1, 2, 3))
    assert (change > 1e-4).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (2,)}, "expert levels (2,), allowed: 0 to 1"),
        ({"levels": ()}, "at least one"),
        ({"rank": 0, "levels": (0, 1)}, "expert rank 0, allowed: at least 1"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(ConfigError) as error:
        LowRankExpert(CHANNELS, **{"rank": 1, **options})
    assert message in str(error.value)
