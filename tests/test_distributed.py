"""Several processes give the loss and the gradients that one gives with the whole batch, whoever has what."""

from __future__ import annotations

import contextlib
import copy
import itertools
import multiprocessing
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from medmoe.caching import Way, backward_in_parts
from medmoe.distributed import ALONE, World, current, gathered, joined, over_all, sum_gradients, summed
from medmoe.distributed.meeting import _meet
from medmoe.errors import ConfigError, UserError
from medmoe.model import MedVLM
from medmoe.objectives import OBJECTIVES, total_loss
from medmoe.step import told
from medmoe.types import Batch, Loss, Output
from processes import together
from test_caching import EVERY, WORDS, Gradients, at_once, batch_for, built, farthest, gradients, moved, ragged

# which of eight samples each process has
SHARES = {2: ([0, 2, 4, 6, 7], [1, 3, 5]), 3: ([0, 3, 6], [1, 4, 7], [2, 5])}


def share_of(batch: Batch, rows: list[int]) -> Batch:
    """Give some samples of a batch, their reports without the padding that only others need."""
    index = torch.tensor(rows)
    tokens = batch.tokens
    assert tokens is not None
    longest, words = int(tokens.mask[index].sum(1).max().clamp_min(1)), int(tokens.word_mask[index].sum(1).max())
    own = replace(
        tokens,
        ids=tokens.ids[index, :longest],
        mask=tokens.mask[index, :longest],
        word=tokens.word.masked_fill(~tokens.mask, -1)[index, :longest],
        word_mask=tokens.word_mask[index, : max(words, 1)],
    )
    names = ("image", "has_report", "report_id", "modality", "mask", "has_mask", "gaze", "has_gaze")
    facts = {name: getattr(batch, name)[index] for name in names if getattr(batch, name) is not None}
    keys = tuple(batch.keys[row] for row in rows)
    return replace(batch, tokens=own, keys=keys, samples=tuple(batch.samples[row] for row in rows), **facts)


def judged(output: Output, batch: Batch, weights: dict[str, float]) -> Loss:
    return total_loss(*gathered(output, batch), weights)


def step(model: MedVLM, batch: Batch, weights: dict[str, float], part: int | None) -> tuple[Loss, Gradients]:
    if part is not None:
        loss, _ = backward_in_parts(model, batch, partial(judged, weights=weights), Way(part))
    else:
        loss = judged(model(told(model, batch)), batch, weights)
        if loss.total.requires_grad:
            loss.total.backward()
    sum_gradients(model)
    return loss, gradients(model)


def steps_of_each(world: World, model: MedVLM, batch: Batch, kinds: list[dict[str, float]], part: int | None) -> Any:
    own = share_of(batch, SHARES[world.size][world.rank])
    found = [step(over_all(model), own, weights, part) for weights in kinds]
    return [(loss.total.detach(), loss.terms, loss.inactive, grads) for loss, grads in found]


@pytest.mark.parametrize(("count", "part"), [(2, None), (3, None), (2, 2)])
def test_processes_give_the_gradients_of_the_whole_batch_for_every_objective(
    tmp_path: Path, count: int, part: int | None
):
    model = moved(built(*WORDS))
    batch = ragged(batch_for(model))
    kinds = [{name: 1.0} for name in OBJECTIVES] + [EVERY]
    every = together(count, steps_of_each, tmp_path, model, batch, kinds, part)
    for weights, *of_ranks in zip(kinds, *every, strict=True):
        expected_loss, expected = at_once(model, batch, partial(total_loss, weights=weights))
        for total, terms, inactive, found in of_ranks:
            assert not inactive
            assert float(total) == pytest.approx(float(expected_loss.total.detach()), rel=1e-6), weights
            assert terms.keys() == expected_loss.terms.keys()
            assert farthest(found, expected) < 1e-9, weights


def test_batch_norms_take_their_statistics_from_all_processes(tmp_path: Path):
    model = moved(built("model.vision.norm=batch", "model.pool_norm=batch", *WORDS))
    batch = batch_for(model)
    one = copy.deepcopy(model)
    expected_loss, expected = at_once(one, batch, partial(total_loss, weights=EVERY))
    every = together(3, norms_of_each, tmp_path, model, batch)
    for total, found, state in every:
        torch.testing.assert_close(total, expected_loss.total.detach())
        assert farthest(found, expected) < 1e-9
        for name, value in one.state_dict().items():
            torch.testing.assert_close(state[name], value)


def norms_of_each(world: World, model: MedVLM, batch: Batch) -> Any:
    loss, found = step(over_all(model), share_of(batch, SHARES[world.size][world.rank]), EVERY, None)
    return loss.total.detach(), found, model.state_dict()


def test_experts_that_nobody_chose_have_no_gradient_and_nobody_waits(tmp_path: Path):
    model = moved(built("model.experts.shared=0", "model.router.train=label", *WORDS))
    batch = batch_for(model)
    assert batch.modality is not None
    batch = replace(batch, modality=torch.tensor([0, 1, 0, 1, 0, 1, 0, 0]))  # 0 in one process only, others nowhere
    _, expected = at_once(model, batch, partial(total_loss, weights=EVERY))
    assert {int(name.split(".")[2]) for name in expected if name.startswith("experts.special")} == {0, 1}
    for ((_, _, _, found),) in together(3, steps_of_each, tmp_path, model, batch, [EVERY], None):
        assert found.keys() == expected.keys()
        assert farthest(found, expected) < 1e-9


def test_a_batch_norm_in_an_expert_is_refused(tmp_path: Path):
    with pytest.raises(Exception, match=r"BatchNorm in an expert.*--set model\.experts\.norm=group"):
        together(2, norms_of_each, tmp_path, built("model.experts.norm=batch"), batch_for(built()))


def test_numbers_and_flags_are_brought_together(tmp_path: Path):
    assert together(3, sums_of_each, tmp_path) == [([6.0, 0.3], 3)] * 3


def sums_of_each(world: World) -> Any:
    return [round(value, 9) for value in summed([world.rank + 1, 0.1])], current().size


def test_alone_nothing_is_gathered_or_changed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    model = built()
    batch = batch_for(model)
    with joined("cpu", timeout=1) as world:
        assert world == current() == ALONE
        output = model(batch)
        assert gathered(output, batch) == (output, batch)
        assert over_all(model) is model
        assert summed([1.5]) == [1.5]
        sum_gradients(model)


def test_an_impossible_environment_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    told = pytest.raises(ConfigError, match="RANK, WORLD_SIZE, LOCAL_RANK aren't all numbers; use torchrun")
    with told, joined("cpu", timeout=1):
        pass


def test_what_processes_before_a_restart_left_behind_misleads_nobody():
    store = dist.HashStore()
    for name in ("here/1", "here/2", "to/ghost", "heard/ghost/1"):
        store.set(f"medmoe/{name}", "ghost")
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            found = [pool.submit(_meet, store, World(rank, 3, rank), 20.0) for rank in range(3)]
            met = [one.result() for one in found]
        assert not met[1].check(["address"])
        met[0].set("address", "here")
        assert [one.get("address") for one in met] == [b"here"] * 3


def test_whoever_waits_for_a_process_that_never_comes_says_for_which():
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(_meet, store, World(1, 3, 1), 20.0)
        with pytest.raises(UserError, match="process 0 of 3 waited 1 s for process 2;"):
            _meet(store, World(0, 3, 0), 1.0)
        second.result()


def test_a_process_that_is_never_answered_says_whom_it_waited_for():
    with pytest.raises(UserError, match="process 1 of 2 waited 1 s for process 0;"):
        _meet(dist.HashStore(), World(1, 2, 1), 1.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_torchrun_was_killed_leaves_the_meeting_to_those_of_the_next(
    rank: int, monkeypatch: pytest.MonkeyPatch
):
    store, parents = dist.HashStore(), itertools.chain([7, 7, 7], itertools.repeat(1))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(UserError, match=f"process {rank} of 2: what started it is gone, while it waited"):
        _meet(store, World(rank, 2, rank), 20.0)
    monkeypatch.undo()
    with ThreadPoolExecutor(2) as pool:
        met = [one.result() for one in [pool.submit(_meet, store, World(own, 2, own), 20.0) for own in range(2)]]
    met[0].set("address", "here")
    assert met[1].get("address") == b"here"


def test_none_is_done_before_all_are(tmp_path: Path):
    together(2, leave, tmp_path / "ranks", tmp_path / "written")
    assert (tmp_path / "ranks" / "1.pt").stat().st_mtime_ns > (tmp_path / "written").stat().st_mtime_ns


def leave(world: World, path: Path) -> None:
    if world.first:
        time.sleep(1)
        path.write_text("the model")


def test_without_an_address_to_meet_at_it_is_told(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with (
        pytest.raises(UserError, match=r"process 1 of 2 lost the others, or waited 1 s for them \("),
        joined("cpu", timeout=1),
    ):
        pass


@pytest.mark.parametrize("joined_already", [True, False])
def test_a_store_that_says_nothing_any_more_holds_nobody_up(tmp_path: Path, joined_already: bool):
    # a stopped process is what a machine behind a cut link is: no answer, and no error either
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    spawning = multiprocessing.get_context("spawn")
    keeper = spawning.Process(target=keeps_the_store, args=(port, tmp_path / "there" if joined_already else None))
    other = spawning.Process(target=is_left_waiting, args=(port, tmp_path / "said"))
    try:
        keeper.start()
        other.start()
        other.join(60)
        assert other.exitcode == 0
    finally:
        for process in (keeper, other):
            process.kill()
            process.join()
    lost = "lost the others, or waited 3 s for them"
    why = "; process 0 is gone, or the way to its machine" if joined_already else r" \(the store .* gave no answer"
    assert re.search(f"process 1 of 2 {lost}{why}", (tmp_path / "said").read_text())


def keeps_the_store(port: int, there: Path | None) -> None:
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= names
    if there is not None:
        with joined("cpu", timeout=30):
            while not there.exists():  # the other one has joined too
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGSTOP)
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    while not store.check(["medmoe/here/1"]):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSTOP)


def is_left_waiting(port: int, said: Path) -> None:
    names = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= names
    while True:  # the keeper may begin later
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.05)
    try:
        with joined("cpu", timeout=3):
            said.with_name("there").touch()
            summed([1.0])
    except UserError as error:
        said.write_text(str(error))
