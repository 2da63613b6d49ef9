"""From the outcomes of all arms to one table: figures, costs, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medmoe.ablation.compare import compare, figure_interval, figures
from medmoe.ablation.plan import OUTCOMES, Job, Plan
from medmoe.ablation.run import finished
from medmoe.errors import ConfigError, unknown
from medmoe.metrics import holm
from medmoe.recipes.ablations import ablation_of
from medmoe.tasks.outcomes import METRICS, Outcome, folded, load_outcomes

Found = dict[str, list[dict[str, Outcome]]]  # arm → seed → metric → outcome


def summarise(plan: Plan, *, reference: str | None = None, resamples: int = 2000) -> dict[str, Any]:
    """Compare the arms whose runs are all done.

    Args:
        plan: The plan.
        reference: An arm to compare every arm with, in place of the one each names.
        resamples: Bootstrap resamples.

    Returns:
        Plain data: `sizes` → size → `arms` → arm → `metrics` → metric → mean over seeds, each seed's figure and the
        `difference` to the arm it is held against, and `unfinished` folders.

    Raises:
        ConfigError: If the reference is no arm of the grid.
    """
    if reference is not None and reference not in plan.arms:
        raise ConfigError(unknown("arm", reference, plan.arms), where="--reference")
    sizes = {size: _summarise(plan, jobs, reference, resamples) for size, jobs in plan.jobs.items()}
    ablation = ablation_of(plan.grid)
    return {
        "grid": plan.grid,
        "about": ablation.about,
        "seeds": list(plan.seeds),
        "resamples": resamples,
        "metrics": dict(METRICS),
        "sizes": sizes,
        "unfinished": [job.folder for job in plan.every() if not job.done(plan.root)],
    }


def _summarise(plan: Plan, jobs: Sequence[Job], reference: str | None, resamples: int) -> dict[str, Any]:
    """Summarise one size of the data."""
    ablation, scores = ablation_of(plan.grid), finished(jobs, plan.root)
    found = _read(plan, jobs)
    arms: dict[str, Any] = {}
    for arm in found:
        own = [scores[job.folder] for job in jobs if job.arm == arm]
        arms[arm] = {
            "about": ablation.arms[arm].about,
            "against": _against(arm, reference or ablation.arms[arm].against or ablation.reference, found),
            "cost": own[0]["cost"],
            "metrics": {name: _figure([seed[name] for seed in found[arm]], resamples) for name in _metrics(found[arm])},
        }
    _compare(arms, found, resamples)
    some = next(iter(found.values()), [{}])[0]
    done = list(scores.values())
    return {
        "train_images": done[0]["train_images"] if done else 0,
        "test_images": done[0]["test_images"] if done else 0,
        "chance": {name: float(folded(outcome.chance, outcome.cells)) for name, outcome in some.items()},
        "arms": arms,
    }


def _read(plan: Plan, jobs: Sequence[Job]) -> Found:
    """Read the outcomes of the arms that are done with every seed."""
    found: Found = {}
    for arm in plan.arms:
        own = sorted((job for job in jobs if job.arm == arm), key=lambda job: job.seed)
        if all(job.done(plan.root) for job in own):
            found[arm] = [load_outcomes(plan.root / job.folder / OUTCOMES) for job in own]
    return found


def _against(arm: str, other: str, found: Mapping[str, Any]) -> str | None:
    return other if other in found and other != arm else None


def _metrics(seeds: Sequence[Mapping[str, Outcome]]) -> list[str]:
    return [name for name in METRICS if all(name in seed for seed in seeds)]


def _figure(outcomes: Sequence[Outcome], resamples: int) -> dict[str, Any]:
    each = figures(outcomes)
    return {
        "mean": float(each.mean()),
        "seeds": each.tolist(),
        "over_patients": [_plain(end) for end in figure_interval(outcomes, resamples=resamples)],
        "n": len(outcomes[0].items),
        "difference": None,
    }


def _compare(arms: dict[str, Any], found: Found, resamples: int) -> None:
    """Fill in the differences; p values are corrected over all of them."""
    entries: list[dict[str, Any]] = []
    for arm, facts in arms.items():
        other = facts["against"]
        if other is None:
            continue
        for name in _metrics(found[arm]):
            if name not in _metrics(found[other]):
                continue
            one, two = ([seed[name] for seed in found[which]] for which in (arm, other))
            result = compare(one, two, resamples=resamples)
            facts["metrics"][name]["difference"] = {
                "mean": result.difference,
                "seeds": list(result.seeds),
                "over_seeds": [_plain(end) for end in result.over_seeds],
                "over_patients": [_plain(end) for end in result.over_patients],
                "p_seeds": result.p_seeds,
                "p_patients": result.p_patients,
                "patients": result.patients,
                "clear": result.clear,
            }
            entries.append(facts["metrics"][name]["difference"])
    for p in ("p_seeds", "p_patients"):
        corrected = holm({place: entry[p] for place, entry in enumerate(entries)})
        for place, entry in enumerate(entries):
            entry[f"{p}_holm"], entry[p] = _plain(corrected[place]), _plain(entry[p])


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
