"""Faults: does each end as documented, in words a person can act on, with all there that was reported saved?

    python benchmarks/faults.py --json faults.json --markdown faults.md

Each fault is given to a small run of its own: real processes, signals, disks (a tmpfs of a few megabytes, which needs
root) and files. A row says what is documented, whether that is what happened, and what was said. A run that can go on
is gone on with, and must end with the weights, bit for bit, of one that nobody disturbed. `--only WORD` runs those
whose names hold a word; `--list` names them.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import faulting.running
import faulting.stored  # noqa: F401 - fills the table
from faulting.cases import CASES, Place, Unable
from faulting.table import leave, markdown, options


def attempt(name: str, place: Place) -> dict[str, Any]:
    """Give a fault to a run, and tell what happened."""
    case, begun = CASES[name], time.perf_counter()
    try:
        told = case.act(place)
        ended = "as documented"
    except Unable as error:
        ended, told = "not tried", str(error)
    except Exception as error:  # the next fault is to be given all the same
        ended, told = "NOT AS DOCUMENTED", str(error) or traceback.format_exc().strip().splitlines()[-2].strip()
    finally:
        place.clean()
    seconds = round(time.perf_counter() - begun, 1)
    return {"fault": name, "documented": case.documented, "ended": ended, "told": told, "seconds": seconds}


def main() -> None:
    """Give every fault, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    names = [name for name in CASES if not asked.only or any(word in name for word in asked.only)]
    if asked.list:
        print("\n".join(names))
        return
    import medmoe.cli.train
    import medmoe.train  # noqa: F401 - once, for all forks

    rows = []
    with tempfile.TemporaryDirectory(prefix="medmoe-faults-") as scratch:
        for number, name in enumerate(names):
            rows.append(attempt(name, Place(Path(scratch), f"{number:02}")))
            print(f"{rows[-1]['ended']:18} {rows[-1]['seconds']:6} s  {name}: {rows[-1]['told'][:400]}", flush=True)
    cells = [(row["fault"], row["documented"], row["ended"], " ".join(row["told"].split())) for row in rows]
    leave(asked, "faults", rows, markdown(("fault", "documented end", "ended", "what was said, or counted"), cells))


if __name__ == "__main__":
    main()
