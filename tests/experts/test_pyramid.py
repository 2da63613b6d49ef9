"""The pyramid expert against its formula."""

import pytest
import torch
import torch.nn.functional as F

from medmoe.errors import ConfigError
from medmoe.experts.pyramid import PyramidExpert, flattened
from medmoe.types import Pyramid

CHANNELS = (4, 6, 8, 10)


def pyramid(batch: int = 2, size: int = 64, seed: int = 0) -> Pyramid:
    generator = torch.Generator().manual_seed(seed)
    return Pyramid(
        tuple(
            torch.randn(batch, c, size // 4 // 2**i, size // 4 // 2**i, generator=generator)
            for i, c in enumerate(CHANNELS)
        )
    )


@pytest.mark.parametrize("conv", ["dense", "separable"])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_regions_have_the_width_and_grid_asked_for(conv, norm):
    expert = PyramidExpert(CHANNELS, width=8, grid=6, conv=conv, norm=norm)
    assert expert(pyramid()).shape == (2, 8, 6, 6)


def test_scale_attention_sums_to_one_over_levels_at_every_location():
    expert = PyramidExpert(CHANNELS, width=8, grid=5)
    beta = expert.scale_attention(expert.features(pyramid()))
    assert beta.shape == (2, 4, 5, 5)
    torch.testing.assert_close(beta.sum(dim=1), torch.ones(2, 5, 5))


def test_regions_are_the_levels_weighed_by_the_scale_attention():
    expert = PyramidExpert(CHANNELS, width=8, grid=4, levels=(0, 2))
    levels = pyramid()
    features = expert.features(levels)
    beta = expert.scale_attention(features)
    by_hand = sum(beta[:, i, None] * features[i] for i in range(2))
    torch.testing.assert_close(expert(levels), expert.out(by_hand))


def test_projecting_before_resampling_equals_projecting_after():
    expert = PyramidExpert(CHANNELS, width=8, grid=8, levels=(0, 3), layers=0)
    levels = pyramid()
    features = torch.stack(expert.features(levels), 1)
    fine = F.adaptive_avg_pool2d(expert.project[0](levels.levels[0]), 8)
    coarse = expert.project[1](F.interpolate(levels.levels[3], size=(8, 8), mode="bilinear", align_corners=False))
    torch.testing.assert_close(features[:, 0], fine, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features[:, 1], coarse, atol=1e-5, rtol=1e-4)


def test_coarse_levels_pass_the_block_at_their_own_size_when_they_are_brought_to_the_grid_last():
    expert, levels = PyramidExpert(CHANNELS, width=8, grid=4, upsample="last"), pyramid()  # sides 16, 8, 4, 2
    sizes = []
    expert.block.register_forward_hook(lambda _m, args, _o: sizes.append(tuple(args[0].shape)))
    features = expert.features(levels)
    assert sizes == [(6, 8, 4, 4), (2, 8, 2, 2)]  # three levels at the grid together, the coarsest alone
    by_hand = expert.block(expert.project[3](levels.levels[3]))
    by_hand = F.interpolate(by_hand, size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(features[3], by_hand)
    first = PyramidExpert(CHANNELS, width=8, grid=4)
    first.load_state_dict(expert.state_dict())
    for level in range(3):
        torch.testing.assert_close(features[level], first.features(levels)[level], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(features[3], first.features(levels)[3])


def test_a_level_of_one_place_is_brought_to_the_grid_first_so_that_one_image_can_be_normalised():
    levels = pyramid(batch=1, size=32)  # sides 8, 4, 2, 1; a group of the norm is one channel
    made = [PyramidExpert(CHANNELS, width=8, grid=4, levels=(3,), upsample=when) for when in ("first", "last")]
    made[1].load_state_dict(made[0].state_dict())
    torch.testing.assert_close(made[1](levels), made[0](levels))


def test_interpolation_keeps_places_in_two_dimensions():
    expert = PyramidExpert((1,), width=1, grid=8, levels=(0,), layers=0)
    torch.nn.init.ones_(expert.project[0].weight)
    torch.nn.init.zeros_(expert.project[0].bias)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 3, 0] = 1.0  # bottom left
    grid = expert.features(Pyramid((image,)))[0][0, 0]
    row, column = divmod(int(grid.argmax()), 8)
    assert row >= 6
    assert column <= 1


def test_kernel_one_keeps_a_region_blind_to_the_rest_of_the_image():
    expert = PyramidExpert((2,), width=4, grid=4, levels=(0,), kernel=1, norm="batch").eval()
    image = torch.randn(1, 2, 4, 4)
    other = image.clone()
    other[0, :, 3, 3] += 5.0
    change = (expert(Pyramid((image,))) - expert(Pyramid((other,)))).abs().sum(dim=1)[0]
    assert change[3, 3] > 0
    assert change.sum() == change[3, 3]


def test_flattened_interpolation_goes_along_the_row_of_all_pixels():
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    row = image.reshape(2, 3, 16)  # to 64 points: each pixel is four, the two outer ones of them nearer its neighbours
    for grid in (2, 8):
        position = ((torch.arange(grid * grid) + 0.5) * 16 / grid**2 - 0.5).clamp(0, 15)
        left, right = position.floor().long(), position.ceil().long()
        expected = torch.lerp(row[..., left], row[..., right], position - left)
        torch.testing.assert_close(flattened(image, grid), expected.view(2, 3, grid, grid))


def test_flattened_interpolation_puts_what_is_in_a_corner_elsewhere():
    expert = PyramidExpert((1,), width=1, grid=8, levels=(0,), layers=0, interpolation="flattened")
    torch.nn.init.ones_(expert.project[0].weight)
    torch.nn.init.zeros_(expert.project[0].bias)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 3] = 1.0  # top right
    _, column = divmod(int(expert.features(Pyramid((image,)))[0][0, 0].argmax()), 8)
    assert column in (4, 5)  # of 0 to 7: no longer at the right


def test_the_interpolation_changes_no_weight():
    names = [[*PyramidExpert(CHANNELS, width=8, interpolation=name).state_dict()] for name in ("grid", "flattened")]
    assert names[0] == names[1]


def test_an_expert_that_starts_at_zero_is_zero_but_can_learn():
    expert = PyramidExpert(CHANNELS, width=8, grid=4, zero=True)
    regions = expert(pyramid())
    assert regions.abs().max() == 0
    (regions - 1).square().sum().backward()
    assert expert.out.weight.grad.abs().max() > 0


def test_an_image_does_not_depend_on_its_group_with_group_norm():
    expert = PyramidExpert(CHANNELS, width=8, grid=4)
    levels = pyramid(batch=5)
    alone = torch.cat([expert(Pyramid(tuple(x[i : i + 1] for x in levels.levels))) for i in range(5)])
    torch.testing.assert_close(expert(levels), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (4,)}, "expert levels (4,), allowed: 0 to 3"),
        ({"levels": ()}, "at least one"),
        ({"kernel": 2}, "expert kernel 2 is even"),
        ({"conv": "densse"}, "did you mean 'dense'"),
        ({"norm": "instance"}, "unknown norm 'instance'"),
        ({"interpolation": "flatened"}, "did you mean 'flattened'"),
        ({"upsample": "lst"}, "did you mean 'last'"),
        ({"upsample": "last", "norm": "batch"}, "upsample=last with norm=batch"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, message):
    with pytest.raises(ConfigError) as error:
        PyramidExpert(CHANNELS, **options)
    assert message in str(error.value)
