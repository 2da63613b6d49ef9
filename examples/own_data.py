"""From a folder of images and text files to a trained and evaluated model, in Python.

The folder holds MODALITY/PATIENT/NAME.png (or .jpg, .dcm, …) with the report beside it in NAME.txt.

python examples/own_data.py scans runs/own --set train.steps=800 data.batch_size=64
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from pathlib import Path

from medmoe.config import override
from medmoe.data.sources.manifest import ManifestSource
from medmoe.evaluate import evaluate, gather
from medmoe.recipes import RECIPES
from medmoe.rundir import RunFolder
from medmoe.train import fit


def split_of(patient: str) -> str:
    """Deal patients out by a hash of their id: 70 % train, 10 % val, 20 % test, the same at every run."""
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:4], "big") / 2**32
    return "train" if place < 0.7 else "val" if place < 0.8 else "test"


def write_manifest(folder: Path) -> Path:
    """Write one row for each image that has a report beside it."""
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "modality", "patient_id", "split"])
        for report in sorted(folder.glob("*/*/*.txt")):
            modality, patient = report.parts[-3:-1]
            for image in sorted(report.parent.glob(f"{report.stem}.*")):
                if image != report:
                    text = report.read_text(encoding="utf-8").strip()
                    table.writerow([image.relative_to(folder), text, modality, patient, split_of(patient)])
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="run folder")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--set", nargs="*", default=[], dest="settings", help="key=value, as on the command line")
    arguments = parser.parse_args()

    manifest = write_manifest(arguments.folder)
    config = override(RECIPES[arguments.recipe](), arguments.settings)
    train, val, test = (ManifestSource(manifest, split=name, maps=False) for name in ("train", "val", "test"))
    print(f"{len(train)} images to train on, {len(val)} to validate on, {len(test)} to test on")
    model = fit(config, train=train, val=val, run=RunFolder(arguments.out))
    results = evaluate(model, gather(model, test, workers=0), ["routing", "zeroshot_retrieval"])
    for metrics in results["tasks"].values():
        for name, figure in metrics.items():
            if "/" not in name:
                print(f"{name}: {figure['value']:.3f} (chance {figure['controls']['chance']:.3f}, n {figure['n']})")


if __name__ == "__main__":
    main()
