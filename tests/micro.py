"""Small things for tests of the whole: the command line within this process, a recipe of six steps, manifests."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medmoe import cli

_SETTINGS = (
    "model.vision.image_size=32",
    "model.vision.channels=[8,8,16,16]",
    "model.text.width=16",
    "model.experts.width=8",
    "model.experts.grid=4",
    "model.embed_dim=16",
    "data.batch_size=8",
    "data.workers=0",
    "train.steps=6",
    "train.val_every=3",
    "train.log_every=2",
)
SMALL = tuple(word for setting in _SETTINGS for word in ("--set", setting))


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def mistake(self) -> str:
        """The one line that a user's mistake is told in."""
        assert (self.code, self.out) == (2, ""), self
        line = self.err.removesuffix("\n")
        assert line.startswith("error: "), line
        assert "\n" not in line
        return line.removeprefix("error: ")


def medmoe(*words: object) -> Said:
    """Run a command as the console script does."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["medmoe", *map(str, words)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return Said(code, out.getvalue(), err.getvalue())


def train(data: object, out: object, *more: object) -> Said:
    """Train a small model for six steps."""
    return medmoe("train", "tiny", "--train-data", data, "--out", out, *SMALL, *more)


def write_manifest(folder: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write rows as `manifest.csv`."""
    path = folder / "manifest.csv"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    return path


def image_rows(folder: Path, count: int = 12, *, suffix: str = ".jpg") -> list[dict[str, str]]:
    """Write noise as image files, and give a manifest row for each: two modalities, a patient each."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(1, count + 1):
        name, modality = f"image-{number}{suffix}", ("xray", "ct")[number % 2]
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / name)
        rows.append(
            {
                "image": name,
                "text": f"A {('small', 'large')[number % 3 > 0]} mass in the {modality}, number {number}.",
                "modality": modality,
                "label": "mass",
                "patient_id": f"p{number}",
            }
        )
    return rows


def truncate(path: Path) -> None:
    """Cut off a file's end, as a broken copy does."""
    path.write_bytes(path.read_bytes()[:-200])
