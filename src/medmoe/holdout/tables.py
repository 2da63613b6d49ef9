"""Held-out sources as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HEAD = ("modality", "n", "recall", "taken", "right among taken")


def write_page(results: Mapping[str, Any]) -> str:
    """Word the summary of `summarise` as Markdown."""
    parts = [
        f"# Held-out sources\n\n{results['folds']} times something left out, each with {results['seeds']} seeds.\n"
    ]
    if "sources" in results:
        whole = results["sources"]
        parts.append("## Means\n\n" + _means(whole["figures"], results["seen"]))
        parts.append("## By modality\n\n" + _table(_HEAD, (_row(n, o) for n, o in whole["modalities"].items())))
        head = ("source", *_HEAD, "taken for")
        rows = ((c["source"], *_row(c["modality"], c), _shares(c["taken_for"])) for c in whole["cells"])
        parts.append("## By source left out\n\n" + _table(head, rows))
    if results["never_trained"]:
        parts.append("## Modalities never trained on\n\n" + _never(results["never_trained"]))
    parts.append("## Ways to set the gate\n\n" + _ideas(results["ideas"]))
    parts.append(f"Generated pictures that are no medical images: {results['pictures']:.3f} turned away.\n")
    return "\n".join(parts)


def figure(value: Mapping[str, Any] | None) -> str:
    """Word a figure with its interval."""
    if value is None:
        return "–"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _row(name: str, own: Mapping[str, Any]) -> tuple[str, ...]:
    values = (figure(own.get(key)) for key in ("recall", "coverage", "accepted_right"))
    return (name, str(own["recall"]["n"]), *values)


def _means(own: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    rows = []
    for kind, words in (("modalities", "over modalities"), ("cells", "over sources and modalities")):
        values = [own.get(f"{name}/{kind}") for name in ("recall", "coverage", "accepted_right")]
        rows.append((words, *(figure(value) for value in values), figure(seen.get(f"recall/{kind}"))))
        over = [_over(value) for value in values]
        if any(over):
            rows.append(("… other sources drawn", *(words or "–" for words in over), ""))
    chance = own["controls"]
    note = f"\nChance {chance['chance']:.3f}, a constant answer {chance['majority']:.3f}.\n"
    return _table(("mean", "recall", "taken", "right among taken", "recall on seen sources"), rows) + note


def _over(value: Mapping[str, Any] | None) -> str:
    found = value is not None and "low_over_sources" in value
    return f"[{value['low_over_sources']:.3f}, {value['high_over_sources']:.3f}]" if found and value else ""


def _never(never: Mapping[str, Any]) -> str:
    head = ("left out", "n", "turned away", "of test images", "of unseen sources", "AUROC", "AUROC, unseen sources")
    keys = ("rejected", "seen_rejected", "unseen_rejected", "seen_auroc", "unseen_auroc")
    rows = [
        (name, str(own["rejected"]["n"]), *(figure(own.get(key)) for key in keys), _shares(own["taken_for"]))
        for name, own in never.items()
    ]
    return _table((*head, "taken for"), rows)


def _ideas(ideas: Mapping[str, Any]) -> str:
    kinds = [f"{name}/{kind}" for name in ("coverage", "accepted_right") for kind in ("modalities", "cells")]
    head = ("way", *(kind.replace("coverage", "taken").replace("accepted_right", "right") for kind in kinds))
    rows = [
        (
            name,
            *(figure(own.get(kind)) for kind in kinds),
            "–" if own["never_trained"] is None else f"{own['never_trained']:.3f}",
            f"{own['pictures']:.3f}",
        )
        for name, own in ideas.items()
    ]
    return _table((*head, "unknown modalities away", "pictures away"), rows)


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:3] if share >= 0.005) or "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
