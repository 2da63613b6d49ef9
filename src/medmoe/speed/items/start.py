"""What importing costs beside importing torch, each in a new process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import partial

from medmoe.speed.item import Call, Item, Size, Target, Way

PROGRAMS = {
    "ours": "import medmoe; medmoe.from_pretrained",  # what a model needs to be loaded
    "package": "import medmoe",
    "predictor": "import medmoe; medmoe.Predictor",
    "plain": "import torch",
}


def _run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def _ways(size: Size) -> Mapping[str, Way]:
    def way(program: str) -> Way:
        def build() -> Call:
            return partial(_run, "pass" if size.small else program)

        return build

    return {name: way(program) for name, program in PROGRAMS.items()}


ITEMS = (
    Item(
        name="import",
        about="`import medmoe; medmoe.from_pretrained`, which loads torch and the model's code, beside `import torch`; "
        "`import medmoe` alone loads nothing heavy",
        ways=_ways,
        targets=[Target("time", 1.15), Target("time", 0.2, way="package")],
        floor="import torch, 1",
        rounds=7,
        devices=("cpu",),
    ),
)
