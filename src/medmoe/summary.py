"""The run's pages: `report.html` with curves, tables and heatmaps, and `summary.md`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from medmoe.adapters import Adapter
from medmoe.build import preprocess_of, tokenizer_of
from medmoe.data.sources.base import Source, shown
from medmoe.errors import DataError, ModelError
from medmoe.folder import write_text_atomically
from medmoe.model import MedVLM
from medmoe.predictor import Predictor
from medmoe.report import GalleryItem, write_report
from medmoe.report.figures import HEADLINES
from medmoe.rundir import RunFolder
from medmoe.types import Box, Sample

# The input's pixels [3, H, W] in [0, 1], the sample in its frame, and the heatmap [G, G].
Looked: TypeAlias = tuple[NDArray[np.floating], Sample, NDArray[np.float32]]
Look: TypeAlias = Callable[[Sample, str], Looked]


def gallery(model: MedVLM | Adapter, source: Source, *, per_modality: int = 3) -> list[GalleryItem]:
    """Look for report words in a few images of each modality; the first ones that have a box, not the best.

    Args:
        model: The model, or an adapter of another library's that has local features.
        source: Where the images come from.
        per_modality: Images of each modality.

    Raises:
        ModelError: If the model has no local features.
    """
    if not isinstance(model, Adapter):
        assert model.assets is not None
        source = shown(source, preprocess_of(model.assets.preprocess).window)
    looked = _looked_by_adapter(model) if isinstance(model, Adapter) else _looked_by_model(Predictor(model))
    tokenizer = model.tokenizer if isinstance(model, Adapter) else tokenizer_of(model)
    counts: dict[str | None, int] = {}
    items = []
    for index in range(len(source)):
        try:
            facts = source.facts(index)
            if not facts.boxes or not facts.report or counts.get(facts.modality, 0) >= per_modality:
                continue
            box = facts.boxes[0]
            phrase = box.phrase or box.label
            if not tokenizer.find(facts.report, phrase):
                continue
            sample = source[index]
            items.append(_item(sample, phrase, *looked(sample, phrase)))
        except DataError:  # told, or written to the quarantine, by what read the data before
            continue
        counts[facts.modality] = counts.get(facts.modality, 0) + 1
    return items


def _looked_by_model(predictor: Predictor) -> Look:
    """Give what looks for a phrase with a model of ours."""

    def look(sample: Sample, phrase: str) -> Looked:
        tensor, moved = predictor.preprocess(sample)
        heat = predictor.heatmap(sample.image, phrase, report=sample.report)
        mean = np.asarray(predictor.preprocess.mean)[:, None, None]
        std = np.asarray(predictor.preprocess.std)[:, None, None]
        return (tensor.numpy() * std + mean).clip(0, 1), moved, heat

    return look


def _looked_by_adapter(adapter: Adapter) -> Look:
    """Give what looks for a phrase with another library's model, whose input is shown from its darkest to brightest.

    Raises:
        ModelError: If it has no local features to look with.
    """
    probe, _ = adapter.prepare(Sample("probe", np.zeros((32, 32), np.uint8)))
    if not adapter.encode_image(probe[None]).regions.shape[1]:
        raise ModelError(
            f"a model of kind {adapter.kind!r} has no local image features, so that no heatmap can be drawn"
        )

    def look(sample: Sample, phrase: str) -> Looked:
        report = sample.report or ""
        tensor, moved = adapter.prepare(sample)
        with torch.inference_mode():
            regions = adapter.encode_image(tensor[None]).regions[0]
            words = adapter.encode_text(adapter.tokenizer([report])).words[0, adapter.tokenizer.find(report, phrase)]
        heat = torch.einsum("nd,dhw->hw", words, regions).numpy()
        pixels = tensor.numpy() - tensor.numpy().min()
        return pixels / max(float(pixels.max()), 1e-12), moved, heat

    return look


def _item(
    sample: Sample, phrase: str, pixels: NDArray[np.floating], moved: Sample, heat: NDArray[np.float32]
) -> GalleryItem:
    image: NDArray[np.uint8] = (pixels * 255).round().astype(np.uint8).transpose(1, 2, 0)
    boxes = [box for box in moved.boxes or () if (box.phrase or box.label) == phrase]
    return GalleryItem(
        image=image,
        heatmap=heat,
        phrase=phrase,
        report=sample.report or "",
        modality=sample.modality or "unknown",
        boxes=[(box.x0, box.y0, box.x1, box.y1) for box in boxes],
        hit=points_right(heat, boxes),
    )


def points_right(heat: NDArray[np.float32], boxes: Sequence[Box]) -> bool:
    """Tell whether the hottest region's centre lies in a box, give or take half a region."""
    grid = heat.shape[0]
    row, column = divmod(int(heat.argmax()), grid)
    x, y, margin = (column + 0.5) / grid, (row + 0.5) / grid, 0.5 / grid
    return any(b.x0 - margin <= x <= b.x1 + margin and b.y0 - margin <= y <= b.y1 + margin for b in boxes)


def write_run_report(run: Path, *, results: dict[str, Any] | None = None, gallery: Sequence[GalleryItem] = ()) -> Path:
    """Write `report.html` and `summary.md` of a run folder.

    Args:
        run: The run folder.
        results: An evaluation to keep as `evaluation.json`; without, the kept one is shown.
        gallery: Heatmaps to show.
    """
    kept = run / "evaluation.json"
    if results is not None:
        write_text_atomically(kept, json.dumps(results, indent=2) + "\n")
    elif kept.is_file():
        results = json.loads(kept.read_text(encoding="utf-8"))
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    history = RunFolder(run, resume=True).history()
    write_text_atomically(run / "summary.md", summary(run.name, history, results))
    evaluated = (results or {}).get("about", {})
    return write_report(
        run / "report.html",
        title=f"medmoe run {run.name}",
        history=history,
        results=results,
        gallery=gallery,
        about={**about, **({"evaluation": evaluated} if evaluated else {})},
    )


def summary(name: str, history: Sequence[dict[str, Any]], results: dict[str, Any] | None) -> str:
    """Word a run in a few lines of Markdown: last losses, headline figures beside their controls."""
    lines = [f"# Run {name}", ""]
    lines += [f"**Warning:** {told}\n" for told in ((results or {}).get("about", {}).get("warnings") or [])]
    for kind in ("train", "val"):
        rows = [row for row in history if row["kind"] == kind]
        if rows:
            terms = ", ".join(f"{term} {value:.3f}" for term, value in rows[-1]["terms"].items())
            lines.append(f"- {kind} at step {rows[-1]['step']}: loss {rows[-1]['loss']:.3f} ({terms})")
    if results:
        lines += ["", "| figure | value | 95 % interval | n | controls |", "| --- | --- | --- | --- | --- |"]
        for task, metric in HEADLINES:
            for key, found in results["tasks"].get(task, {}).items():
                if key == metric or key.startswith(f"{metric}/"):
                    controls = ", ".join(f"{control} {_number(value)}" for control, value in found["controls"].items())
                    interval = f"{_number(found['low'])} – {_number(found['high'])}"
                    lines.append(f"| {key} | {_number(found['value'])} | {interval} | {found['n']} | {controls} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
