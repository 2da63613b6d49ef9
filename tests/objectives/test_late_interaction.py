import math

import pytest
import torch
from reference import gradients, late_interaction_loop, local_inputs

from medmoe.errors import ConfigError
from medmoe.objectives import late_interaction_similarity, tiles, word_region_similarity
from medmoe.objectives.late_interaction import late_interaction
from medmoe.objectives.local import local_loss
from medmoe.speed.plain.late import every_cosine
from medmoe.types import Batch, ImageEmbedding, Output, Routing, TextEmbedding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.5, 10.0, 100.0])
@pytest.mark.parametrize("chunk", [None, 1, 4, 1000])
def test_similarity_is_the_formula(tau, chunk, dtype):
    regions, words, mask = local_inputs(dtype=dtype)
    got = late_interaction_similarity(regions, words, mask, tau_region=tau, chunk=chunk)
    assert got.dtype == dtype
    expected = late_interaction_loop(regions.detach(), words.detach(), mask, tau)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradient_is_that_of_finite_differences(chunk):
    regions, words, mask = local_inputs(2, 3, 2, (2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda r, w: late_interaction_similarity(r, w, mask, chunk=chunk), (regions, words), fast_mode=True
    )


@pytest.mark.parametrize("chunk", [1, 2, 5, 13])
def test_chunks_change_neither_values_norgradients(chunk):
    regions, words, mask = local_inputs(dtype=torch.float64)
    whole, parts = (late_interaction_similarity(regions, words, mask, chunk=size) for size in (None, chunk))
    torch.testing.assert_close(parts, whole, atol=1e-14, rtol=0)
    for got, expected in zip(gradients(parts, regions, words), gradients(whole, regions, words), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-13, rtol=0)


def test_sharp_words_look_at_their_best_region_only_and_dull_ones_at_all():
    regions, words, mask = local_inputs(dtype=torch.float64)
    cosine = torch.cosine_similarity(
        regions.flatten(2)[:, None, None], words[None, :, :, :, None], dim=3
    )  # [images, reports, N, M]
    for tau, pooled in ((1e6, cosine.amax(3)), (1e-7, cosine.mean(3))):
        expected = (pooled * mask).sum(2) / mask.sum(1)
        torch.testing.assert_close(
            late_interaction_similarity(regions, words, mask, tau_region=tau), expected, atol=2e-5, rtol=0
        )


def test_what_stands_under_the_mask_changes_nothing_and_gets_no_gradient():
    regions, words, mask = local_inputs(dtype=torch.float64)
    other = torch.where(mask[:, :, None], words, torch.full_like(words, 1e3)).detach().requires_grad_()
    torch.testing.assert_close(
        late_interaction_similarity(regions, other, mask), late_interaction_similarity(regions, words, mask)
    )
    (gradient,) = gradients(late_interaction_similarity(regions, other, mask), other)
    assert not gradient[~mask].any()


def test_a_report_without_a_word_is_alike_to_nothing():
    regions, words, mask = local_inputs(lengths=(2, 0, 3), dtype=torch.float64)
    assert late_interaction_similarity(regions, words, mask)[:, 1].tolist() == [0, 0, 0]
    assert late_interaction_similarity(regions, words, torch.zeros_like(mask)).tolist() == [[0.0] * 3] * 3


def test_length_of_regions_and_words_does_not_matter():
    regions, words, mask = local_inputs(dtype=torch.float64)
    torch.testing.assert_close(
        late_interaction_similarity(3 * regions, 0.1 * words, mask), late_interaction_similarity(regions, words, mask)
    )


def test_bad_options_are_refused():
    regions, words, mask = local_inputs(dtype=torch.float64)
    with pytest.raises(ConfigError, match="chunk is 0"):
        late_interaction_similarity(regions, words, mask, chunk=0)
    with pytest.raises(ConfigError, match="tau_region is -1"):
        late_interaction_similarity(regions, words, mask, tau_region=-1.0)
    with pytest.raises(ConfigError, match=r"late_interaction.negatives.*unknown value 'modalities'"):
        late_interaction(*_pairs(), negatives="modalities")


def _pairs(lengths=(3, 1, 5, 0, 2, 4)):
    regions, words, mask = local_inputs(6, 4, 2, lengths, dtype=torch.float64)
    blank = torch.zeros(6, 2)
    image = ImageEmbedding(blank, regions, Routing(blank, torch.zeros(6, 1, dtype=torch.long), torch.ones(6, 1)), blank)
    batch = Batch(
        image=blank,
        keys=tuple("abcdef"),
        report_id=torch.tensor([1, 2, 1, 3, 4, 2]),
        modality=torch.tensor([0, 1, 0, 1, -1, 1]),
    )
    text = TextEmbedding(blank, words, mask, blank, blank)
    return Output(image=image, text=text, logit_scale=torch.tensor(1.0)), batch


def test_loss_is_within_each_modality_or_over_the_batch():
    output, batch = _pairs()  # the fourth has no word, the fifth no modality
    regions, words, mask = output.image.regions, output.text.words, output.text.word_mask

    def alone(rows):
        similarity = late_interaction_similarity(regions[rows], words[rows], mask[rows], tau_region=3.0)
        return local_loss(similarity, tau_scale=7.0, report_id=batch.report_id[rows], mask=mask[rows].any(1))

    own = late_interaction(output, batch, tau_region=3.0, tau_scale=7.0, negatives="modality")
    torch.testing.assert_close(own, (2 * alone([0, 2]) + 2 * alone([1, 5]) + alone([4])) / 5)
    torch.testing.assert_close(late_interaction(output, batch, tau_region=3.0, tau_scale=7.0), alone(range(6)))


def test_regions_that_only_cancel_what_others_have_too_much_of_are_no_evidence():
    word = torch.tensor([[[1.0, 0.0]]])
    common = torch.tensor([1.0, 1.0])
    plain = torch.stack([common, common])
    cancelled = torch.stack([common, torch.tensor([0.0, -1.0])])  # their mean is nearer to the word, neither of them is
    images = torch.stack([plain, cancelled]).transpose(1, 2)  # [2, D, M]
    mask = torch.ones(1, 1, dtype=torch.bool)
    mean = torch.cosine_similarity(images.mean(2), word[0], dim=1)
    assert mean[1] > mean[0] + 0.2
    sharp = late_interaction_similarity(images, word, mask, tau_region=1000.0)[:, 0]
    assert sharp[1] == pytest.approx(sharp[0].item(), abs=1e-3)
    assert sharp[0] == pytest.approx(1 / math.sqrt(2), abs=1e-3)


@pytest.mark.parametrize("chunk", [None, 2, 5])
@pytest.mark.parametrize("tile", [1, 9, 1 << 19])
def test_values_and_gradients_are_those_of_all_cosines_at_once_whatever_the_tiles(tile, chunk, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", tile)
    regions, words, mask = local_inputs(5, 4, 3, (3, 0, 1, 5), dtype=torch.float64)
    whole = every_cosine(regions.flatten(2), words, mask)
    ours = late_interaction_similarity(regions, words, mask, chunk=chunk)
    torch.testing.assert_close(ours, whole, atol=1e-12, rtol=1e-12)
    for got, expected in zip(gradients(ours, regions, words), gradients(whole, regions, words), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-10)


def test_half_precision_is_computed_in_float32_and_gets_its_gradient_in_kind():
    regions, words, mask = local_inputs()
    half = [regions.detach().bfloat16().requires_grad_(), words.detach().bfloat16().requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = late_interaction_similarity(*half, mask)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, late_interaction_similarity(half[0].float(), half[1].float(), mask))
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients(similarity, *half))


@pytest.mark.gpu
@pytest.mark.parametrize("compare", [late_interaction_similarity, word_region_similarity])
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_gpu_gives_what_the_cpu_gives(compare, chunk):
    regions, words, mask = local_inputs(5, 8, 3, (3, 0, 1, 5))
    there = [value.detach().cuda().requires_grad_() for value in (regions, words)]
    expected, got = compare(regions, words, mask), compare(*there, mask.cuda(), chunk=chunk)
    torch.testing.assert_close(got.cpu(), expected, atol=1e-4, rtol=1e-4)
    weight = torch.linspace(-1, 2, got.numel()).view_as(expected)
    for one, other in zip(
        torch.autograd.grad((got * weight.cuda()).sum(), there), gradients(expected, regions, words), strict=True
    ):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)
