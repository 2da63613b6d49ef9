"""The image side as ONNX gives what the model gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medmoe.build import load_model
from medmoe.errors import MissingDependencyError, ModelError, UserError
from medmoe.export import ImageSide, export_onnx, session
from medmoe.folder import fingerprint_of
from medmoe.model import MedVLM
from micro import medmoe
from small_runs import batch_of, built


def sure(*settings: str) -> MedVLM:
    """Build a model whose special projections do something."""
    model = built(*settings).eval()
    if model.special_projection is not None:
        for one in model.special_projection.maps:
            torch.nn.init.normal_(one.weight)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("model.special_projection=true",),
        ("model.experts.shared=1", "model.special_projection=true", "model.router.selection=top_k"),
        ("model.experts.shared=2", "model.experts.special=false", "model.experts.zero=false"),
        ("model.experts.shared=0", "model.experts.growing=true", "model.experts.zero=false"),
    ],
)
def test_the_static_image_side_gives_what_sparse_dispatch_gives(settings: tuple[str, ...]):
    model = sure(*settings)
    image = batch_of(model).image
    with torch.inference_mode():
        found = model.encode_image(image)
        embed, logits = ImageSide(model)(image)
    torch.testing.assert_close(embed, found.embed)
    torch.testing.assert_close(logits, found.logits)


@pytest.mark.slow
def test_the_file_gives_what_torch_gives_for_any_batch(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    model = sure("model.special_projection=true")
    made = export_onnx(model, tmp_path / "new" / "model.onnx")
    assert made.difference < 1e-5
    assert made.outputs == {"embed": (16,), "logits": (6,)}
    run = session(made.path)
    for count in (1, 3, 8):
        image = batch_of(model).image[:count]
        with torch.inference_mode():
            found = model.encode_image(image)
        for own, other in zip((found.embed, found.logits), run(image.numpy()), strict=True):
            np.testing.assert_allclose(other, own.numpy(), atol=1e-5)
    assert model.assets is not None
    assert json.loads((tmp_path / "new" / "preprocess.json").read_text()) == model.assets.preprocess
    assert run.about["fingerprint"] == fingerprint_of(model.state_dict(), model.assets)
    assert json.loads(run.about["modalities"]) == list(model.modalities)
    assert sorted(path.name for path in made.path.parent.iterdir()) == ["model.onnx", "preprocess.json"]


@pytest.mark.slow
def test_the_command_exports_a_run_and_says_what_came_out(run: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    said = medmoe("export", run, "--out", tmp_path / "model.onnx")
    assert said.code == 0, said
    assert "model.onnx: embed [B, 16], logits [B, 6]; differs from torch by at most" in said.out
    assert (tmp_path / "preprocess.json").read_bytes() == next(run.rglob("preprocess.json")).read_bytes()
    again = load_model(run)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        own = again.encode_image(pixels, regions=False).embed.numpy()
    np.testing.assert_allclose(session(tmp_path / "model.onnx")(pixels.numpy())[0], own, atol=1e-5)


def test_a_model_that_routes_by_label_is_refused():
    with pytest.raises(ModelError, match="routes by 'label' can't be exported, allowed: image, text, uniform"):
        ImageSide(built("model.router.infer=label"))


def test_another_models_preprocessing_is_not_written_over(tmp_path: Path):
    (tmp_path / "preprocess.json").write_text('{"size": 1}')
    with pytest.raises(UserError, match=r"preprocess\.json: is another model's; export into another folder"):
        export_onnx(built(), tmp_path / "model.onnx")
    assert (tmp_path / "preprocess.json").read_text() == '{"size": 1}'


def test_a_missing_package_is_named_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medmoe.export.importlib.util.find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(MissingDependencyError, match=r"export needs onnx; pip install 'medmoe\[export\]'"):
        export_onnx(built(), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="needs onnxruntime"):
        session(tmp_path / "model.onnx")
