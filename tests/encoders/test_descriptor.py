"""Measures that no data shaped: what moves them, what doesn't, and what is learnt of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medmoe.encoders.descriptor import MEASURES, Descriptor
from medmoe.errors import ModelError


def images(count: int = 3, *, size: int = 64, seed: int = 0) -> Tensor:
    """Give smooth grey pictures in [0, 1] on all three channels: [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, size // 8, size // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return (0.2 + 0.6 * smooth).expand(-1, 3, -1, -1).contiguous()


def described(pixels: Tensor, *measures: str) -> Tensor:
    descriptor = Descriptor(pixels.shape[-1], measures=measures or None).eval()
    return descriptor.describe((pixels - descriptor.mean) / descriptor.std)


def test_every_measure_is_a_row_of_finite_numbers_also_of_a_black_or_white_image():
    pixels = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64), *images(2)])
    for size in (96, 32):
        for name, measure in MEASURES.items():
            values = measure(torch.nn.functional.interpolate(pixels, (size, size)))
            assert values.ndim == 2, name
            assert values.isfinite().all(), name


def test_an_image_is_described_alike_whatever_it_is_batched_with():
    many = images(4)
    alone = torch.cat([described(one[None]) for one in many])
    torch.testing.assert_close(described(many), alone, atol=1e-5, rtol=1e-4)


def test_grey_has_no_colour_and_a_tint_has():
    grey = images(1)
    tinted = grey * torch.tensor([1.0, 0.6, 0.6]).view(1, 3, 1, 1)
    level = 2  # mean chroma
    assert described(grey, "colour")[0, level] == pytest.approx(0, abs=1e-6)
    assert described(tinted, "colour")[0, level] > 0.1


def test_turning_an_image_by_a_quarter_leaves_grey_levels_and_patterns_alone():
    pixels = images(2)
    turned = pixels.rot90(1, (2, 3))
    whole, again = described(pixels, "grey_levels"), described(turned, "grey_levels")
    histogram = slice(0, 9)
    torch.testing.assert_close(whole[:, histogram], again[:, histogram], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(described(pixels, "layout"), described(turned, "layout"))


def test_noise_raises_the_texture_of_the_finest_scale():
    pixels = images(2)
    noisy = (pixels + 0.05 * torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    laplacian = 5  # logarithm of its mean relative to the contrast
    assert (described(noisy, "texture")[:, laplacian] > described(pixels, "texture")[:, laplacian] + 0.5).all()


def test_a_pyramid_of_one_place_comes_out_standardised_and_cut_off():
    descriptor = Descriptor(64)
    descriptor.standard.load_state_dict(
        {
            "running_mean": torch.zeros(descriptor.channels[0]),
            "running_var": torch.full(descriptor.channels, 1e-8),
            "num_batches_tracked": torch.tensor(1),
        }
    )
    (level,) = descriptor.eval()(images()).levels
    assert level.shape == (3, descriptor.channels[0], 1, 1)
    assert level.abs().max() == descriptor.most


def test_nothing_in_it_learns_by_gradient():
    descriptor = Descriptor(64)
    assert list(descriptor.parameters()) == []
    assert not descriptor.eval()(images().requires_grad_()).levels[0].requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ("texure",)}, "did you mean 'texture'"),
        ({"measures": ()}, "at least 32 and 1"),
        ({"image_size": 16}, "at least 32 and 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, object], message: str):
    with pytest.raises(ModelError, match=message):
        Descriptor(**options)  # type: ignore[arg-type]
