"""What a run's log says of a step beside its loss: gradient norms by part, who chose rightly, and memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.distributed import norm_of
from medmoe.model import MedVLM
from medmoe.types import Output, Routing

MIB = 2**20
# first part of a parameter's name → the part of the model it is counted to; others stand for themselves
PARTS = {
    "image_router": "routers",
    "text_router": "routers",
    "train_route": "routers",
    "infer_route": "routers",
    "image_norm": "projections",
    "image_projection": "projections",
    "special_projection": "projections",
    "text_projection": "projections",
    "word_projection": "projections",
    "log_scale": "logit_scale",
    "report_type": "heads",
    "report_words": "heads",
    "region_words": "heads",
}
_STATUS = Path("/proc/self/status")


def of_step(model: MedVLM, output: Output, modality: Tensor | None, norm: Tensor, clip: float) -> dict[str, Any]:
    """Measure a step that was just taken, for its line of the metrics.

    It reads from the device, once: call it at logged steps only. Where gradients are sharded over processes, every
    process must call it.

    Args:
        model: The model, its gradients as the clipping left them.
        output: Of the step's last batch.
        modality: [B] int64 of that batch, -1 where unknown, or None.
        norm: [] the gradient's norm before clipping.
        clip: Largest norm that was let through.

    Returns:
        `grad_norms`, of each part that has a gradient, before clipping; `expert_agreement`, where a modality is known;
        and what `memory` gives.
    """
    norms = gradient_norms(model, model.modalities)
    scale = ((norm.detach().float() + 1e-6) / clip).clamp(min=1.0)  # what torch divides by where it clips
    agreement = expert_agreement(output.image.routing, modality)
    values = {name: value * scale.to(value.device) for name, value in norms.items()}
    if agreement is not None:
        values["expert_agreement"] = agreement
    read = {name: round(value, 6) for name, value in read_once(values).items()}
    agreed = {name: read.pop(name) for name in ("expert_agreement",) if name in read}
    return {"grad_norms": read, **agreed, **memory(output.logit_scale.device)}


def part_of(name: str, experts: Sequence[str]) -> str:
    """Say which part of the model a parameter is counted to.

    Args:
        name: The parameter's, as the model calls it.
        experts: Names of the special experts, in order.

    >>> part_of("experts.special.1.out.weight", ["xray", "ct"]), part_of("image_router.net.0.bias", ["xray", "ct"])
    ('experts.special.ct', 'routers')
    """
    first, _, rest = name.partition(".")
    if first != "experts":
        return PARTS.get(first, first)
    kind, _, rest = rest.partition(".")
    number = rest.partition(".")[0]
    if kind != "special":
        return f"experts.{kind}"
    named = number.isdigit() and int(number) < len(experts)
    return f"experts.special.{experts[int(number)] if named else number}"


@torch.no_grad()
def gradient_norms(model: nn.Module, experts: Sequence[str]) -> dict[str, Tensor]:
    """Give the gradient's norm [] of each part of a model that has one; their squares add up to the whole's.

    A part that has no gradient is left out: it is frozen, or an expert that no image chose.
    """
    found: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found.setdefault(part_of(name, experts), []).append(parameter.grad)
    return {part: norm_of(gradients) for part, gradients in found.items()}


@torch.no_grad()
def expert_agreement(routing: Routing, modality: Tensor | None) -> Tensor | None:
    """Give how often the expert chosen in training is that of the sample's modality.

    Experts with equal scores count by their share, so that a router that prefers none agrees as often as chance does.

    Args:
        routing: Uses `logits` [B, K], from which every selection takes the largest first.
        modality: [B] int64 index among the experts, -1 where unknown, or None.

    Returns:
        [] float32 in [0, 1], not a number when no modality of the batch is known; None without modalities.
    """
    if modality is None:
        return None
    logits = routing.logits.float()
    best = logits == logits.amax(dim=1, keepdim=True)  # [B, K]
    right = best.gather(1, modality.clamp(min=0)[:, None])[:, 0] / best.sum(dim=1)  # [B]
    known = modality >= 0
    return (right * known).sum() / known.sum()


def read_once(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Read scalars from the device together; those that are infinite or no number are left out."""
    if not values:
        return {}
    read = torch.stack([value.detach().float().reshape(()) for value in values.values()]).tolist()
    return {name: value for name, value in zip(values, read, strict=True) if math.isfinite(value)}


def memory(device: torch.device | str = "cpu") -> dict[str, float]:
    """Give the memory of this process, loader processes not counted, in MiB.

    Returns:
        `rss_mib` (now; where the system tells) and `rss_peak_mib` (most so far; not on Windows); on a CUDA device also
        the peaks of torch's allocator, `cuda_allocated_peak_mib` and `cuda_reserved_peak_mib`.
    """
    row = _resident()
    if torch.device(device).type == "cuda":
        row["cuda_allocated_peak_mib"] = torch.cuda.max_memory_allocated(device) / MIB
        row["cuda_reserved_peak_mib"] = torch.cuda.max_memory_reserved(device) / MIB
    return {name: round(value, 1) for name, value in row.items()}


def _resident() -> dict[str, float]:
    """Read resident memory from /proc, whose peak is of this program alone, or else from the system's accounts."""
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
        kib = {name: float(lines[key].split()[0]) for name, key in (("rss_mib", "VmRSS"), ("rss_peak_mib", "VmHWM"))}
        return {name: value / 1024 for name, value in kib.items()}
    except (OSError, ValueError, KeyError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rss_peak_mib": peak / (MIB if sys.platform == "darwin" else 1024)}
