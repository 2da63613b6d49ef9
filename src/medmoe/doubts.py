"""What makes an evaluation doubtful, told before any figure: leaks, labels without prompts, other preprocessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmoe.adapters import Adapter
from medmoe.build import facts_of, preprocess_of
from medmoe.data.contract import declare, differences, fingerprint_of
from medmoe.data.sources.base import Source
from medmoe.errors import ConfigError
from medmoe.leaks import TrainedOn, namesakes, overlap, recall
from medmoe.model import MedVLM
from medmoe.tasks.foreign import is_foreign
from medmoe.tasks.prompts import NO_FINDING, Prompts, load_prompts

# Tasks that word labels by prompts, and tasks that read labels at all.
WORDING = frozenset({"zeroshot_classification", "few_shot"})
LABELLED = WORDING | {"linear_probe"}

# Labels of which a smaller share is known are taken for those of another data set.
_FEW = 0.25
_SHOWN = 6


@dataclass(frozen=True)
class Doubts:
    """What is wrong with an evaluation, or couldn't be looked at.

    Attributes:
        warnings: One sentence each.
        leak_check: What came of looking for patients and images of training, or why that wasn't possible.
        audit: The counts of that, empty where it wasn't possible.
    """

    warnings: list[str]
    leak_check: str
    audit: dict[str, Any] = field(default_factory=dict)


def doubts(
    path: Path, model: MedVLM | Adapter, source: Source, tasks: Iterable[str], *, prompts: Prompts | None = None
) -> Doubts:
    """Look at what is to be judged before anything is computed.

    Args:
        path: Where the model was loaded from.
        model: The model.
        source: The samples to judge.
        tasks: Names of the tasks.
        prompts: A user's own wordings.

    Raises:
        ConfigError: If no label of the data can be worded by the user's prompts.
        ModelError: If the record of what the model was trained on can't be read.
    """
    asked, trained = set(tasks), _record(path, model)
    told, checked, audit = _leaks(path, model, trained, source)
    labels = _labels(source, model.modalities) if asked & LABELLED else {}
    if labels and asked & WORDING:
        told += of_prompts(labels, prompts or load_prompts())
    if labels and trained is not None:
        told += _untrained(labels, trained)
    return Doubts([*told, *of_preprocessing(model)], checked, audit)


def of_leaks(path: Path, model: MedVLM | Adapter, source: Source) -> Doubts:
    """Look for patients and images of a public data set among those that the model was trained on.

    Names of data sets are the user's own in training and ours here, so ids alone are compared too.

    Args:
        path: Where the model was loaded from.
        model: The model.
        source: The samples to judge.

    Raises:
        ModelError: If the record of what the model was trained on can't be read.
    """
    trained = _record(path, model)
    told, checked, audit = _leaks(path, model, trained, source)
    alike = 0 if trained is None else namesakes(trained, source)
    if alike:
        told.append(
            f"{alike} of {audit['judged_patients']} patient ids occur in training under another data set’s name: if it "
            "is the same data set, figures on them say nothing of new patients"
        )
        audit["patient_ids_of_training_under_another_name"] = alike
    return Doubts(told, checked, audit)


def of_preprocessing(model: MedVLM | Adapter) -> list[str]:
    """Say where a model's declared preprocessing isn't what this machine does with its steps."""
    if isinstance(model, Adapter):
        return []  # computed here, from the library's own settings
    assert model.assets is not None
    declared = model.assets.preprocess
    bears, should = declared.get("fingerprint"), fingerprint_of(declared)
    if bears != should:
        return [
            f"the model’s preprocess.json bears the fingerprint {bears or '(none)'}, but what it says has {should}: "
            "it was edited"
        ]
    own = declare(preprocess_of(declared))
    other = differences(declared, own)
    if not other:
        return []
    return [f"this machine prepares images otherwise than the model’s did ({own['fingerprint']}): {'; '.join(other)}"]


Labels = dict[tuple[str, str], Counter[str]]


def of_prompts(labels: Labels, prompts: Prompts) -> list[str]:
    """Say which labels the prompts don't list, and what becomes of them.

    Args:
        labels: How many images show each, by data set and modality; `no_finding` for images annotated with none.
        prompts: The wordings.

    Raises:
        ConfigError: If none can be worded.
    """
    named = "the built-in prompts" if prompts.where == "prompts" else f"the prompts of {prompts.where}"
    pairs = [(key, label) for key, counts in labels.items() for label in counts]
    listed = {pair for pair in pairs if prompts.lists(pair[1], pair[0][1], pair[0][0])}
    of_data = sorted({label for _, label in pairs if label != NO_FINDING})
    known = [name for name in of_data if any(label == name for _, label in listed)]
    in_prompts = sorted({name for source, modality in labels for name in prompts.known(modality, source)})
    if of_data and not known and not prompts.templates:
        raise ConfigError(
            f"none of the {len(of_data)} labels of the data ({_some(of_data)}) has a prompt; "
            f"labels with prompts: {_some(in_prompts) or 'none'}",
            where=prompts.where,
            remedy="give prompts for these labels, or correct the column of labels (--column label=NAME)",
        )
    if of_data and len(known) < _FEW * len(of_data):
        return [
            f"{_none_or(len(known))} of the {len(of_data)} labels of the data ({_some(of_data)}) "
            f"{'is' if len(known) == 1 else 'are'} listed in {named} (which list {_some(in_prompts)}): labels of "
            f"another data set? {_becomes(prompts)}"
        ]
    told = []
    for (source, modality), counts in labels.items():
        missing = {label: count for label, count in sorted(counts.items()) if ((source, modality), label) not in listed}
        if missing:
            where = "/".join(part for part in (source, modality) if part)
            lacking = ", ".join(
                f"{label!r} ({count} {'image' if count == 1 else 'images'})" for label, count in missing.items()
            )
            rest = sorted(set(counts) - set(missing))
            few = len(rest) < 2 and not prompts.can_word(NO_FINDING, modality, source)
            told.append(f"{named} lack classes of {where}: {lacking}. {_becomes(prompts, rest, few=few)}")
    return told


def _becomes(prompts: Prompts, rest: Sequence[str] = (), *, few: bool = False) -> str:
    if prompts.templates:
        return "General sentences stand in for what isn’t listed"
    if few:
        return "Too few are left to tell apart: its images aren’t judged"
    return f"They are left out, and chance counts the remaining classes only{f' ({_some(rest)})' if rest else ''}"


def _untrained(labels: Labels, trained: TrainedOn) -> list[str]:
    """Say that (nearly) none of the labels occurred in training."""
    of_data = sorted({label for counts in labels.values() for label in counts if label != NO_FINDING})
    seen = [label for label in of_data if label.lower() in trained.labels]
    known = sorted(trained.labels - {NO_FINDING})
    if not of_data or not known or len(seen) >= _FEW * len(of_data):
        return []
    return [
        f"{_none_or(len(seen))} of the {len(of_data)} labels of the data ({_some(of_data)}) occurred in training "
        f"(which had {_some(known)}): labels of another data set?"
    ]


def _labels(source: Source, modalities: Sequence[str]) -> Labels:
    """Count the images of each label by data set and modality, without modalities that the model lacks."""
    labels: Labels = {}
    for sample in facts_of(source, skip_bad=True):
        if sample.labels is None or sample.modality is None or is_foreign(sample.modality, modalities):
            continue
        own = labels.setdefault((sample.source or "", sample.modality), Counter())
        own.update(dict.fromkeys(sample.labels or (NO_FINDING,), 1))
    return labels


def _record(path: Path, model: MedVLM | Adapter) -> TrainedOn | None:
    return None if isinstance(model, Adapter) else recall(path)


def _leaks(
    path: Path, model: MedVLM | Adapter, trained: TrainedOn | None, source: Source
) -> tuple[list[str], str, dict[str, Any]]:
    """Look for patients and images of training: warnings, the outcome in words, and the counts."""
    if trained is None:
        what = (
            "a model of another library"
            if isinstance(model, Adapter)
            else f"{path}, which lies in no run that has one,"
        )
        return [], f"not possible: {what} keeps no record of what it was trained on", {}
    found = overlap(trained, source)
    checked = (
        f"{found.shared_patients} of {found.patients} patients and {found.copies} copied images of {found.images} "
        "images were trained on"
    )
    if not any(record.images for record in trained.records):
        checked += "; copies of images weren't looked for, since training read too many to keep a record of"
    if trained.unknown:
        checked += f"; what its initial {' and '.join(trained.unknown)} weights were trained on isn’t known"
    return found.warnings(), checked, found.to_json()


def _none_or(count: int) -> str:
    return str(count) if count else "none"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
