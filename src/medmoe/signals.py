"""Being asked to stop: Ctrl-C, SIGTERM and a notice of pre-emption let the step end, then the run saves and leaves."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

# SIGUSR1 is what batch systems send ahead of the end (Slurm's --signal=USR1@120).
ASKED = ("SIGINT", "SIGTERM", "SIGUSR1")


_LOG = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818 - not an error: the run was saved
    """Training was asked to stop, and did so after saving.

    Attributes:
        code: The exit status to leave with: 128 and the signal's number, as a shell gives it.
    """

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Asked:
    """Whether a run was asked to stop, and by which signal."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextlib.contextmanager
def listening() -> Iterator[Asked]:
    """Note signals that ask to stop, in place of what they would do; outside the main thread nothing is changed."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:  # for whoever can't wait for the step to end
            _LOG.warning("stopped at once; --resume latest goes on from the last checkpoint")
            raise SystemExit(128 + number)
        asked.number = number
        _LOG.warning("stopping after this step; Ctrl-C stops at once, without saving")

    kinds = [getattr(signal, name) for name in ASKED if hasattr(signal, name)]
    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
