"""The soak and the cost of saving: a planted growth is found, and small runs end with their tables."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OURS = ("soak", "soaking", "checkpoint_overhead", "faulting")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are read as Linux tells of them")
SMALL = ["model.vision.image_size=32", "model.vision.channels=[8,8,16,16]", "model.experts.grid=4"]
MINUTES = np.arange(0, 25, 1 / 12)


@pytest.fixture(scope="module", autouse=True)
def found() -> Iterator[None]:
    """Make the benchmarks importable."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]


@pytest.fixture
def soak() -> ModuleType:
    return importlib.import_module("soak")


def noisy(seed: int, per_minute: float) -> np.ndarray:
    """Give memory as it is: noise, a sawtooth of checkpoints, now and then a validation, and what it grows by."""
    rng = np.random.default_rng(seed)
    values = 1000 + per_minute * MINUTES + rng.normal(0, 4, len(MINUTES))
    values += 10 * (np.arange(len(MINUTES)) % 7) / 7
    return values + 80 * (rng.random(len(MINUTES)) < 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_a_growth_of_three_mebibytes_a_minute_is_found_under_noise(soak: ModuleType, seed: int):
    found = soak.slope(MINUTES, noisy(seed, 3.0))
    assert found.low > soak.GROWTH
    assert found.low < 3.0 < found.high or abs(found.value - 3.0) < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_a_sawtooth_are_no_growth(soak: ModuleType, seed: int):
    found = soak.slope(MINUTES, noisy(seed, 0.0))
    assert abs(found.value) < found.high < soak.GROWTH


def verdicts(soak: ModuleType, files: np.ndarray, children: np.ndarray, memory: np.ndarray) -> dict[Any, bool]:
    series = [
        {
            "minute": minute,
            "main": {"rss_mib": mib, "files": count},
            "all": {"pss_mib": mib, "children": among},
        }
        for minute, mib, count, among in zip(MINUTES, memory, files, children, strict=True)
    ]
    judged = soak.judge(series, warm=5)
    return {(row["process"], row["what"]): row["holds"] for row in judged if "holds" in row}


def test_each_growth_fails_by_itself_and_none_is_left_out(soak: ModuleType):
    flat, two = 30 + np.arange(len(MINUTES)) % 4.0, np.full(len(MINUTES), 2.0)
    good = verdicts(soak, flat, two, noisy(0, 0.0))
    assert set(good) == {("main", "rss_mib"), ("main", "files"), ("all", "children")}
    assert all(good.values())
    leaks = verdicts(soak, flat, two, noisy(0, 3.0))
    assert [name for name, holds in leaks.items() if not holds] == [("main", "rss_mib")]
    opens = verdicts(soak, flat + MINUTES.round(), two, noisy(0, 0.0))
    assert [name for name, holds in opens.items() if not holds] == [("main", "files")]
    lost = verdicts(soak, flat, two - (MINUTES > 20), noisy(0, 0.0))
    assert [name for name, holds in lost.items() if not holds] == [("all", "children")]


@LINUX
def test_what_is_read_of_a_process_is_what_it_holds(tmp_path: Path):
    from soaking.watching import read, read_all

    grows = "import sys,os,subprocess; held = [open(os.devnull) for _ in range(20)]; more = b'1' * (64 << 20)\n"
    grows += "child = subprocess.Popen(['sleep', '60']); print('ready', flush=True); sys.stdin.read(); child.kill()"
    words = [sys.executable, "-c", grows]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        told = read_all(process.pid)
        process.communicate()
    assert told["main"]["files"] >= 20
    assert 64 < told["main"]["own_mib"] <= told["main"]["rss_mib"] < 300
    assert told["all"]["children"] == 1
    assert told["all"]["pss_mib"] == pytest.approx(told["main"]["pss_mib"] + told["loader 1"]["pss_mib"])
    assert read(process.pid) is None


def test_the_picture_has_a_panel_for_each_title(tmp_path: Path):
    from soaking.picture import draw

    line = ([0.0, 1.0, 2.0], [3.0, 4.0, 3.0])
    draw(tmp_path / "a.png", {"one": {"main": line}, "two": {"main": line, "nothing yet": ([], [])}}, warm=0.5)
    with Image.open(tmp_path / "a.png") as one:
        draw(tmp_path / "b.png", {"one": {"main": line}}, warm=0.5)
        with Image.open(tmp_path / "b.png") as other:
            assert one.height == 2 * other.height


@LINUX
@pytest.mark.slow
def test_a_short_soak_ends_with_a_table_and_a_picture(tmp_path: Path):
    words = ["--minutes", "0.2", "--every", "0.5", "--patients", "20", "--only", "files"]
    words += ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    more = [word for setting in (*SMALL, "train.save_every=3", "train.val_every=4") for word in ("--set", setting)]
    run = subprocess.run(
        [sys.executable, BENCHMARKS / "soak.py", *words, *more],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr  # so short a run is all warm-up
    told = json.loads((tmp_path / "a.json").read_text())["runs"]["files"]
    assert told["holds"], run.stdout
    assert told["exit_code"] == 143
    assert {row["process"] for row in told["figures"]} >= {"main", "loader 1", "loader 2", "all"}
    assert "| main | rss_mib |" in run.stdout
    assert (tmp_path / "a.png").is_file()


# What saving costs


def test_a_mean_lies_in_its_interval_and_a_constant_has_none():
    overhead = importlib.import_module("checkpoint_overhead")
    rng = np.random.default_rng(0)
    low, high = overhead.interval(rng.normal(1.0, 0.2, 50), rng)
    assert 0.9 < low < 1.0 < high < 1.1
    assert overhead.interval(np.full(5, 0.25), rng) == [0.25, 0.25]


def test_each_kind_of_block_is_timed_and_its_checkpoints_are_whole(tmp_path: Path):
    from medmoe import checkpoint

    overhead = importlib.import_module("checkpoint_overhead")
    row = overhead.measure("tiny", tmp_path, rounds=3, settings=[*SMALL, "data.batch_size=6"], steps=2)
    assert {arm: len(blocks) for arm, blocks in row["blocks"].items()} == {"none": 3, "beside": 3, "waiting": 3}
    assert {block["call"] for block in row["blocks"]["none"]} == {0.0}
    for arm in ("beside", "waiting"):
        cost = row[arm]
        assert cost["ratio"] == pytest.approx(1 + cost["seconds"]["mean"] / 60)
        assert cost["ratio_interval"][0] <= cost["ratio"] <= cost["ratio_interval"][1]
        saved = checkpoint.found(tmp_path / arm)
        assert len(saved) == 2
        assert checkpoint.load_latest(tmp_path / arm) is not None
    assert row["step"]["n"] + row["step_while_writing"]["n"] == 3 * 3 * 2
