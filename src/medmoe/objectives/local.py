"""Local alignment: the words of a report beside the regions of its image that they speak of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medmoe import layers
from medmoe.errors import ConfigError
from medmoe.objectives.contrastive import NEVER, symmetric_cross_entropy
from medmoe.objectives.groups import Rows, check_negatives, over_groups, together_in, words_of
from medmoe.objectives.tiles import TiledSimilarity
from medmoe.types import Batch, Output


def word_region_similarity(
    regions: Tensor,
    words: Tensor,
    word_mask: Tensor,
    *,
    tau_attention: float = 4.0,
    tau_aggregate: float = 5.0,
    chunk: int | None = None,
) -> Tensor:
    """How well the words of each report find themselves in the regions of each image.

    For image i, report j, word t_n of the report and region v_m of the image (GLoRIA: Huang et al., ICCV 2021,
    https://openaccess.thecvf.com/content/ICCV2021/papers/Huang_GLoRIA_A_Multimodal_Global-Local_Representation_Learning_Framework_for_Label-Efficient_Medical_ICCV_2021_paper.pdf):

        share_nm = softmax over the words n of (t_n · v_m)             the words compete for each region
        heat_nm  = softmax over the regions m of (τ1 · share_nm)
        c_n      = Σ_m heat_nm v_m                                     what the image holds of the word
        s_ij     = log Σ_n exp(τ2 · cos(t_n, c_n))

    The sum is not divided by τ2 nor by the number of words, as in the authors' code: s_ij lies in
    log n ± τ2, so a longer report has a higher column. Dot products are of raw features.

    The length of a context is taken from the Gram matrix of the regions, |c|² = heatᵀ(VᵀV)heat, where M is at
    most 1.5 D, and from the context itself beyond: the two agree, and the choice is of work only. The first can
    lose digits where the context is shorter than a thousandth of its regions.

    Args:
        regions: [Bi, D, G, G] (or [Bi, D, M]) local features of Bi images.
        words: [Bj, N, D] local features of the words of Bj reports; Bi and Bj may differ.
        word_mask: [Bj, N] bool, True where there is a word; what stands elsewhere changes nothing.
        tau_attention: τ1, sharpness over regions.
        tau_aggregate: τ2, sharpness over words.
        chunk: Reports held at a time. None keeps two numbers for each (image, report, word, region) for the
            backward pass; a number keeps none, works the chunk out again there, and so bounds the memory
            whatever Bi and Bj. Values and gradients are the same.

    Returns:
        [Bi, Bj] float32 (float64 for float64 inputs). The column of a report without a word is 0 and passes
        no gradient: mask it (`local_loss` does). Gradients are once differentiable.

    Raises:
        ConfigError: If `chunk` is less than 1.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk is {chunk}; it counts reports, so at least 1", remedy="leave it out for no chunks")
    wide = torch.float64 if regions.dtype == torch.float64 else torch.float32
    grid = regions.flatten(2)  # [Bi, D, M], made wide a few images at a time
    real = words.to(wide).masked_fill(~word_mask[:, :, None], 0.0)  # [Bj, N, D]
    keep_gradient = torch.is_grad_enabled() and (grid.requires_grad or real.requires_grad)
    similarity: Tensor = TiledSimilarity.apply(
        grid, real, word_mask, (tau_attention, tau_aggregate), chunk, keep_gradient
    )
    return similarity


def local_loss(
    similarity: Tensor,
    *,
    tau_scale: float = 10.0,
    report_id: Tensor | None = None,
    mask: Tensor | None = None,
    together: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy over local similarities: each image finds its report, each report its image.

    Args:
        similarity: [B, B] from `word_region_similarity`, images down.
        tau_scale: τ3, what the similarities are multiplied by.
        report_id: [B] int64, equal where the reports' texts are equal; all of them count as right.
        mask: [B] bool, False for samples whose report has no word.
        together: [B, B] bool, symmetric, False for pairs that aren't held against each other; None: all are.

    Returns:
        [] loss, 0 where `mask` leaves nothing.
    """
    return symmetric_cross_entropy(tau_scale * similarity, report_id=report_id, mask=mask, together=together)


def local_alignment(
    output: Output,
    batch: Batch,
    *,
    tau_attention: float = 4.0,
    tau_aggregate: float = 5.0,
    tau_scale: float = 10.0,
    negatives: str = "batch",
    chunk: int | None = None,
) -> Tensor | None:
    """GLoRIA's local loss: the words and regions of each pair of the batch, one pair against the others.

    With `negatives="modality"` a pair is held against those of its own modality only, mean over the pairs as ever.
    With K modalities in equal parts that is 1/K of the work, and what is left out is what the report type alone
    already tells apart.

    Args:
        output: Uses `image.regions`, `text.words` and `text.word_mask`.
        batch: Uses `report_id`, `has_report` and, to hold a modality's own against each other, `modality`.
        tau_attention: τ1, sharpness of the attention over regions.
        tau_aggregate: τ2, sharpness of the sum over words.
        tau_scale: τ3, multiplier of the similarities.
        negatives: Which pairs a pair is held against: all of the `batch`, or those of its `modality`; samples of
            unknown modality are held against each other.
        chunk: Reports held at a time, for bounded memory; None: all, faster.

    Returns:
        [] float32 loss, or None when no sample has a word.

    Raises:
        ConfigError: If `negatives` is none of these.
    """
    check_negatives(negatives, where="objective_options.local.negatives")
    compare = partial(word_region_similarity, tau_attention=tau_attention, tau_aggregate=tau_aggregate, chunk=chunk)
    return loss_over_pairs(output, batch, compare, tau_scale=tau_scale, negatives=negatives)


def loss_over_pairs(
    output: Output,
    batch: Batch,
    compare: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    tau_scale: float,
    negatives: str,
) -> Tensor | None:
    """`local_loss` of the batch's pairs under a similarity of words and regions, within each group of negatives.

    Where values can be looked at each group is worked out alone, else all pairs are and those of two groups masked:
    the same number.

    Args:
        output: Uses `image.regions`, `text.words` and `text.word_mask`.
        batch: Uses `report_id`, `has_report` and `modality`.
        compare: (regions, words, word_mask) of b samples → [b, b].
        tau_scale: Multiplier of the similarities.
        negatives: One of `medmoe.objectives.groups.NEGATIVES`.

    Returns:
        [] float32 loss, or None when no sample has a word.
    """
    found = words_of(output, batch)
    if found is None:
        return None
    words, word_mask = found
    regions, told = output.image.regions, word_mask.any(1)
    if not layers.readable(told):
        similarity = compare(regions, words, word_mask)
        together = together_in(batch, negatives)
        return local_loss(similarity, tau_scale=tau_scale, report_id=batch.report_id, mask=told, together=together)

    def loss_of(rows: Rows) -> Tensor:
        similarity = compare(regions[rows], words[rows], word_mask[rows])
        report_id = None if batch.report_id is None else batch.report_id[rows]
        return local_loss(similarity, tau_scale=tau_scale, report_id=report_id, mask=told[rows])

    return over_groups(loss_of, batch, told, negatives)


def within_report_loss(regions: Tensor, words: Tensor, word_mask: Tensor, *, tau: float = 0.1) -> Tensor:
    """The local loss of Chopra et al., 2025 (https://arxiv.org/abs/2506.08356), as its equations say.

    For word t_i and regions v_j of one image and its own report:

        a_ij = softmax over the regions j of (t_i · v_j / τ)
        c_i  = Σ_j a_ij v_j
        loss = −log [exp(cos(c_i, t_i) / τ) / Σ_j exp(cos(c_i, t_j) / τ)], mean over words, then over reports

    It tells the words of a report apart, in their own image. No other image or report takes part, so it teaches
    no match of image and report: trained with it, local retrieval stays at chance. It is here to be compared
    with; `local_alignment` does the work. A report of one word gives 0. The paper doesn't state τ.

    Args:
        regions: [B, D, G, G] local features.
        words: [B, N, D] local features of the words of each image's own report.
        word_mask: [B, N] bool, True where there is a word.
        tau: τ, both of the attention and of the contrast.

    Returns:
        [] float32 loss (float64 for float64 inputs), 0 when there is no word.
    """
    wide = torch.float64 if regions.dtype == torch.float64 else torch.float32
    with layers.without_autocast(regions):
        grid = regions.to(wide).flatten(2)  # [B, D, M]
        real = words.to(wide).masked_fill(~word_mask[:, :, None], 0.0)  # [B, N, D]
        attention = torch.softmax(real @ grid / tau, dim=2)  # [B, N, M]
        context = attention @ grid.transpose(1, 2)  # [B, N, D]
        cosine = F.normalize(context, dim=2) @ F.normalize(real, dim=2).transpose(1, 2)  # [B, N, N]
        logits = (cosine / tau).masked_fill(~word_mask[:, None, :], NEVER)
        own = -F.log_softmax(logits, dim=2).diagonal(dim1=1, dim2=2)  # [B, N]
        count = word_mask.sum(1)
        of_report = own.masked_fill(~word_mask, 0.0).sum(1) / count.clamp_min(1)  # [B]
        return of_report.sum() / (count > 0).sum().clamp_min(1)


def local_within_report(output: Output, batch: Batch, *, tau: float = 0.1) -> Tensor | None:
    """`within_report_loss` of a batch.

    Args:
        output: Uses `image.regions`, `text.words` and `text.word_mask`.
        batch: Uses `has_report`.
        tau: Sharpness of the attention and of the contrast.

    Returns:
        [] float32 loss, or None when no sample has a word.
    """
    found = words_of(output, batch)
    return None if found is None else within_report_loss(output.image.regions, *found, tau=tau)
