"""Outlines of findings: each shape turns a planned finding into coverage of the pixels, which is the exact truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medmoe.data.sources.phantom_anatomy import LUNGS, PERITONEUM, polar
from medmoe.data.sources.phantom_canvas import Array, Ellipse, Frame, step


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding as planned, in the anatomical frame.

    Attributes:
        name: A finding of the modality.
        u: Centre.
        v: Centre.
        r: Radius (for crescents, half their length).
        stretch: Ratio of the long to the short axis, at least 1.
        turn: Direction of the long axis in radians.
        contrast: How strongly it is painted, in (0, 1].
        seed: Of its own outline and texture.
    """

    name: str
    u: float
    v: float
    r: float
    stretch: float
    turn: float
    contrast: float
    seed: int


def ellipse(frame: Frame, finding: Finding) -> Array:
    """Cover a smooth ellipse."""
    long, short = finding.r * np.sqrt(finding.stretch), finding.r / np.sqrt(finding.stretch)
    return frame.disc((finding.u, finding.v, long, short), finding.turn)


def blob(frame: Frame, finding: Finding) -> Array:
    """Cover an ellipse with an irregular border."""
    rng = np.random.default_rng(finding.seed)
    long, short = finding.r * np.sqrt(finding.stretch), finding.r / np.sqrt(finding.stretch)
    distance = frame.radius((finding.u, finding.v, long, short), finding.turn)
    angle = np.arctan2(frame.v - np.float32(finding.v), frame.u - np.float32(finding.u))
    border = np.ones_like(angle)
    for waves, height in ((2, 0.10), (3, 0.10), (5, 0.08)):
        border += np.float32(height) * np.sin(waves * angle + np.float32(rng.uniform(0, 6.28)))
    return frame.edge(distance / border, short)


def dots(frame: Frame, finding: Finding) -> Array:
    """Cover a cluster of small discs."""
    rng = np.random.default_rng(finding.seed)
    count = int(rng.integers(6, 10))
    angle = rng.uniform(0, 0.5, count) + np.arange(count) * 2.4  # the golden angle spreads them
    far = 0.85 * finding.r * np.sqrt((np.arange(count) + 0.3) / count)
    size = np.clip(0.22 * finding.r, 0.035, 0.055) * rng.uniform(0.9, 1.25, count)
    du = frame.u[None] - (finding.u + far * np.cos(angle)).astype(np.float32)[:, None, None]
    dv = frame.v[None] - (finding.v + far * np.sin(angle)).astype(np.float32)[:, None, None]
    inside = size.astype(np.float32)[:, None, None] - np.sqrt(du**2 + dv**2)
    return step(inside.max(0) / np.float32(frame.px) + np.float32(0.5))


def wedge(frame: Frame, finding: Finding) -> Array:
    """Cover a triangle that opens outwards to the brain's border, as a vessel's territory does."""
    out = np.arctan2(finding.v, finding.u)
    du, dv = frame.u - np.float32(finding.u), frame.v - np.float32(finding.v)
    along = du * np.float32(np.cos(out)) + dv * np.float32(np.sin(out))
    aside = np.abs(dv * np.float32(np.cos(out)) - du * np.float32(np.sin(out)))
    half = 0.62 * (along + np.float32(1.1 * finding.r))
    inside = np.minimum(half - aside, np.float32(finding.r) - along)
    return step(inside / np.float32(frame.px) + np.float32(0.5))


def lens(frame: Frame, finding: Finding) -> Array:
    """Cover a pointed, elongated pocket."""
    c, s = np.float32(np.cos(finding.turn)), np.float32(np.sin(finding.turn))
    du, dv = frame.u - np.float32(finding.u), frame.v - np.float32(finding.v)
    along, aside = c * du + s * dv, c * dv - s * du
    profile = np.float32(finding.r / finding.stretch) * (1 - (along / np.float32(finding.r)) ** 2)
    return step((profile - np.abs(aside)) / np.float32(frame.px) + np.float32(0.5))


def pleural(frame: Frame, finding: Finding) -> Array:
    """Cover a crescent along the wall of the lung that the finding's centre lies in."""
    return _crescent(frame, finding, LUNGS[1 if finding.u > 0 else -1])


def peritoneal(frame: Frame, finding: Finding) -> Array:
    """Cover a crescent along the wall of the abdominal cavity."""
    return _crescent(frame, finding, PERITONEUM)


def _crescent(frame: Frame, finding: Finding, wall: Ellipse) -> Array:
    """Cover what lies between an ellipse and a bulge towards its inside, thickest at the wall beside the finding."""
    cu, cv, ru, rv = wall
    angle = np.arctan2((finding.v - cv) / rv, (finding.u - cu) / ru)
    c, s = float(np.cos(angle)), float(np.sin(angle))
    length = np.hypot(c / ru, s / rv)
    out_u, out_v = np.float32(c / ru / length), np.float32(s / rv / length)
    du, dv = frame.u - np.float32(cu + ru * c), frame.v - np.float32(cv + rv * s)
    depth, along = -(du * out_u + dv * out_v), dv * out_u - du * out_v
    bulge = np.float32(0.45 * finding.r + 0.06) * (1 - (along / np.float32(1.3 * finding.r)) ** 2)
    inside = np.minimum(bulge - depth, (1 - frame.radius(wall)) * np.float32(min(ru, rv)))
    return step(inside / np.float32(frame.px) + np.float32(0.5))


def shadow(frame: Frame, finding: Finding) -> Array:
    """Cover what lies behind a finding on the ultrasound rays that pass through it."""
    depth, ray = polar(frame)
    far = np.hypot(finding.u, finding.v + 1.15)
    place = np.arctan2(finding.u, finding.v + 1.15)
    half = 0.9 * finding.r / far
    return step((half - np.abs(ray - np.float32(place))) * 25 + 0.5) * step((depth - np.float32(far)) * 12)
