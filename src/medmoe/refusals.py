"""What a run is refused for before it begins or goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmoe.config import RunConfig, changes
from medmoe.errors import ConfigError, UserError
from medmoe.folder import read_json
from medmoe.rundir import CONFIG

# What may be other when a run goes on: it decides how a run is watched, kept and fed, not what is learnt from what.
FREE = frozenset(
    f"{group}.{name}"
    for group, names in {
        "train": "steps log_every val_every save_every keep keep_best save_beside bad_steps spike spike_window rewinds "
        "stall_seconds text_cache text_cache_mb shard track",
        "data": "workers cache_mb on_bad_sample",
    }.items()
    for name in names.split()
)


def refuse_changes(run: Path, config: RunConfig, data: str, saved: Mapping[str, Any], *, allowed: bool = False) -> None:
    """Refuse to go on to fewer steps than a run has done, or with another recipe or other data than it had.

    Args:
        run: Its folder.
        config: The recipe to go on with.
        data: Fingerprint of the training samples' facts.
        saved: The state of the checkpoint to go on from.
        allowed: Whether recipe and data may be others.

    Raises:
        UserError: Naming what differs.
    """
    if saved["step"] > config.train.steps:  # its model would bear the name of a shorter run
        what = f"{config.train.steps} steps, and the run that is there has done {saved['step']}"
        raise ConfigError(what, where="train.steps", remedy=f"give {saved['step']} or more, or another --out")
    if allowed:
        return
    told = []
    if (run / CONFIG).is_file():
        had = read_json(run / CONFIG)
        told = [line for key, line in changes(had, config.model_dump(mode="json")).items() if key not in FREE]
    if saved.get("data") not in (None, data):
        told.append("the training samples (their keys, reports, labels, modalities, patients or sources) are others")
    if told:
        remedy = "go on with the same, give another --out, or allow it with --allow-changes"
        raise UserError(f"the run that is there was made with others: {'; '.join(told)}", where=str(run), remedy=remedy)


def check_local_similarity(config: RunConfig) -> None:
    """Refuse to train words and regions by one similarity a model that is read by another.

    Raises:
        ConfigError: If local objectives are active and none is that of `model.local_similarity`.
    """
    objectives = {"local": "attention", "late_interaction": "late_interaction"}
    active = [name for name in objectives if config.objectives.get(name, 0) > 0]
    kind = config.model.local_similarity
    if active and kind not in [objectives[name] for name in active]:
        own = next(name for name, similarity in objectives.items() if similarity == kind)
        raise ConfigError(
            f"the model reads words and regions by {kind!r}, and {active[0]!r} trains another similarity",
            where="objectives",
            remedy=f"--set objectives.{active[0]}=0 --set objectives.{own}=0.5, or for a new model "
            f"--set model.local_similarity={objectives[active[0]]}",
        )
