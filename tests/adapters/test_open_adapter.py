"""What any adapter does: it is found by its folder, moves boxes along, knows words, and refuses what isn't there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from strangers import Listed, made
from torch import Tensor, nn

from medmoe.adapters import KINDS, Adapter, Features, gather, is_foreign, kind_of, loader_of, open_adapter, untrained
from medmoe.adapters.folders import Folder, fill
from medmoe.adapters.pixels import Frame, Prepare, eight_bit, grey_picture, picture
from medmoe.adapters.words import Reader
from medmoe.errors import ConfigError, ModelError
from medmoe.evaluate import evaluate
from medmoe.summary import gallery
from medmoe.tasks import collect, evaluate_all, make_context
from medmoe.types import Box, Sample, Tokens


class Shades(nn.Module):
    """Sees the mean colour, and reads how many pieces there are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 4)
        self.free = nn.Parameter(torch.arange(5.0))

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(5.0)

    def see(self, image: Tensor) -> Features:
        return Features(self.mix(image.mean(dim=(2, 3))))

    def read(self, tokens: Tokens) -> Features:
        return Features(tokens.mask.sum(dim=1, keepdim=True) * torch.tensor([1.0, 2.0, 3.0, 4.0]))


def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(int(lengths.max()) + 1) < lengths[:, None] + 1
    return mask.long(), mask


def render(pixels: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(picture(pixels)).copy()).permute(2, 0, 1)[:, :8, :8] / 255


def shades() -> Adapter:
    torch.manual_seed(0)
    return Adapter("shades", Shades(), Prepare(render, Frame("squash", (8, 8), (8, 8)), {"side": 8}), Reader(encode))


def test_every_kind_says_what_its_folder_holds() -> None:
    assert list(KINDS) == ["open_clip", "hf_clip", "hf_siglip", "gloria", "biovil"]
    assert all(kind.needs for kind in KINDS.values())


def test_an_empty_folder_is_told_what_every_kind_expects(tmp_path: Path) -> None:
    assert kind_of(tmp_path) is None
    with pytest.raises(ModelError, match="no model of a known kind: no file") as caught:
        open_adapter(tmp_path)
    assert all(name in str(caught.value) for name in KINDS)


def test_a_model_of_another_type_is_told_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"files config\.json, model\.safetensors; model_type is 'siglip2'"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_formats_that_can_run_code_are_refused_unopened(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"weights{suffix}").write_bytes(b"would be run")
    (tmp_path / "config.json").write_text('{"model_type": "cxr-bert"}')
    with pytest.raises(ModelError, match=rf"the {suffix} format .* not loaded; only safetensors"):
        open_adapter(tmp_path)


def test_a_file_and_a_missing_folder_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, reason in (("file", "is a file"), ("missing", "no such folder")):
        assert kind_of(tmp_path / name) is None
        with pytest.raises(ModelError, match=reason):
            open_adapter(tmp_path / name)


def test_our_own_models_are_not_foreign(tmp_path: Path) -> None:
    assert not is_foreign(tmp_path / "missing")
    assert not is_foreign(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert is_foreign(tmp_path)
    assert kind_of(tmp_path) == "hf_clip"
    (tmp_path / "preprocess.json").write_text("{}")
    assert not is_foreign(tmp_path)
    assert kind_of(tmp_path) is None


def test_an_unknown_kind_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'hf_clip'"):
        open_adapter(tmp_path, kind="hf-clip")


def test_an_asked_for_kind_is_not_second_guessed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        open_adapter(tmp_path, kind="gloria")


def test_a_broken_weight_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"model\.safetensors: can't be read"):
        open_adapter(tmp_path)


def test_of_several_weight_files_none_is_guessed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({name: torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"several weight files \(a\.safetensors, b\.safetensors\).*leave only c"):
        Folder(tmp_path).weight_file(["c.safetensors"])


def test_weights_must_fit_the_module_exactly(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    state = layer.state_dict()
    with pytest.raises(ModelError, match="lacks: bias"):
        fill(layer, {"weight": state["weight"]}, tmp_path)
    with pytest.raises(ModelError, match="another shape for: bias"):
        fill(layer, {**state, "bias": torch.zeros(2)}, tmp_path)
    with pytest.raises(ModelError, match="unknown tensors: other"):
        fill(layer, {**state, "other": torch.zeros(2)}, tmp_path)
    fill(layer, {"weight": torch.ones(1, 2), "bias": torch.ones(1), "other": torch.zeros(2)}, tmp_path, unused="^other")
    assert layer(torch.ones(1, 2)).item() == 3


def test_evidence_has_no_router_and_local_features_of_zero_width() -> None:
    evidence = gather(shades(), made(5), batch_size=2, workers=0)
    assert (evidence.modalities, evidence.image_logits.shape, evidence.text_logits.shape) == ((), (5, 0), (5, 0))
    assert evidence.regions.shape == (5, 0, 1, 1)
    assert evidence.words.shape == (*evidence.word_mask.shape, 0)
    assert evidence.has_report.all()
    torch.testing.assert_close(evidence.image_embed.norm(dim=1), torch.ones(5))
    assert evidence.samples[0].key == "row:0"
    assert evidence.samples[0].image.size == 0


def test_worker_processes_change_nothing() -> None:
    first, second = (gather(shades(), made(5), batch_size=2, workers=workers) for workers in (0, 1))
    assert torch.equal(first.image_embed, second.image_embed)
    assert torch.equal(first.text_embed, second.text_embed)


def test_a_sample_without_a_report_has_none() -> None:
    source = made(3)
    source.samples[1] = Sample("row:1", source.samples[1].image)
    evidence = gather(shades(), source, workers=0)
    assert evidence.has_report.tolist() == [True, False, True]
    assert not evidence.text_embed[1].any()


def test_the_routing_task_is_skipped_and_retrieval_is_global() -> None:
    adapter = shades()
    evidence = gather(adapter, made(12), workers=0)
    context = make_context(adapter, adapter.tokenizer, resamples=10)
    results = evaluate_all(evidence, context, ["routing", "zeroshot_retrieval"])
    assert "skipped" in results["details"]["routing"]
    assert not [name for name in results["tasks"]["zeroshot_retrieval"] if "local_" in name]


def test_items_of_a_model_without_a_router_are_those_of_the_other_tasks() -> None:
    adapter = shades()
    evidence = gather(adapter, made(24), workers=0)
    tasks = ["routing", "zeroshot_retrieval", "zeroshot_classification", "grounding"]
    details = evaluate(adapter, evidence, tasks, items=True, resamples=5)["details"]
    assert [task for task in tasks if "items" in details[task]] == ["zeroshot_retrieval", "zeroshot_classification"]


def test_without_local_features_there_is_no_heatmap() -> None:
    with pytest.raises(ModelError, match="kind 'shades' has no local image features"):
        gallery(shades(), made(2, boxes=True))


def test_there_are_no_experts_to_choose() -> None:
    adapter = shades()
    with pytest.raises(ConfigError, match="has no experts; leave out --candidate-experts"):
        gather(adapter, made(2), candidate_experts=True)
    with pytest.raises(ValueError, match="has no experts"):
        adapter.encode_image(torch.zeros(1, 3, 8, 8), expert=torch.zeros(1, dtype=torch.int64))


def test_fresh_weights_are_other_ones_drawn_by_the_seed() -> None:
    adapter = shades()
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    state = torch.random.get_rng_state()
    one, again, other = (untrained(adapter, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())
    assert torch.equal(one.towers.mix.weight, again.towers.mix.weight)
    assert not torch.equal(one.towers.mix.weight, other.towers.mix.weight)
    assert sorted(one.towers.free.tolist()) == [0, 1, 2, 3, 4]
    evidence = gather(adapter, made(4), workers=0, controls=True)
    assert set(evidence.features) == {"raw_pixels", "random_weights"}


def test_the_record_tells_how_it_sees_and_reads() -> None:
    about = shades().about()
    assert json.loads(json.dumps(about)) == about
    assert about["kind"] == "shades"
    assert about == shades().about()
    shorter = Adapter("shades", Shades(), shades().prepare, Reader(lambda texts: encode([t[:9] for t in texts])))
    assert shorter.about()["tokenizer_fingerprint"] != about["tokenizer_fingerprint"]
    assert shorter.about()["fingerprint"] == about["fingerprint"]


def test_a_loader_feeds_any_code_that_collects() -> None:
    adapter = shades()
    assert len(collect(adapter, loader_of(adapter, made(3), batch_size=2, workers=0))) == 3


def test_towers_are_a_module() -> None:
    with pytest.raises(TypeError, match=r"no torch\.nn\.Module"):
        Adapter("made", object(), shades().prepare, Reader(encode))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fit", "place"), [("shortest", (40, 20, -12, -2)), ("longest", (20, 10, -2, 3)), ("squash", (20, 20, -2, -2))]
)
def test_a_frame_resizes_and_centres(fit: str, place: tuple[int, int, int, int]) -> None:
    assert Frame(fit, (20, 20), (16, 16)).place(80, 40) == place


def test_a_point_lands_where_its_pixel_does() -> None:
    field = np.zeros((80, 40), dtype=bool)
    field[30:34, 22:26] = True
    for fit in ("shortest", "longest", "squash"):
        frame = Frame(fit, (40, 40), (32, 32))
        box = frame.move_box(Box("dot", 22 / 40, 30 / 80, 26 / 40, 34 / 80), 80, 40)
        assert box is not None
        moved = frame.move_field(field)
        rows, columns = np.nonzero(moved)
        assert ((columns.min()) / 32, (columns.max() + 1) / 32) == pytest.approx((box.x0, box.x1), abs=0.51 / 32)
        assert ((rows.min()) / 32, (rows.max() + 1) / 32) == pytest.approx((box.y0, box.y1), abs=0.51 / 32)


def test_padding_is_outside_every_mask() -> None:
    moved = Frame("longest", (16, 16), (20, 20)).move_field(np.ones((8, 4), dtype=np.float32))
    assert moved[:2].sum() == moved[18:].sum() == moved[:, :6].sum() == moved[:, 14:].sum() == 0
    assert moved[2:18, 6:14].all()


def test_a_box_outside_the_crop_is_dropped() -> None:
    prepare = Prepare(render, Frame("shortest", (16, 16), (16, 16)), {})
    boxes = (Box("top", 0, 0, 1, 0.1), Box("middle", 0, 0.2, 1, 0.8))
    sample = Sample("one", np.zeros((32, 16), np.uint8), boxes=boxes, mask=np.ones((32, 16), dtype=bool))
    _, moved = prepare(sample)
    assert [(box.label, box.y0, box.y1) for box in moved.boxes or ()] == [("middle", 0.0, 1.0)]
    assert moved.mask is not None
    assert moved.mask.shape == (16, 16)


def test_grey_and_fractions_become_eight_bit_colour() -> None:
    grey = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert eight_bit(grey)[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(picture(grey))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert np.asarray(grey_picture(red)).tolist() == [[76]]
    assert np.asarray(grey_picture(grey))[0].tolist() == [0, 128, 255]


def test_words_are_runs_of_letters_and_digits() -> None:
    reader = Reader(encode)
    assert reader.words("Left-sided effusion, 3 cm.") == ["Left", "sided", "effusion", "3", "cm"]
    assert reader.find("Left-sided EFFUSION.", "effusion") == [2]
    assert reader.find("Left", "") == []
    tokens = reader(["Two words", None, "!"])
    assert tokens.word_mask.tolist() == [[True, True], [False, False], [False, False]]
    assert (tokens.word == -1).all()


def test_samples_without_any_report_can_be_judged() -> None:
    source = Listed([Sample(f"row:{i}", np.zeros((9, 9), np.uint8)) for i in range(2)])
    assert not gather(shades(), source, workers=0).has_report.any()
