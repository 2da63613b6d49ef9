"""Held-out sources as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def write_page(results: Mapping[str, Any]) -> str:
    """Word the summary of `summarise` as Markdown."""
    parts = [f"# Held-out sources\n\n{results['folds']} trainings, each with {results['seeds']} seeds.\n"]
    if "sources" in results:
        whole, sure = results["sources"]["accepted"], results["sources"]["sure"]
        parts.append("## Means\n\n" + _means(whole, sure, results["seen"]))
        parts.append("## By modality\n\n" + _table(_HEAD, (_row(n, o) for n, o in whole["modalities"].items())))
        head = ("source", *_HEAD, "taken for")
        rows = ((c["source"], *_row(c["modality"], c), _shares(c["taken_for"])) for c in whole["cells"])
        parts.append("## By source left out\n\n" + _table(head, rows))
    if results["never_trained"]:
        head = ("left out", "n", "turned away", "by probability alone", "taken for")
        rows = (
            (
                name,
                str(own["rejected_accepted"]["n"]),
                figure(own["rejected_accepted"]),
                figure(own["rejected_sure"]),
                _shares(own["taken_for"]),
            )
            for name, own in results["never_trained"].items()
        )
        parts.append("## Modalities never trained on\n\n" + _table(head, rows))
    away = results["pictures"]
    parts.append(
        f"Generated pictures that are no medical images: {away['rejected_accepted']:.3f} turned away, "
        f"{away['rejected_sure']:.3f} by probability alone.\n"
    )
    return "\n".join(parts)


_HEAD = ("modality", "n", "recall", "taken", "right among taken")


def _row(name: str, own: Mapping[str, Any]) -> tuple[str, ...]:
    right = figure(own["accepted_right"]) if "accepted_right" in own else "–"
    return (name, str(own["recall"]["n"]), figure(own["recall"]), figure(own["coverage"]), right)


def _means(whole: Mapping[str, Any], sure: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    rows = []
    for kind, words in (("modalities", "over modalities"), ("cells", "over sources and modalities")):
        own = whole["figures"]
        if f"recall/{kind}" not in own:
            continue
        alone = sure["figures"].get(f"accepted_right/{kind}")
        rows.append(
            (
                words,
                figure(own[f"recall/{kind}"]),
                figure(own[f"coverage/{kind}"]),
                figure(own[f"accepted_right/{kind}"]) if f"accepted_right/{kind}" in own else "–",
                figure(sure["figures"][f"coverage/{kind}"]),
                figure(alone) if alone else "–",
                figure(seen[f"recall/{kind}"]) if f"recall/{kind}" in seen else "–",
            )
        )
    head = ("mean", "recall", "taken", "right among taken", "taken by probability alone", "right among these")
    chance = whole["figures"]["controls"]
    note = f"\nChance {chance['chance']:.3f}, a constant answer {chance['majority']:.3f}.\n"
    return _table((*head, "recall on seen sources"), rows) + note


def figure(value: Mapping[str, Any]) -> str:
    """Word a figure with its interval."""
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f}–{value['high']:.3f})"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:3] if share >= 0.005) or "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
