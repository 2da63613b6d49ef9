"""The phantom source: generated images, reports and exact truth for six modalities; nothing in it is a patient.

It is the embedded default data set and the source of exact truth for tests. A phantom is decided first
(`phantom_case`), worded (`phantom_reports`), then painted (`phantom_anatomy`, `phantom_findings`) and scanned
(`phantom_scanner`); all of it follows from (seed, patient).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medmoe.data.sources.phantom_anatomy import ANATOMY, Scene
from medmoe.data.sources.phantom_canvas import Array, Canvas, canvas
from medmoe.data.sources.phantom_case import Study, followed, plan, stream
from medmoe.data.sources.phantom_findings import FINDINGS, KINDS, cover
from medmoe.data.sources.phantom_reports import write_report
from medmoe.data.sources.phantom_scanner import scan
from medmoe.data.sources.phantom_write import write_folder
from medmoe.errors import DataError, unknown
from medmoe.modalities import SIX
from medmoe.types import Box, Sample

__all__ = ["FINDINGS", "PhantomSource", "write_phantoms"]

SIZES = (32, 1024)
SPLITS: Mapping[str, float] = MappingProxyType({"train": 0.8, "val": 0.1, "test": 0.1})
README = """Generated phantoms, not patients.

Every image, report, label, box, mask and gaze map in this folder was painted and written by a program (medmoe's phantom
source) from a seed. They imitate the look of six imaging modalities so that code can be tried and tested against exact
truth. Nothing measured on them says anything about real patients.

Seed {seed}, {patients} patients, {images} images of {size} x {size} pixels. Columns: see manifest.parquet; `prior` is
the image of the same patient's earlier study, `gaze` a simulated map of where a reader looked. Licence: {licence}.
"""
LICENCE = "CC0-1.0 (generated)"


class PhantomSource:
    """Generated patients: one image each, and for about one in seven a follow-up that refers to it.

    Patient i has modality `modalities[i % len(modalities)]` and is the same whatever the number of patients.

    Args:
        patients: How many.
        size: Side of the square images in pixels, 32 to 1024.
        seed: Of everything.
        modalities: Names with a phantom.

    Raises:
        DataError: If an argument is outside what is said here.
    """

    def __init__(self, patients: int, *, size: int = 64, seed: int = 0, modalities: Sequence[str] = SIX) -> None:
        if patients < 1:
            raise DataError(f"{patients} phantom patients asked for", remedy="ask for at least 1")
        if not SIZES[0] <= size <= SIZES[1]:
            raise DataError(
                f"phantom size {size} is not in {SIZES[0]}..{SIZES[1]}", remedy="choose a size in that range"
            )
        if seed < 0:
            raise DataError(f"phantom seed {seed} is negative", remedy="choose a seed of 0 or more")
        if not modalities:
            raise DataError("no phantom modality given", remedy=f"choose from {', '.join(FINDINGS)}")
        for name in modalities:
            if name not in FINDINGS:
                raise DataError(unknown("phantom modality", name, FINDINGS), remedy="correct the name")
        self.patients, self.size, self.seed, self.modalities = patients, size, seed, tuple(modalities)
        again = followed(seed, patients).astype(np.int64)
        patient = np.repeat(np.arange(patients), 1 + again)
        number = np.r_[False, patient[1:] == patient[:-1]].astype(np.int64)
        self._rows: NDArray[np.int64] = np.stack([patient, number], axis=1)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Decide, word and paint one sample.

        Returns:
            The sample: image [S, S] or [S, S, 3] uint8, mask [S, S] bool (union of the findings), gaze [S, S].
        """
        study, patient, scene, covers = self._study(index)
        sample = self._facts(study, patient, covers)
        tissue = ANATOMY[study.modality](scene)
        for finding, alpha in zip(study.findings, covers, strict=True):
            KINDS[study.modality][finding.name].paint(tissue, alpha, scene, finding)
        own = dataclasses.replace(scene, rng=stream(self.seed, patient, 20 + study.number))
        mask = np.zeros((self.size, self.size), np.bool_)
        for alpha in covers:
            mask |= alpha > 0.5
        return dataclasses.replace(
            sample,
            image=scan(study.modality, tissue, own, study.site),
            mask=mask,
            gaze=simulate_gaze(scene.canvas, sample.boxes or (), stream(self.seed, patient, 40 + study.number)),
        )

    def shown(self, window: str) -> PhantomSource:
        """Give the phantoms themselves: they are drawn as pictures, whatever the window."""
        return self

    def facts(self, index: int) -> Sample:
        """Decide and word one sample without painting it: `image` is empty (0, 0), mask and gaze None."""
        study, patient, _, covers = self._study(index)
        return self._facts(study, patient, covers)

    def content(self, index: int) -> bytes:
        """Give what the image follows from, which tells one from another without painting it."""
        patient, number = (int(value) for value in self._rows[index])
        return f"phantom {self.seed} {patient} {number} {self._modality(patient)} {self.size}".encode()

    def _modality(self, patient: int) -> str:
        return self.modalities[patient % len(self.modalities)]

    def _study(self, index: int) -> tuple[Study, int, Scene, list[Array]]:
        """Decide a study and lay its findings over the pixels."""
        patient, number = (int(value) for value in self._rows[index])
        study = plan(self.seed, patient, self._modality(patient), number)
        pixels = canvas(self.size)
        scene = Scene(pixels, pixels.frame(study.pose), study.view, stream(self.seed, patient, 10))
        return study, patient, scene, [cover(scene, study.modality, finding) for finding in study.findings]

    def _facts(self, study: Study, patient: int, covers: list[Array]) -> Sample:
        """Word a study and gather what is known of it."""
        boxes = tuple(_box(f.name, alpha > 0.5) for f, alpha in zip(study.findings, covers, strict=True))
        report, phrases = write_report(study, boxes, stream(self.seed, patient, 30 + study.number))
        name = f"phantom{self.seed}-{patient:06d}"
        return Sample(
            key=f"{name}-{study.number}",
            image=np.zeros((0, 0), np.uint8),
            report=report,
            modality=study.modality,
            labels=tuple(finding.name for finding in study.findings),
            boxes=tuple(dataclasses.replace(b, phrase=p) for b, p in zip(boxes, phrases, strict=True)),
            view=study.view,
            offset_days=float(study.offset_days),
            prior=f"{name}-0" if study.number else None,
            domain=study.site,
            patient=name,
            study=f"{name}-{study.number}",
            source="phantom",
        )


def write_phantoms(
    out: Path,
    *,
    patients: int,
    size: int = 64,
    seed: int = 0,
    splits: Mapping[str, float] = SPLITS,
    modalities: Sequence[str] = SIX,
    workers: int = 1,
) -> Path:
    """Generate phantoms into a manifest folder.

    Args:
        out: A folder that is empty or doesn't exist yet.
        patients: How many.
        size: Side of the square images in pixels.
        seed: Of everything.
        splits: Share of each split, by patient within each modality.
        modalities: Names with a phantom.
        workers: Processes.

    Returns:
        Path of `manifest.parquet`; `images/`, `masks/`, `gaze/` and `README.txt` lie beside it.

    Raises:
        DataError: If `out` is in use, or an argument is outside what `PhantomSource` allows.
    """
    source = PhantomSource(patients, size=size, seed=seed, modalities=modalities)
    readme = README.format(seed=seed, patients=patients, images=len(source), size=size, licence=LICENCE)
    return write_folder(source, out, splits=splits, seed=seed, licence=LICENCE, readme=readme, workers=workers)


def simulate_gaze(pixels: Canvas, boxes: Sequence[Box], rng: np.random.Generator) -> NDArray[np.float32]:
    """Simulate where a reader looked: fixations around each finding and a few elsewhere, blurred, the most looked at 1.

    Args:
        pixels: The canvas.
        boxes: Findings.
        rng: Places and durations of fixations.

    Returns:
        [S, S] float32 in [0, 1].
    """
    spots: list[tuple[float, float, float, float]] = []
    for box in boxes:
        wide, high = box.x1 - box.x0, box.y1 - box.y0
        for _ in range(int(rng.integers(3, 6))):
            x, y = rng.normal(0, 0.2, 2)
            x, y = (box.x0 + box.x1) / 2 + x * wide, (box.y0 + box.y1) / 2 + y * high
            spots.append((x, y, 0.03 + 0.22 * max(wide, high), rng.uniform(0.6, 1.0)))
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(0.2, 0.8, 2)
        spots.append((x, y, 0.05, rng.uniform(0.2, 0.5)))
    x, y, sd, weight = (np.array(column, np.float32)[:, None] for column in zip(*spots, strict=True))
    across = np.exp(-(((pixels.x[:1] - x) / sd) ** 2) / 2) * weight
    down = np.exp(-(((pixels.y[:, :1].T - y) / sd) ** 2) / 2)
    looked = down.T @ across
    gaze: NDArray[np.float32] = (looked / looked.max()).astype(np.float32)
    return gaze


def _box(label: str, mask: NDArray[np.bool_]) -> Box:
    """Give the tight box of a mask, in fractions."""
    size = mask.shape[0]
    cols, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return Box(label, *(float(e) / size for e in (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)))
