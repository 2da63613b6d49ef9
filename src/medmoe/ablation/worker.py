"""One job of an ablation in a process of its own.

python -m medmoe.ablation.worker ROOT FOLDER DEVICE
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from medmoe.ablation.plan import read_job
from medmoe.ablation.run import run_job
from medmoe.errors import UserError
from medmoe.signals import Interrupted


def main(root: str, folder: str, device: str) -> int:
    """Run the job, and give the exit status: 2 for a user's mistake, 130 for a stop."""
    try:
        run_job(read_job(Path(root), folder), Path(root), device=device)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.stderr.write(f"{str(stop) or 'stopped'}\n")
        return 130
    return 0


def follow(parent: int) -> None:
    """Stop this process as Ctrl-C does once its parent has gone, so that nobody else finds its folder in use."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts us may have ignored it
    follow(os.getppid())
    sys.exit(main(*sys.argv[1:]))
