"""What is on disk of runs is read, listed and compared as it is, the broken named and never fatal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from medmoe.errors import ConfigError, DataError
from medmoe.report.markup import tag
from medmoe.runs import chosen, compare, find_runs, ordered, read_state, table, write_comparison
from medmoe.runs.comparison import lines, sparkline
from medmoe.runs.folder import is_locked
from micro import medmoe
from small_runs import micro, phantoms
from small_runs import train as train_micro

LONG_AGO = time.time() - 7200


def write_run(folder: Path, *settings: str, steps: int = 4, done: bool = True, seed: int = 0, **facts: Any) -> Path:
    """Write a run folder as training leaves it: a line every step, a validation every second one, all an hour old."""
    config = micro(f"train.steps={steps}", f"train.seed={seed}", *settings)
    (folder / "model").mkdir(parents=True) if done else folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json())
    made = {"started": "2026-01-02T03:04:05+0000", "git_commit": "abcdef0123456789", "train_data": "one", **facts}
    (folder / "run.json").write_text(json.dumps(made))
    rows: list[dict[str, Any]] = []
    for step in range(1, (steps if done else steps - 1) + 1):
        rows.append({"kind": "train", "step": step, "loss": 10.0 / step, "terms": {"global": 1.0 / step}})
        rows[-1] |= {"images_per_second": 4.0, "data_wait": 0.25}
        if step % 2 == 0:
            loss = (3.0, 2.0, 2.5, 2.5)[step // 2 - 1] + seed
            rows.append({"kind": "val", "step": step, "loss": loss, "terms": {}, "image_router_accuracy": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    age(folder)
    return folder


def age(folder: Path, when: float = LONG_AGO) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (when, when))


@pytest.fixture
def some(tmp_path: Path) -> Path:
    write_run(tmp_path / "one")
    write_run(tmp_path / "group" / "two", "train.lr=0.01", 'recipe="other"', steps=6, seed=1)
    write_run(tmp_path / "group" / "three", done=False)
    return tmp_path


def test_a_run_is_summed_up_from_what_it_wrote(tmp_path: Path):
    row = read_state(write_run(tmp_path / "run", steps=6)).summary
    known = {"recipe": "micro", "state": "finished", "step": 6, "steps": 6, "seed": 0, "commit": "abcdef0123456789"}
    assert {key: row[key] for key in known} == known
    assert (row["val_loss"], row["best_val_loss"], row["best_step"]) == (2.5, 2.0, 4)
    assert (row["loss"], row["image_router"], row["data_wait"]) == (pytest.approx(10 / 6), 0.5, 0.25)
    assert row["seconds"] == pytest.approx(6 * 8 / 4)  # batches of 8 at 4 images a second
    assert row["problem"] is None


def test_batches_of_a_step_count_for_its_time(tmp_path: Path):
    row = read_state(write_run(tmp_path / "run", "train.accum_freq=3", steps=2)).summary
    assert row["seconds"] == pytest.approx(2 * 3 * 8 / 4)


def test_a_real_run_is_finished(tmp_path: Path):
    train_micro(tmp_path / "run", val=phantoms(6))
    state = read_state(tmp_path / "run")
    assert (state.state, state.problem) == ("finished", "")
    assert state.summary["val_loss"] == state.rows("val")[-1]["loss"]


def test_a_run_counts_as_running_while_it_writes_and_as_stopped_later(tmp_path: Path):
    folder = write_run(tmp_path / "run", done=False)
    assert read_state(folder).state == "stopped"
    assert read_state(folder, now=LONG_AGO + 30).state == "running"
    assert read_state(folder, now=LONG_AGO + 70).state == "stopped"


def test_a_run_with_slow_steps_is_given_longer(tmp_path: Path):
    folder = write_run(tmp_path / "run", done=False)
    text = (folder / "metrics.jsonl").read_text().replace('"images_per_second": 4.0', '"images_per_second": 0.2')
    (folder / "metrics.jsonl").write_text(text)
    age(folder)
    assert read_state(folder, now=LONG_AGO + 150).state == "running"  # 8 images take 40 seconds, and 5 times that
    assert read_state(folder, now=LONG_AGO + 250).state == "stopped"


def test_a_run_whose_lock_is_held_is_running_however_long_it_is_silent(tmp_path: Path):
    fcntl = pytest.importorskip("fcntl", reason="no file locks on this system")
    if not Path("/proc/locks").exists():
        pytest.skip("this system doesn't list its locks")
    folder = write_run(tmp_path / "run", done=False)
    with (folder / ".lock").open("w") as file:
        age(folder)
        assert not is_locked(folder / ".lock")
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(folder / ".lock")
        assert read_state(folder).state == "running"
    assert read_state(folder).state == "stopped"


def test_a_run_that_did_all_steps_but_left_no_model_is_not_finished(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    (folder / "model").rmdir()
    age(folder)
    assert read_state(folder).state == "stopped"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("config.json", "{", "config.json isn't JSON"),
        ("config.json", "[]", "config.json isn't a JSON object"),
        ("config.json", "{}", "config.json isn't that of a run"),
        ("config.json", None, "config.json can't be read (No such file or directory)"),
        ("config.json", "\0\xff", "config.json isn't JSON"),
        ("config.json", '{"train": {"steps": "x"}, "model": 3}', "config.json isn't that of a run"),
    ],
)
def test_a_run_whose_settings_cannot_be_read_is_broken_and_says_why(
    tmp_path: Path, name: str, text: str | None, problem: str
):
    folder = write_run(tmp_path / "run")
    (folder / name).unlink() if text is None else (folder / name).write_text(text, encoding="latin-1")
    state = read_state(folder)
    assert (state.state, state.problem) == ("broken", problem)
    assert state.summary["val_loss"] == 2.0
    assert problem in table([state])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[:-20], ""),  # a last line cut short is what a crash leaves
        (lambda text: "garbage\n" + text, "1 line of metrics.jsonl can't be read"),
        (lambda text: '{"kind": 3}\n[1]\n' + text, "2 lines of metrics.jsonl can't be read"),
        (lambda text: text.replace('"loss": 2.0', '"loss": NaN'), "the last loss isn't a finite number"),
        (lambda text: "", ""),
    ],
)
def test_metrics_are_read_as_far_as_they_go(tmp_path: Path, change: Any, problem: str):
    folder = write_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    path.write_text(change(path.read_text()))
    age(folder)
    state = read_state(folder)
    assert state.state in ("finished", "stopped")
    assert state.problem == problem
    assert table([state])


def test_odd_values_in_a_log_and_its_facts_are_not_fatal(tmp_path: Path):
    folder = write_run(tmp_path / "run", machine="a string")
    row = {"kind": "train", "step": 9, "loss": "x", "images_per_second": 0, "load": {}, "terms": 3, "data_wait": None}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"kind": "val", "step": 9}) + "\n")
    other = write_run(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({"train": config["train"], "model": None, "data": 3}))
    states = [read_state(folder), read_state(other)]
    assert table(states)
    assert lines(compare(states))


def test_runs_are_found_at_any_depth_each_once(some: Path):
    (some / ".hidden").mkdir()
    write_run(some / ".hidden" / "no")
    (some / "one" / "model" / "run.json").write_text("{}")  # what is within a run isn't looked into
    found = find_runs([some, some / "group", some / "one"])
    assert [path.relative_to(some).as_posix() for path in found] == ["group/three", "group/two", "one"]
    with pytest.raises(DataError, match="isn't a folder"):
        find_runs([some / "none"])


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("recipe=micro", ["one", "three"]),
        ("recipe!=micro", ["two"]),
        ("recipe=o*", ["two"]),
        ("train.lr>=0.01", ["two"]),
        ("train.lr<0.01", ["one", "three"]),
        ("best_val_loss<=2", ["one"]),
        ("seed=0", ["one", "three"]),
        ("state = stopped", ["three"]),
        ("train.ema=none", ["one", "three", "two"]),
        ("image_router>0.5", []),
    ],
)
def test_runs_are_chosen_by_columns_and_settings(some: Path, condition: str, names: list[str]):
    runs = [read_state(path) for path in find_runs([some])]
    assert sorted(run.path.name for run in chosen(runs, [condition])) == names


def test_several_conditions_must_all_hold(some: Path):
    runs = [read_state(path) for path in find_runs([some])]
    assert [run.path.name for run in chosen(runs, ["recipe=micro", "state=finished"])] == ["one"]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("recipe", "got 'recipe', allowed: KEY=VALUE"),
        ("recip=tiny", r"unknown column or setting 'recip' \(did you mean 'recipe'\?\)"),
        ("loss<small", "got 'loss<small', allowed with <: a number"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(some: Path, condition: str, said: str):
    with pytest.raises(ConfigError, match=said):
        chosen([read_state(some / "one")], [condition])


def test_runs_are_sorted_with_the_unknown_last(some: Path):
    write_run(some / "none", steps=1)
    runs = [read_state(path) for path in find_runs([some])]
    names = [run.path.name for run in ordered(runs, "best_val_loss")]
    assert names == ["one", "three", "two", "none"]  # equal ones stay in the order they were found in
    assert next(run.path.name for run in ordered(runs, "-train.lr")) == "two"
    assert [run.path.name for run in ordered(runs, "-best_val_loss")][-1] == "none"
    with pytest.raises(ConfigError, match="did you mean 'val_loss'"):
        ordered(runs, "vall_loss")


def test_a_table_says_once_what_all_runs_share_and_leaves_out_what_none_has(some: Path):
    text = table([read_state(some / "one"), read_state(some / "group" / "three")])
    head, *_, shared = text.splitlines()
    assert shared == "all: recipe micro, seed 0, commit abcdef01"
    assert "machine" not in head
    assert "router" in head
    assert len({len(line.rstrip()) for line in text.splitlines()[1:3]}) == 1  # aligned


def test_compared_runs_show_what_differs_and_nothing_else(some: Path):
    (some / "group" / "two" / "run.json").write_text(json.dumps({"train_data": "two", "versions": {"torch": "9"}}))
    found = compare([read_state(some / "one"), read_state(some / "group" / "two")])
    assert found.names == ["one", "two"]
    expected = {"recipe": ["micro", "other"], "train.lr": [0.003, 0.01], "train.seed": [0, 1], "train.steps": [4, 6]}
    assert found.settings == expected
    assert found.made == {
        "git_commit": ["abcdef0123456789", None],
        "train_data": ["one", "two"],
        "versions.torch": [None, "9"],
    }
    assert found.curves["val/loss"] == [[(2, 3.0), (4, 2.0)], [(2, 4.0), (4, 3.0), (6, 3.5)]]
    assert found.doubts == []


def test_equal_runs_differ_in_nothing(tmp_path: Path):
    found = compare([read_state(write_run(tmp_path / name)) for name in "ab"])
    assert (found.settings, found.made) == ({}, {})
    assert "settings that differ: none" in lines(found)


def test_a_comparison_warns_of_what_does_not_compare(some: Path):
    other = write_run(some / "weighed", "objectives.local=0.1")
    (other / "config.json").write_text((other / "config.json").read_text())
    found = compare([read_state(some / "one"), read_state(other), read_state(some / "group" / "three")])
    assert "three is stopped at step 3 of 4" in found.doubts
    assert "objectives are weighed differently: compare the terms of the loss, not its sum" in found.doubts


def test_a_broken_run_is_named_in_a_comparison_and_hides_no_difference(some: Path):
    broken = write_run(some / "broken")
    (broken / "config.json").write_text("{")
    found = compare([read_state(some / "one"), read_state(broken), read_state(some / "group" / "two")])
    assert found.doubts == ["broken: config.json isn't JSON"]
    assert found.settings["train.lr"] == [0.003, None, 0.01]
    assert "train.warmup" not in found.settings


def judged(folder: Path, value: float, **about: Any) -> None:
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 30, "controls": {"chance": 0.2}}
    tasks = {"routing": {"image_router_accuracy": figure}}
    (folder / "evaluation.json").write_text(json.dumps({"tasks": tasks, "details": {}, "about": about}))


def test_final_figures_stand_with_their_intervals(some: Path):
    judged(some / "one", 0.5, data="d", split="test", images=30)
    judged(some / "group" / "two", 0.75, data="other", split="test", images=30)
    found = compare(
        [read_state(some / "one"), read_state(some / "group" / "two"), read_state(some / "group" / "three")]
    )
    assert "routing image_router_accuracy  0.500 [0.400, 0.600]  0.750 [0.650, 0.850]  –" in lines(found)
    assert any(doubt.startswith("figures of two and one don't compare") for doubt in found.doubts)


def test_an_evaluation_that_cannot_be_read_is_named(some: Path):
    (some / "one" / "evaluation.json").write_text("{")
    found = compare([read_state(some / "one"), read_state(some / "group" / "two")])
    assert found.figures == {}
    assert "isn't JSON" in found.doubts[0]


def test_a_comparison_needs_two_to_eight_different_runs(tmp_path: Path):
    runs = [read_state(write_run(tmp_path / f"run-{number}", steps=1)) for number in range(9)]
    for wrong in (runs[:1], runs):
        with pytest.raises(ConfigError, match=f"got {len(wrong)} runs, allowed: 2 to 8"):
            compare(wrong)
    with pytest.raises(ConfigError, match="given twice"):
        compare([runs[0], runs[0]])


def test_a_sparkline_keeps_to_its_scale_and_its_steps():
    assert sparkline([(1, 0.0), (2, 1.0)], low=0, high=1, last=2, width=2) == "▁█"
    assert sparkline([(1, 1.0), (2, 3.0)], low=0, high=4, last=20, width=2) == "▅"  # the mean of both
    assert sparkline([(5, 2.0)], low=2, high=2, last=5, width=3) == "  ▁"
    assert sparkline([], low=0, high=1, last=5) == ""


def test_the_page_is_self_contained_and_escapes_what_runs_say(some: Path, tmp_path: Path):
    evil = write_run(some / "evil", 'recipe="<script>alert(1)</script>"')
    page = write_comparison(tmp_path / "out" / "page.html", compare([read_state(some / "one"), read_state(evil)]))
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "http" not in text
    assert tag("td", "<script>alert(1)</script>") in text
    assert text.count("<figure") >= 4


def test_the_command_lists_filters_and_writes_json(some: Path):
    said = medmoe("runs", some, "--where", "recipe=micro", "--sort", "-step", "--json", some / "list.json")
    assert said.code == 0, said
    rows = json.loads((some / "list.json").read_text())
    assert [Path(row["run"]).name for row in rows] == ["one", "three"]
    assert said.out.splitlines()[1].startswith(str(some / "one"))
    only = medmoe("runs", some, "--json", "-")
    assert len(json.loads(only.out)) == 3
    assert "no run of 3 meets that" in medmoe("runs", some, "--where", "recipe=none").out


def test_the_command_lists_the_current_folder_by_default(some: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(some / "group")
    assert [line.split()[0] for line in medmoe("runs").out.splitlines()[1:3]] == ["three", "two"]
    (some / "empty").mkdir()
    monkeypatch.chdir(some / "empty")
    assert medmoe("runs").out == "no run in .\n"


def test_the_command_compares_in_text_json_and_on_a_page(some: Path):
    runs = (some / "one", some / "group" / "two")
    said = medmoe("runs", "compare", *runs, "--html", some / "page.html", "--json", some / "cmp.json")
    assert said.code == 0, said
    assert "train.lr" in said.out
    assert "val/loss, 2.00 to 4.00 over 6 steps" in said.out
    assert json.loads((some / "cmp.json").read_text())["settings"]["train.lr"] == [0.003, 0.01]
    assert (some / "page.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "one", "group/two", "--sort", "step"), "--where and --sort would do nothing with compare"),
        (("one", "--html", "x.html"), "--html would do nothing without compare"),
        (("compare", "one"), "got 1 runs, allowed: 2 to 8"),
        (("compare",), "got 0 runs, allowed: 2 to 8"),
        (("nowhere",), "nowhere: isn't a folder"),
        (("compare", "one", "group/two", "--html", "one/run.json/x.html"), "can't be written"),
    ],
)
def test_a_mistake_is_one_line(some: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str):
    monkeypatch.chdir(some)
    assert said in medmoe("runs", *words).mistake
