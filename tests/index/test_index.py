"""Every kind of index: what it finds, what it refuses, and what it saves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medmoe.errors import ConfigError, DataError, MissingDependencyError, ModelError
from medmoe.index import INDEXES, Index, load_index, make_index
from medmoe.index import exact as exact_module

NEEDS_FAISS = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss isn't installed")
KINDS = [pytest.param(kind, marks=NEEDS_FAISS if kind == "hnsw" else ()) for kind in INDEXES]
SCANS = ["bf16", "float32"]


def draw(count: int, width: int, *, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(vectors: NDArray[np.float32], kind: str = "exact", **options: object) -> Index:
    index = make_index(kind, vectors.shape[1], fingerprint="own", **options)
    index.add(vectors, fingerprint="own")
    return index


def brute_force(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Score everything in float64 and sort it: the larger first, of equal ones the lower row."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(
    ("count", "width", "queries", "k"),
    [(1000, 16, 7, 10), (64, 3, 1, 5), (65, 8, 2, 65), (5, 4, 3, 1), (4097, 33, 300, 3), (130, 1, 4, 130)],
)
def test_an_exact_index_finds_what_scoring_everything_in_float64_finds(
    scan: str, count: int, width: int, queries: int, k: int
):
    vectors, asked = draw(count, width), draw(queries, width, seed=1)
    found = filled(vectors, scan=scan).search(asked, k, fingerprint="own")
    score, row = brute_force(vectors, asked, k)
    np.testing.assert_array_equal(found.row, row)
    np.testing.assert_array_equal(found.score, score)
    assert (found.score.dtype, found.row.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("scan", SCANS)
def test_of_equal_scores_the_lower_row_comes_first(scan: str):
    vectors = np.tile(draw(7, 12), (40, 1))  # each vector 40 times
    found = filled(vectors, scan=scan).search(vectors[:7], 50, fingerprint="own")
    _, row = brute_force(vectors, vectors[:7], 50)
    np.testing.assert_array_equal(found.row[:, :40], np.arange(7)[:, None] + 7 * np.arange(40))
    np.testing.assert_array_equal(found.row, row)


@pytest.mark.parametrize("scan", SCANS)
def test_neighbours_that_differ_by_less_than_the_rough_scan_sees_are_told_apart(scan: str):
    """Ten thousand vectors within one step of bfloat16: all rough scores are equal, and the best is still found."""
    rng = np.random.default_rng(0)
    base = draw(1, 32)
    vectors = (base + rng.uniform(-1e-4, 1e-4, (10_000, 32))).astype(np.float32)
    found = filled(vectors, scan=scan).search(base, 5, fingerprint="own")
    np.testing.assert_array_equal(found.row, brute_force(vectors, base, 5)[1])


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_vectors_of_any_length_and_sign_are_searched(scan: str, scale: float):
    rng = np.random.default_rng(3)
    vectors = (-np.abs(draw(500, 9)) * rng.uniform(0.1, 1, (500, 1)) * scale).astype(np.float32)
    asked = np.abs(draw(4, 9, seed=5)) * np.float32(scale)  # every score is negative
    found = filled(vectors, scan=scan).search(asked, 6, fingerprint="own")
    np.testing.assert_array_equal(found.row, brute_force(vectors, asked, 6)[1])


@pytest.mark.parametrize("scan", SCANS)
def test_nothing_changes_with_blocks_threads_or_who_else_asks(scan: str, monkeypatch: pytest.MonkeyPatch):
    vectors, asked = draw(3000, 24), draw(20, 24, seed=1)
    index = filled(vectors, scan=scan)
    whole = index.search(asked, 8, fingerprint="own")
    for name, value in (("SCORES", 20 * 130), ("QUERIES", 3), ("PAIRS", 5), ("PENDING", 40), ("GROUP", 16)):
        monkeypatch.setattr(exact_module, name, value)
    small = index.search(asked, 8, fingerprint="own")
    alone = index.search(asked[11], 8, fingerprint="own")
    np.testing.assert_array_equal(small.row, whole.row)
    np.testing.assert_array_equal(small.score, whole.score)
    np.testing.assert_array_equal(alone.row[0], whole.row[11])


def test_a_float32_scan_stays_exact_where_torch_may_round_products():
    vectors, asked = draw(2000, 64), draw(5, 64, seed=1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = filled(vectors, scan="float32").search(asked, 7, fingerprint="own")
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(found.row, brute_force(vectors, asked, 7)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_filled_in_parts_saved_and_opened_finds_the_same(kind: str, tmp_path: Path):
    vectors, asked = draw(300, 16), draw(5, 16, seed=1)
    index = filled(vectors[:100], kind)
    index.search(asked, fingerprint="own")
    index.add(torch.from_numpy(vectors[100:]), fingerprint="own")
    expected = index.search(torch.from_numpy(asked), 10, fingerprint="own")
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # over itself
    again = load_index(tmp_path / "index")
    assert (type(again), len(again)) == (type(index), 300)
    found = again.search(asked, 10, fingerprint="own")
    np.testing.assert_array_equal(found.row, expected.row)
    np.testing.assert_array_equal(found.score, expected.score)
    again.add(asked, fingerprint="own")  # an opened index can grow
    assert again.search(asked, 1, fingerprint="own").row[:, 0].tolist() == [300, 301, 302, 303, 304]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_is_its_own_nearest_and_the_best_come_first(kind: str):
    vectors = draw(200, 16)
    found = filled(vectors, kind).search(vectors[:9], 5, fingerprint="own")
    assert found.row[:, 0].tolist() == list(range(9))
    assert (np.diff(found.score, axis=1) <= 0).all()


@NEEDS_FAISS
def test_the_graph_finds_most_of_what_the_exact_index_finds():
    vectors, asked = draw(2000, 16), draw(50, 16, seed=1)
    true = filled(vectors).search(asked, 10, fingerprint="own").row
    found = filled(vectors, "hnsw").search(asked, 10, fingerprint="own").row
    shared = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(true, found, strict=True)])
    assert shared > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_vectors_than_asked_for_are_all_given_and_none_is_no_error(kind: str):
    asked = draw(2, 8, seed=1)
    empty = make_index(kind, 8, fingerprint="own")
    assert empty.search(asked, 5, fingerprint="own").row.shape == (2, 0)
    found = filled(draw(3, 8), kind).search(asked, 5, fingerprint="own")
    assert sorted(found.row[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_another_embedding_or_width_or_not_finite_are_refused(kind: str):
    index = filled(draw(4, 8), kind)
    with pytest.raises(DataError, match="vectors of the embedding 'other', the index holds 'own'; embed them with"):
        index.add(draw(1, 8), fingerprint="other")
    with pytest.raises(DataError, match="the embedding 'other'"):
        index.search(draw(1, 8), fingerprint="other")
    with pytest.raises(DataError, match=r"shape \[2, 9\] and type float32, allowed: floats \[n, 8\]"):
        index.add(draw(2, 9), fingerprint="own")
    with pytest.raises(DataError, match=r"type int64, allowed: floats"):
        index.search(np.ones((1, 8), np.int64), fingerprint="own")
    for bad in (np.nan, np.inf):
        rows = draw(3, 8)
        rows[1, 4] = bad
        with pytest.raises(DataError, match="vector 5 holds NaN or infinity"):
            index.add(rows, fingerprint="own")
    with pytest.raises(DataError, match="k = 0, allowed: 1 or more"):
        index.search(draw(1, 8), 0, fingerprint="own")
    assert len(index) == 4


def test_an_unknown_kind_or_scan_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown index 'exakt' \\(did you mean 'exact'"):
        make_index("exakt", 8, fingerprint="own")
    with pytest.raises(ConfigError, match="unknown scan 'fp16'"):
        make_index("exact", 8, fingerprint="own", scan="fp16")


def test_without_faiss_the_graph_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"needs faiss; pip install 'medmoe\[search\]'"):
        make_index("hnsw", 8, fingerprint="own")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_folder_is_an_error_that_names_the_file(kind: str, tmp_path: Path):
    folder = tmp_path / "index"
    with pytest.raises(ModelError, match=r"index\.json: no such file"):
        load_index(folder)
    filled(draw(40, 8), kind).save(folder)
    data = next(path for path in folder.iterdir() if path.name != "index.json")
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{data.name}: can't be read .*; build the index again"):
        load_index(folder)
    data.write_bytes(whole)
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(facts | {"count": 39}))
    with pytest.raises(DataError, match=r"the index says .*39, 8\]"):
        load_index(folder)
    (folder / "index.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "width"}))
    with pytest.raises(ModelError, match="lacks 'width'"):
        load_index(folder)
    (folder / "index.json").write_text(json.dumps(facts | {"kind": "tree"}))
    with pytest.raises(ModelError, match="unknown index 'tree'"):
        load_index(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_an_index_is_written_over(kind: str, tmp_path: Path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="something other than an index is here; give a new or empty folder"):
        filled(draw(4, 8), kind).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("seed", range(6))
def test_what_waits_is_not_lost_to_the_rounding_of_rough_scores(seed: int, monkeypatch: pytest.MonkeyPatch):
    """Scores so close that their rough ones tie or swap, in many small blocks that settle late."""
    rng = np.random.default_rng(seed)
    base = draw(1, 24, seed=seed)
    vectors = (base + rng.normal(0, 2e-3, (5000, 24))).astype(np.float32)
    monkeypatch.setattr(exact_module, "SCORES", 3 * 200)
    asked = draw(3, 24, seed=seed + 100) * 0.1 + base
    found = filled(vectors, scan="bf16").search(asked.astype(np.float32), 20, fingerprint="own")
    np.testing.assert_array_equal(found.row, brute_force(vectors, asked.astype(np.float32), 20)[1])
