"""Running the jobs of an ablation: train, judge, write down; several at a time, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmoe.ablation.plan import LOG, OUTCOMES, RUN, SCORES, Job
from medmoe.build import tokenizer_of
from medmoe.describe import describe, multiply_adds
from medmoe.evaluate import gather
from medmoe.folder import write_text_atomically
from medmoe.model import MedVLM
from medmoe.rundir import RunFolder
from medmoe.tasks import make_context
from medmoe.tasks.outcomes import folded, outcomes_of, save_outcomes
from medmoe.train import Interrupted, fit

Tell = Callable[[str], None]


def run_job(job: Job, root: Path, *, device: str = "cpu") -> None:
    """Train an arm, from its newest checkpoint where there is one, judge it and write down what it got right.

    Args:
        job: The job.
        root: The ablation's folder.
        device: Where to compute.
    """
    folder = root / job.folder
    samples = job.train.open(root, usual="train", config=job.config)
    run = RunFolder(folder / RUN, resume=True, about={"arm": job.arm, "train_data": job.train.spec})
    init = {} if job.init is None else {"model": str(root / job.init)}
    model = fit(job.config, train=samples, val=None, run=run, init=init, device=device)
    judged = job.test.open(root, usual="test", config=job.config)
    evidence = gather(model, judged, workers=0, on_bad_sample=job.config.data.on_bad_sample, device=device)
    context = make_context(model, tokenizer_of(model), device=device)
    outcomes = outcomes_of(evidence, context)
    save_outcomes(folder / OUTCOMES, outcomes)
    scores = {
        "arm": job.arm,
        "seed": job.seed,
        "train_images": len(samples),
        "test_images": len(evidence),
        "figures": {name: float(folded(outcome.values, outcome.cells)) for name, outcome in outcomes.items()},
        "cost": cost(model.cpu(), job.config.model.vision.image_size),
    }
    # last, since it is what says that the job is done
    write_text_atomically(folder / SCORES, json.dumps(scores, indent=2) + "\n")


class _VisionSide(nn.Module):
    """An image as at inference, through the experts that it is routed to."""

    def __init__(self, model: MedVLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        known = torch.zeros(len(pixels), dtype=torch.int64)  # read only by a model that routes by label
        return self.model.encode_image(pixels, modality=known).regions


def cost(model: MedVLM, size: int) -> dict[str, int]:
    """Count the vision side's parameters, and multiply-adds for one image at inference, on the CPU."""
    model.eval()
    facts = describe(model, name="", image_size=size)
    return {
        "vision_parameters": int(facts["vision_parameters"]),
        "expert_parameters": int(facts["parameters"]["experts"]),
        "multiply_adds": multiply_adds(_VisionSide(model), torch.zeros(1, 3, size, size)),
    }


def run_all(
    jobs: Sequence[Job], root: Path, *, workers: int, device: str = "cpu", tell: Tell = lambda text: None
) -> dict[str, str]:
    """Run what isn't done yet.

    Args:
        jobs: The jobs, in the order they are begun.
        root: The ablation's folder.
        workers: Processes at a time, which share the cores; 0 runs all in this one.
        device: Where to compute.
        tell: Called with a line when a job is done or has failed.

    Returns:
        The failed ones' folders, and each's last word.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM, when all that ran have saved.
    """
    left = [job for job in jobs if not job.done(root)]
    if len(left) < len(jobs):
        tell(f"{len(jobs) - len(left)} of {len(jobs)} runs are done already")
    if workers == 0:
        for place, job in enumerate(left, start=1):
            run_job(job, root, device=device)
            tell(f"[{place}/{len(left)}] {job.folder}")
        return {}
    crew = _Crew(root, device, max(1, cores() // workers))
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool, _terminable():
        running: dict[Future[str | None], Job] = {pool.submit(crew.run, job): job for job in left}
        try:
            for place, future in enumerate(as_completed(running), start=1):
                folder, problem = running[future].folder, future.result()
                if problem is not None:
                    failed[folder] = problem
                tell(f"[{place}/{len(left)}] {folder}{'' if problem is None else f' failed: {problem}'}")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            crew.stop()
            raise Interrupted(f"stopped; go on with the same command, what is in {root} isn't run again") from None
    return failed


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM, which a queue or a time limit sends, as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Crew:
    """Processes that each run one job."""

    def __init__(self, root: Path, device: str, threads: int) -> None:
        self.root, self.device = root, device
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def run(self, job: Job) -> str | None:
        """Run a job to its end, and give its last word if it failed."""
        if self.stopped:
            return "stopped"
        log = self.root / job.folder / LOG
        command = [sys.executable, "-m", "medmoe.ablation.worker", str(self.root), job.folder, self.device]
        with log.open("wb") as file:
            # a session of its own: Ctrl-C reaches it once, through us
            process = subprocess.Popen(
                command, env=self.environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            self.running.add(process)
            code = process.wait()
            self.running.discard(process)
        if code == 0:
            return None
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return said[-1] if said else f"exit status {code}"

    def stop(self) -> None:
        """Ask what runs to save and end, and wait until it has."""
        self.stopped = True
        for process in tuple(self.running):
            process.send_signal(signal.SIGINT)
        for process in tuple(self.running):
            process.wait()


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def finished(jobs: Sequence[Job], root: Path) -> dict[str, Any]:
    """Read the scores of the jobs that are done, by folder."""
    return {
        job.folder: json.loads((root / job.folder / SCORES).read_text(encoding="utf-8"))
        for job in jobs
        if job.done(root)
    }
