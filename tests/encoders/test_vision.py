"""Pyramids: shapes, what a place sees, timm's layouts."""

import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch

from medmoe.encoders.vision import TimmPyramid, TinyPyramid
from medmoe.errors import ModelError


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_tiny_levels_have_the_declared_shapes(norm):
    encoder = TinyPyramid(norm=norm)
    levels = encoder(torch.randn(2, 3, 64, 96)).levels
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert encoder.strides == (4, 8, 16, 32)


def test_tiny_depth_can_differ_by_level():
    shallow, deep = TinyPyramid((8, 16), (1, 1), kernels=(3, 1)), TinyPyramid((8, 16), (1, 3), kernels=(3, 1))
    assert len(list(deep.stages[1])) == len(list(shallow.stages[1])) + 2


@pytest.mark.parametrize(
    ("depth", "kernels"), [(1, (3, 1, 3, 1)), ((2, 1, 1, 1), (3, 3, 1, 1)), ((0, 2, 1, 0), (1, 3, 1, 3))]
)
def test_receptive_fields_are_what_gradients_reach(depth, kernels):
    size = 320
    encoder = TinyPyramid((4, 6, 8, 10), depth, kernels=kernels, norm="batch").eval()  # no statistics of the image
    for module in encoder.modules():  # no ReLU shuts, no weights cancel
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.1)
    for level, field in enumerate(encoder.receptive_fields):
        image = torch.ones(1, 3, size, size, requires_grad=True)
        feature = encoder(image).levels[level]
        middle = feature.shape[-1] // 2
        feature[0, :, middle, middle].sum().backward()
        assert image.grad is not None
        reached = image.grad[0].abs().sum(0) > 0
        assert (int(reached.any(0).sum()), int(reached.any(1).sum())) == (field, field)


def test_fine_levels_see_at_most_a_third_of_a_64_pixel_image():
    assert TinyPyramid().receptive_fields[:2] == (15, 19)


def test_group_norm_makes_an_image_independent_of_its_batch():
    encoder, images = TinyPyramid((8, 16), kernels=(3, 1)), torch.randn(3, 3, 32, 32)
    together, alone = encoder(images).levels[-1][1:2], encoder(images[1:2]).levels[-1]
    torch.testing.assert_close(together, alone)


def test_every_tiny_parameter_gets_a_gradient():
    encoder = TinyPyramid((8, 16, 16, 32))
    sum(level.square().mean() for level in encoder(torch.randn(2, 3, 64, 64)).levels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": (1, 1)}, "one entry a level; got 4, 2, 4"),
        ({"kernels": (3, 2, 3, 3)}, "kernels must be odd"),
        ({"norm": "grup"}, "did you mean 'group'"),
    ],
)
def test_tiny_refuses_what_it_cannot_build(options, message):
    with pytest.raises(ModelError, match=message):
        TinyPyramid(**options)


def test_importing_the_encoders_does_not_import_timm_or_transformers():
    code = (
        "import sys, medmoe.encoders.vision, medmoe.encoders.text; "
        "sys.exit(any(m in sys.modules for m in ('timm', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("size", [64, 224])
def test_swin_t_gives_four_channel_first_levels_at_any_size(size):
    encoder = TimmPyramid("swin-t", image_size=size).eval()
    with torch.no_grad():
        levels = encoder(torch.randn(1, 3, size, size)).levels
    assert encoder.name == "swin_tiny_patch4_window7_224"
    assert encoder.strides == (4, 8, 16, 32)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (c, size // s, size // s) for c, s in zip((96, 192, 384, 768), (4, 8, 16, 32), strict=True)
    ]


def test_swin_levels_are_the_outputs_of_all_four_stages():
    encoder = TimmPyramid("swin-t", image_size=32).eval()
    outputs = []
    for index in range(4):
        stage = encoder.backbone[f"layers_{index}"]
        stage.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        levels = encoder(torch.randn(1, 3, 32, 32)).levels
    assert len(outputs) == 4
    for level, output in zip(levels, outputs, strict=True):
        torch.testing.assert_close(level, output.permute(0, 3, 1, 2))


def test_every_swin_t_parameter_gets_a_gradient():
    encoder = TimmPyramid("swin-t", image_size=32)
    sum(level.square().mean() for level in encoder(torch.randn(2, 3, 32, 32)).levels).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_swin_t_has_its_27_million_parameters():
    assert sum(p.numel() for p in TimmPyramid("swin-t").parameters()) == pytest.approx(27.5e6, rel=0.005)


def test_levels_finer_than_stride_four_are_left_out():
    encoder = TimmPyramid("resnet18")
    assert (encoder.channels, encoder.strides) == ((64, 128, 256, 512), (4, 8, 16, 32))
    assert [level.shape[-1] for level in encoder(torch.randn(1, 3, 64, 64)).levels] == [16, 8, 4, 2]


def test_drop_path_acts_in_training_only():
    encoder, image = TimmPyramid("resnet18", drop_path=0.9), torch.randn(1, 3, 32, 32)
    assert any(type(module).__name__ == "DropPath" for module in encoder.modules())
    encoder.eval()
    assert torch.equal(encoder(image).levels[-1], encoder(image).levels[-1])


def test_a_checkpoint_is_loaded_and_reported(tmp_path):
    weights = timm.create_model("resnet18", num_classes=3).state_dict()
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    encoder = TimmPyramid("resnet18", checkpoint=tmp_path)
    assert encoder.loaded is not None
    assert encoder.loaded.complete
    assert encoder.loaded.unexpected == ("fc.bias", "fc.weight")
    torch.testing.assert_close(encoder.state_dict()["backbone.conv1.weight"], weights["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny", "did you mean swin_tiny_patch4_window7_224"),
        ("resnet8", "did you mean resnet"),
        ("#", "timm has no model '#';"),
        ("resnet18.no_such_tag", "Invalid pretrained tag"),
    ],
)
def test_a_name_timm_cannot_build_is_told(name, message):
    with pytest.raises(ModelError, match=message):
        TimmPyramid(name)


def test_an_option_the_backbone_lacks_is_told():
    with pytest.raises(ModelError, match=r"can't build a pyramid from 'vgg11' \(.*drop_path.*\); choose another"):
        TimmPyramid("vgg11", drop_path=0.1)


def test_pretrained_and_checkpoint_exclude_each_other(tmp_path):
    with pytest.raises(ModelError, match="exclude each other"):
        TimmPyramid("resnet18", pretrained=True, checkpoint=tmp_path)


def learnt(encoder: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Give the levels of a training forward, and every gradient; random layers draw the same each time."""
    torch.manual_seed(1)
    levels = encoder.train()(image).levels
    loss = sum(level.float().square().sum() for level in levels)
    return [*levels, *torch.autograd.grad(loss, [*encoder.parameters()], allow_unused=True)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (TinyPyramid, {"channels": (8, 16, 16, 32), "depth": 2}),
        (TimmPyramid, {"name": "swin-t", "image_size": 32, "drop_path": 0.5}),
        (TimmPyramid, {"name": "convnext_atto", "drop_path": 0.5}),
    ],
)
def test_an_encoder_that_recomputes_gives_the_same_values_and_gradients(kind, options):
    torch.manual_seed(0)
    kept = kind(**options)
    again = kind(**options, recompute=True)
    again.load_state_dict(kept.state_dict())
    ran = []
    blocks = [
        part for part in again.modules() if type(part).__name__ in ("Residual", "SwinTransformerBlock", "ConvNeXtBlock")
    ]
    blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    image = torch.randn(2, 3, 64 if kind is TinyPyramid else 32, 64 if kind is TinyPyramid else 32)
    for one, other in zip(learnt(again, image), learnt(kept, image), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
    assert len(ran) == 2  # once forward, once more in the backward


@pytest.mark.parametrize(("kind", "options"), [(TinyPyramid, {"norm": "batch"}), (TimmPyramid, {"name": "resnet18"})])
def test_an_encoder_with_batch_norms_is_not_recomputed(kind, options):
    with pytest.raises(ModelError, match="batch norms can't be recomputed"):
        kind(**options, recompute=True)


def test_without_stochastic_depth_a_backbone_in_training_says_the_same_twice():
    torch.manual_seed(0)
    swin = TimmPyramid("swin-t", image_size=32).train()
    image = torch.randn(2, 3, 32, 32)
    for one, other in zip(swin(image).levels, swin(image).levels, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    random = TimmPyramid("swin-t", image_size=32, drop_path=0.5).train()
    assert not torch.equal(random(image).levels[-1], random(image).levels[-1])
