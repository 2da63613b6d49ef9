"""Backbones in parts over processes train as whole ones do, and what is saved in pieces is taken up by any number."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import ProcessExitedException

from medmoe import checkpoint
from medmoe.build import load_model
from medmoe.caching import Way, backward_in_parts
from medmoe.distributed import World, clip, has_parts, over_all, own_rows, shard, sum_gradients, whole
from medmoe.encoders.pretrained import freeze
from medmoe.errors import UserError
from medmoe.measures import gradient_norms
from medmoe.model import MedVLM
from medmoe.optim import adamw, state_tensors
from medmoe.pieces import Pieces
from medmoe.rundir import RunFolder
from medmoe.signals import Interrupted
from medmoe.step import told
from medmoe.train import fit
from medmoe.types import Batch
from processes import together
from small_runs import Memory, losses, micro, phantoms, rows, stop_at, train
from test_caching import EVERY, WORDS, batch_for, built, farthest, moved, ragged
from test_distributed import SHARES, judged, share_of

ARRANGEMENTS: dict[str, tuple[tuple[str, ...], int | None, tuple[str, ...]]] = {
    # settings, images of a part, what is frozen
    "all at once": (WORDS, None, ()),
    "in unequal numbers of parts": (WORDS, 2, ()),
    "experts idle here and everywhere": (("model.experts.shared=0", "model.router.train=label"), None, ()),
    "batch norms, recomputed text": (("model.vision.norm=batch", "model.pool_norm=batch"), None, ()),
    "recomputed images, half of them frozen": (("model.vision.checkpoint=true",), 2, ("vision.stages.0", "text.piece")),
    "a frozen text encoder": (("model.vision.norm=layer",), None, ("text",)),
}


def backward(model: MedVLM, batch: Batch, part: int | None) -> Tensor:
    """Add a batch's gradients; give its loss."""
    if part is not None:
        loss, _ = backward_in_parts(model, batch, partial(judged, weights=EVERY), Way(part))
        return loss.total.detach()
    loss = judged(model(told(model, batch)), batch, EVERY)
    loss.total.backward()
    return loss.total.detach()


def three_steps(model: MedVLM, batch: Batch, part: int | None) -> dict[str, Any]:
    """Take three steps of two batches each; give what came of them, everything as a whole."""
    optimizer = adamw(model, lr=1e-2, weight_decay=0.05, betas=(0.9, 0.98))
    totals, norms, first = [], [], {}
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        totals += [backward(model, batch, part) for _ in range(2)]
        sum_gradients(model)
        held = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        first = first or {name: whole(gradient).clone() for name, gradient in held.items()}
        of_parts = gradient_norms(model, model.modalities)
        norms += [clip(model.parameters(), 0.1), torch.stack(list(of_parts.values())).norm()]
        optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), None  # type: ignore[attr-defined]
        optimizer.step()
    memory = {key: value for key, value in state_tensors(model, optimizer).items() if not key.endswith("|step")}
    return {
        "losses": torch.stack(totals),
        "norms": torch.stack(norms),
        "gradients": first,
        "weights": {name: whole(value).clone() for name, value in model.state_dict().items()},
        "held": numbers(dict(model.named_parameters())),
        "memory": numbers(memory),
    }


def numbers(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Count what this process holds of each backbone."""
    return {
        part: sum(own_rows(value).numel() for name, value in tensors.items() if name.startswith(f"{part}."))
        for part in ("vision", "text")
    }


def both_ways(world: World, model: MedVLM, batch: Batch, part: int | None, frozen: tuple[str, ...]) -> Any:
    own = share_of(batch, SHARES[world.size][world.rank])
    if frozen:
        freeze(model, frozen)
    found = []
    for parts in (False, True):
        one = over_all(copy.deepcopy(model))
        if parts:
            shard(one)
        found.append(three_steps(one, own, part))
    return found


def all_of_each(world: World, cases: dict[str, Any]) -> Any:
    return {name: both_ways(world, *case) for name, case in cases.items()}


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_parts_learn_what_wholes_and_one_process_learn_and_hold_their_share(tmp_path: Path, count: int):
    cases = {}
    for name, (settings, part, frozen) in ARRANGEMENTS.items():
        model = moved(built(*settings))
        batch = ragged(batch_for(model))
        if "idle" in name:
            batch = replace(batch, modality=torch.tensor([0, 1, 0, 1, 0, 1, 0, 0]))
        cases[name] = (model, batch, part, frozen)
    every = together(count, all_of_each, tmp_path, cases)
    for name, (model, batch, part, frozen) in cases.items():
        if frozen:
            freeze(model, frozen)
        alone = three_steps(copy.deepcopy(model), batch, part)
        for rank in range(count):
            wholes, parts = every[rank][name]
            for other in (alone, wholes):
                assert farthest(parts["gradients"], other["gradients"]) < 1e-9, name
                for kind in ("losses", "norms", "weights"):
                    torch.testing.assert_close(parts[kind], other[kind], rtol=1e-7, atol=1e-9)
    name = "all at once"
    check_shares([of_rank[name][1] for of_rank in every], numbers(dict(cases[name][0].named_parameters())))


def check_shares(every: list[Any], everything: dict[str, int]) -> None:
    """Make sure that each process holds its share of the backbones' weights and memory, all of them all."""
    for part, total in everything.items():
        held = [of_rank["held"][part] for of_rank in every]
        memory = [of_rank["memory"][part] for of_rank in every]
        assert sum(held) == total
        assert sum(memory) == 2 * total  # the two averages of AdamW
        if len(every) == 2:
            assert max(held) <= 0.51 * total
            assert max(memory) <= 0.51 * 2 * total


def a_run(
    world: World, folder: Path, settings: tuple[str, ...], stop: int | None = None, patients: int = 9, **more: Any
) -> Any:
    """Train, or go on, until asked to stop after a step; give whether the model is in parts and its weights."""

    def watch(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    run = RunFolder(folder, resume=True, writes=world.first)
    try:
        model = fit(micro(*settings), train=phantoms(), val=phantoms(patients), run=run, watch=watch, **more)
    except (Interrupted, UserError) as ended:
        return str(ended)
    return has_parts(model), model.state_dict()


def runs(world: World, folder: Path, settings: tuple[str, ...]) -> Any:
    """Train undisturbed; again, stopped and gone on; and stopped only."""
    return [
        a_run(world, folder / "undisturbed", settings),
        (a_run(world, folder / "stopped", settings, 3), a_run(world, folder / "stopped", settings))[1],
        a_run(world, folder / "run", settings, 3),
    ]


# at a small rate, since AdamW makes a step of any gradient, be it of rounding alone
RUN = ("train.steps=9", "train.lr=1e-4", "train.val_every=3", "train.save_every=2", "train.ema=0.5")
EACH = {
    "shared and special experts": RUN,
    "growing experts, in parts of a batch": (
        *RUN,
        *("model.experts.growing=true", "model.experts.shared=0", "train.grow_at=0.5"),
        *("train.micro_batch=2", "train.accum_freq=2"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH)
def test_a_run_goes_on_with_two_processes_then_one_then_three(tmp_path: Path, kind: str):
    settings, folder, near = EACH[kind], tmp_path / "run", 1e-5
    sharded = (*settings, "train.shard=true")
    train(tmp_path / "one", *settings, val=phantoms(9))
    for undisturbed, gone_on, stopped in together(2, runs, tmp_path, tmp_path, sharded):
        assert "stopped at step 3, saved" in stopped
        assert not undisturbed[0]
        torch.testing.assert_close(gone_on[1], undisturbed[1], rtol=0, atol=0)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "undisturbed")
    assert losses(tmp_path / "undisturbed") == pytest.approx(losses(tmp_path / "one"), rel=near)
    found = checkpoint.load_latest(folder)
    assert found is not None
    assert isinstance(found.optimizer, Pieces)
    assert {path.suffix for path in found.folder.iterdir()} == {".json", ".md", ".safetensors"}  # no pickle
    with pytest.raises(Interrupted, match="step 6, saved"):
        train(folder, *settings, resume=True, val=phantoms(9), watch=stop_at(6))
    assert not isinstance(checkpoint.load_latest(folder).optimizer, Pieces)  # type: ignore[union-attr]
    ends = together(3, a_run, tmp_path, folder, sharded)
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=near)
    for one, other in zip(rows(folder, "val"), rows(tmp_path / "one", "val"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=near)
        assert one["images"] == other["images"]
    saved = load_model(folder).state_dict()
    for parts, weights in ends:
        assert not parts
        torch.testing.assert_close(weights, saved, rtol=0, atol=0)


def unread(world: World, folder: Path) -> Any:
    return fit(micro(*UNREAD, "train.shard=true"), train=seldom(), val=None, run=RunFolder(folder, writes=world.first))


# of each step's two batches, the second has no report, and no other objective is there to read it
UNREAD = (
    *("train.steps=2", "train.lr=1e-4", "train.seed=1", "train.clip=0.1", "data.batch_size=4", "train.accum_freq=2"),
    *(f"objectives.{name}=0" for name in ("local", "report_type", "image_modality", "router_distillation")),
)


def seldom() -> Memory:
    return Memory([replace(one, report="" if at % 4 else one.report) for at, one in enumerate(phantoms().samples)])


def test_gradients_before_a_batch_that_nothing_reads_are_counted_and_clipped_in_parts_too(tmp_path: Path):
    together(2, unread, tmp_path / "processes", tmp_path / "run")
    train(tmp_path / "one", *UNREAD, source=seldom())
    assert losses(tmp_path / "run") == losses(tmp_path / "one") == [0, 0]  # of the second batches
    for own, alone in zip(rows(tmp_path / "run"), rows(tmp_path / "one"), strict=True):
        assert alone["grad_norm"] > 1
        assert own["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)
        assert own["grad_norms"]["text"] == pytest.approx(alone["grad_norms"]["text"], rel=1e-3)


def averaging_later(world: World, folder: Path) -> Any:
    """Train, then go on with an average that the run didn't have before."""
    for more in ((), ("train.steps=4", "train.ema=0.5")):
        found = a_run(world, folder, (*LATER, *more, "train.shard=true"), allow_changes=True)
    return found


LATER = ("train.steps=2", "train.lr=1e-4", "train.val_every=4", "train.save_every=1000")


def test_an_average_may_begin_where_a_run_in_parts_goes_on(tmp_path: Path):
    for parts, _ in together(2, averaging_later, tmp_path / "processes", tmp_path / "run"):
        assert not parts
    for more in ((), ("train.steps=4", "train.ema=0.5")):
        train(tmp_path / "one", *LATER, *more, resume=True, allow_changes=True, val=phantoms(9))
    own, alone = [rows(tmp_path / name, "val")[-1] for name in ("run", "one")]
    assert own["step"] == alone["step"] == 4
    assert own["loss"] == pytest.approx(alone["loss"], rel=1e-5)  # of the averaged weights
    found = checkpoint.load_latest(tmp_path / "run")
    assert found is not None
    assert set(found.average or ()) == set(found.weights)


def in_half(world: World, folder: Path) -> Any:
    """Train in bfloat16, whole and in parts, with a validation of one batch, which leaves none for one process."""
    for parts in ("false", "true"):
        settings = (*SHARED, "train.precision=bf16", "train.lr=1e-4", f"train.shard={parts}")
        a_run(world, folder / parts, settings, patients=1)


def test_under_autocast_parts_learn_what_wholes_learn(tmp_path: Path):
    together(2, in_half, tmp_path / "processes", tmp_path)
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)
    (of_whole,), (of_parts,) = rows(tmp_path / "false", "val"), rows(tmp_path / "true", "val")
    assert of_parts["images"] == of_whole["images"] > 0
    assert of_parts["loss"] == pytest.approx(of_whole["loss"], rel=1e-3)


def no_room(world: World, folder: Path) -> Any:
    """Train where the second process can't write files as large as a checkpoint's."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not world.first:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    told = [
        a_run(world, folder / str(beside), (*SHARED, f"train.save_beside={beside}")) for beside in ("true", "false")
    ]
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return told


SHARED = ("train.steps=6", "train.save_every=2", "train.val_every=6", "train.shard=true")


def test_if_one_process_cannot_write_all_say_so_and_nothing_is_left(tmp_path: Path):
    for of_rank in together(2, no_room, tmp_path / "processes", tmp_path):
        for words in of_rank:
            assert "the checkpoint can't be written (File too large); none is saved yet" in words
    assert list(tmp_path.glob("*/checkpoints/*")) == []
    assert list(tmp_path.glob("*/checkpoints/.*")) == []


def killed(world: World, folder: Path) -> Any:
    """Train until the second process dies while it writes its second checkpoint."""
    flushed = 0

    def flush(handle: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    if not world.first:
        os.fsync = flush
    return a_run(world, folder, SHARED)


def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        together(2, killed, tmp_path / "processes", folder)
    found = checkpoint.load_latest(folder)
    assert found is not None
    assert found.step == 2
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-0000002"]
    load_model(folder)
    train(folder, *SHARED, resume=True)
    assert len(losses(folder)) == 6


def test_one_process_alone_holds_all_though_asked_to_shard(tmp_path: Path):
    train(tmp_path / "a", "train.shard=true", "train.steps=2")
    train(tmp_path / "b", "train.steps=2")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert not isinstance(checkpoint.load_latest(tmp_path / "a").optimizer, Pieces)  # type: ignore[union-attr]
