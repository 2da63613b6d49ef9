"""Do experts help? Every arrangement over seeds, equal steps and data, one command.

    python benchmarks/arrangements.py --out runs/arrangements --seeds 0 1 2 --jobs 2

Trains and evaluates each arrangement of `medmoe.recipes.ARRANGEMENTS` on phantoms, on other phantoms
than it was trained on, and writes `results.json` and `table.md` with the mean over seeds and, against a
reference arrangement, the paired difference with its 95 % t interval. A run that is done isn't done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

METRICS = {
    "report → image R@5": ("zeroshot_retrieval", "report_to_image_recall@5"),
    "image → report R@5": ("zeroshot_retrieval", "image_to_report_recall@5"),
    "zero-shot balanced accuracy": ("zeroshot_classification", "balanced_accuracy"),
    "pointing": ("grounding", "pointing"),
    "image router": ("routing", "image_router_accuracy"),
}
TASKS = "routing,zeroshot_retrieval,zeroshot_classification,grounding"
ARMS = (
    "separate", "shared_special", "grown", "no_experts", "two_shared", "all_shared", "random", "oracle"
)  # fmt: skip


def medmoe(*arguments: object) -> None:
    """Run the command line with one thread, so that several runs share the cores fairly."""
    command = [sys.executable, "-m", "medmoe", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")


def one(out: Path, arm: str, seed: int, settings: list[str]) -> None:
    """Train and evaluate one arrangement with one seed, unless that is done."""
    run, scores = out / f"{arm}-{seed}", out / f"{arm}-{seed}.json"
    if scores.is_file():
        return
    changes = [part for setting in settings for part in ("--set", setting)]
    medmoe("train", arm, "--train-data", out / "data" / "train", "--train-split", "all", "--out", run,
           "--seed", seed, "--resume", "latest", "--workers", 0, *changes)  # fmt: skip
    medmoe("eval", run, "--data", out / "data" / "test", "--split", "all", "--workers", 0, "--tasks", TASKS,
           "--resamples", 200, "--json", scores)  # fmt: skip
    print(f"{arm} seed {seed} done", flush=True)


def value(result: dict[str, Any], metric: tuple[str, str]) -> float:
    """Read one figure."""
    return float(result["tasks"][metric[0]][metric[1]]["value"])


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Give the 95 % t interval of a mean over seeds."""
    if len(differences) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return float(differences.mean() - half), float(differences.mean() + half)


def summarise(out: Path, arms: list[str], seeds: list[int], reference: str) -> tuple[dict[str, Any], str]:
    """Average over seeds and compare with the reference, seed by seed."""
    results = {arm: [json.loads((out / f"{arm}-{seed}.json").read_text()) for seed in seeds] for arm in arms}
    data: dict[str, Any] = {"seeds": seeds, "reference": reference, "arms": {}}
    lines = [
        "| arrangement | " + " | ".join(METRICS) + " |",
        "| --- |" + " --- |" * len(METRICS),
    ]
    for arm in arms:
        cells, data["arms"][arm] = [], {}
        for name, metric in METRICS.items():
            scores = np.array([value(result, metric) for result in results[arm]])
            base = np.array([value(result, metric) for result in results[reference]])
            low, high = interval(scores - base)
            data["arms"][arm][name] = {
                "mean": scores.mean(), "seeds": scores.tolist(),
                "difference": (scores - base).mean(), "low": low, "high": high,
            }  # fmt: skip
            versus = "" if arm == reference else f" ({(scores - base).mean():+.3f}: {low:+.3f} to {high:+.3f})"
            cells.append(f"{scores.mean():.3f}{versus}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return data, "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--reference", default="no_experts")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--patients", type=int, default=3600)
    parser.add_argument("--test-patients", type=int, default=1200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    arguments = parser.parse_args()
    for name, patients, seed in (("train", arguments.patients, 101), ("test", arguments.test_patients, 202)):
        if not (arguments.out / "data" / name).exists():
            medmoe("data", "phantom", "--out", arguments.out / "data" / name, "--patients", patients, "--seed", seed)
    jobs = [(arm, seed) for seed in arguments.seeds for arm in arguments.arms]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in [pool.submit(one, arguments.out, arm, seed, arguments.settings) for arm, seed in jobs]:
            done.result()
    data, table = summarise(arguments.out, arguments.arms, arguments.seeds, arguments.reference)
    (arguments.out / "results.json").write_text(json.dumps(data, indent=2) + "\n")
    (arguments.out / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
