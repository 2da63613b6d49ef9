from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from medmoe import layers
from medmoe.errors import ConfigError, ModelError
from medmoe.experts.router import image_statistics
from medmoe.heads.words import OverRegions, words_of_regions
from medmoe.model import MAX_LOGIT_SCALE, POOLS, MedVLM
from medmoe.types import Batch, Pyramid, Tokens
from small_runs import batch_of, built, changed, phantoms


def prefer(model: MedVLM, *, image: int | None = None, text: int | None = None) -> None:
    """Make a router choose one expert whatever it sees."""
    for head, expert in ((model.image_router, image), (model.text_router, text)):
        if expert is not None:
            head.second.bias.data[expert] += 50.0  # type: ignore[union-attr, operator]


def reversed_reports(batch: Batch) -> Batch:
    return dataclasses.replace(batch, tokens=pick(batch.tokens, torch.arange(len(batch.keys) - 1, -1, -1)))


def pick(tokens: Tokens | None, rows: torch.Tensor) -> Tokens:
    assert tokens is not None
    return Tokens(tokens.ids[rows], tokens.mask[rows], tokens.word[rows], tokens.word_mask[rows])


def test_an_output_has_the_shapes_it_promises():
    model = built()
    output = model(batch_of(model))
    assert output.text is not None
    assert output.image.embed.shape == output.text.embed.shape == (8, 16)
    assert output.image.regions.shape == (8, 8, 4, 4)
    assert output.image.logits.shape == output.text.logits.shape == output.text.report_logits.shape == (8, 6)
    assert output.text.words.shape == (*output.text.word_mask.shape, 8)
    assert output.logit_scale.shape == ()


def test_embeddings_have_unit_length_and_keep_the_feature_they_came_from():
    model = built()
    output = model(batch_of(model))
    for side in (output.image, output.text):
        torch.testing.assert_close(side.embed.norm(dim=1), torch.ones(8))
        torch.testing.assert_close(side.feature / side.feature.norm(dim=1, keepdim=True), side.embed)


def test_an_image_is_embedded_the_same_whatever_report_is_beside_it():
    model = built().eval()
    batch = batch_of(model)
    with torch.inference_mode():
        alone = model.encode_image(batch.image)
        for beside in (batch, reversed_reports(batch), dataclasses.replace(batch, tokens=None)):
            image = model(beside).image
            assert torch.equal(image.embed, alone.embed)
            assert torch.equal(image.regions, alone.regions)
            assert torch.equal(image.routing.expert, alone.routing.expert)


def test_a_special_projection_joins_the_global_embedding_of_the_expert_that_was_chosen():
    model = built("model.special_projection=true").eval()
    assert model.special_projection is not None
    pixels = batch_of(model).image
    plain = model.encode_image(pixels)
    torch.nn.init.normal_(model.special_projection.maps[2].weight)
    for expert, moved in ((1, False), (2, True)):
        found = model.encode_image(pixels, expert=torch.full((8,), expert))
        assert torch.equal(found.embed, plain.embed) is not moved


def test_a_candidate_passes_the_expert_the_image_router_chose_at_inference():
    model = built().eval()
    prefer(model, image=2, text=4)
    batch = batch_of(model)
    for routing in (model(batch).image.routing, model.encode_image(batch.image).routing):
        assert routing.expert.flatten().tolist() == [2] * 8


def test_in_training_the_expert_is_the_text_routers_choice():
    model = built().train()
    prefer(model, image=2)
    output = model(batch_of(model))
    assert output.text is not None
    assert torch.equal(output.image.routing.expert[:, 0], output.text.logits.argmax(1))
    prefer(model, text=4)
    assert model(batch_of(model)).image.routing.expert.flatten().tolist() == [4] * 8


def test_in_training_an_image_without_a_report_passes_the_image_routers_choice():
    model = built().train()
    prefer(model, image=2, text=4)
    batch = batch_of(model)
    has = torch.arange(8) % 2 == 0
    routing = model(dataclasses.replace(batch, has_report=has)).image.routing
    assert routing.expert.flatten().tolist() == [4, 2] * 4


@pytest.mark.parametrize("training", [True, False])
def test_images_without_any_report_are_embedded(training: bool):
    model = built().train(training)
    batch = batch_of(model, changed(phantoms(), report=None))
    output = model(dataclasses.replace(batch, tokens=None, has_report=None))
    assert output.text is None
    assert output.image.embed.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_permuting_the_batch_permutes_the_output(training: bool):
    model = built().train(training)
    batch = batch_of(model)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert batch.has_report is not None
    moved = Batch(
        image=batch.image[order],
        keys=tuple(batch.keys[i] for i in order),
        tokens=pick(batch.tokens, order),
        has_report=batch.has_report[order],
    )
    one, other = model(batch), model(moved)
    for name in ("embed", "regions", "logits"):
        torch.testing.assert_close(getattr(one.image, name)[order], getattr(other.image, name))
    for name in ("embed", "words", "logits", "report_logits"):
        torch.testing.assert_close(getattr(one.text, name)[order], getattr(other.text, name))


def test_an_expert_can_be_asked_for_and_is_the_one_that_runs():
    model = built().eval()
    image = batch_of(model).image
    wanted = torch.tensor([5, 0, 3, 3, 1, 2, 4, 0])
    found = model.encode_image(image, expert=wanted)
    pyramid = model.vision(image)
    expected = torch.stack([model.experts.special[int(k)](pyramid)[row] for row, k in enumerate(wanted)])
    torch.testing.assert_close(found.regions, expected)
    assert torch.equal(found.routing.expert[:, 0], wanted)


def test_the_experts_don_t_touch_the_global_embedding():
    model = built().eval()
    image = batch_of(model).image
    embeds = [model.encode_image(image, expert=torch.full((8,), k)).embed for k in range(2)]
    assert torch.equal(*embeds)


@pytest.mark.parametrize("special", [False, True])
def test_without_regions_no_expert_runs_and_everything_else_is_the_same(special: bool, monkeypatch: pytest.MonkeyPatch):
    model = built(f"model.special_projection={str(special).lower()}").eval()
    if model.special_projection is not None:
        for one in model.special_projection.maps:
            torch.nn.init.normal_(one.weight)  # type: ignore[arg-type]
    image = batch_of(model).image
    whole = model.encode_image(image)
    monkeypatch.setattr(model.experts, "forward", lambda *_: pytest.fail("an expert ran"))
    found = model.encode_image(image, regions=False)
    assert found.regions.shape == (8, 0, 1, 1)
    for name in ("embed", "feature", "logits"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert torch.equal(found.routing.expert, whole.routing.expert)


@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_gives_a_feature_of_the_length_it_promises(pool: str):
    levels = tuple(torch.rand(2, channels, side, side) for channels, side in ((3, 4), (5, 2)))
    pooled, length = POOLS[pool]
    assert pooled(Pyramid(levels)).shape == (2, length((3, 5)))


def test_a_pyramid_is_pooled_by_the_last_levels_mean_or_by_every_levels_mean_and_maximum():
    fine, coarse = torch.rand(1, 2, 4, 4), torch.rand(1, 3, 2, 2)
    last, whole = (POOLS[name][0](Pyramid((fine, coarse)))[0] for name in ("last", "pyramid"))
    mean = [[float(channel.mean()) for channel in level[0]] for level in (fine, coarse)]
    most = [[float(channel.max()) for channel in level[0]] for level in (fine, coarse)]
    assert last.tolist() == pytest.approx(mean[1])
    assert sorted(whole.tolist()) == pytest.approx(sorted(mean[0] + mean[1] + most[0] + most[1]))


@pytest.mark.parametrize("pool", POOLS)
def test_a_model_embeds_with_every_pooling(pool: str):
    model = built(f"model.pool={pool}").eval()
    assert model.encode_image(batch_of(model).image).embed.shape == (8, 16)


def test_an_unknown_pooling_names_the_nearest():
    with pytest.raises(ConfigError, match=r"^model\.pool: unknown pool 'lst' \(did you mean 'last'"):
        built("model.pool=lst")


def test_the_image_routers_scores_are_of_the_pyramids_statistics():
    model = built().eval()
    image = batch_of(model).image
    expected = model.image_router(image_statistics(model.vision(image)))
    torch.testing.assert_close(model.encode_image(image).logits, expected)


def test_a_model_that_routes_by_label_takes_the_label():
    model = built("model.router.infer=label").eval()
    label = torch.tensor([5, 4, 3, 2, 1, 0, 0, 1])
    found = model.encode_image(batch_of(model).image, modality=label)
    assert torch.equal(found.routing.expert[:, 0], label)


def test_the_temperature_starts_at_the_usual_one_and_stays_below_its_bound():
    model = built()
    assert float(model.logit_scale.detach()) == pytest.approx(1 / 0.07)
    model.log_scale.data.fill_(math.log(1e6))
    assert float(model.logit_scale.detach()) == MAX_LOGIT_SCALE


def test_embeddings_and_scores_are_float32_under_autocast():
    model = built()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch_of(model))
    assert output.text is not None
    kept = (output.image.embed, output.image.logits, output.text.embed, output.text.logits, output.logit_scale)
    assert {value.dtype for value in kept} == {torch.float32}


def test_a_model_made_by_hand_can_not_be_saved_and_says_why(tmp_path):
    model = built()
    model.assets = None
    with pytest.raises(ModelError, match="no configuration, preprocessing and tokenizer") as got:
        model.save_pretrained(tmp_path / "model")
    assert "create_model" in (got.value.remedy or "")
    assert not (tmp_path / "model").exists()


def test_the_regions_name_the_word_pieces_of_the_batchs_reports_by_their_best_place():
    model = built("model.region_words=true")
    batch = batch_of(model)
    assert batch.tokens is not None
    image = model(batch).image
    assert image.region_word_logits is not None
    held = set(batch.tokens.ids[batch.tokens.mask].tolist())
    assert model.region_words is not None
    for row in range(len(batch.keys)):
        places = image.regions[row].flatten(1).T  # [M, D]
        for piece in range(image.region_word_logits.shape[1]):
            said = image.region_word_logits[row, piece]
            if piece in held:
                each = places @ model.region_words.weight[piece] + model.region_words.bias[piece]
                assert said.item() == pytest.approx(math.log(each.exp().sum().item()), abs=1e-4)
            else:
                assert said.item() == pytest.approx(-1e30)
    assert model(dataclasses.replace(batch, tokens=None)).image.region_word_logits is None
    assert built()(batch).image.region_word_logits is None


def test_a_word_is_what_it_says_in_its_report_and_what_names_regions():
    model = built("model.region_words=true").eval()
    batch = batch_of(model)
    tokens = batch.tokens
    assert tokens is not None
    assert model.region_words is not None
    words = model.encode_text(tokens).words
    alone = model.word_projection(model.text(tokens).words)
    for row in range(len(batch.keys)):
        for word in range(words.shape[1]):
            pieces = tokens.ids[row][tokens.word[row] == word]
            named = model.region_words.weight[pieces].sum(dim=0)
            torch.testing.assert_close(words[row, word], alone[row, word] + named)


def test_words_of_regions_are_the_same_in_parts_kept_or_not_and_where_values_can_not_be_looked_at(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(5, 9).double()
    regions = torch.randn(6, 5, 2, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[1, 5, 5, 3], [1, 2, 8, 0]])
    tokens = Tokens(ids, ids > 0, ids, ids > 0)

    def found():
        said = words_of_regions(head, regions, tokens)
        weight = torch.linspace(-1, 2, said.numel(), dtype=said.dtype).view_as(said)
        held = said > -1e29
        return (said, *torch.autograd.grad((said[held] * weight[held]).sum(), (regions, head.weight, head.bias)))

    whole = found()
    said = torch.einsum("bdyx,pd->bpyx", regions, head.weight) + head.bias[:, None, None]
    held = [1, 2, 3, 5, 8]
    torch.testing.assert_close(whole[0][:, held], said.flatten(2).logsumexp(2)[:, held])
    assert (whole[0][:, [0, 4, 6, 7]] == -1e30).all()
    for setting in ({"TILE": 60}, {"KEPT": 0}, {"TILE": 60, "KEPT": 0}, {}):
        with monkeypatch.context() as patch:
            patch.setattr(layers, "readable", lambda ids, packed=bool(setting): packed)
            for name, value in setting.items():
                patch.setattr(
                    *((layers, name, lambda ids: False) if name == "readable" else (OverRegions, name, value))
                )
            for got, expected in zip(found(), whole, strict=True):
                torch.testing.assert_close(got, expected)


def test_words_of_regions_read_nothing_from_a_device():
    head = nn.Linear(5, 9, device="meta")
    ids = torch.ones(2, 3, dtype=torch.long, device="meta")
    said = words_of_regions(head, torch.ones(2, 5, 2, 2, device="meta"), Tokens(ids, ids > 0, ids, ids > 0))
    said.sum().backward()
    assert said.shape == (2, 9)
