"""What the system knows of a process and its children: memory, open files, threads. Linux only."""

from __future__ import annotations

import contextlib
from pathlib import Path

from faulting.processes import children

Reading = dict[str, float]


def read(pid: int) -> Reading | None:
    """Read what a process has now; None where it is gone.

    Returns:
        `rss_mib` (resident, pages that it shares with others too), `pss_mib` (what it shares only by its share, also
        what is swapped out; mapped files are left out: their share changes with whatever else runs the same libraries),
        `own_mib` (not shared), `files` (open), `threads`.
    """
    process = Path(f"/proc/{pid}")
    try:
        lines = (process / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        mib = {name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines)}
        row = {"rss_mib": mib["Rss"], "pss_mib": mib["Pss_Anon"] + mib["Pss_Shmem"] + mib["SwapPss"]}
        row["own_mib"] = mib["Private_Clean"] + mib["Private_Dirty"]
        row["files"] = len(list((process / "fd").iterdir()))
        row["threads"] = len(list((process / "task").iterdir()))
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return row


def read_all(pid: int) -> dict[str, Reading]:
    """Read a training process and those that it started, in the order of their start: `main`, `loader 1`, …, `all`.

    `all` has the sum of what they hold, each page counted once, and `children`, how many there are.
    """
    found: dict[str, Reading] = {}
    main = read(pid)
    if main is None:
        return {}
    found["main"] = main
    started = sorted(children(pid))
    for place, child in enumerate(started, 1):
        reading = read(child)
        if reading is not None:
            found[f"loader {place}"] = reading
    together = {"pss_mib": sum(reading["pss_mib"] for reading in found.values()), "children": float(len(started))}
    return {**found, "all": together}


def command_of(pid: int) -> str:
    """Give how a process was started."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
