"""Evaluations made up for the report's tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

VOID = {"meta", "img", "br"}
NAMES = ["xray", "ct"]


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps what the page says, holds and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loads: list[tuple[str, str]] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(name)
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        loading = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "background"}
        self.loads += [(name, value or "") for key, value in attrs if key in loading]
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def says(self, words: str) -> bool:
        return words in self.text.replace("\xa0", " ")


def figure(value: float | None, *, n: int = 40, half: float = 0.05, **controls: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high, "n": n, "controls": controls}


def items(metric: str, values: list[float | None], *, images_of_a_patient: int = 2, **more: Any) -> dict[str, Any]:
    patients = [f"p{place // images_of_a_patient}" for place in range(len(values))]
    return {"patients": patients, metric: values, **more}


def evaluation(*, better: float = 0.0, **about: Any) -> dict[str, Any]:
    """Give an evaluation with something for every section."""
    hits = [float(place % 5 < 2 + 2 * bool(better)) for place in range(40)]
    groups = ["xray"] * 20 + ["ct"] * 20
    by_group = {name: float(np.mean([h for h, g in zip(hits, groups, strict=True) if g == name])) for name in NAMES}
    retrieval = {f"report_to_image_recall@5/{name}": figure(value, n=20) for name, value in by_group.items()}
    tasks = {
        "routing": {"image_router_accuracy": figure(0.9, chance=0.5, majority=0.6)},
        "zeroshot_retrieval": {
            "report_to_image_recall@5": figure(
                float(np.mean(hits)), chance=0.1, shuffled=0.1, shuffled_low=0.05, shuffled_high=0.2
            ),
            **retrieval,
            "report_to_image_median_rank": figure(3.0 - better, chance=20.0),
        },
        "zeroshot_classification": {"auroc": figure(0.7 + better, prompt_prior=0.5, n=12), "accuracy": figure(None)},
        "linear_probe": {"auroc@100%": figure(0.8, raw_pixels=0.6, random_weights=0.65)},
    }
    return {"tasks": tasks, "details": details(hits, groups), "about": {**ABOUT, **about}}


ABOUT = {
    "command": "medmoe eval runs/a --data data/test",
    "model": "runs/a",
    "data": "data/test",
    "split": "test",
    "images": 40,
    "skipped": 0,
    "seed": 0,
    "preprocess_fingerprint": "abc",
    "versions": {"medmoe": "0.1.0", "torch": "2.9"},
    "git_commit": "f00",
    "machine": {"system": "Linux", "cores": 2},
}


def details(hits: list[float], groups: list[str]) -> dict[str, Any]:
    curve = [[0.0, 0.0], [0.2, 0.7], [1.0, 1.0]]
    rows = [{"group": "female", **figure(0.8)}, {"group": "male", **figure(0.7, n=5)}]
    return {
        "routing": {
            "modalities": NAMES,
            "image": {"confusion": [[18, 2], [1, 19]]},
            "text": {"confusion": [[20, 0], [0, 20]]},
        },
        "zeroshot_retrieval": {"items": items("report_to_image_recall@5", list(hits), groups=groups)},
        "zeroshot_classification": {
            "prompts": "cafe",
            "groups": [
                {
                    "source": "phantom",
                    "modality": "ct",
                    "classes": {"mass": 12},
                    "prompts": {"mass": 6},
                    "origins": {"mass": "phantom findings"},
                }
            ],
            "roc": {"mass": {"points": curve, "area": 0.75}},
            "pr": {"mass": [[0.0, 1.0], [1.0, 0.5]]},
            "reliability": {"as it is": [[0.2, 0.3, 10], [0.9, 0.7, 30]]},
            "subgroups": {"sex": {"metric": "auroc", "rows": rows, "gap": figure(0.1)}},
        },
        "robustness": {
            "levels": [1, 3, 5],
            "curves": {
                "noise": {
                    "zeroshot": {
                        "clean": 0.8,
                        "levels": [0.7, 0.6, 0.5],
                        "groups": {"ct": {"clean": 0.8, "levels": [0.7, 0.6, 0.5]}},
                    }
                }
            },
        },
        "audit": {"checked": "patients and pixels", "shared_patients": 0, "near_duplicates": 0},
    }


def write(path: Path, found: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def write_run(folder: Path, found: dict[str, Any], *, train_data: str = "data/train", preprocess: str = "abc") -> Path:
    """Write a run folder without weights."""
    write(folder / "evaluation.json", found)
    write(folder / "config.json", {"recipe": "tiny", "train": {"steps": 3}})
    write(folder / "run.json", {"command": "medmoe train tiny", "train_data": train_data, "seed": 0})
    write(folder / "model" / "preprocess.json", {"fingerprint": preprocess})
    rows = [
        {"kind": kind, "step": step, "loss": 3.0 - step, "terms": {}} for step in (1, 2) for kind in ("train", "val")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines + '{"kind": "tr', encoding="utf-8")
    return folder
