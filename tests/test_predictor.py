from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medmoe
from medmoe.build import build_model, build_tokenizer
from medmoe.config import ExpertConfig, ModelConfig, TextConfig, VisionConfig
from medmoe.errors import DataError, ModelError
from medmoe.model import MedVLM
from medmoe.predictor import Predictor

REPORTS = ["A small mass in the left lung.", "No mass. The right lobe is clear.", "Large nodule, upper pole."]


def small_model(**changes: object) -> MedVLM:
    """Build the smallest model: two modalities, a grid of 4 by 4, one pyramid level for the local path."""
    config = ModelConfig(
        vision=VisionConfig(image_size=32, channels=(8, 8, 16, 16)),
        text=TextConfig(width=16, depth=1, vocab_size=200),
        experts=ExpertConfig(width=8, grid=4, levels=(0,), kernel=1, layers=1),
        modalities=("xray", "ct"),
        embed_dim=16,
    ).model_copy(update=changes)
    return build_model(config, build_tokenizer(config.text, REPORTS))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(small_model(), batch_size=3)


def pixels(seed: int = 0, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (40, 32), np.uint8)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)


# Images of every kind


def test_a_path_a_pillow_image_an_array_and_a_tensor_of_one_picture_embed_alike(predictor: Predictor, tmp_path: Path):
    array = pixels(1, 24, 32, 3)
    path = tmp_path / "image.png"
    Image.fromarray(array).save(path)
    first = predictor.encode_image(array)
    for other in (path, str(path), Image.fromarray(array), torch.from_numpy(array), array / 255):
        assert same(predictor.encode_image(other), first), type(other)
    with Image.open(path) as opened:
        assert same(predictor.encode_image(opened), first)


def test_grey_is_the_same_as_colour_with_equal_channels(predictor: Predictor):
    grey = pixels(2)
    assert same(predictor.encode_image(grey), predictor.encode_image(np.stack([grey] * 3, axis=-1)))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_of_floats_are_taken_in_any_precision(predictor: Predictor, kind: torch.dtype):
    tensor = torch.zeros(32, 32, dtype=kind, requires_grad=True)
    assert same(predictor.encode_image(tensor), predictor.encode_image(np.zeros((32, 32), np.uint8)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_a_pillow_image_of_any_mode_embeds_as_its_file_does(predictor: Predictor, tmp_path: Path, mode: str):
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(pixels(3).astype(kind) * 11 + 700)
    else:
        image = Image.fromarray(pixels(3, 40, 32, 3)).convert(mode)
    path = tmp_path / (
        "image.jpg" if mode in ("CMYK", "YCbCr") else "image.tiff" if mode in ("I", "F") else "image.png"
    )
    image.save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    with Image.open(path) as opened:
        assert same(predictor.encode_image(opened), predictor.encode_image(path))
    if path.suffix != ".jpg":
        assert same(predictor.encode_image(image), predictor.encode_image(path))


def test_a_pillow_image_that_says_it_lies_on_its_side_is_turned(predictor: Predictor, tmp_path: Path):
    image = Image.fromarray(pixels(4))
    exif = image.getexif()
    exif[274] = 6  # turn by 90 degrees clockwise
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif, quality=100)
    with Image.open(path) as opened:
        assert same(predictor.encode_image(opened), predictor.encode_image(path))
    assert not same(predictor.encode_image(path), predictor.encode_image(image))


def test_a_list_gives_a_row_for_each_image_whatever_the_batch(predictor: Predictor):
    images = [pixels(seed) for seed in range(7)]  # batches of three
    together = predictor.encode_image(images)
    assert together.shape == (7, 16)
    assert same(together, torch.cat([predictor.encode_image(image) for image in images]))
    assert same(predictor.encode_image(tuple(images)), together)
    assert [len(predictor.route(images)), len(predictor.zero_shot(images, ["mass"]))] == [7, 7]


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_stack_of_images_is_several_images(predictor: Predictor, kind: str):
    stack = pixels(5, 4, 32, 32, 3)
    images = stack if kind == "array" else torch.from_numpy(stack)
    assert same(predictor.encode_image(images), predictor.encode_image(list(stack)))


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.full((8, 8), np.nan, np.float32), "image 0: image has NaN or infinite values; repair or drop the image"),
        (np.full((8, 8), 3.5), "image 0: image values run from 3.5 to 3.5; allowed: 0 to 1; rescale them"),
        (np.full((8, 8), -1.0), "image 0: image values run from -1 to -1; allowed: 0 to 1; rescale them"),
        (
            np.zeros((8, 8), np.uint16),
            "image 0: image of type uint16; allowed: uint8, and floats from 0 to 1; window",
        ),
        (np.zeros((8, 8), np.int64), "image 0: image of type int64; allowed: uint8, and floats from 0 to 1; window"),
        (np.zeros((3, 8, 8), np.uint8), r"image 0: image of shape \(3, 8, 8\); allowed: \(H, W\) and \(H, W, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), r"image 0: image of shape \(8, 8, 4\); allowed"),
        (np.zeros((0, 8), np.uint8), r"image 0: image of shape \(0, 8\); allowed"),
        (None, r"image 0: image of shape \(\); allowed"),
        ("no.png", "no.png: no such image file; check the path"),
        ([], "no images"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no images"),
    ],
)
def test_what_is_no_image_is_told(predictor: Predictor, image: object, told: str):
    with pytest.raises(DataError, match=told):
        predictor.encode_image(image)


def test_the_bad_image_of_several_is_named(predictor: Predictor):
    images = [pixels(), pixels(), pixels(), pixels(), np.full((8, 8), np.nan)]
    with pytest.raises(DataError, match="image 4: image has NaN"):
        predictor.encode_image(images)


def test_a_pillow_image_with_nan_is_told(predictor: Predictor):
    image = Image.fromarray(np.full((8, 8), np.nan, np.float32))
    with pytest.raises(DataError, match="image 1: the image has NaN or infinite pixels; export it again"):
        predictor.encode_image([pixels(), image])


def test_a_pillow_image_of_a_truncated_file_is_told(predictor: Predictor, tmp_path: Path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(pixels(1, 64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with Image.open(path) as opened, pytest.raises(DataError, match="image 0: the image is truncated or damaged"):
        predictor.encode_image(opened)


# Embeddings


def test_embeddings_have_unit_length_unless_asked_otherwise(predictor: Predictor):
    images, texts = [pixels(0), pixels(1)], REPORTS
    for encode, many in ((predictor.encode_image, images), (predictor.encode_text, texts)):
        unit, raw = encode(many), encode(many, normalize=False)
        assert same(unit.norm(dim=1), torch.ones(len(many)))
        assert same(torch.nn.functional.normalize(raw, dim=1), unit)
        assert not same(raw, unit)
        assert unit.dtype == raw.dtype == torch.float32
        assert not unit.requires_grad


def test_one_text_or_many_in_batches_are_the_same(predictor: Predictor):
    texts = [*REPORTS, *(f"{text} Stable." for text in REPORTS)]
    together = predictor.encode_text(texts)
    assert together.shape == (6, 16)
    assert same(together, torch.cat([predictor.encode_text(text) for text in texts]))
    with pytest.raises(DataError, match="no texts"):
        predictor.encode_text([])


def test_the_same_image_embeds_the_same_twice(predictor: Predictor):
    assert torch.equal(predictor.encode_image(pixels()), predictor.encode_image(pixels()))


# Route, heatmap, zero-shot


def test_routes_are_probabilities_of_every_modality(predictor: Predictor):
    for routed in predictor.route([pixels(seed) for seed in range(4)]):
        assert list(routed.probabilities) == ["xray", "ct"]
        assert sum(routed.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert routed.probability == max(routed.probabilities.values())
        assert routed.probabilities[routed.modality] == routed.probability


def test_a_heatmap_is_the_dot_product_of_the_phrase_and_each_region(predictor: Predictor):
    image, report = pixels(), REPORTS[0]
    heat = predictor.heatmap(image, "small mass", report=report)
    assert (heat.shape, heat.dtype) == ((4, 4), np.float32)
    tensor = predictor.preprocess(medmoe.types.Sample(key="", image=image))[0]
    with torch.inference_mode():
        regions = predictor.model.encode_image(tensor[None]).regions[0]
        words = predictor.embed_text([report]).words[0]
    assert predictor.tokenizer.words(report)[1:3] == ["small", "mass"]
    slow = [[float((words[1] + words[2]) @ regions[:, y, x]) for x in range(4)] for y in range(4)]
    np.testing.assert_allclose(heat, slow, atol=1e-5)


def test_a_heatmap_changes_where_the_image_changes(predictor: Predictor):
    black, spot = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
    spot[:8, 24:] = 255  # the upper right of 4 by 4 regions
    change = np.abs(predictor.heatmap(spot, "mass") - predictor.heatmap(black, "mass"))
    quarters = change.reshape(2, 2, 2, 2).sum(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), quarters.shape) == (0, 1)


def test_a_phrase_is_read_alone_or_in_its_report(predictor: Predictor):
    alone = predictor.heatmap(pixels(), "mass")
    assert not np.allclose(alone, predictor.heatmap(pixels(), "mass", report=REPORTS[0]))


def test_a_phrase_that_can_not_be_found_is_told(predictor: Predictor):
    with pytest.raises(DataError, match="the phrase 'edema' is not in the report"):
        predictor.heatmap(pixels(), "edema", report=REPORTS[0])
    with pytest.raises(DataError, match=r"no word in '\.\.\.'"):
        predictor.heatmap(pixels(), "...")


def test_zero_shot_rows_are_probabilities_in_the_order_of_the_labels(predictor: Predictor):
    images = [pixels(0), pixels(1)]
    there = predictor.zero_shot(images, ["mass", "pleural effusion", "no finding"], modality="CXR")
    back = predictor.zero_shot(images, ["no finding", "pleural effusion", "mass"], modality="xray")
    assert there.shape == (2, 3)
    assert same(there.sum(dim=1), torch.ones(2))
    assert same(there.flip(1), back)
    assert not same(there, predictor.zero_shot(images, ["mass", "pleural effusion", "no finding"]))


@pytest.mark.parametrize("labels", [[], "mass"])
def test_labels_must_be_a_list_with_something_in_it(predictor: Predictor, labels: object):
    with pytest.raises(DataError, match=r'no labels to choose from in .*; give a list, such as \["effusion"'):
        predictor.zero_shot(pixels(), labels)


def test_zero_shot_refuses_a_modality_it_does_not_know(predictor: Predictor):
    with pytest.raises(DataError, match="unknown modality 'xrey'"):
        predictor.zero_shot(pixels(), ["mass"], modality="xrey")


# Models


def test_a_predictor_of_a_saved_model_says_the_same(predictor: Predictor, tmp_path: Path):
    predictor.model.save_pretrained(tmp_path / "model")
    again = Predictor.from_pretrained(tmp_path / "model")
    assert same(again.encode_image(pixels()), predictor.encode_image(pixels()))
    assert same(again.encode_text(REPORTS), predictor.encode_text(REPORTS))
    assert again.preprocess.fingerprint() == predictor.preprocess.fingerprint()


def test_a_model_in_training_mode_is_put_into_evaluation():
    model = small_model().train()
    assert not Predictor(model).model.training


def test_a_model_without_preprocessing_is_refused():
    model = small_model()
    model.assets = None
    with pytest.raises(ModelError, match=r"no preprocessing and tokenizer; make it with medmoe\.create_model"):
        Predictor(model)
