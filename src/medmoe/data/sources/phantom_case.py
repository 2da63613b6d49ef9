"""What is true of a phantom patient, decided before anything is painted: pose, view, findings, follow-up.

Every draw comes from (seed, patient, purpose), so patient i is the same whatever the number of patients.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmoe.data.sources.phantom_anatomy import VIEWS
from medmoe.data.sources.phantom_canvas import Pose
from medmoe.data.sources.phantom_findings import FINDINGS, KINDS, REGIONS, Kind, Region
from medmoe.data.sources.phantom_scanner import SITES
from medmoe.data.sources.phantom_shapes import Finding

FOLLOWED = 0.15  # share of patients with a second study
COUNTS = (0.10, 0.60, 0.30)  # shares of first studies with none, one and two findings


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a finding since the first study: `grown`, `shrunk`, `resolved` or `appeared`."""

    name: str
    how: str


@dataclass(frozen=True, slots=True)
class Study:
    """Everything decided about one image.

    Attributes:
        modality: A key of `FINDINGS`.
        number: 0 for the first study, 1 for the follow-up.
        pose: How the patient lies.
        view: Projection, sequence, magnification or eye.
        site: Where it was made.
        findings: What is there.
        change: Since the first study; None in a first study.
        offset_days: Days since the first study.
    """

    modality: str
    number: int
    pose: Pose
    view: str
    site: str
    findings: tuple[Finding, ...]
    change: Change | None = None
    offset_days: int = 0


def stream(seed: int, patient: int, purpose: int) -> np.random.Generator:
    """Give the generator of one purpose of one patient."""
    return np.random.default_rng((seed, patient, purpose))


def followed(seed: int, patients: int) -> NDArray[np.bool_]:
    """Say which patients have a follow-up study ([patients] bool); a prefix of the same for more patients."""
    return np.asarray(np.random.default_rng((seed, 0xF0)).random(patients) < FOLLOWED)


def plan(seed: int, patient: int, modality: str, number: int) -> Study:
    """Decide one study of a patient."""
    rng = stream(seed, patient, 0)
    views = VIEWS[modality]
    view = views[int(rng.integers(len(views)))]
    site = SITES[int(rng.random() < 0.5)]
    pose = _pose(rng, modality, view)
    findings: tuple[Finding, ...] = ()
    count = int(np.searchsorted(np.cumsum(COUNTS), rng.random(), side="right"))
    for name in rng.permutation(FINDINGS[modality])[: min(count, 2)]:
        findings = (*findings, *_place(rng, modality, str(name), findings))
    first = Study(modality, 0, pose, view, site, findings)
    return first if number == 0 else _follow(stream(seed, patient, 1), first)


def _pose(rng: np.random.Generator, modality: str, view: str) -> Pose:
    """Draw a pose; a section has no up, a transducer hardly turns."""
    if modality == "pathology":
        return Pose()
    turn = 0.03 if modality == "ultrasound" else 0.09
    x, y = rng.uniform(-0.035, 0.035, 2)
    return Pose(float(x), float(y), float(rng.uniform(0.86, 1.02)), float(rng.normal(0, turn / 2)), view == "OS")


def _follow(rng: np.random.Generator, first: Study) -> Study:
    """Decide the follow-up of a first study: one finding changes, the patient is laid down anew."""
    shift = rng.normal(0, 0.012, 2)
    pose = dataclasses.replace(
        first.pose,
        x=first.pose.x + (0.0 if first.modality == "pathology" else float(shift[0])),
        y=first.pose.y + (0.0 if first.modality == "pathology" else float(shift[1])),
    )
    findings = list(first.findings)
    how = ("grown", "shrunk", "resolved", "appeared")[int(rng.integers(4))]
    change: Change | None = None
    if not findings or (how == "appeared" and len(findings) < 2):
        absent = [name for name in FINDINGS[first.modality] if name not in {f.name for f in findings}]
        new = _place(rng, first.modality, str(rng.choice(absent)), first.findings, tries=500)
        findings += new
        change = Change(new[0].name, "appeared") if new else None
    if change is None:
        at = int(rng.integers(len(findings)))
        low, high = KINDS[first.modality][findings[at].name].radius
        if how == "resolved":
            change = Change(findings.pop(at).name, "resolved")
        else:
            grows = findings[at].r < (low + high) / 2
            change = Change(findings[at].name, "grown" if grows else "shrunk")
            findings[at] = dataclasses.replace(findings[at], r=findings[at].r * (1.4 if grows else 1 / 1.4))
    days = int(rng.integers(7, 400))
    return dataclasses.replace(first, number=1, pose=pose, findings=tuple(findings), change=change, offset_days=days)


def _place(
    rng: np.random.Generator, modality: str, name: str, others: tuple[Finding, ...], tries: int = 64
) -> tuple[Finding, ...]:
    """Draw a finding clear of the others; `()` where no try finds room."""
    kind, region = KINDS[modality][name], REGIONS[modality]
    low, high = kind.radius
    stretch = float(
        rng.uniform(min(2.2, kind.stretch), kind.stretch) if kind.stretch > 2 else rng.uniform(1, kind.stretch)
    )
    turn = float(rng.uniform(0, np.pi))
    contrast = float(rng.uniform(0.75, 1.0))
    seed = int(rng.integers(2**31))
    for attempt in range(tries):
        r = low + (high - low) * float(rng.random()) ** 1.3 * max(0.0, 1 - attempt / tries)
        u, v = _point(rng, kind, region, r)
        if _allowed(u, v, r, kind, region) and all(np.hypot(u - o.u, v - o.v) > r + o.r + 0.08 for o in others):
            return (Finding(name, u, v, r, stretch, turn, contrast, seed),)
    return ()


def _point(rng: np.random.Generator, kind: Kind, region: Region, r: float) -> tuple[float, float]:
    """Draw a centre from one of the region's ellipses, or from its wall."""
    cu, cv, ru, rv = region.within[int(rng.integers(len(region.within)))]
    angle = float(rng.uniform(0, 2 * np.pi))
    far = 0.9 if kind.wall else float(np.sqrt(rng.random()))
    return cu + far * ru * float(np.cos(angle)), cv + far * rv * float(np.sin(angle))


def _allowed(u: float, v: float, r: float, kind: Kind, region: Region) -> bool:
    """Say whether a finding of radius r at (u, v) lies where findings may."""
    if kind.wall:
        return abs(u) > region.lateral and kind.height[0] < v < kind.height[1]
    inside = any(
        ((u - cu) / max(ru - 0.6 * r, 0.02)) ** 2 + ((v - cv) / max(rv - 0.6 * r, 0.02)) ** 2 < 1
        for cu, cv, ru, rv in region.within
    )
    return (inside and abs(u) > region.aside) and all(
        ((u - cu) / (ru + 0.5 * r)) ** 2 + ((v - cv) / (rv + 0.5 * r)) ** 2 > 1 for cu, cv, ru, rv in region.without
    )
