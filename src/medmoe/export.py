"""Export the image side of a model to ONNX, and check that it gives there what it gives here."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medmoe.build import preprocess_of
from medmoe.errors import MissingDependencyError, ModelError, UserError
from medmoe.experts.router import Scores, image_statistics
from medmoe.folder import PREPROCESS, fingerprint_of, read_json, write_text_atomically
from medmoe.model import MedVLM
from medmoe.types import Routing

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SOURCES = ("image", "text", "uniform")  # routers that need nothing but pixels at inference
OUTPUTS = ("embed", "logits")
CHECKED = (1, 2, 5)  # batch sizes
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported.

    Attributes:
        path: The ONNX file.
        outputs: Its outputs by name, each with its shape for one image.
        difference: The largest difference of any output from torch's, on random pixels of several batch sizes.
    """

    path: Path
    outputs: dict[str, tuple[int, ...]]
    difference: float


class ImageSide(nn.Module):
    """The image side with static shapes: what depends on the expert is computed for every one and weighed.

    Sparse dispatch needs to know how many images chose each expert, which a static graph can't. Of the experts the
    embedding needs their projections alone, and all K of those cost next to nothing.

    Args:
        model: In evaluation mode.

    Raises:
        ModelError: If the model's router needs more than pixels.
    """

    def __init__(self, model: MedVLM) -> None:
        super().__init__()
        source = model.infer_route.source
        if source not in SOURCES:
            raise ModelError(
                f"a model that routes by {source!r} can't be exported, allowed: {', '.join(SOURCES)}",
                where="model.router.infer",
            )
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Give embeddings [B, E] and router scores [B, K] of pixels [B, 3, H, W]."""
        model = self.model
        pyramid = model.vision(pixels)
        logits = model.image_router(image_statistics(pyramid)).float()
        routing = model.infer_route(Scores(logits, None, None, None, pixels))
        pooled = model.image_norm(model.pool(pyramid))
        feature = model.image_projection(pooled).float()
        if model.special_projection is not None:
            every = torch.stack([one(pooled) for one in model.special_projection.maps], dim=1)  # [B, K, E]
            feature = feature + (every * _weights(routing)[:, :, None]).sum(dim=1)
        return F.normalize(feature, dim=-1), logits


def _weights(routing: Routing) -> Tensor:
    """Give the weight of every expert [B, K]."""
    one_hot = F.one_hot(routing.expert, routing.logits.shape[1]).to(routing.weight.dtype)  # [B, k, K]
    return (one_hot * routing.weight[:, :, None]).sum(dim=1)


def export_onnx(model: MedVLM, out: Path) -> Exported:
    """Write the image side as an ONNX file, with `preprocess.json` beside it, and compare it with torch.

    Its input is `pixels` [B, 3, S, S] float32, prepared as `preprocess.json` says, for any B. Its outputs are `embed`
    [B, E] of unit length and `logits` [B, K] of the image router. The file's metadata hold the fingerprint of the
    embedding and the modalities in the order of the logits.

    Args:
        model: On the CPU.
        out: The file.

    Raises:
        MissingDependencyError: If a package is missing.
        ModelError: If the model can't be exported, or the exported one gives something else.
        UserError: If another model's `preprocess.json` is in the folder.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"export needs {', '.join(missing)}", remedy="pip install 'medmoe[export]'")
    if out.is_dir():
        raise UserError("is a folder", where=str(out), remedy="give the name of an ONNX file")
    assert model.assets is not None
    beside = out.with_name(PREPROCESS)
    if beside.is_file() and read_json(beside) != model.assets.preprocess:
        raise UserError("is another model's", where=str(beside), remedy="export into another folder")
    side = ImageSide(model.eval()).eval()
    size = preprocess_of(model.assets.preprocess).size
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp")
    try:
        program = _program(side, size)
        about = {"fingerprint": fingerprint_of(model.state_dict(), model.assets)}
        about["modalities"] = json.dumps(model.modalities)
        program.model.metadata_props.update(about)
        program.save(aside)
        shapes, difference = _compared(side, aside, size)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    write_text_atomically(beside, json.dumps(model.assets.preprocess, indent=2) + "\n")
    return Exported(out, shapes, difference)


def _program(side: ImageSide, size: int) -> Any:
    """Trace the image side with a batch of any size."""
    pixels = torch.zeros(3, 3, size, size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter about its own insides
        return torch.onnx.export(
            side,
            (pixels,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["pixels"],
            output_names=list(OUTPUTS),
            verbose=False,
        )


def _compared(side: ImageSide, path: Path, size: int) -> tuple[dict[str, tuple[int, ...]], float]:
    """Run the file on random pixels, and give its outputs' shapes and their largest difference from torch's.

    Raises:
        ModelError: If they differ by more than rounding.
    """
    run = session(path, threads=torch.get_num_threads())
    shapes: dict[str, tuple[int, ...]] = {}
    largest = 0.0
    draw = torch.Generator().manual_seed(0)
    for count in CHECKED:
        pixels = torch.randn(count, 3, size, size, generator=draw)
        with torch.inference_mode():
            expected = side(pixels)
        for name, own, found in zip(OUTPUTS, expected, run(pixels.numpy()), strict=True):
            shapes[name] = tuple(found.shape[1:])
            scale = max(float(own.abs().max()), 1.0)
            difference = float(np.abs(found - own.numpy()).max()) if found.shape == own.shape else float("inf")
            largest = max(largest, difference / scale)
    if largest > TOLERANCE:
        raise ModelError(f"the exported model differs from torch by {largest:.2g}", where=str(path))
    return shapes, largest


class session:  # noqa: N801 - used like a function
    """An ONNX file, ready to run with ONNX Runtime on the CPU.

    Args:
        path: The file.
        threads: How many it uses.

    Raises:
        MissingDependencyError: If ONNX Runtime isn't installed.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError("this needs onnxruntime", remedy="pip install 'medmoe[export]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """Give the outputs for pixels [B, 3, S, S], in order."""
        outputs: Sequence[NDArray[np.float32]] = self._session.run(None, {"pixels": pixels})
        return outputs

    @property
    def about(self) -> dict[str, str]:
        """The file's metadata."""
        return dict(self._session.get_modelmeta().custom_metadata_map)
