"""Slow, obvious forms of the objectives, written from their formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def local_inputs(
    images: int = 3,
    width: int = 4,
    side: int = 2,
    lengths: tuple[int, ...] = (3, 1, 5, 5),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give random regions, words of reports of these lengths, and where a word is."""
    draw = torch.Generator().manual_seed(seed)
    regions = torch.randn(images, width, side, side, generator=draw, dtype=dtype)
    words = torch.randn(len(lengths), max(lengths), width, generator=draw, dtype=dtype)
    word_mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return regions.requires_grad_(), words.requires_grad_(), word_mask


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Differentiate a sum in which every number of the value has a weight of its own."""
    weight = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view_as(value)
    return torch.autograd.grad((value * weight).sum(), inputs)


def nested_loop_similarity(regions: Tensor, words: Tensor, word_mask: Tensor, tau1: float, tau2: float) -> Tensor:
    """The local similarity one number at a time: image, report, word, region. No gradient."""
    image_list = regions.double().flatten(2).transpose(1, 2).tolist()  # [B, M, D]
    report_list = [
        [word for word, real in zip(report, mask, strict=True) if real]
        for report, mask in zip(words.double().tolist(), word_mask.tolist(), strict=True)
    ]
    result = torch.zeros(len(image_list), len(report_list), dtype=torch.float64)
    for i, image in enumerate(image_list):
        for j, report in enumerate(report_list):
            if not report:
                continue
            share = []  # [M][N]: how the words of the report share out a region
            for region in image:
                scores = [math.exp(_dot(word, region)) for word in report]
                share.append([score / sum(scores) for score in scores])
            total = 0.0
            for n, word in enumerate(report):
                heat = [math.exp(tau1 * share[m][n]) for m in range(len(image))]
                context = [
                    sum(h * region[d] for h, region in zip(heat, image, strict=True)) / sum(heat)
                    for d in range(len(word))
                ]
                cosine = _dot(word, context) / math.sqrt(_dot(word, word) * _dot(context, context))
                total += math.exp(tau2 * cosine)
            result[i, j] = math.log(total)
    return result


def report_loop_similarity(
    regions: Tensor, words: Tensor, word_mask: Tensor, tau1: float = 4.0, tau2: float = 5.0
) -> Tensor:
    """The local similarity in its published form: reports one after another, against every image at once."""
    images = regions.flatten(2)  # [B, D, M]
    columns = []
    for report, mask in zip(words, word_mask, strict=True):
        word = report[mask].T.unsqueeze(0).repeat(len(images), 1, 1)  # [B, D, n]
        share = torch.softmax(images.transpose(1, 2) @ word, dim=2)  # [B, M, n]
        heat = torch.softmax(tau1 * share.transpose(1, 2).contiguous(), dim=2)  # [B, n, M]
        context = images @ heat.transpose(1, 2).contiguous()  # [B, D, n]
        norms = word.norm(2, 1) * context.norm(2, 1)
        cosine = (word * context).sum(1) / norms.clamp_min(1e-8)  # [B, n]
        columns.append((tau2 * cosine).exp().sum(1).log())
    return torch.stack(columns, dim=1)


def late_interaction_loop(regions: Tensor, words: Tensor, word_mask: Tensor, tau: float) -> Tensor:
    """Late interaction one word at a time. No gradient."""
    image_list = regions.double().flatten(2).transpose(1, 2).tolist()  # [B, M, D]
    result = torch.zeros(len(image_list), len(words), dtype=torch.float64)
    for i, image in enumerate(image_list):
        for j, (report, mask) in enumerate(zip(words.double().tolist(), word_mask.tolist(), strict=True)):
            best = []
            for word in (word for word, real in zip(report, mask, strict=True) if real):
                cosines = [_dot(word, v) / math.sqrt(_dot(word, word) * _dot(v, v)) for v in image]
                highest = max(cosines)
                mean = sum(math.exp(tau * (cosine - highest)) for cosine in cosines) / len(cosines)
                best.append(highest + math.log(mean) / tau)
            if best:
                result[i, j] = sum(best) / len(best)
    return result


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
