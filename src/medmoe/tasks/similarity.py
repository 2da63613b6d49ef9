"""How alike images and texts are: globally, word by region, and both together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medmoe.objectives import LOCAL_SIMILARITIES
from medmoe.tasks.base import Evidence

# Images, and reports or words, held at a time.
_IMAGES, _CHUNK = 256, 64

VARIANTS = ("combined", "local", "global")


def between(
    evidence: Evidence,
    rows: Sequence[int],
    embed: Tensor,
    words: Tensor,
    word_mask: Tensor,
    *,
    expert: Tensor | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Compare some images of the evidence with T texts.

    Args:
        evidence: The images.
        rows: Which of them: I indices.
        embed: [T, E] unit length.
        words: [T, N, D].
        word_mask: [T, N] bool.
        expert: [T] expert of each text, read where the evidence has `candidate_regions`.

    Returns:
        [I, T] for each of `VARIANTS`; combined is logit_scale · cosine + local_scale · local.
    """
    index = torch.as_tensor(rows, dtype=torch.long)
    cosine = evidence.image_embed[index].float() @ embed.float().T
    if evidence.candidate_regions is None or expert is None:
        local = local_similarity(evidence.regions[index], words, word_mask, kind=evidence.local_similarity)
    else:
        local = torch.empty(len(index), len(words))
        for chosen in sorted(set(expert.tolist())):  # one pass through an expert serves all texts that chose it
            texts = expert == chosen
            regions = evidence.candidate_regions[chosen, index]
            local[:, texts] = local_similarity(regions, words[texts], word_mask[texts], kind=evidence.local_similarity)
    combined = evidence.logit_scale * cosine + evidence.local_scale * local
    return {name: matrix.numpy() for name, matrix in (("combined", combined), ("local", local), ("global", cosine))}


def local_similarity(regions: Tensor, words: Tensor, word_mask: Tensor, *, kind: str = "attention") -> Tensor:
    """Compare I images with T texts word by region, in bounded memory.

    Args:
        regions: [I, D, G, G].
        words: [T, N, D].
        word_mask: [T, N] bool.
        kind: A row of `medmoe.objectives.LOCAL_SIMILARITIES`.

    Returns:
        [I, T] float32; NaN for a text without a word.
    """
    words, compare = words.float(), LOCAL_SIMILARITIES[kind].compare
    parts = [compare(block.float(), words, word_mask, chunk=_CHUNK) for block in torch.split(regions, _IMAGES)]
    return torch.cat(parts).masked_fill(~word_mask.any(dim=1), float("nan"))


def of_pairs(evidence: Evidence, rows: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Compare the images with the reports of the same rows: [I, I] by kind of similarity.

    Without local features there is the global similarity only, which then is the combined one too; without a router no
    report asks for an expert.
    """
    index = torch.as_tensor(rows, dtype=torch.long)
    texts = (evidence.text_embed[index], evidence.words[index], evidence.word_mask[index])
    if not evidence.regions.shape[1]:
        cosine = (evidence.image_embed[index].float() @ texts[0].float().T).numpy()
        return {"combined": cosine, "global": cosine}
    logits = evidence.text_logits[index]
    return between(evidence, rows, *texts, expert=logits.argmax(dim=1) if logits.shape[1] else None)
