"""Local similarities as the published codes take them: a loop over captions, each against every image."""

from __future__ import annotations

import torch
from torch import Tensor


def caption_loop(
    regions: Tensor, words: Tensor, word_mask: Tensor, *, tau_attention: float = 4.0, tau_aggregate: float = 5.0
) -> Tensor:
    """Take GLoRIA's similarity (Huang et al., 2021) report by report; autograd keeps whatever it makes on the way.

    Args:
        regions: [B, D, G, G].
        words: [B, N, D].
        word_mask: [B, N] bool.
        tau_attention: Sharpness over regions.
        tau_aggregate: Sharpness over words.

    Returns:
        [B, B], images down.
    """
    places = regions.flatten(2)  # [B, D, M]
    columns = []
    for report, mask in zip(words, word_mask, strict=True):
        own = report[mask].T.unsqueeze(0).repeat(len(places), 1, 1)  # [B, D, n]
        share = torch.softmax(places.transpose(1, 2) @ own, dim=2)  # [B, M, n]
        heat = torch.softmax(tau_attention * share.transpose(1, 2).contiguous(), dim=2)  # [B, n, M]
        context = places @ heat.transpose(1, 2).contiguous()  # [B, D, n]
        cosine = (own * context).sum(1) / (own.norm(2, 1) * context.norm(2, 1)).clamp_min(1e-8)  # [B, n]
        columns.append((tau_aggregate * cosine).exp().sum(1).log())
    return torch.stack(columns, dim=1)
