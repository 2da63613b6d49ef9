"""Local similarities as the published code takes them: a loop over captions, each against every image."""

from __future__ import annotations

import torch
from torch import Tensor


def caption_loop(
    regions: Tensor, words: Tensor, word_mask: Tensor, *, tau_attention: float = 4.0, tau_aggregate: float = 5.0
) -> Tensor:
    """Take GLoRIA's similarity (Huang et al., 2021) report by report; autograd keeps whatever it makes on the way.

    For each report, as the authors' code does it: its words are repeated for every image; the regions of every
    image are copied with their places first; both softmaxes run over contiguous rows, with a copied transpose
    between them and another before the contexts are summed; words and contexts are then copied with their features
    last, for a cosine that divides by both lengths. So two copies of all regions' size or of all contexts' size
    stay alive for each report until the backward pass: at B 64, M 196, N 25, D 256 that is 1.6 GiB.

    Args:
        regions: [B, D, G, G] or [B, D, M].
        words: [B, N, D].
        word_mask: [B, N] bool, a report's words first.
        tau_attention: Sharpness over regions.
        tau_aggregate: Sharpness over words.

    Returns:
        [B, B], images down.
    """
    places = regions.flatten(2)  # [B, D, M]
    images, width, count = places.shape
    columns = []
    for report, mask in zip(words, word_mask, strict=True):
        length = int(mask.sum())
        own = report[:length].T.unsqueeze(0).contiguous().repeat(images, 1, 1)  # [B, D, n]
        rows = places.transpose(1, 2).contiguous()  # [B, M, D]
        score = torch.bmm(rows, own).view(images * count, length)
        share = torch.softmax(score, dim=-1).view(images, count, length)  # [B, M, n]
        by_word = share.transpose(1, 2).contiguous().view(images * length, count)
        heat = torch.softmax(by_word * tau_attention, dim=-1).view(images, length, count)  # [B, n, M]
        context = torch.bmm(places, heat.transpose(1, 2).contiguous())  # [B, D, n]
        word = own.transpose(1, 2).contiguous().view(images * length, width)
        found = context.transpose(1, 2).contiguous().view(images * length, width)
        lengths = torch.norm(word, 2, 1) * torch.norm(found, 2, 1)
        cosine = (word * found).sum(1) / lengths.clamp(min=1e-8)  # [B·n]
        columns.append((cosine.view(images, length) * tau_aggregate).exp().sum(dim=1, keepdim=True).log())
    return torch.cat(columns, dim=1)
