"""Does a shared backbone know the modality at every place, so that a shared expert can already act by modality?

    python benchmarks/specialisation.py --model RUN --data MANIFEST [--split all] [--json FILE]

Takes the features of single places of each pyramid level (the channels at one place, nothing else of the image), fits a
logistic regression of the modality on half of the patients, and judges it on the other half. Controls: the same on an
untrained model, on the raw pixels under the place, and chance. If one place of the finest level tells the modality, a
shared expert can compute something else for each modality without being routed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medmoe.build import build_loader, load_model
from medmoe.config import DataConfig, RunConfig
from medmoe.data.sources.concat import open_source
from medmoe.evaluate import untrained
from medmoe.metrics import Resampler, balanced_accuracy, interval

PLACES = 4  # of each image and level


@torch.inference_mode()
def collect(model, fresh, loader, generator):
    """Give, by name, features of places [n · PLACES, C]; and modality and patient of each."""
    parts: dict[str, list[np.ndarray]] = {}
    modality, patients = [], []
    for batch in loader:
        sets = {"trained": model.vision(batch.image).levels, "untrained": fresh.vision(batch.image).levels}
        for level, feature in enumerate(sets["trained"]):
            side = feature.shape[2:]
            place = torch.randint(side[0] * side[1], (len(feature), PLACES), generator=generator)
            for name, levels in sets.items():
                parts.setdefault(f"level {level} {name}", []).append(picked(levels[level], place))
            if level == 0:  # what lies under a place: the patch of pixels that its stride covers
                patch = F.pixel_unshuffle(batch.image, batch.image.shape[2] // side[0])
                parts.setdefault("pixels", []).append(picked(patch, place))
        modality += batch.modality.repeat_interleave(PLACES).tolist()
        patients += [sample.patient or sample.key for sample in batch.samples for _ in range(PLACES)]
    return {name: np.concatenate(rows) for name, rows in parts.items()}, np.array(modality), patients


def picked(feature: torch.Tensor, place: torch.Tensor) -> np.ndarray:
    """Take places [B, P] of a feature [B, C, H, W]: [B · P, C]."""
    rows = feature.flatten(2).transpose(1, 2)  # [B, H·W, C]
    return torch.gather(rows, 1, place[:, :, None].expand(-1, -1, rows.shape[2])).flatten(0, 1).numpy()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="all")
    parser.add_argument("--json")
    asked = parser.parse_args()
    model = load_model(asked.model)
    source = open_source(asked.data, split=None if asked.split == "all" else asked.split, maps=False)
    loader = build_loader(source, model, RunConfig(recipe="eval", data=DataConfig(workers=0)), train=False)
    features, modality, patients = collect(model, untrained(model), loader, torch.Generator().manual_seed(0))
    known = sorted(set(patients))
    first = set(np.random.default_rng(0).permutation(known)[: len(known) // 2].tolist())
    fit = np.array([patient in first for patient in patients])
    judged = [patient for patient, used in zip(patients, fit, strict=True) if not used]
    resampler = Resampler(judged, resamples=1000, seed=0)
    found = {}
    for name, rows in features.items():
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(rows[fit], modality[fit])
        true, said = modality[~fit], probe.predict(rows[~fit])
        low, high = interval(resampler.draws(lambda w, true=true, said=said: balanced_accuracy(true, said, w)))
        value = float(balanced_accuracy(true, said))
        found[name] = {"value": value, "low": low, "high": high, "n": len(true)}
        print(f"{name:20s} {value:.3f} [{low:.3f}, {high:.3f}]  chance {1 / len(np.unique(true)):.3f}  n {len(true)}")
    if asked.json:
        text = json.dumps({"command": sys.argv, "figures": found}, indent=2)
        Path(asked.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
