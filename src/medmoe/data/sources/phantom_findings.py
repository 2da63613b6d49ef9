"""Twenty-four findings as rows of data: outline, place, size range, and how each changes the tissue."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medmoe.data.sources.phantom_anatomy import (
    BRAIN,
    DISC,
    EYE,
    HEART,
    LUNGS,
    PERITONEUM,
    SPINE,
    VENTRICLES,
    Scene,
)
from medmoe.data.sources.phantom_canvas import Array, Ellipse, blend, step
from medmoe.data.sources.phantom_shapes import (
    Finding,
    blob,
    dots,
    ellipse,
    lens,
    peritoneal,
    pleural,
    shadow,
    wedge,
)

Painter = Callable[[Array, Array, Scene, Finding], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a finding looks and where it may be.

    Attributes:
        outline: Gives the finding's coverage of the pixels.
        paint: Changes the tissue in place, given that coverage.
        radius: Smallest and largest radius, in frame units.
        stretch: Largest ratio of the axes.
        wall: Whether its centre lies on the wall of the region instead of inside it.
        height: Range of v of its centre (air rises, fluid sinks).
    """

    outline: Callable[..., Array]
    paint: Painter
    radius: tuple[float, float]
    stretch: float = 1.3
    wall: bool = False
    height: tuple[float, float] = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Region:
    """Where a modality's findings may lie.

    Attributes:
        within: Ellipses, one of which they lie in.
        without: Ellipses that they keep out of.
        aside: Least distance of a centre from the midline, so that every finding has a side.
        lateral: The same for findings on the wall.
        clip: What they can't grow out of.
    """

    within: tuple[Ellipse, ...]
    without: tuple[Ellipse, ...] = ()
    aside: float = 0.1
    lateral: float = 0.1
    clip: Ellipse | None = None


REGIONS: dict[str, Region] = {
    "xray": Region(tuple(LUNGS.values()), (HEART,), lateral=0.4),
    "ct": Region((PERITONEUM,), (SPINE,)),
    "mri": Region((BRAIN,), (VENTRICLES,), aside=0.18, clip=BRAIN),
    "ultrasound": Region(((0.0, 0.30, 0.82, 0.48), (0.0, -0.25, 0.42, 0.42))),
    "pathology": Region(((0.0, 0.0, 0.98, 0.98),)),
    "fundus": Region(((0.0, 0.0, 0.86, 0.86),), (DISC,), clip=EYE),
}


def flat(value: float) -> Painter:
    """Paint one grey value."""

    def paint(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
        blend(tissue, cover * finding.contrast, value)

    return paint


def rough(value: float, spread: float, bumps: int) -> Painter:
    """Paint a grey value with a coarse texture."""

    def paint(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
        texture = scene.canvas.cloud(np.random.default_rng(finding.seed), bumps)
        blend(tissue, cover * finding.contrast, value + spread * texture)

    return paint


def ringed(core: float, rim: float, share: float) -> Painter:
    """Paint a core inside a rim of another grey; `share` is the core's part of the radius."""

    def paint(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
        blend(tissue, cover * finding.contrast, rim)
        inner = dataclasses.replace(finding, r=finding.r * share)
        blend(tissue, ellipse(scene.frame, inner) * cover, core)

    return paint


def collapse(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint air without lung markings, and the bright line of the pleura at its inner border."""
    blend(tissue, cover, 0.20 - 0.18 * finding.contrast)
    line = np.exp(-(((cover - 0.35) / 0.22) ** 2)) * (scene.frame.radius(LUNGS[1 if finding.u > 0 else -1]) < 0.93)
    blend(tissue, 0.8 * line.astype(np.float32), 0.78)


def ischaemia(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint water-swollen tissue: dark on T1, bright on T2 and FLAIR."""
    blend(tissue, cover * finding.contrast, 0.20 if scene.view == "axial T1" else 0.86)


def demyelination(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint small foci: dark on T1, very bright on T2 and FLAIR."""
    blend(tissue, cover * finding.contrast, 0.08 if scene.view == "axial T1" else 1.0)


def anechoic(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint clear fluid in a round bright wall: no echo inside, more of it behind."""
    tissue *= 1 + 0.9 * finding.contrast * shadow(scene.frame, finding)
    outer = dataclasses.replace(finding, r=finding.r + 0.05)
    blend(tissue, finding.contrast * ellipse(scene.frame, outer), 0.95)
    blend(tissue, cover, 0.06 - 0.05 * finding.contrast)


def calcified(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint a bright reflector that leaves its shadow behind."""
    tissue *= 1 - 0.97 * finding.contrast * shadow(scene.frame, finding)
    blend(tissue, cover, 2.2 * finding.contrast)


def cellular(
    across: int, radius: float, dyes: tuple[float, float, float], between: tuple[float, float, float]
) -> Painter:
    """Paint tissue packed with cells: the dyes of the cells and of what is between them."""

    def paint(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
        rng = np.random.default_rng(finding.seed)
        cells = step((1 - scene.canvas.cells(rng, across, radius, stretch=0.4)) * 3)
        for channel in range(3):
            mixed = between[channel] + cells * np.float32(dyes[channel] - between[channel])
            blend(tissue[channel], cover * finding.contrast, mixed)

    return paint


def necrotic(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint pale, smudged eosinophilic debris without nuclei."""
    debris = scene.canvas.cloud(np.random.default_rng(finding.seed), 20)
    for channel, (value, spread) in enumerate(((0.02, 0.01), (0.14, 0.04), (0.0, 0.0))):
        blend(tissue[channel], cover * finding.contrast, value + spread * debris)


def coloured(red: float, green: float, blue: float, *, feather: float = 1.0) -> Painter:
    """Paint one colour of the retina; `feather` above 1 fades towards the border."""

    def paint(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
        if feather > 1:
            away = scene.frame.radius((finding.u, finding.v, finding.r, finding.r))
            cover = step(feather * (1.25 - away)) * np.sqrt(cover)
        for channel, value in enumerate((red, green, blue)):
            blend(tissue[channel], cover * finding.contrast, value)

    return paint


def tangled(tissue: Array, cover: Array, scene: Scene, finding: Finding) -> None:
    """Paint a net of fine new vessels."""
    rng = np.random.default_rng(finding.seed)
    frame, net = scene.frame, np.zeros_like(cover)
    for turn in (finding.turn, finding.turn + 1.2, finding.turn + 2.2):
        run = frame.u * np.float32(np.cos(turn)) + frame.v * np.float32(np.sin(turn))
        wave = np.sin((run + 0.045 * scene.canvas.cloud(rng, 8)) * rng.uniform(20, 24))
        net = np.maximum(net, step(1.2 - np.abs(wave) * 2.6))
    for channel, value in enumerate((0.62, 0.03, 0.06)):
        blend(tissue[channel], cover * net * finding.contrast, value)


KINDS: dict[str, dict[str, Kind]] = {
    "xray": {
        "nodule": Kind(ellipse, flat(1.0), (0.10, 0.18), 1.15),
        "consolidation": Kind(blob, rough(0.56, 0.14, 16), (0.20, 0.36), 1.4),
        "effusion": Kind(pleural, flat(0.80), (0.28, 0.60), 1.0, wall=True, height=(-0.35, 1.0)),
        "pneumothorax": Kind(pleural, collapse, (0.28, 0.60), 1.0, wall=True, height=(-1.0, 0.35)),
    },
    "ct": {
        "cyst": Kind(ellipse, flat(0.10), (0.11, 0.28), 1.2),
        "mass": Kind(blob, ringed(0.40, 0.84, 0.55), (0.17, 0.38), 1.4),
        "stone": Kind(ellipse, flat(1.35), (0.075, 0.12), 1.3),
        "ascites": Kind(peritoneal, flat(0.28), (0.32, 0.65), 1.0, wall=True, height=(-1.0, 0.32)),
    },
    "mri": {
        "tumour": Kind(blob, ringed(0.10, 0.98, 0.55), (0.16, 0.36), 1.3),
        "infarct": Kind(wedge, ischaemia, (0.20, 0.38), 1.0),
        "haemorrhage": Kind(blob, ringed(1.0, 0.0, 0.55), (0.13, 0.28), 1.6),
        "white_matter_lesion": Kind(dots, demyelination, (0.22, 0.40), 1.0),
    },
    "ultrasound": {
        "cyst": Kind(ellipse, anechoic, (0.11, 0.26), 1.2),
        "mass": Kind(blob, rough(1.05, 0.25, 14), (0.14, 0.34), 1.4),
        "calcification": Kind(ellipse, calcified, (0.075, 0.11), 1.3),
        "free_fluid": Kind(lens, flat(0.01), (0.28, 0.52), 3.0),
    },
    "pathology": {
        "inflammation": Kind(blob, cellular(17, 0.36, (1.35, 0.25, 0.0), (0.25, 0.30, 0.0)), (0.18, 0.42), 1.8),
        "necrosis": Kind(blob, necrotic, (0.22, 0.52), 1.6),
        "carcinoma": Kind(blob, cellular(7, 0.42, (1.15, 0.35, 0.0), (0.50, 0.40, 0.0)), (0.26, 0.50), 1.4),
        "haemorrhage": Kind(blob, cellular(14, 0.40, (0.0, 0.35, 1.05), (0.0, 0.30, 0.30)), (0.14, 0.44), 1.8),
    },
    "fundus": {
        "haemorrhage": Kind(blob, coloured(0.22, 0.02, 0.03), (0.11, 0.30), 1.8),
        "hard_exudate": Kind(dots, coloured(1.05, 0.95, 0.30), (0.16, 0.32), 1.0),
        "cotton_wool_spot": Kind(blob, coloured(0.98, 0.90, 0.78, feather=1.6), (0.11, 0.24), 1.4),
        "neovascularisation": Kind(blob, tangled, (0.20, 0.36), 1.4),
    },
}

FINDINGS: dict[str, tuple[str, ...]] = {modality: tuple(kinds) for modality, kinds in KINDS.items()}


def cover(scene: Scene, modality: str, finding: Finding) -> Array:
    """Give a finding's coverage of the pixels, [S, S] in [0, 1]; where it is above 0.5 is the mask."""
    covered = KINDS[modality][finding.name].outline(scene.frame, finding)
    clip = REGIONS[modality].clip
    return covered if clip is None else covered * scene.frame.disc(clip)
