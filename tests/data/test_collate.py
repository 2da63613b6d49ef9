"""Prepared samples as one batch."""

import dataclasses

import numpy as np
import pytest
import torch

from medmoe.data.collate import collate
from medmoe.data.preprocess import Preprocess
from medmoe.data.text import ReportTokenizer
from medmoe.errors import DataError
from medmoe.types import Box, Sample

PREPROCESS = Preprocess(8)
TOKENIZER = ReportTokenizer.train(["No acute finding in the chest.", "Small mass."], vocab_size=60)
MODALITIES = ("xray", "ct")


def sample(key: str, **facts: object) -> Sample:
    return Sample(key=key, image=np.full((8, 6), 128, np.uint8), **facts)


def batch(*samples: Sample, tokenizer: ReportTokenizer | None = TOKENIZER):
    return collate([PREPROCESS(one) for one in samples], tokenizer, modalities=MODALITIES)


def test_every_field_has_a_row_for_each_sample() -> None:
    made = batch(sample("a", report="Small mass.", modality="ct"), sample("b"))
    assert made.image.shape == (2, 3, 8, 8)
    assert made.keys == ("a", "b")
    assert made.tokens.ids.shape[0] == 2
    assert made.modality.tolist() == [1, -1]
    assert made.has_report.tolist() == [True, False]


def test_report_ids_are_equal_exactly_where_the_texts_are() -> None:
    reports = ["Small mass.", " small\n MASS. ", "Small mass", None, "", "  ", "...", "..."]
    made = batch(*(sample("k", report=report) for report in reports))
    ids = made.report_id.tolist()
    assert ids[0] == ids[1] >= 0
    assert ids[2] not in ids[:2]
    assert all(number < 0 for number in ids[3:])
    assert len(set(ids)) == 7
    assert made.has_report.tolist() == [True] * 3 + [False] * 5


def test_a_report_id_does_not_depend_on_the_batch() -> None:
    one, two = batch(sample("a", report="Small mass.")), batch(sample("b"), sample("c", report="Small mass."))
    assert one.report_id[0] == two.report_id[1]


def test_masks_and_gaze_are_there_only_when_a_sample_has_one() -> None:
    plain = batch(sample("a"))
    assert (plain.mask, plain.has_mask, plain.gaze, plain.has_gaze) == (None, None, None, None)
    made = batch(sample("a"), sample("b", mask=np.ones((8, 6), np.bool_), gaze=np.full((8, 6), 0.5, np.float32)))
    assert made.has_mask.tolist() == made.has_gaze.tolist() == [False, True]
    assert made.mask.shape == made.gaze.shape == (2, 1, 8, 8)
    assert made.mask.dtype == torch.float32
    assert made.mask[0].sum() == 0
    assert made.mask[1].sum() == 48
    assert made.gaze[1].max() == 0.5


def test_samples_keep_their_facts_and_moved_boxes_but_no_pixels() -> None:
    box = Box("mass", 0.0, 0.0, 1.0, 1.0)
    made = batch(sample("a", boxes=(box,), patient="p", mask=np.ones((8, 6), np.bool_)))
    (kept,) = made.samples
    assert kept.image.shape == (0, 0)
    assert kept.mask is None
    assert kept.patient == "p"
    assert kept.boxes == (dataclasses.replace(box, x0=0.125, x1=0.875),)


def test_without_a_tokenizer_reports_are_left_out() -> None:
    made = batch(sample("a", report="Small mass."), tokenizer=None)
    assert (made.tokens, made.has_report, made.report_id) == (None, None, None)


def test_a_modality_the_model_lacks_is_told_with_the_remedy() -> None:
    expected = r"""a:1: unknown modality 'pet'.*allowed: ct, xray; .*--set 'model.modalities=\["xray", "ct", "pet"\]'"""
    with pytest.raises(DataError, match=expected):
        batch(sample("a:1", modality="pet"))
