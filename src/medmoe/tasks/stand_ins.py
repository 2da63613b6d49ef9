"""Stand-ins: what a model would score whose image side nobody trained: ridge regression from raw features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from medmoe.metrics import Floats
from medmoe.tasks.base import Context, Evidence, Task, TaskResult
from medmoe.tasks.splits import check_apart

# Strengths of the ridge to choose from, as shares of the mean variance of a feature.
RIDGES: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)

# The tasks that read nothing of an image but its embedding and the router's scores.
TASKS = frozenset({"routing", "zeroshot_retrieval", "zeroshot_classification"})

# Beginnings of names of figures that say nothing of such an image side.
_NOT_OF_IMAGES = ("text_router", "swap_")


@dataclass(frozen=True, slots=True)
class Ridge:
    """A ridge regression.

    Attributes:
        centre: [F] mean of the features.
        scale: [F] their standard deviation.
        weight: [F, O].
        offset: [O] mean of the targets.
        strength: The λ that was chosen.
    """

    centre: Floats
    scale: Floats
    weight: Floats
    offset: Floats
    strength: float

    def __call__(self, features: Floats) -> Floats:
        """Predict targets [n, O] from features [n, F]."""
        predicted: Floats = (features - self.centre) / self.scale @ self.weight + self.offset
        return predicted


def fit_ridge(features: Floats, targets: Floats, *, strengths: Sequence[float] = RIDGES) -> Ridge:
    """Fit targets [n, O] on standardised features [n, F]; λ has the least generalised cross-validation error.

    Args:
        features: [n, F].
        targets: [n, O].
        strengths: λ/n to choose from (Golub, Heath and Wahba, 1979, https://doi.org/10.2307/1268518).
    """
    centre, offset = features.mean(axis=0), targets.mean(axis=0)
    spread = features.std(axis=0)
    scale = np.where(spread > 1e-8, spread, 1.0)
    left, singular, right = np.linalg.svd((features - centre) / scale, full_matrices=False)
    rotated = left.T @ (targets - offset)  # [r, O]
    size = len(features)
    outside = float(((targets - offset) ** 2).sum() - (rotated**2).sum())  # what no λ reaches
    errors = []
    for strength in strengths:
        kept = singular**2 / (singular**2 + strength * size)
        lost = float((((1 - kept)[:, None] * rotated) ** 2).sum()) + max(outside, 0.0)
        free = max(1 - (kept.sum() + 1) / size, 1e-9)
        errors.append(lost / free**2)
    best = float(strengths[int(np.argmin(errors))])
    weight = right.T @ ((singular / (singular**2 + best * size))[:, None] * rotated)
    return Ridge(centre, scale, weight, offset, best)


def stand_in(evidence: Evidence, fit: Evidence, name: str) -> Evidence | None:
    """Put predictions from the features `name` in the place of the model's image side.

    The image embedding is predicted from the features by a ridge regression onto the model's own embedding of the
    image's report, the router's scores by one onto the modality; both are fitted on the training images. Texts stay the
    model's. There are no regions, so only global similarities are judged.

    Args:
        evidence: What the model said of the evaluated images.
        fit: What it said of training images.
        name: A name of `features`.

    Returns:
        None where the features are missing or no training image has a report.
    """
    pairs = fit.has_report.numpy()
    if name not in evidence.features or name not in fit.features or pairs.sum() < 2:
        return None
    given, asked = (own.features[name].double().numpy() for own in (fit, evidence))
    onto_text = fit_ridge(given[pairs], fit.text_embed.double().numpy()[pairs])
    embed = torch.from_numpy(onto_text(asked)).float()
    place = {modality: index for index, modality in enumerate(fit.modalities)}
    true = np.array([place.get(sample.modality or "", -1) for sample in fit.samples])
    logits = torch.zeros(len(evidence), evidence.image_logits.shape[1])
    if logits.shape[1] and (true >= 0).sum() > 1:
        onto_modality = fit_ridge(given[true >= 0], np.eye(len(place))[true[true >= 0]])
        logits = torch.from_numpy(onto_modality(asked)).float()
    return replace(
        evidence,
        image_embed=torch.nn.functional.normalize(embed, dim=1),
        image_logits=logits,
        regions=evidence.regions[:, :0],
        candidate_regions=None,
        features={},
    )


def stand_ins(evidence: Evidence, context: Context) -> dict[str, Evidence]:
    """Give a stand-in for each kind of untrained features that the evidence carries; none without a training split.

    Raises:
        DataError: If a patient of the training split is evaluated too.
    """
    if context.fit is None or not evidence.features:
        return {}
    check_apart(evidence, context)
    found = {name: stand_in(evidence, context.fit, name) for name in evidence.features}
    return {name: other for name, other in found.items() if other is not None}


def compared(task: Task, result: TaskResult, others: Mapping[str, Evidence], context: Context) -> TaskResult:
    """Add to each figure of a task what it is for the stand-ins; tasks other than `TASKS` are left as they are.

    Args:
        task: The task.
        result: What it found for the model.
        others: The stand-ins, of the same images.
        context: What tasks need beside them.
    """
    if task.name not in TASKS or not result.metrics:
        return result
    metrics = dict(result.metrics)
    for name, other in others.items():
        found = task.evaluate(other, replace(context, resamples=1)).metrics
        for metric, figure in found.items():
            if metric in metrics and not metric.startswith(_NOT_OF_IMAGES):
                own = metrics[metric]
                metrics[metric] = replace(own, controls={**own.controls, name: figure.value})
    return TaskResult(metrics, result.details)
