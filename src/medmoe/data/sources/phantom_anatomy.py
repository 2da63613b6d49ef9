"""Six painters of normal anatomy, one a modality: what a phantom looks like before findings and scanner.

A painter returns clean tissue: [S, S] for grey modalities (the quantity the scanner measures, about [0, 1]), [3, S, S]
for colour (pathology: haematoxylin, eosin and blood concentrations; fundus: red, green, blue reflectance).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medmoe.data.sources.phantom_canvas import Array, Canvas, Ellipse, Frame, blend, step

# Structures that findings keep to, in the anatomical frame.
LUNGS: dict[int, Ellipse] = {-1: (-0.42, -0.05, 0.31, 0.66), 1: (0.42, -0.05, 0.31, 0.66)}
HEART: Ellipse = (0.14, 0.33, 0.31, 0.27)
BODY: Ellipse = (0.0, 0.0, 0.93, 0.72)
PERITONEUM: Ellipse = (0.0, -0.04, 0.76, 0.54)
SPINE: Ellipse = (0.0, 0.44, 0.13, 0.12)
HEAD: Ellipse = (0.0, 0.0, 0.80, 0.96)
BRAIN: Ellipse = (0.0, 0.0, 0.68, 0.83)
VENTRICLES: Ellipse = (0.0, -0.04, 0.2, 0.28)
PROBE = (0.0, -1.15)  # where the rays of the ultrasound sector meet
SECTOR = (0.40, 2.05, 0.56)  # nearest and farthest distance from there, half its angle in radians
DISC: Ellipse = (0.52, -0.02, 0.15, 0.17)
EYE: Ellipse = (0.0, 0.0, 0.95, 0.95)

# Grey of white matter, grey matter and fluid by MRI sequence.
SEQUENCES: dict[str, tuple[float, float, float]] = {
    "axial T1": (0.66, 0.47, 0.12),
    "axial T2": (0.36, 0.52, 0.92),
    "axial FLAIR": (0.42, 0.56, 0.08),
}

VIEWS: dict[str, tuple[str, ...]] = {
    "xray": ("PA", "AP"),
    "ct": ("axial",),
    "mri": tuple(SEQUENCES),
    "ultrasound": ("transverse", "longitudinal"),
    "pathology": ("20x", "40x"),
    "fundus": ("OD", "OS"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a painter is given.

    Attributes:
        canvas: The pixels.
        frame: The patient's coordinates over them.
        view: Projection, sequence or magnification.
        rng: Where the patient's own variation comes from.
    """

    canvas: Canvas
    frame: Frame
    view: str
    rng: np.random.Generator


def polar(frame: Frame) -> tuple[Array, Array]:
    """Give each pixel's distance from the ultrasound probe's centre and its ray's angle (both [S, S])."""
    du, dv = frame.u - np.float32(PROBE[0]), frame.v - np.float32(PROBE[1])
    return np.hypot(du, dv), np.arctan2(du, dv)


def chest(scene: Scene) -> Array:
    """Paint a frontal chest projection: shoulders, lungs, ribs, heart, spine, diaphragm."""
    frame, rng = scene.frame, scene.rng
    u, v = frame.u, frame.v
    tissue = np.zeros_like(u)
    wide = rng.uniform(0.9, 1.05)
    trunk = np.maximum(frame.disc((0, 0.6, 0.92 * wide, 1.55), soft=3), frame.disc((0, -0.8, 0.26, 0.5), soft=3))
    for side in (-1, 1):
        trunk = np.maximum(trunk, frame.disc((side * 0.62 * wide, -0.42, 0.40, 0.32), turn=0.35 * side, soft=3))
    blend(tissue, trunk, 0.56)
    for side, lung in LUNGS.items():
        field = frame.disc(lung, turn=-0.10 * side, soft=2)
        blend(tissue, field, 0.24 + 0.02 * side * rng.uniform(-1, 1))
    lungs = step((np.float32(0.5) - tissue) * 4)
    markings = scene.canvas.cloud(rng, 13) * np.exp(-2.5 * np.abs(np.abs(u) - 0.2))
    tissue += lungs * markings * 0.035
    phase = (v + 0.5 * (np.abs(u) - 0.4) ** 2 * 2 + 0.18 * np.abs(u)) * rng.uniform(24, 28) + rng.uniform(0, 6)
    ribs = step(np.sin(phase) * 1.5 - 0.5) * step((np.abs(u) - 0.12) * 8) * step((0.8 - np.abs(u)) * 8)
    tissue += ribs * trunk * 0.075 * step((0.55 - v) * 6)
    spine = np.exp(-((u / 0.11) ** 2)) * trunk
    tissue += spine * (0.2 + 0.05 * np.sin(v * 32))
    grown = rng.uniform(0.85, 1.05) * (1.12 if scene.view == "AP" else 1.0)
    cu, cv, ru, rv = HEART
    blend(tissue, 0.85 * frame.disc((cu, cv, ru * grown, rv * grown), turn=0.5, soft=3), 0.72)
    dome = 0.56 + 0.5 * (np.abs(u) - 0.42) ** 2 + np.where(u > 0, np.float32(0.05), np.float32(0))
    blend(tissue, step((v - dome) / (3 * frame.px)) * trunk, 0.7)
    for side in (-1, 1):
        clavicle = np.abs(v + 0.66 - 0.18 * side * u) * 1.0
        tissue += 0.12 * step(1 - clavicle / 0.045) * step((np.abs(u) - 0.08) * 9) * step(side * u * 20) * trunk
    return tissue


def abdomen(scene: Scene) -> Array:
    """Paint an axial abdominal slice: fat and muscle wall, liver, spleen, kidneys, bowel gas, aorta, bone, table."""
    frame, rng = scene.frame, scene.rng
    tissue = np.zeros_like(frame.u)
    blend(tissue, frame.disc(BODY), 0.24)
    blend(tissue, frame.disc((0, -0.02, 0.83, 0.61)), 0.46)
    blend(tissue, frame.disc(PERITONEUM), 0.36)
    tissue += frame.disc(PERITONEUM) * scene.canvas.cloud(rng, 9) * 0.03

    def move(amount: float = 0.04) -> float:
        return float(rng.uniform(-amount, amount))

    blend(tissue, frame.disc((-0.36 + move(), -0.08 + move(), 0.40 + move(), 0.40), turn=-0.3 + move(0.1)), 0.57)
    blend(tissue, frame.disc((0.55 + move(), 0.04 + move(), 0.17, 0.27 + move()), turn=0.2), 0.60)
    for side in (-1, 1):
        place = (side * 0.36 + move(), 0.28 + move(0.03))
        blend(tissue, frame.disc((*place, 0.12, 0.16), turn=0.4 * side), 0.68)
        blend(tissue, frame.disc((place[0] - 0.03 * side, place[1], 0.045, 0.07)), 0.36)
    stomach = (0.22 + move(0.06), -0.24 + move(), 0.21, 0.15)
    blend(tissue, frame.disc(stomach, turn=move(0.3)), 0.48)
    gas = step((stomach[1] - 0.03 - frame.v) / (2 * frame.px))
    blend(tissue, frame.disc(stomach) * gas, 0.03)
    blend(tissue, frame.disc((0.07 + move(0.02), 0.24, 0.07, 0.07)), 0.72)
    cu, cv, ru, rv = SPINE
    blend(tissue, frame.disc((cu, cv + 0.16, 0.05, 0.12)), 0.9)
    blend(tissue, frame.disc(SPINE), 0.88)
    blend(tissue, frame.disc((cu, cv + 0.12, ru * 0.45, rv * 0.4)), 0.42)
    wall = np.abs(frame.radius((0, -0.02, 0.81, 0.59)) - 1) * 0.6
    angle = np.arctan2(frame.v, frame.u) * rng.integers(9, 13) + rng.uniform(0, 6)
    blend(tissue, step((0.035 - wall) / frame.px + 0.5) * step(np.sin(angle) * 3 - 1.2), 0.93)
    table = np.abs(frame.v - 0.84 - 0.1 * frame.u**2)
    blend(tissue, step((0.02 - table) / frame.px + 0.5) * step((0.8 - np.abs(frame.u)) * 20), 0.4)
    return tissue


def head(scene: Scene) -> Array:
    """Paint an axial brain slice in the sequence's contrast: scalp, skull, cortex, white matter, ventricles, falx."""
    frame, rng = scene.frame, scene.rng
    white, grey, fluid = SEQUENCES[scene.view]
    tissue = np.zeros_like(frame.u)
    blend(tissue, frame.disc(HEAD), 0.75 if scene.view == "axial T1" else 0.45)
    blend(tissue, frame.disc((0, 0, 0.75, 0.91)), 0.05)
    blend(tissue, frame.disc((0, 0, 0.70, 0.85)), fluid)
    brain = frame.disc(BRAIN)
    depth = frame.radius(BRAIN)
    fold = scene.canvas.cloud(rng, 11)
    blend(tissue, brain, grey)
    blend(tissue, brain * step((0.80 + 0.07 * fold - depth) * 9), white)
    blend(tissue, brain * step((fold - 1.45) * 3) * step((depth - 0.66) * 6), fluid)
    swollen = rng.uniform(0.75, 1.3)
    for side in (-1, 1):
        blend(tissue, frame.disc((0.26 * side, 0.05, 0.09, 0.17), turn=-0.25 * side, soft=2), grey)
        for way in (-1, 1):
            horn = (side * (0.10 + 0.02 * way), -0.04 + 0.15 * way, 0.055 * swollen, 0.15)
            blend(tissue, frame.disc(horn, turn=0.30 * side * way), fluid)
    falx = step((0.014 - np.abs(frame.u)) / frame.px + 0.5) * step((np.abs(frame.v + 0.04) - 0.36) * 20)
    blend(tissue, brain * falx, fluid)
    return tissue


def organ(scene: Scene) -> Array:
    """Paint an ultrasound sector's echo strength: skin, fascia layers, parenchyma, a bright boundary, a vessel."""
    frame, rng = scene.frame, scene.rng
    depth, ray = polar(frame)
    bent = depth + 0.05 * scene.canvas.cloud(rng, 3)
    echo = np.full_like(frame.u, 0.34)
    echo += 0.07 * scene.canvas.cloud(rng, 7)
    first = rng.uniform(0.55, 0.75)
    echo += 0.25 * np.exp(-(((bent - first) / 0.035) ** 2))
    echo += 0.35 * np.exp(-(((bent - rng.uniform(1.55, 1.85)) / 0.045) ** 2))
    echo += step((first - bent) * 12) * 0.12 * np.sin(bent * 60)
    if scene.view == "longitudinal":
        wall = np.abs(bent - rng.uniform(1.0, 1.3) - 0.15 * ray)
        echo += 0.16 * np.exp(-(((wall - 0.06) / 0.025) ** 2)) - 0.14 * step((0.05 - wall) * 30)
    echo *= np.where(depth < first, np.float32(1.1), np.float32(1.0))
    return np.maximum(echo, np.float32(0.05))


def section(scene: Scene) -> Array:
    """Paint a stained tissue section's dye: fibrous stroma, scattered nuclei, a few glands with a pale lumen."""
    frame, canvas, rng = scene.frame, scene.canvas, scene.rng
    across = 8 if scene.view == "20x" else 6
    angle = rng.uniform(0, np.pi)
    run = frame.u * np.float32(np.cos(angle)) + frame.v * np.float32(np.sin(angle))
    fibre = np.sin((run + 0.18 * canvas.cloud(rng, 4)) * rng.uniform(18, 26))
    haematoxylin = 0.10 + 0.03 * canvas.cloud(rng, 8)
    eosin = 0.42 + 0.10 * fibre + 0.06 * canvas.cloud(rng, 5)
    nuclei = step((1 - canvas.cells(rng, across, 0.22, keep=0.55, stretch=0.9)) * 3)
    blend(haematoxylin, nuclei, 0.85)
    lining = canvas.cells(rng, across * 2, 0.34, keep=0.95)
    for _ in range(rng.integers(1, 4)):
        place = (*rng.uniform(-0.85, 0.85, 2), *rng.uniform(0.16, 0.30, 2))
        distance = frame.radius(place, rng.uniform(0, np.pi))
        blend(eosin, frame.edge(distance, 0.2), 0.5)
        blend(haematoxylin, frame.edge(distance, 0.2), 0.2 + 0.6 * step((1 - lining) * 3))
        lumen = frame.edge(distance * 1.9, 0.1)
        blend(eosin, lumen, 0.04)
        blend(haematoxylin, lumen, 0.02)
    return np.stack([haematoxylin, eosin, np.zeros_like(eosin)])


def retina(scene: Scene) -> Array:
    """Paint an eye's fundus: pigment, macula, optic disc with cup, arcades of vessels with branches."""
    frame, rng = scene.frame, scene.rng
    u, v = frame.u, frame.v
    mottle = 0.03 * scene.canvas.cloud(rng, 12) + 0.05 * scene.canvas.cloud(rng, 4)
    pigment = rng.uniform(0.85, 1.1)
    tissue = np.stack([0.74 + mottle, (0.36 + 0.7 * mottle) * pigment, (0.16 + 0.4 * mottle) * pigment])
    macula = np.exp(-(((u + 0.12) ** 2 + v**2) / 0.035))
    tissue -= macula * np.array([0.22, 0.16, 0.07], np.float32)[:, None, None]
    du, cv = u - np.float32(DISC[0]), v - np.float32(DISC[1])
    vessels = np.zeros_like(u)
    for way in (-1.0, 1.0):
        for bend, thick in ((rng.uniform(-0.85, -0.65), 0.034), (rng.uniform(-1.15, -0.95), 0.024), (1.1, 0.022)):
            curve = np.abs(du - np.float32(1 / bend) * cv**2) / np.sqrt(1 + (2 / bend * cv) ** 2)
            half = thick * (1 - 0.45 * np.abs(cv))
            vessels = np.maximum(vessels, step((half - curve) / frame.px + 0.5) * step(way * cv / frame.px))
        for _ in range(3):
            start, slope = rng.uniform(-0.4, 0.25), rng.uniform(0.1, 0.8)
            along = start - u
            height = way * (np.sqrt(0.9 * (DISC[0] - start)) + slope * along * rng.choice([-0.8, 1.0]))
            curve = np.abs(v - height - way * 0.15 * along**2)
            vessels = np.maximum(vessels, 0.8 * step((0.014 - curve) / frame.px + 0.5) * step(along / frame.px))
    colours = np.array([0.50, 0.13, 0.08], np.float32)[:, None, None]
    disc = frame.disc(DISC, soft=2)
    blend(tissue, disc, np.array([0.98, 0.80, 0.48], np.float32)[:, None, None])
    cup = rng.uniform(0.35, 0.6)
    blend(tissue, frame.disc((DISC[0], DISC[1], DISC[2] * cup, DISC[3] * cup)), 0.95)
    blend(tissue, 0.8 * vessels, colours)
    return tissue


ANATOMY: dict[str, Callable[[Scene], Array]] = {
    "xray": chest,
    "ct": abdomen,
    "mri": head,
    "ultrasound": organ,
    "pathology": section,
    "fundus": retina,
}
