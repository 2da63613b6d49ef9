import itertools

import numpy as np
import pytest

from medmoe.data.curation.texts import COMMON, normalise, similar_texts, text_of

WORDS = "lung nodule right left upper lobe effusion small large no mass heart normal size rib fracture"


def reports(count: int, seed: int) -> list[str]:
    """Draw reports, many of which are others with a word or two exchanged."""
    rng = np.random.default_rng(seed)
    found = [rng.choice(WORDS.split(), rng.integers(9, 30)) for _ in range(count // 3 + 1)]
    while len(found) < count:
        copy = found[rng.integers(0, len(found))].copy()
        copy[rng.integers(0, len(copy))] = rng.choice(WORDS.split())
        found.append(copy)
    return [" ".join(words) for words in found[:count]]


@pytest.mark.parametrize("least", [0.3, 0.6, 0.8, 1.0])
def test_similar_texts_are_those_of_every_pair_compared(least: float):
    texts = [text_of(report) for report in dict.fromkeys(reports(150, seed=4))]
    wanted = {}
    for (i, one), (j, other) in itertools.combinations(enumerate(texts), 2):
        shared = one.shingles & other.shingles
        spread = [sum(shingle in text.shingles for text in texts) for shingle in shared]
        similarity = len(shared) / len(one.shingles | other.shingles)
        if similarity >= least and sum(count <= COMMON for count in spread) >= 3:
            wanted[i, j] = similarity
    found = {(i, j): similarity for i, j, similarity in similar_texts(texts, [1] * len(texts), least)}
    assert found == pytest.approx(wanted)
    assert wanted or least == 1.0  # distinct texts may all differ


def test_case_space_numbers_and_dates_do_not_matter():
    one = normalise("CT of 12/03/2020.  Nodule of 5 mm,\nunchanged since 2019.")
    assert one == normalise("ct of 1.4.2021: nodule of 12 mm; unchanged since 2017")
    assert one != normalise("CT of 12/03/2020. Nodules of 5 mm, unchanged since 2019.")


def test_words_of_other_scripts_are_words():
    assert normalise("Узел в ПРАВОМ лёгком, 5 мм") == "узел в правом лёгком # мм"


def test_reports_of_usual_sentences_are_no_copies():
    usual = "the heart is of normal size and the lungs are clear without effusion or pneumothorax"
    texts = [text_of(f"{usual} {word}") for word in ("a", "b", "c", "d", "e", "f", "g")]
    assert list(similar_texts(texts, [1] * len(texts), 0.8)) == []
    assert len(list(similar_texts(texts[:2], [1, 1], 0.8))) == 1
