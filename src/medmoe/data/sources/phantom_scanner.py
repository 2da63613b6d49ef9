"""Six scanners: what each modality's detector makes of clean tissue, from noise and gain to stain and sector.

A scanner returns [S, S] (grey) or [S, S, 3] (colour) in [0, 1]. Site B's are a little darker and noisier than site A's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medmoe.data.sources.phantom_anatomy import EYE, SECTOR, Scene, polar
from medmoe.data.sources.phantom_canvas import Array, step

SITES = ("site A", "site B")

# Optical density of one unit of haematoxylin, eosin and blood in red, green, blue; the first two after Ruifrok and
# Johnston (2001), Quantification of histochemical staining by color deconvolution.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.10, 1.05, 1.00]], np.float32)


def film(tissue: Array, scene: Scene, noise: float, gamma: float) -> Array:
    """X-ray: exposure and quantum noise."""
    exposed = step(tissue * scene.rng.uniform(0.9, 1.12) + scene.rng.uniform(-0.04, 0.06)) ** np.float32(gamma)
    return exposed + scene.canvas.grain(scene.rng) * 0.022 * noise


def window(tissue: Array, scene: Scene, noise: float, gamma: float) -> Array:
    """CT: display window, correlated noise; air stays black."""
    wide = scene.rng.uniform(0.95, 1.15)
    shown = step((tissue - 0.45) * wide + 0.45 + scene.rng.uniform(-0.03, 0.03)) ** np.float32(gamma)
    coarse = scene.canvas.cloud(scene.rng, scene.canvas.size // 2)
    grain = 0.7 * coarse + 0.5 * scene.canvas.grain(scene.rng)
    noisy: Array = shown + grain * 0.028 * noise * step(tissue * 8 + 0.15)
    return noisy


def coil(tissue: Array, scene: Scene, noise: float, gamma: float) -> Array:
    """MRI: bias field of the coil and Rician noise of the magnitude image."""
    bias = np.exp(0.11 * scene.canvas.cloud(scene.rng, 2))
    real = np.maximum(tissue, 0) ** np.float32(gamma) * bias * scene.rng.uniform(0.85, 1.1)
    sigma = 0.025 * noise
    real = real + sigma * scene.canvas.grain(scene.rng)
    magnitude: Array = np.hypot(real, sigma * scene.canvas.grain(scene.rng))
    return magnitude


def transducer(tissue: Array, scene: Scene, noise: float, gamma: float) -> Array:
    """Ultrasound: speckle, attenuation with time gain, dropped rays, log compression; black outside the sector."""
    canvas, rng = scene.canvas, scene.rng
    fine = canvas.size // 2
    speckle = np.hypot(canvas.cloud(rng, fine), canvas.cloud(rng, fine)) / 1.25
    depth, ray = polar(scene.frame)
    near, far, half = SECTOR
    half = half * rng.uniform(0.92, 1.08)
    lost = rng.uniform(-half, half)
    shade = 1 - rng.uniform(0.0, 0.5) * np.exp(-(((ray - lost) / 0.05) ** 2))
    strength = tissue * shade * np.exp(rng.uniform(-0.35, 0.1) * (depth - 1.1)) * rng.uniform(0.75, 1.2)
    mix = np.float32(min(0.55 * noise, 0.8))
    shown = np.log1p(9 * strength * (1 - mix + mix * speckle)) / np.log(10) * 0.95
    edge = (half - np.abs(ray)) * depth
    inside = step(np.minimum(edge, np.minimum(depth - near, far - depth)) / scene.frame.px + 0.5)
    image: Array = step(shown) ** np.float32(gamma) * inside
    return image


def microscope(tissue: Array, scene: Scene, noise: float, gamma: float) -> Array:
    """Pathology: stains absorb light by Beer–Lambert; their strength and hue differ between laboratories."""
    rng = scene.rng
    strength = np.array([rng.uniform(0.9, 1.2), rng.uniform(0.8, 1.2), 1.0], np.float32) * np.float32(gamma)
    stains = _STAINS * strength[:, None] * rng.uniform(0.9, 1.1, (3, 3)).astype(np.float32)
    dye = np.maximum(tissue, 0).reshape(3, -1)
    light = np.exp(-1.15 * (stains.T @ dye)).reshape(tissue.shape) * rng.uniform(0.93, 0.99)
    grain = rng.standard_normal(tissue.shape, dtype=np.float32) * 0.018 * noise
    return np.moveaxis(light + grain, 0, -1)


def camera(tissue: Array, scene: Scene, noise: float, gamma: float) -> Array:
    """Fundus: uneven flash, tint, sensor noise; black outside the round aperture."""
    rng = scene.rng
    centre = rng.uniform(-0.25, 0.25, 2)
    away = (scene.frame.u - centre[0]) ** 2 + (scene.frame.v - centre[1]) ** 2
    tint = rng.uniform(0.9, 1.1, 3).astype(np.float32)[:, None, None]
    lit = step(tissue * tint * (1.08 - 0.3 * away).astype(np.float32)) ** np.float32(gamma)
    lit = lit + rng.standard_normal(tissue.shape, dtype=np.float32) * 0.015 * noise
    return np.moveaxis(lit * scene.frame.disc(EYE), 0, -1)


SCANNERS: dict[str, Callable[[Array, Scene, float, float], Array]] = {
    "xray": film,
    "ct": window,
    "mri": coil,
    "ultrasound": transducer,
    "pathology": microscope,
    "fundus": camera,
}


def scan(modality: str, tissue: Array, scene: Scene, site: str) -> NDArray[np.uint8]:
    """Make the image a site's scanner shows of clean tissue.

    Args:
        modality: A key of `SCANNERS`.
        tissue: What `phantom_anatomy` and `phantom_findings` painted.
        scene: The scene, with the study's own generator.
        site: One of `SITES`.

    Returns:
        [S, S] or [S, S, 3] uint8.
    """
    later = site == SITES[1]
    gamma = float(scene.rng.uniform(0.95, 1.08)) * (1.12 if later else 1.0)
    shown = SCANNERS[modality](tissue, scene, 1.35 if later else 1.0, gamma)
    return (step(shown.astype(np.float32, copy=False)) * 255 + 0.5).astype(np.uint8)
