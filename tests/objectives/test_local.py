import pytest
import torch
from reference import gradients, local_inputs, nested_loop_similarity, report_loop_similarity

from medmoe import layers
from medmoe.errors import ConfigError
from medmoe.objectives import tiles, within_report_loss, word_region_similarity
from medmoe.objectives.local import local_alignment, local_loss
from medmoe.types import Batch, ImageEmbedding, Output, Routing, TextEmbedding

SMALL_GRID, LARGE_GRID = (5, 6, 2), (3, 4, 3)  # images, D, G: the Gram form, and the context form (M > 1.5 D)


@pytest.fixture(params=[1, 40, 1 << 18], ids=["tiles of one", "small tiles", "one tile"])
def tile(request, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", request.param)


@pytest.mark.parametrize("shape", [SMALL_GRID, LARGE_GRID], ids=["gram", "context"])
@pytest.mark.parametrize("taus", [(4.0, 5.0), (1.0, 0.5), (30.0, 20.0)])
def test_similarity_is_the_formula(shape, taus, tile):
    regions, words, mask = local_inputs(*shape)
    got = word_region_similarity(regions, words, mask, tau_attention=taus[0], tau_aggregate=taus[1])
    expected = nested_loop_similarity(regions.detach(), words.detach(), mask, *taus)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("shape", [SMALL_GRID, LARGE_GRID], ids=["gram", "context"])
def test_values_and_gradients_are_those_of_the_published_loop(shape, chunk, tile):
    regions, words, mask = local_inputs(*shape, dtype=torch.float64)
    ours = word_region_similarity(regions, words, mask, chunk=chunk)
    loop = report_loop_similarity(regions, words, mask)
    torch.testing.assert_close(ours, loop, atol=1e-12, rtol=1e-12)
    for got, expected in zip(gradients(ours, regions, words), gradients(loop, regions, words), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("side", [2, 3], ids=["gram", "context"])
def test_gradient_is_that_of_finite_differences(chunk, side):
    regions, words, mask = local_inputs(2, 3, side, (2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r, w: word_region_similarity(r, w, mask, chunk=chunk), (regions, words))


def test_gram_and_context_forms_agree(monkeypatch):
    regions, words, mask = local_inputs(*SMALL_GRID, dtype=torch.float64)
    gram = word_region_similarity(regions, words, mask)
    of_gram = gradients(gram, regions, words)
    monkeypatch.setattr(tiles, "_gram", lambda block: None)
    context = word_region_similarity(regions, words, mask)
    torch.testing.assert_close(gram, context, atol=1e-12, rtol=1e-12)
    for a, b in zip(of_gram, gradients(context, regions, words), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("lengths", [(3, 1, 5, 5), (5, 5, 5, 5)])
def test_reports_without_looking_at_lengths_give_the_same(lengths, monkeypatch):
    regions, words, mask = local_inputs(*SMALL_GRID, lengths=lengths, dtype=torch.float64)
    mask = mask.clone()
    mask[1] = False
    looked = word_region_similarity(regions, words, mask)
    monkeypatch.setattr(layers, "readable", lambda value: False)
    blind = word_region_similarity(regions, words, mask)
    torch.testing.assert_close(looked, blind, atol=1e-12, rtol=1e-12)
    for a, b in zip(gradients(looked, regions, words), gradients(blind, regions, words), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-10)


def test_padding_words_change_nothing_whatever_stands_there():
    regions, words, mask = local_inputs()
    plain = word_region_similarity(regions, words, mask)
    spoiled = words.detach().masked_fill(~mask[:, :, None], float("nan")).requires_grad_()
    wild = word_region_similarity(regions, spoiled, mask)
    assert torch.equal(plain, wild)
    d_regions, d_words = gradients(wild, regions, spoiled)
    assert d_regions.isfinite().all()
    assert d_words[~mask].abs().max() == 0


def test_words_need_not_come_first():
    regions, words, mask = local_inputs(lengths=(3, 3), dtype=torch.float64)
    gap = torch.tensor([[True, False, True, True, False], [False, True, True, False, True]])
    spread = torch.zeros(2, 5, words.shape[2], dtype=torch.float64).masked_scatter(gap[:, :, None], words.detach())
    torch.testing.assert_close(
        word_region_similarity(regions, spread, gap), word_region_similarity(regions, words, mask)
    )


@pytest.mark.parametrize("side", [2, 3], ids=["gram", "context"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_a_report_without_words_has_a_zero_column_and_no_gradient(side, chunk):
    regions, words, mask = local_inputs(side=side)
    mask[2] = False
    similarity = word_region_similarity(regions, words, mask, chunk=chunk)
    assert similarity[:, 2].abs().max() == 0
    d_regions, d_words = torch.autograd.grad(similarity[:, 2].sum(), (regions, words))
    assert d_regions.abs().max() == 0
    assert d_words.abs().max() == 0


@pytest.mark.parametrize("lengths", [(0, 0), (2, 0)])
def test_batches_with_hardly_a_word_are_defined(lengths):
    regions, words, mask = local_inputs(lengths=(2, 2))
    mask = torch.arange(2)[None] < torch.tensor(lengths)[:, None]
    similarity = word_region_similarity(regions, words, mask)
    loss = local_loss(similarity[:2], mask=mask.any(1))
    loss.backward()
    assert loss.isfinite()
    assert regions.grad.isfinite().all()


def test_no_room_for_words_at_all_gives_zeros():
    similarity = word_region_similarity(torch.ones(2, 3, 2, 2), torch.ones(4, 0, 3), torch.ones(4, 0, dtype=torch.bool))
    assert torch.equal(similarity, torch.zeros(2, 4))


@pytest.mark.parametrize("side", [2, 3], ids=["gram", "context"])
def test_words_and_contexts_without_length_give_zero_cosine_and_finitegradients(side):
    regions, words, mask = local_inputs(side=side, lengths=(3, 2))
    regions.data[0] = 0
    words.data[1, 0] = 0
    similarity = word_region_similarity(regions, words, mask)
    torch.testing.assert_close(similarity[0], torch.tensor([3.0, 2.0]).log())
    d_regions, d_words = gradients(similarity, regions, words)
    assert d_regions.isfinite().all()
    assert d_words.isfinite().all()
    assert d_regions[0].abs().max() == 0


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_features_of_extreme_size_stay_finite(scale):
    regions, words, mask = local_inputs()
    similarity = word_region_similarity(regions * scale, words * scale, mask)
    assert similarity.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(similarity, regions, words))


def test_half_precision_is_computed_in_float32_and_gets_its_gradient_in_kind():
    regions, words, mask = local_inputs()
    half = [regions.detach().bfloat16().requires_grad_(), words.detach().bfloat16().requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = word_region_similarity(*half, mask)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, word_region_similarity(half[0].float(), half[1].float(), mask))
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients(similarity, *half))


def test_permuting_images_and_reports_permutes_the_matrix():
    regions, words, mask = local_inputs()
    rows, columns = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    permuted = word_region_similarity(regions[rows], words[columns], mask[columns])
    torch.testing.assert_close(permuted, word_region_similarity(regions, words, mask)[rows][:, columns])


def test_without_gradients_and_in_channels_last_it_is_the_same():
    regions, words, mask = local_inputs()
    expected = word_region_similarity(regions, words, mask).detach()
    with torch.no_grad():
        torch.testing.assert_close(word_region_similarity(regions, words, mask), expected)
    last = regions.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.testing.assert_close(word_region_similarity(last, words, mask).detach(), expected)
    flat = word_region_similarity(regions.detach().flatten(2), words.detach(), mask)
    torch.testing.assert_close(flat, expected)


def test_the_backward_pass_can_run_twice_and_only_for_one_side():
    regions, words, mask = local_inputs()
    similarity = word_region_similarity(regions, words.detach(), mask)
    first = torch.autograd.grad(similarity.sum(), regions, retain_graph=True)[0]
    second = torch.autograd.grad(similarity.sum(), regions)[0]
    assert torch.equal(first, second)


def test_chunks_keep_nothing_for_the_backward_pass():
    regions, words, mask = local_inputs(8, 4, 2, (6,) * 16)

    def kept(chunk):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            word_region_similarity(regions, words, mask, chunk=chunk)
        return sum(sizes)

    pairs = 8 * 16 * 6 * 4  # images, reports, words, regions
    assert kept(None) > 2 * pairs
    assert kept(4) < pairs


def test_a_chunk_of_no_report_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        word_region_similarity(*local_inputs(), chunk=0)


def test_local_loss_leaves_out_samples_without_words_and_counts_equal_reports_as_right():
    similarity = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([True, True, False, True])
    kept = similarity[mask][:, mask]
    torch.testing.assert_close(local_loss(similarity, mask=mask), local_loss(kept))
    target = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    expected = -(target * ((10 * kept).log_softmax(1) + (10 * kept.T).log_softmax(1))).sum() / 6
    torch.testing.assert_close(local_loss(similarity, report_id=torch.tensor([1, 2, 3, 1]), mask=mask), expected)


def _within_by_loops(regions, words, mask, tau):
    means = []
    for image, report, real in zip(regions, words, mask, strict=True):
        grid, report, losses = image.flatten(1).T, report[real], []  # [M, D], [n, D]
        for i, word in enumerate(report):
            attention = torch.softmax(torch.stack([word @ region for region in grid]) / tau, dim=0)
            context = sum(a * region for a, region in zip(attention, grid, strict=True))
            cosines = torch.stack([torch.cosine_similarity(context, other, dim=0) for other in report])
            losses.append(-torch.log_softmax(cosines / tau, dim=0)[i])
        if losses:
            means.append(torch.stack(losses).mean())
    return torch.stack(means).mean()


def test_within_report_loss_is_the_papers_formula():
    regions, words, mask = local_inputs(4, 4, 3, (3, 1, 5, 2))
    mask[3] = False
    got, expected = within_report_loss(regions, words, mask, tau=0.5), _within_by_loops(regions, words, mask, 0.5)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad(got, (regions, words)), torch.autograd.grad(expected, (regions, words)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_within_report_loss_knows_no_other_image():
    regions, words, mask = local_inputs(2, 4, 2, (3, 3))
    loss = within_report_loss(regions[:1], words[:1], mask[:1])
    both = within_report_loss(regions, words, mask)
    other = within_report_loss(regions[1:], words[1:], mask[1:])
    torch.testing.assert_close(both, (loss + other) / 2)


def test_within_report_loss_of_no_word_is_zero():
    regions, words, mask = local_inputs(2, 4, 2, (3, 3))
    loss = within_report_loss(regions, words, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert regions.grad.isfinite().all()


def _pairs(modality, lengths=(3, 1, 5, 0, 2, 4)):
    regions, words, mask = local_inputs(6, 4, 2, lengths, dtype=torch.float64)
    blank = torch.zeros(6, 2)
    image = ImageEmbedding(blank, regions, Routing(blank, torch.zeros(6, 1, dtype=torch.long), torch.ones(6, 1)), blank)
    text = TextEmbedding(blank, words, mask, blank, blank)
    batch = Batch(
        image=blank,
        keys=tuple("abcdef"),
        report_id=torch.tensor([1, 2, 1, 3, 4, 2]),
        modality=None if modality is None else torch.tensor(modality),
    )
    return Output(image=image, text=text, logit_scale=torch.tensor(1.0)), batch


def test_negatives_of_a_modality_are_a_loss_for_each_weighted_by_its_pairs():
    output, batch = _pairs([0, 1, 0, 1, -1, 1])  # the fourth has no word, the fifth no modality
    regions, words, mask = output.image.regions, output.text.words, output.text.word_mask
    got = local_alignment(output, batch, negatives="modality")

    def alone(rows):
        similarity = word_region_similarity(regions[rows], words[rows], mask[rows])
        return local_loss(similarity, report_id=batch.report_id[rows]) * len(rows)

    expected = (alone([0, 2]) + alone([1, 5]) + alone([4])) / 5
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(gradients(got, regions, words), gradients(expected, regions, words), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("modality", [[2] * 6, None])
def test_negatives_of_a_modality_are_all_where_there_is_one(modality):
    output, batch = _pairs(modality)
    torch.testing.assert_close(local_alignment(output, batch, negatives="modality"), local_alignment(output, batch))


def test_unknown_negatives_are_refused():
    with pytest.raises(ConfigError, match=r"unknown value 'modalities' \(did you mean 'modality'"):
        local_alignment(*_pairs(None), negatives="modalities")
