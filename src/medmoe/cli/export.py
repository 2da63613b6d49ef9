"""`medmoe export`: the image side of a model as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmoe.cli.common import say


def export(
    model: Annotated[Path, typer.Argument(help="Run folder or saved model.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write; preprocess.json is written beside it.")],
) -> None:
    """Write the image side as an ONNX file that gives what the model gives, for any batch size."""
    from medmoe.build import load_model
    from medmoe.export import export_onnx

    made = export_onnx(load_model(model), out)
    outputs = ", ".join(f"{name} [B, {', '.join(map(str, shape))}]" for name, shape in made.outputs.items())
    say(f"{made.path}: {outputs}; differs from torch by at most {made.difference:.1g}")
