"""Read thousands of damaged and hostile files in every way that the library reads files: python benchmarks/fuzz.py.

Each file is made from a seed: DICOM, JPEG, PNG and other pictures, tars, manifests, NIfTI; damaged in their bytes or in
their structure. It is read in a process of its own kind with a limit of time and of memory. A file may be read or
refused by an error of ours that names it, in one line. All else is a fault: another exception, a crash, a hang, too
much memory, an error that doesn't say which file, a flood of warnings, pixels that aren't what is promised.
Ends with 1 where there is a fault. Linux only.
"""

from __future__ import annotations

import argparse
import json
import platform
import queue
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from fuzzing.kinds import KINDS
from fuzzing.worker import Outcome, make, run

SHARES = {
    "dicom": {"dicom": 1.0},
    "images": {"jpeg": 0.25, "png": 0.25, "other pictures": 0.15, "tar": 0.35},
    "manifests": {"manifest": 1.0},
    "nifti": {"nifti": 1.0},
    "deidentify": {"to de-identify": 1.0},
}


def cases_of(counts: dict[str, int]) -> list[tuple[str, int]]:
    """List kind and number of every case."""
    listed = []
    for group, count in counts.items():
        shares = {kind: share for kind, share in SHARES[group].items() if kind in KINDS}
        for kind, share in shares.items():
            listed += [(kind, number) for number in range(round(count * share / (sum(shares.values()) or 1)))]
    return listed


def campaign(
    cases: list[tuple[str, int]], *, seed: int, seconds: float, megabytes: float, workers: int
) -> Iterator[Outcome]:
    """Read all cases in some processes."""
    heard: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def read(part: list[tuple[str, int]]) -> None:
        for outcome in run(part, seed=seed, seconds=seconds, megabytes=megabytes):
            heard.put(outcome)

    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(read, cases[at::workers]) for at in range(workers)]
        for _ in cases:
            while heard.empty() and not all(each.done() for each in runs):
                time.sleep(0.05)
            for each in runs:
                if each.done():
                    each.result()  # raises what went wrong in the campaign itself
            yield heard.get()


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, float]]:
    """Count outcomes for each kind of file, with the slowest time and the largest memory."""
    table: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.kind == kind]
        table[kind] = {
            "cases": len(mine),
            "read": sum(outcome.result == "read" for outcome in mine),
            "refused": sum(outcome.result == "refused" for outcome in mine),
            "faults": sum(outcome.fault for outcome in mine),
            "slowest (s)": round(max(outcome.seconds for outcome in mine), 2),
            "most memory (MiB)": round(max(outcome.megabytes for outcome in mine)),
        }
    return table


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """Write the summary as a table."""
    names = list(next(iter(table.values())))
    lines = [f"| files | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {kind} | {' | '.join(f'{row[name]:,}' for name in names)} |" for kind, row in table.items()]
    return "\n".join(lines)


def keep(outcomes: list[Outcome], folder: Path, seed: int) -> None:
    """Write the files of the faults again, to be looked at."""
    for outcome in outcomes:
        place = folder / f"{outcome.kind}-{outcome.number}"
        place.mkdir(parents=True, exist_ok=True)
        make(outcome.kind, outcome.number, seed, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the table and the faults go")
    parser.add_argument("--seed", type=int, default=0)
    for group, count in {"dicom": 2000, "images": 2000, "manifests": 500, "nifti": 300, "deidentify": 300}.items():
        parser.add_argument(f"--{group}", type=int, default=count, help=f"cases; {count} by default")
    parser.add_argument("--seconds-each", type=float, default=5.0)
    parser.add_argument("--memory-mb", type=float, default=1024.0, help="over what the process held before")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the files of the faults")
    arguments = parser.parse_args()
    cases = cases_of({group: getattr(arguments, group) for group in SHARES})
    limits = {"seconds": arguments.seconds_each, "megabytes": arguments.memory_mb, "workers": arguments.workers}
    outcomes = []
    for outcome in campaign(cases, seed=arguments.seed, **limits):
        outcomes.append(outcome)
        if outcome.fault:
            told = f"{outcome.kind} {outcome.number} ({outcome.how}): {outcome.result} {outcome.detail[:200]}"
            print(f"{len(outcomes)}/{len(cases)} {told}", file=sys.stderr, flush=True)
    outcomes.sort(key=lambda outcome: (list(KINDS).index(outcome.kind), outcome.number))
    table, faults = summary(outcomes), [outcome for outcome in outcomes if outcome.fault]
    print(as_markdown(table))
    for what, count in Counter(
        f"{outcome.kind}: {outcome.result} {outcome.detail}" for outcome in faults
    ).most_common():
        print(f"{count:5d} × {what}")
    if arguments.keep is not None:
        keep(faults, arguments.keep, arguments.seed)
    if arguments.json is not None:
        told = {"seed": arguments.seed, "table": table, "faults": [asdict(outcome) for outcome in faults]}
        told["machine"] = {"python": platform.python_version(), "machine": platform.machine()}
        arguments.json.write_text(json.dumps(told, indent=2), encoding="utf-8")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
