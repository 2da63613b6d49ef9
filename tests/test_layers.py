from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medmoe.errors import ConfigError
from medmoe.layers import NORMS, Pointwise, norm2d, to_grid


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("channels", [1, 5, 8, 12, 18, 192])
def test_every_norm_keeps_the_shape_of_any_number_of_channels(name: str, channels: int):
    x = torch.randn(2, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    assert norm2d(name, channels)(x).shape == x.shape


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (12, 6), (20, 4), (9, 3), (10, 2), (7, 1)])
def test_group_norm_takes_the_most_groups_that_divide_the_channels(channels: int, groups: int):
    norm = norm2d("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_group_norm_sees_one_image_at_a_time():
    x = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    norm = norm2d("group", 8)
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))


def test_an_unknown_norm_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'group'"):
        norm2d("gruop", 8)


@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_layer_is_a_convolution_of_one_by_one(bias: bool):
    layer = Pointwise(3, 5, bias=bias)
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias))
    assert layer.state_dict().keys() == nn.Conv2d(3, 5, 1, bias=bias).state_dict().keys()


def test_a_map_of_the_grids_size_is_left_alone():
    x = torch.rand(1, 2, 4, 4)
    assert to_grid(x, 4) is x


def test_a_finer_map_is_averaged():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    means = [x[0, 0, i : i + 2, j : j + 2].mean() for i in (0, 2) for j in (0, 2)]
    torch.testing.assert_close(to_grid(x, 2).flatten(), torch.stack(means))


def test_a_coarser_map_is_interpolated_in_two_dimensions():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]
    grid = to_grid(x, 4)[0, 0]
    torch.testing.assert_close(grid[0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    torch.testing.assert_close(grid[:, 0], torch.tensor([0.0, 0.5, 1.5, 2.0]))


@pytest.mark.parametrize("shape", [(8, 2), (2, 8)])
def test_a_map_finer_one_way_and_coarser_the_other_still_gives_the_grid(shape: tuple[int, int]):
    assert to_grid(torch.zeros(1, 3, *shape), 4).shape == (1, 3, 4, 4)


def test_layer_norm_sees_one_place_at_a_time_and_group_norm_tells_all_places_of_one():
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, :, 3, 3] += 5.0
    moved = {name: (norm2d(name, 8)(x) - norm2d(name, 8)(other)).abs().amax(dim=(0, 1)) for name in ("layer", "group")}
    elsewhere = torch.ones(4, 4, dtype=torch.bool)
    elsewhere[3, 3] = False
    assert moved["layer"][elsewhere].max() == 0
    assert moved["group"][elsewhere].min() > 0.05


def test_layer_norm_is_that_of_each_places_channels():
    x = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(1))
    norm = norm2d("layer", 6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
    expected = torch.stack(
        [torch.nn.functional.layer_norm(x[:, :, i, j], (6,), norm.weight) for i in range(3) for j in range(5)], dim=2
    )
    torch.testing.assert_close(norm(x), expected.view(2, 6, 3, 5))
