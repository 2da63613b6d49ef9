"""A perceptual hash that turning, flipping, shifting, recoding and relighting an image hardly change.

An image becomes a 64×64 grey thumbnail, its local contrast is evened out (which undoes brightness, contrast and most of
a gamma), and a window fades its borders. Of this only the magnitudes of low spatial frequencies are kept: they don't
move when the picture does, so that a crop of a few per cent matters little. Their means over the eight orientations,
and how far the orientations differ, are the same for every orientation. The signs of 256 fixed sums of these numbers,
measured from what is usual in medical images (`spectrum.json`), are the bits; two images are compared by how many
differ (Hamming distance).
Bits of unrelated images agree by half, but those of one body part in one modality agree by more: a small distance makes
a candidate, not a proof. `medmoe.data.curation.alike` looks at the two thumbnails.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]

SIDE = 64  # of a thumbnail, in pixels
BITS = 256
WORDS = BITS // 64
FORM = 1  # raise it when thumbnails or bits change: what was cached before is then of no use

_LOWEST = 7  # spatial frequencies 0…6 periods in each direction
_SPREAD, _NOISE = 6.0, 6.0  # pixels of the neighbourhood whose contrast is evened out; grey levels that count as noise
_SEED = 0x4D65644D6F45
_FLOOR = 0.2  # of the mean magnitude, added before the logarithm
_PLAIN = 1.5  # grey levels of standard deviation of a thumbnail that shows nothing


def grey(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Make 8-bit grey of an image as `medmoe.data.images.read_image` gives it: [H, W] of [H, W] or [H, W, 3]."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    return pixels


def thumbnail(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Shrink an image, whatever its aspect, to [64, 64] grey."""
    return np.asarray(Image.fromarray(grey(image)).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def is_plain(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which of [N, 64, 64] thumbnails show nothing (a black frame), so that likeness of two means nothing."""
    return np.asarray(thumbnails.reshape(len(thumbnails), -1).std(1) < _PLAIN)


def digest(image: NDArray[np.generic]) -> bytes:
    """Give 16 bytes that are equal where two decoded images are: the same pixels in the same depth, however stored."""
    pixels = np.ascontiguousarray(image)
    head = f"{pixels.dtype.str} {pixels.shape} ".encode()
    return hashlib.blake2b(head + pixels.tobytes(), digest_size=16, person=b"medmoe-image").digest()


def even_out(thumbnails: NDArray[np.generic], spread: float = _SPREAD) -> Floats:
    """Give [N, S, S] images local mean 0 and local contrast 1, where there is more contrast than noise."""
    pixels = thumbnails.astype(np.float32)
    around = (0, spread, spread)
    pixels -= gaussian_filter(pixels, around)
    contrast = np.sqrt(gaussian_filter(pixels * pixels, around))
    return np.asarray(pixels / (contrast + np.float32(_NOISE)))


def perceptual_hash(thumbnails: NDArray[np.uint8]) -> Words:
    """Hash thumbnails.

    Args:
        thumbnails: [N, 64, 64] grey.

    Returns:
        [N, 4] words of 64 bits.
    """
    usual, spread, signs = _constants()
    bits = ((invariants(thumbnails) - usual) / spread) @ signs > 0  # [N, 256]
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def invariants(thumbnails: NDArray[np.uint8]) -> Floats:
    """Give numbers about the spectrum that no orientation of the image changes.

    Returns:
        [N, 69]: 27 logarithms of magnitudes, means over orientations; how far upright and turned differ (21); how far
        the two diagonals differ (21).
    """
    window = np.hanning(SIDE + 2)[1:-1].astype(np.float32)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(SIDE), np.arange(1 - _LOWEST, _LOWEST)) / SIDE).astype(np.complex64)
    seen = (even_out(thumbnails) * window[:, None] * window).astype(np.complex64)  # [N, S, S]
    spectrum = np.abs(waves[:, _LOWEST - 1 :].T @ (seen @ waves))  # [N, F, 2F - 1]: rows from 0, columns from 1 - F
    falling, rising = spectrum[:, :, _LOWEST - 1 :: -1], spectrum[:, :, _LOWEST - 1 :]
    floor = _FLOOR / 2 * (falling + rising)[:, 1:, 1:].mean((1, 2), keepdims=True) + 1e-6
    falling, rising = np.log(falling + floor), np.log(rising + floor)
    mean, diagonal = (falling + rising) / 2, np.abs(falling - rising)  # [N, F, F]
    upper, beyond, inner = np.triu_indices(_LOWEST), np.triu_indices(_LOWEST, 1), np.triu_indices(_LOWEST - 1)
    parts = [
        ((mean + mean.swapaxes(1, 2)) / 2)[:, upper[0], upper[1]][:, 1:],
        np.abs(mean - mean.swapaxes(1, 2))[:, beyond[0], beyond[1]],
        ((diagonal + diagonal.swapaxes(1, 2)) / 2)[:, 1:, 1:][:, inner[0], inner[1]],
    ]
    return np.concatenate(parts, 1).astype(np.float32)


@lru_cache(maxsize=1)
def _constants() -> tuple[Floats, Floats, Floats]:
    """Give what is usual [69], by how much it varies [69], and the signs of the sums [69, 256]."""
    plain = json.loads(Path(__file__).with_name("spectrum.json").read_text(encoding="utf-8"))
    usual, spread = (np.array(plain[name], np.float32) for name in ("usual", "spread"))
    # Raw draws of a bit generator never change between versions of NumPy, those of distributions may.
    draws = np.random.PCG64(_SEED).random_raw(len(usual) * BITS // 64).astype("<u8").view(np.uint8)
    signs = np.unpackbits(draws, bitorder="little").reshape(len(usual), BITS)
    return usual, spread, signs.astype(np.float32) * 2 - 1
