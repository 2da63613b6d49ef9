"""Two namespaces that a link joins, as two machines: what is said on each side when the link loses all packets."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
JOINED = """
import time
import sys
from medmoe.errors import UserError
from medmoe.distributed import joined, summed

try:
    with joined("cpu", timeout=3):
        print("together:", summed([1.0]), flush=True)
        while True:
            summed([1.0])
            time.sleep(0.05)
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("faulting.machines")
    for name in [name for name in sys.modules if name.split(".")[0] in ("faulting", "namespaces")]:
        del sys.modules[name]


@pytest.mark.slow
def test_both_sides_of_a_link_that_loses_all_packets_name_the_other(tmp_path: Path, machines: ModuleType):
    try:
        with machines.machines() as pair:
            shared = {
                "MASTER_ADDR": machines.ADDRESSES[0],
                "MASTER_PORT": "29500",
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
            }
            shared |= {"GLOO_SOCKET_IFNAME": machines.LINK, "PYTHONPATH": os.pathsep.join(sys.path)}
            jobs = [
                machines.Job(name, [sys.executable, "-c", JOINED], tmp_path / name, shared | {"RANK": str(rank)})
                for rank, name in enumerate(pair.names)
            ]
            together = machines.until(lambda: all("together: [2.0]" in job.said() for job in jobs), seconds=60)
            assert together, [job.said() for job in jobs]
            pair.lose()
            assert machines.until(lambda: all(job.code is not None for job in jobs), seconds=30), "they hang"
            assert [job.code for job in jobs] == [2, 2]
            assert "process 0 of 2 lost the others, or waited 3 s for them; no word from process 1 (" in jobs[0].said()
            lost = (
                "process 1 of 2 lost the others, or waited 3 s for them; process 0 is gone, or the way to its machine ("
            )
            assert lost in jobs[1].said()
            assert not any("Traceback" in job.said() for job in jobs)
            assert pair.pids(0) == pair.pids(1) == []
    except machines.Unable as error:
        pytest.skip(f"network namespaces can't be made here: {error}")


@pytest.mark.slow
def test_namespaces_whose_maker_is_gone_are_deleted_and_no_others(machines: ModuleType):
    try:
        with machines.machines() as pair:
            left = machines.Machines()
            left.names = ("medmoe-1-99999999999-0", "medmoe-1-99999999999-1")  # process 1 began long before
            left.build()
            assert sorted(machines.clean_up()) == sorted(left.names)
            assert pair.pids(0) == []
            machines.Job(pair.names[0], ["true"], Path(os.devnull), {}).process.wait()
    except machines.Unable as error:
        pytest.skip(f"network namespaces can't be made here: {error}")


class Unmended:
    """Two machines of nothing, whose link can't be mended."""

    names = ("here", "there")

    def __init__(self, unable: type[Exception]) -> None:
        self.unable = unable

    def kill(self, number: int) -> None:
        pass

    def mend(self) -> None:
        raise self.unable("no link")


def test_a_link_that_cannot_be_mended_fails_its_row_and_no_other_is_left_out(
    tmp_path: Path, machines: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    namespaces = importlib.import_module("namespaces")
    monkeypatch.setattr(namespaces, "ROWS", {"a row": ("fine", lambda pair: "fine")})
    row = namespaces.attempt("a row", Unmended(machines.Unable), tmp_path)
    assert (row["ended"], row["told"]) == ("NOT AS DOCUMENTED", "Unable: no link")
