import math
from dataclasses import replace

import pytest
import torch

from medmoe.objectives.words import region_words, report_words
from medmoe.types import Batch, ImageEmbedding, Output, Routing, Tokens


def _case(reports, logits, has_report=None):
    longest = max(map(len, reports))
    ids = torch.tensor([[*report, *[0] * (longest - len(report))] for report in reports])
    mask = torch.arange(longest)[None] < torch.tensor([len(report) for report in reports])[:, None]
    blank = torch.zeros(len(reports), 2)
    routing = Routing(blank, torch.zeros(len(reports), 1, dtype=torch.long), torch.ones(len(reports), 1))
    image = ImageEmbedding(blank, blank, routing, blank, word_logits=logits)
    batch = Batch(
        image=blank,
        keys=tuple(map(str, range(len(reports)))),
        tokens=Tokens(ids, mask, ids, mask),
        has_report=None if has_report is None else torch.tensor(has_report),
    )
    return Output(image=image, text=None, logit_scale=torch.tensor(1.0)), batch


def _plain(reports, logits):
    """Loop over reports and pieces as the formula says."""
    losses = []
    for row, report in enumerate(reports):
        weight = {}
        for piece in set(report):
            held = sum(piece in other for other in reports)
            weight[piece] = math.log(len(reports) / held)
        total = sum(weight.values())
        if total > 0:
            log_p = torch.log_softmax(logits[row], dim=0)
            losses.append(-sum(share / total * log_p[piece] for piece, share in weight.items()))
    return sum(losses) / len(losses)


REPORTS = [[1, 5, 5, 3], [1, 3], [1, 2, 4, 6, 3], [1, 7, 2]]


def test_the_loss_is_the_formula_and_so_is_its_gradient():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    got, expected = report_words(*_case(REPORTS, logits)), _plain(REPORTS, logits)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (got, expected)))


def test_padding_counts_as_no_piece():
    logits = torch.zeros(4, 9)
    logits[:, 0] = 50.0  # all mass on the padding's number
    assert report_words(*_case(REPORTS, logits)) > 40


def test_absent_reports_are_left_out():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    got = report_words(*_case(REPORTS, logits, has_report=[True, True, False, True]))
    kept = [0, 1, 3]
    torch.testing.assert_close(got, _plain([REPORTS[row] for row in kept], logits[kept]))


@pytest.mark.parametrize(
    ("reports", "logits", "has_report"),
    [
        (REPORTS, None, None),
        (REPORTS, torch.zeros(4, 9), [False] * 4),
        ([[1, 2], [1, 2], [2, 1]], torch.zeros(3, 9), None),
    ],
    ids=["no head", "no report", "reports of the same pieces"],
)
def test_without_anything_to_tell_apart_it_is_inactive(reports, logits, has_report):
    assert report_words(*_case(reports, logits, has_report)) is None


def test_what_regions_say_is_judged_like_what_the_image_says_and_pieces_of_no_report_do_not_count():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    held = torch.zeros(9, dtype=torch.bool)
    held[torch.tensor(sorted({piece for report in REPORTS for piece in report}))] = True
    output, batch = _case(REPORTS, logits)
    regions = replace(output, image=replace(output.image, region_word_logits=logits.masked_fill(~held, -1e30)))
    renumbered = {piece: place for place, piece in enumerate(torch.nonzero(held).flatten().tolist())}
    plain = _plain([[renumbered[piece] for piece in report] for report in REPORTS], logits[:, held])
    torch.testing.assert_close(region_words(regions, batch), plain)
    assert region_words(output, batch) is None  # a model without the head
