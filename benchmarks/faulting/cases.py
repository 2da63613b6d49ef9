"""What a fault is: a place for a small run, what is done to it, and what must come of that."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faulting import runs
from faulting.processes import Group, command

STEPS = ("train.steps=10", "train.save_every=2", "train.keep=3")


class Unable(Exception):  # noqa: N818 - no error: this machine doesn't have what the fault needs
    """A fault that can't be given here, and why."""


class Place:
    """Where one fault is given: folders of its own, a run that nobody disturbed to compare with.

    Args:
        scratch: A folder that faults share.
        name: Of this one's own.
    """

    def __init__(self, scratch: Path, name: str) -> None:
        self.scratch, self.folder = scratch, scratch / name
        self.folder.mkdir()
        self.run = self.folder / "run"
        self.mounted: list[Path] = []
        self.groups: list[Group] = []

    def start(self, words: list[str], *, count: int = 1, before: Callable[[], None] | None = None) -> Group:
        """Start a command."""
        more = {} if before is None else {"before": before}
        log = self.folder / f"log-{len(self.groups)}"
        self.groups.append(Group(partial(command, words), log, count=count, **more))
        return self.groups[-1]

    def alone(self, count: int = 1) -> Path:
        """Give the run that nobody disturbs, of one process or several, made once."""
        run = self.scratch / f"alone-{count}"
        if not run.exists():
            ends(self.start(runs.train(run, *STEPS), count=count), 0)
        return run

    def copy(self) -> Path:
        """Begin with a copy of that run, as it was when it was killed after its last checkpoint."""
        shutil.copytree(self.alone(), self.run)
        shutil.rmtree(self.run / "model")
        return self.run

    def goes_on(self, *more: str, count: int = 1) -> str:
        """Go on with the run, which must end as the one that nobody disturbed did; gives what was said."""
        group = self.start(runs.train(self.run, *STEPS, more=more), count=count)
        said = ends(group, 0)
        alone = self.alone(count)
        assert runs.weights(self.run) == runs.weights(alone), "the end isn't the undisturbed run's"
        assert runs.losses(self.run) == runs.losses(alone), "the losses aren't the undisturbed run's"
        return said

    def disk(self, megabytes: int) -> Path:
        """Mount a small disk for the run."""
        self.run.mkdir()
        options = f"size={megabytes}m"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self.run], capture_output=True).returncode:
            raise Unable("a tmpfs can't be mounted here; it needs root")
        self.mounted.append(self.run)
        return self.run

    def remount(self, options: str) -> None:
        """Mount the run's disk with other options."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.run], check=True)

    def clean(self) -> None:
        """End what still runs, and delete what was written."""
        for group in self.groups:
            group.kill()
        for path in self.mounted:
            subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        documented: How it must end, as docs/howto/long-runs.md says.
        act: Gives it, and gives what was said or counted; an assertion fails where it ended otherwise.
    """

    documented: str
    act: Callable[[Place], str]


CASES: dict[str, Case] = {}


def case(name: str, documented: str) -> Callable[[Callable[[Place], str]], Callable[[Place], str]]:
    """Put a fault into the table."""

    def add(act: Callable[[Place], str]) -> Callable[[Place], str]:
        CASES[name] = Case(documented, act)
        return act

    return add


def ends(group: Group, *codes: int, seconds: float = 180) -> str:
    """Wait for the ends, which must be with these codes, one for all or one each, and without a traceback."""
    found, said = group.wait(seconds), group.said()
    wanted = list(codes) * len(found) if len(codes) == 1 else list(codes)
    assert found == wanted, f"exit codes {found}, not {wanted}: {said[-600:]}"
    assert "Traceback" not in said, f"a traceback: {said[-600:]}"
    return said


def told(said: str, *patterns: str) -> str:
    """Find what must have been said; gives the line of the first."""
    lines = said.splitlines()
    found = [next((line for line in lines if re.search(pattern, line)), None) for pattern in patterns]
    missing = [pattern for pattern, line in zip(patterns, found, strict=True) if line is None]
    assert not missing, f"nobody said {missing}: {said[-600:]}"
    return re.sub(r"/\S*/(run|alone|[\w.-]+)(?=[/:; ]|$)", r"\1", found[0] or "").strip()


def newest(run: Path) -> Path:
    """Give the newest checkpoint."""
    return run / "checkpoints" / f"step-{runs.saved(run)[-1]:07d}"


def after(place: Place, step: int, *settings: str, count: int = 1, workers: int = 1, data: str = runs.DATA) -> Group:
    """Start a run, and give it when it has done a step."""
    words = runs.train(place.run, *STEPS, *settings, workers=workers, data=data)
    group = place.start(words, count=count)
    assert group.until(lambda: runs.last_step(place.run) >= step), group.said()
    return group
