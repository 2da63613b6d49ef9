"""What `benchmarks/shards.py` shows, at a small size: all comes back, and a killed run goes on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shards_benchmark", ROOT / "benchmarks" / "shards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_is_read_back_bit_by_bit(script: ModuleType, tmp_path: Path):
    found = script.equal(tmp_path, 100, workers=1)
    assert (found["samples"], found["bit_equal"], found["different"]) == (100, 100, [])
    assert found["checksums_wrong"] == []


def test_a_difference_is_seen(script: ModuleType, tmp_path: Path):
    source = script.ManifestSource(script.make_manifest(tmp_path, 12))
    assert script.difference(source[0], source[0]) == ""
    assert script.difference(source[0], source[1]) in ("image", "report")


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "world"), [(2, 1), (1, 2)])
def test_a_run_killed_at_a_random_sample_goes_on_as_if_nothing_had_been(
    script: ModuleType, tmp_path: Path, workers: int, world: int
):
    [row] = script.all_kills(tmp_path, count=120, kills=2, arrangements=[(workers, world)])
    assert row["same_stream"]
    assert row["wrong_on_the_way"] == 0
    assert row["processes_killed"] + row["ended_before"] == 2 * world
    assert row["processes_killed"] > 0
