"""The canvas's shapes, noise and cells must be what their descriptions say."""

from __future__ import annotations

import numpy as np
import pytest

from medmoe.data.sources.phantom_canvas import Pose, blend, canvas


def test_the_frame_spans_the_image_and_follows_the_pose():
    pixels = canvas(40)
    plain = pixels.frame(Pose())
    assert plain.u[0, 0] == pytest.approx(-1 + 1 / 40)
    assert plain.v[-1, 0] == pytest.approx(1 - 1 / 40)
    assert plain.px == pytest.approx(2 / 40)
    moved = pixels.frame(Pose(x=0.1, y=-0.1, scale=0.8, turn=0.3, flip=True))
    at = np.unravel_index(np.argmin(moved.u**2 + moved.v**2), (40, 40))
    assert pixels.x[at] == pytest.approx(0.6, abs=0.02)
    assert pixels.y[at] == pytest.approx(0.4, abs=0.02)
    assert moved.u[20, 0] > 0


def test_a_disc_covers_its_area():
    frame = canvas(128).frame(Pose())
    assert frame.disc((0.1, -0.2, 0.4, 0.2), turn=0.7).mean() == pytest.approx(np.pi * 0.4 * 0.2 / 4, rel=0.02)


def test_a_cloud_has_mean_zero_and_variance_one():
    rng = np.random.default_rng(0)
    clouds = np.stack([canvas(32).cloud(rng, 6) for _ in range(400)])
    assert np.allclose(clouds.mean(0), 0, atol=0.25)
    assert clouds.std() == pytest.approx(1, rel=0.05)


def test_cells_cover_the_area_of_their_ellipses():
    """None is cut off where the four nearest grid cells end."""
    rng = np.random.default_rng(1)
    covered = np.mean([(canvas(96).cells(rng, 6, 0.3, stretch=0.3) < 1).mean() for _ in range(40)])
    assert covered == pytest.approx(np.pi * 0.3**2 * (1 + 0.2**2 / 3), rel=0.03)


def test_no_cell_is_left_where_none_is_kept():
    assert (canvas(32).cells(np.random.default_rng(0), 6, 0.3, keep=0.0) > 1).mean() > 0.99


def test_blending_mixes_in_place():
    image = np.zeros((2, 2), np.float32)
    blend(image, np.array([[0, 1], [0.5, 1]], np.float32), 0.8)
    assert np.allclose(image, [[0, 0.8], [0.4, 0.8]])
