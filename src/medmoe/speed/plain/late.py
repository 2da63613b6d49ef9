"""Late interaction and the words of regions with everything whole, as a first reading of their formulas does it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def every_cosine(regions: Tensor, words: Tensor, word_mask: Tensor, *, tau: float = 30.0) -> Tensor:
    """FILIP's similarity from words to regions (Yao et al., 2022), smooth, through a tensor of all cosines.

    Padding is worked on as if it were words, and autograd keeps every step.

    Args:
        regions: [B, D, M].
        words: [B, N, D].
        word_mask: [B, N] bool.
        tau: Sharpness over regions.

    Returns:
        [B, B], images down.
    """
    cosine = torch.einsum("idm,jnd->ijnm", F.normalize(regions, dim=1), F.normalize(words, dim=2))
    best = torch.log(torch.exp(tau * (cosine - 1)).mean(3)) / tau + 1  # a cosine is at most 1
    return (best * word_mask).sum(2) / word_mask.sum(1).clamp_min(1)


def every_piece(regions: Tensor, weight: Tensor, bias: Tensor, held: Tensor) -> Tensor:
    """Score the pieces of a batch's reports by the regions, [B, M, P] whole, as a softmax over all of them together.

    Args:
        regions: [B, D, M].
        weight: [V, D] of the head.
        bias: [V].
        held: [P] the pieces.

    Returns:
        [B, P] log Σ_m exp z.
    """
    said = torch.einsum("bdm,pd->bmp", regions, weight[held]) + bias[held]  # [B, M, P]
    highest = said.amax(1, keepdim=True).detach()
    return torch.log(torch.exp(said - highest).sum(1)) + highest.squeeze(1)
