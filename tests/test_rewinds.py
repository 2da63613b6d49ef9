"""Spikes: a loss that jumps and stays up sends the run back to before it, past the batches that led there."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import medmoe.train as loop
from medmoe import checkpoint
from medmoe.checkpoint import Spare
from medmoe.distributed import World
from medmoe.errors import ModelError, UserError
from medmoe.guards import Finite, Spike, Spikes
from medmoe.pieces import Pieces
from medmoe.rewinds import FILE, Rewind, first_batch, known
from medmoe.rundir import RunFolder
from medmoe.runs.folder import read_state
from medmoe.summary import write_run_report
from processes import together
from small_runs import Crash, losses, micro, phantoms, rows, train

# what makes the loss jump: one batch, taken at a rate at which nothing is learnt but much is forgotten
POISON = 20
PLAIN = loop.train_step
GUARDED = ("train.spike=8", "train.spike_window=8", "train.save_every=4", "train.steps=30", "train.val_every=1000")


def poisoned(batches: tuple[int, ...]) -> Callable[..., Any]:
    """Give a training step that takes some batches at a wild rate, at whichever step they come."""

    def train_step(state: Any, batches_: Any, config: Any, device: str) -> Any:
        number = first_batch(state.rewinds, state.step, config.train.accum_freq)
        lr = 50.0 if number in batches else config.train.lr
        changed = config.model_copy(update={"train": config.train.model_copy(update={"lr": lr})})
        return PLAIN(state, batches_, changed, device)

    return train_step


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(*batches: int) -> None:
        monkeypatch.setattr(loop, "train_step", poisoned(batches))

    return put


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run that went back once, and that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", poisoned((POISON,)))
        train(folder, *GUARDED)
    return folder


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def there(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoint.found(run)]


def seen(spikes: Spikes, values: list[float], first: int = 1) -> Spike | None:
    for step, value in enumerate(values, first):
        spikes.see(step, value)
    return spikes.found


# The rule


CALM = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.1, 1.9]


def test_three_losses_too_high_in_a_row_are_a_spike_and_fewer_are_not():
    assert seen(Spikes(6, window=8), [*CALM, 9, 9, 2.0, 9, 9, 2.0]) is None
    assert seen(Spikes(6, window=8), [*CALM, 9, 2.0, 9, 9, 9, 9, 9]) == Spike(11, 13, 9, 2.0)


def test_losses_that_are_too_high_do_not_raise_the_bound():
    spikes = Spikes(6, window=8)
    seen(spikes, [*CALM, *[9, 9, 2.0] * 20])
    assert max(spikes.losses) < 3


def test_steps_that_are_no_numbers_are_too_high():
    found = seen(Spikes(6, window=8), [*CALM, math.nan, math.inf, 9.0])
    assert found is not None
    assert (found.begun, found.step) == (9, 11)


def test_nothing_is_judged_before_half_of_the_window_is_known():
    assert seen(Spikes(6, window=8), [2.0, 50, 50, 50]) is None


def test_a_loss_that_hardly_varies_does_not_make_a_spike_of_nothing():
    assert seen(Spikes(6, window=8), [2.0] * 8 + [2.05] * 5) is None


def test_a_loss_that_falls_is_no_spike():
    assert seen(Spikes(3, window=8), [100 / step for step in range(1, 50)]) is None


def test_what_a_checkpoint_keeps_is_enough_to_find_the_same_spike():
    values = [*CALM, 9, 9, 9]
    for at in range(len(values)):
        one, other = Spikes(6, window=8), Spikes(6, window=8)
        seen(one, values[:at])
        other.take_up(json.loads(json.dumps(one.state())))
        assert seen(other, values[at:], at + 1) == Spike(9, 11, 9, 2.0)


def test_a_checkpoint_is_good_if_it_is_half_a_window_older_than_any_spike_that_may_come():
    spikes = Spikes(6, window=8)
    seen(spikes, CALM)
    assert spikes.last_good(8) == 8 - 4
    seen(spikes, [9, 9], 9)
    assert spikes.last_good(10) == 9 - 1 - 4


def test_a_run_of_bad_steps_is_a_spike_before_it_is_an_end():
    model = torch.nn.Linear(2, 2)
    spikes = Spikes(6, window=8)
    spikes.losses.extend(CALM)
    guard = Finite(model, torch.optim.AdamW(model.parameters(), fused=True), patience=3, log=None, spikes=spikes)
    for step in range(9, 20):
        guard.judge(step, torch.tensor(math.nan), torch.tensor(1.0), [])
    guard.read()
    assert spikes.found is not None
    guard.forget()
    assert guard.in_a_row == 0


# Where a run goes on


def test_the_last_rewind_before_a_step_says_which_batch_it_gets():
    def rewind(to: int, batch: int) -> Rewind:
        return Rewind(to=to, batch=batch, begun=0, step=0, loss=1.0, median=1.0)

    assert [first_batch((), step, 2) for step in (0, 3)] == [0, 6]
    later = (rewind(30, 39), rewind(50, 70))
    assert [first_batch(later, step, 1) for step in (29, 30, 35, 50, 51)] == [29, 39, 44, 70, 71]
    earlier = (rewind(30, 39), rewind(20, 60))  # what is left out is left out for good
    assert [first_batch(earlier, step, 1) for step in (19, 20, 35)] == [19, 60, 75]


def test_a_file_of_rewinds_that_is_none_is_told_and_without_it_the_checkpoint_knows(tmp_path: Path):
    one = {"to": 4, "batch": 9, "begun": 7, "step": 9, "loss": None, "median": 2.0}
    assert known(tmp_path, {"rewinds": [one]}) == (Rewind(**one),)  # type: ignore[arg-type]
    (tmp_path / FILE).write_text('[{"too": 4}]')
    assert known(tmp_path, None) == ()
    with pytest.raises(ModelError, match=r"rewinds\.json: isn't a list of rewinds; delete it"):
        known(tmp_path, {})


def test_a_checkpoint_of_the_usual_steps_is_gone_back_to_before_one_saved_out_of_turn():
    folders = [Path(f"step-{step:07d}") for step in (4, 8, 9, 12)]
    assert [path.name[-2:] for path in Spare(11, 4).order(folders)] == ["08", "04", "09"]


# Runs


def test_a_run_whose_loss_jumps_goes_back_leaves_the_batches_out_and_ends_well(
    tmp_path: Path, poison: Callable[..., None], caplog: pytest.LogCaptureFixture
):
    train(tmp_path / "calm", "train.steps=30", "train.val_every=1000")
    poison(POISON)
    train(tmp_path / "bare", "train.steps=30", "train.val_every=1000")
    train(tmp_path / "run", *GUARDED, "train.keep=1")
    (row,) = rows(tmp_path / "run", "rewind")
    assert (row["step"], row["begun"], row["at"], row["batch"]) == (16, 22, 24, 24)
    assert [one["step"] for one in rows(tmp_path / "run")] == list(range(1, 31))
    calm = losses(tmp_path / "calm")
    assert losses(tmp_path / "run")[:16] == calm[:16]
    assert min(losses(tmp_path / "bare")[22:]) > 1.5 * max(calm[16:])
    assert max(losses(tmp_path / "run")[16:]) < 1.5 * max(calm[16:])
    assert "back to step 16, and on with batch 24" in caplog.text


def test_the_steps_after_a_rewind_are_those_of_the_checkpoint_with_the_later_batches(
    tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    keys: list[tuple[int, list[str]]] = []
    plain = Finite.judge

    def judge(self: Finite, step: int, loss: Any, norm: Any, names: Any) -> None:
        keys.append((step, list(names)))
        plain(self, step, loss, norm, names)

    monkeypatch.setattr(Finite, "judge", judge)
    train(tmp_path / "long", "train.steps=38", "train.val_every=1000")
    straight = [names for _, names in keys]
    keys.clear()
    poison(POISON)
    train(tmp_path / "run", *GUARDED)
    back = [step for step, _ in keys].index(17, 20)
    assert back == 24
    assert [names for _, names in keys] == straight  # batch after batch, none twice


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_noise_of_a_small_run_is_no_spike(tmp_path: Path, seed: int):
    window = ("train.spike_window=30", "train.steps=80", "train.log_every=40", "train.save_every=10")
    train(tmp_path, *GUARDED, *window, f"train.seed={seed}")
    assert rows(tmp_path, "rewind") == []


@pytest.mark.parametrize("crash", [15, 18, 23, 26])
def test_a_run_killed_around_a_rewind_is_the_run_that_nobody_disturbed(
    tmp_path: Path, undisturbed: Path, poison: Callable[..., None], crash: int
):
    poison(POISON)
    times = iter([False, True] if crash == 18 else [True])  # step 18 is done twice: kill it the second time

    def watch(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == crash and next(times, False):
            raise Crash

    with pytest.raises(Crash):
        train(tmp_path / "run", *GUARDED, watch=watch)
    train(tmp_path / "run", *GUARDED, resume=True)
    assert weights(tmp_path / "run") == weights(undisturbed)
    assert losses(tmp_path / "run") == losses(undisturbed)
    assert rows(tmp_path / "run", "rewind") == rows(undisturbed, "rewind")
    assert (tmp_path / "run" / FILE).read_text() == (undisturbed / FILE).read_text()


@pytest.mark.parametrize(("stop", "every"), [(17, 1), (23, 1), (24, 10)])
def test_a_run_stopped_around_a_spike_goes_back_as_one_that_was_not(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, stop: int, every: int
):
    train_step = poisoned((POISON,))

    def stopped(state: Any, *more: Any) -> Any:
        if state.step == stop:
            raise KeyboardInterrupt
        return train_step(state, *more)

    monkeypatch.setattr(loop, "train_step", stopped)
    with pytest.raises(loop.Interrupted):
        train(tmp_path, *GUARDED, f"train.log_every={every}")
    monkeypatch.setattr(loop, "train_step", train_step)
    train(tmp_path, *GUARDED, f"train.log_every={every}", resume=True)
    assert weights(tmp_path) == weights(undisturbed)


def test_a_crash_between_deleting_and_writing_down_costs_nothing_but_time(
    tmp_path: Path, undisturbed: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    poison(POISON)

    def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("medmoe.state.rewinds.write", crash)
        with pytest.raises(Crash):
            train(tmp_path, *GUARDED)
    assert there(tmp_path)[-1] == 16
    train(tmp_path, *GUARDED, resume=True)
    assert weights(tmp_path) == weights(undisturbed)


def test_a_run_that_loses_the_checkpoint_it_went_back_to_jumps_over_the_batches_there(
    tmp_path: Path, undisturbed: Path, poison: Callable[..., None]
):
    poison(POISON)
    more = (*GUARDED, "train.keep=9")
    with pytest.raises(Crash):
        train(tmp_path, *more, watch=lambda row: crash_after_rewind(tmp_path, row))
    (checkpoint.at(tmp_path, 16) / "model.safetensors").write_bytes(b"torn")
    train(tmp_path, *more, resume=True)
    assert weights(tmp_path) == weights(undisturbed)


def test_a_run_that_begins_anew_for_want_of_checkpoints_knows_of_no_rewind(tmp_path: Path, undisturbed: Path):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(tmp_path / "run", *GUARDED, "train.steps=4", resume=True)
    assert not (tmp_path / "run" / FILE).exists()
    assert rows(tmp_path / "run", "rewind") == []
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def crash_after_rewind(run: Path, row: dict[str, Any]) -> None:
    if row["kind"] == "train" and row["step"] == 17 and (run / FILE).exists():
        raise Crash


def test_after_so_many_rewinds_a_run_ends_and_says_what_to_lower(tmp_path: Path, poison: Callable[..., None]):
    poison(POISON, 30)
    told = (
        r"the loss jumped to .* went back 1 times already; the newest checkpoint is now that of step (16|20), .*lower"
    )
    with pytest.raises(UserError, match=told + r" --set train\.lr .* or allow more --set train\.rewinds"):
        train(tmp_path, *GUARDED, "train.rewinds=1")
    assert there(tmp_path)[-1] in (16, 20)
    train(tmp_path, *GUARDED, "train.rewinds=2", resume=True)
    assert len(rows(tmp_path, "rewind")) == 2


def test_without_a_checkpoint_from_before_the_run_goes_on_and_says_so(
    tmp_path: Path, poison: Callable[..., None], caplog: pytest.LogCaptureFixture
):
    poison(POISON)
    train(tmp_path, *GUARDED, "train.save_every=40")
    assert "there is no checkpoint of step 17 or before to go back to: the run goes on; a smaller" in caplog.text
    assert rows(tmp_path, "rewind") == []
    assert len(losses(tmp_path)) == 30


def test_an_average_and_what_is_read_of_a_run_go_back_too(tmp_path: Path, poison: Callable[..., None]):
    poison(POISON)
    more = (*GUARDED, "train.ema=0.9", "train.val_every=4", "train.accum_freq=2", "data.workers=1")
    train(tmp_path, *more, val=phantoms(4, seed=5))
    assert [row["step"] for row in rows(tmp_path, "val")] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert (tmp_path / "model").is_dir()
    assert read_state(tmp_path).state == "finished"
    assert "back" not in write_run_report(tmp_path).read_text()[:10]


def test_switched_off_nothing_is_judged_or_kept(tmp_path: Path):
    train(tmp_path, "train.steps=4")
    state = json.loads((checkpoint.found(tmp_path)[-1] / "state.json").read_text())
    assert {"rewinds", "spikes"}.isdisjoint(state)


def test_processes_go_back_together(tmp_path: Path):
    found = together(2, spiked, tmp_path / "ranks", tmp_path / "run")
    assert found[0] == found[1]
    assert found[0][0] == 1
    (row,) = rows(tmp_path / "run", "rewind")
    assert (row["step"], row["at"]) == (16, 24)


@pytest.mark.slow
def test_processes_whose_model_is_in_parts_go_back_as_one_process_does(tmp_path: Path, poison: Callable[..., None]):
    # at a small rate, since AdamW makes a step of any gradient, be it of rounding alone
    more = ("train.shard=true", "train.lr=1e-5", "train.ema=0.9", "train.steps=26")
    found = together(2, spiked, tmp_path / "ranks", tmp_path / "run", more)
    assert found[0] == found[1]
    saved = checkpoint.load_latest(tmp_path / "run")
    assert saved is not None
    assert isinstance(saved.optimizer, Pieces)
    poison(POISON)
    train(tmp_path / "one", *GUARDED, *more)
    (own,), (alone,) = rows(tmp_path / "run", "rewind"), rows(tmp_path / "one", "rewind")
    assert (own["step"], own["begun"], own["at"], own["batch"]) == (16, 22, 24, 24)
    assert (alone["step"], alone["begun"], alone["at"], alone["batch"]) == (16, 22, 24, 24)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def spiked(world: World, folder: Path, more: tuple[str, ...] = ()) -> tuple[int, float]:
    logging.disable()
    loop.train_step = poisoned((POISON,))
    run = RunFolder(folder, resume=True, writes=world.first)
    model = loop.fit(micro(*GUARDED, *more), train=phantoms(), val=None, run=run)
    total = sum(float(value.double().sum()) for value in model.state_dict().values())
    return len(json.loads((folder / FILE).read_text())), total
