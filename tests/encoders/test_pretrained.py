"""Loading what fits from a file, and freezing."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from medmoe.encoders.pretrained import freeze, load_matching, training, weight_file
from medmoe.encoders.vision import TimmPyramid, TinyPyramid
from medmoe.errors import ConfigError, ModelError

SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2), "img_size": 64}


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def write(path, tensors, prefix=""):
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_equal_names_and_shapes_are_loaded_exactly(tmp_path):
    source, target = small(), small()
    report = load_matching(target, write(tmp_path / "a.safetensors", source.state_dict()))
    assert report.complete
    assert set(report.used) == set(target.state_dict())
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())
    assert str(report) == "used 4 of 4 tensors (the model has 4)"


@pytest.mark.parametrize("prefix", ["module.", "model.", "bert.", "backbone.", "module.model.backbone."])
def test_wrappers_in_front_of_the_files_names_are_stripped(tmp_path, prefix):
    target = small()
    assert load_matching(target, write(tmp_path / "a.safetensors", small().state_dict(), prefix)).complete


def test_wrappers_in_front_of_the_modules_names_are_stripped(tmp_path):
    target = nn.ModuleDict({"model": small()})
    report = load_matching(target, write(tmp_path / "a.safetensors", small().state_dict(), "bert."))
    assert report.complete
    assert "model.0.weight" in report.used


def test_a_real_name_is_not_taken_for_a_wrapper(tmp_path):
    source = nn.ModuleDict({"encoder": nn.Linear(2, 2), "text": nn.Linear(2, 2)})
    target = nn.ModuleDict({"encoder": nn.Linear(2, 2), "text": nn.Linear(2, 2)})
    load_matching(target, write(tmp_path / "a.safetensors", source.state_dict()))
    assert torch.equal(target["encoder"].weight, source["encoder"].weight)
    assert torch.equal(target["text"].weight, source["text"].weight)


def test_what_does_not_fit_is_reported_and_left_alone(tmp_path):
    target = small()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    inside = {"0.weight": torch.zeros(5, 3), "0.bias": torch.ones(4), "1.weight": torch.ones(4), "head": torch.ones(1)}
    report = load_matching(target, write(tmp_path / "a.safetensors", inside))
    assert report.used == ("0.bias", "1.weight")
    assert report.missing == ("1.bias",)
    assert report.unexpected == ("head",)
    assert report.mismatched == (("0.weight", (5, 3), (4, 3)),)
    assert not report.complete
    assert torch.equal(target[0].weight, before["0.weight"])
    assert str(report) == (
        "used 2 of 4 tensors (the model has 4); not used: head; not in the file: 1.bias; "
        "other shape: 0.weight ([5, 3], not [4, 3])"
    )


def test_long_lists_are_shortened_in_the_summary(tmp_path):
    inside = {**small().state_dict(), **{f"x{i}": torch.ones(1) for i in range(9)}}
    report = load_matching(small(), write(tmp_path / "a.safetensors", inside))
    assert "not used: x0, x1, x2, x3 and 5 more" in str(report)


def test_other_dtypes_become_the_modules_own(tmp_path):
    target = small()
    load_matching(target, write(tmp_path / "a.safetensors", {n: t.half() for n, t in small().state_dict().items()}))
    assert target[0].weight.dtype == torch.float32


def test_a_prefix_chooses_a_part_of_the_file(tmp_path):
    one, two, target = small(), small(), small()
    inside = {f"left.{n}": t for n, t in one.state_dict().items()} | {
        f"right.{n}": t for n, t in two.state_dict().items()
    }
    report = load_matching(target, write(tmp_path / "a.safetensors", inside), prefix="right.")
    assert report.complete
    assert report.unexpected == ()
    assert torch.equal(target[0].weight, two[0].weight)


def test_a_prefix_that_nothing_has_is_told(tmp_path):
    path = write(tmp_path / "a.safetensors", {"left.w": torch.ones(1), "right.w": torch.ones(1)})
    with pytest.raises(ModelError, match=r"a\.safetensors: no tensor begins with 'up\.'; the file has left, right"):
        load_matching(small(), path, prefix="up.")


def test_old_bert_names_of_layer_norm_are_understood(tmp_path):
    target = nn.ModuleDict({"LayerNorm": nn.LayerNorm(2), "dense": nn.Linear(2, 2)})
    inside = {"LayerNorm.gamma": torch.full((2,), 3.0), "LayerNorm.beta": torch.ones(2)}
    report = load_matching(target, write(tmp_path / "a.safetensors", inside))
    assert report.used == ("LayerNorm.weight", "LayerNorm.bias")
    assert target["LayerNorm"].weight.tolist() == [3.0, 3.0]


def test_spellings_that_two_tensors_share_are_not_guessed(tmp_path):
    target = nn.ModuleDict({"a_b_c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    inside = {"a.b_c.weight": torch.ones(2, 2), "a_b.c.weight": torch.ones(2, 2), "d.weight": torch.ones(2, 2)}
    assert load_matching(target, write(tmp_path / "a.safetensors", inside)).used == ("d.weight",)


def test_nothing_that_fits_is_an_error_that_shows_both_sides(tmp_path):
    path = write(tmp_path / "a.safetensors", {"other.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"a\.safetensors: nothing.*other\.weight; the model wants 0\.weight"):
        load_matching(small(), path)


def test_a_timm_classifier_of_resnet18_fills_the_pyramid(tmp_path):
    source = timm.create_model("resnet18", num_classes=5).eval()
    target = TimmPyramid("resnet18").eval()
    report = load_matching(target, write(tmp_path / "a.safetensors", source.state_dict()))
    assert report.complete
    assert report.unexpected == ("fc.bias", "fc.weight")
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(target(image).levels[-1], source.forward_features(image))


def test_a_timm_classifier_of_swin_fills_its_feature_extractor(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    source = timm.create_model(name, num_classes=5, **SWIN).eval()
    target = timm.create_model(name, features_only=True, **SWIN).eval()
    report = load_matching(target, write(tmp_path / "a.safetensors", source.state_dict()))
    assert report.complete
    assert sorted(report.unexpected) == ["head.fc.bias", "head.fc.weight", "norm.bias", "norm.weight"]
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(source.norm(target(image)[-1]), source.forward_features(image))


def test_a_pyramid_starts_from_the_vision_part_of_a_saved_model(tmp_path):
    source, target = TinyPyramid((4, 8), kernels=(3, 1)), TinyPyramid((4, 8), kernels=(3, 1))
    inside = {f"vision.{n}": t for n, t in source.state_dict().items()} | {"logit_scale": torch.zeros(1)}
    write(tmp_path / "model.safetensors", inside)
    report = load_matching(target, tmp_path)
    assert report.complete
    assert report.unexpected == ("logit_scale",)


def test_a_missing_path_is_told(tmp_path):
    with pytest.raises(ModelError, match="nowhere: no such file or folder"):
        weight_file(tmp_path / "nowhere")


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"the folder has no model\.safetensors"):
        weight_file(tmp_path)


def test_split_weights_are_told(tmp_path):
    (tmp_path / "model.safetensors.index.json").touch()
    with pytest.raises(ModelError, match="split over several files"):
        weight_file(tmp_path)


@pytest.mark.parametrize("inside", [True, False])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path, inside):
    file = tmp_path / "pytorch_model.bin"
    file.touch()
    with pytest.raises(ModelError, match="convert it once") as caught:
        weight_file(tmp_path if inside else file)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_told(tmp_path):
    path = write(tmp_path / "a.safetensors", small().state_dict())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_matching(small(), path)


def net() -> nn.ModuleDict:
    return nn.ModuleDict({"vision": small(), "text": small(), "text_router": nn.Linear(2, 2)})


def frozen(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def test_a_dotted_name_freezes_all_below_it_and_nothing_beside_it():
    module = net()
    assert freeze(module, ["text"]) == 4
    assert frozen(module) == {"text.0.weight", "text.0.bias", "text.1.weight", "text.1.bias"}


def test_glob_patterns_and_overlaps_count_a_parameter_once():
    module = net()
    assert freeze(module, ["*.bias", "vision.1", "vision.1.bias"]) == 6
    assert frozen(module) == {"vision.0.bias", "vision.1.weight", "vision.1.bias", "text.0.bias", "text.1.bias"} | {
        "text_router.bias"
    }


def test_a_pattern_that_matches_nothing_freezes_nothing_and_is_told():
    module = net()
    with pytest.raises(
        ConfigError, match=r"'visoin' \(did you mean .*vision.*; the model has vision, text, text_router"
    ):
        freeze(module, ["text", "visoin"])
    assert frozen(module) == set()


def test_a_pattern_like_nothing_gets_no_hint():
    with pytest.raises(ConfigError, match=r"matches 'qqqq'; the model has"):
        freeze(net(), ["qqqq"])


def test_frozen_batch_norms_keep_their_statistics_in_training_and_others_do_not():
    module = nn.ModuleDict({"vision": nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()), "head": nn.BatchNorm1d(2)})
    freeze(module, ["vision"])
    assert training(module) is module
    assert not module["vision"][0].training
    assert module["vision"][1].training
    assert module["head"].training
