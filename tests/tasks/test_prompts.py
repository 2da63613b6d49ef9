"""The wordings that come with the library."""

import json

import pytest

from medmoe.data.sources.phantom_findings import FINDINGS
from medmoe.tasks.prompts import load_prompts, parse_prompts, spoken


def test_every_phantom_finding_has_its_own_wordings() -> None:
    prompts = load_prompts()
    for modality, names in FINDINGS.items():
        for name in names:
            assert f"{modality}/{name}" in prompts.findings
            assert len(prompts.of(name, modality)) >= 5
            assert prompts.origin(name, modality).startswith("phantom")


def test_no_wording_is_repeated_within_a_finding_and_none_keeps_a_placeholder() -> None:
    prompts = load_prompts()
    for key in prompts.findings:
        modality, _, label = key.rpartition("/")
        wordings = prompts.of(label, modality or "ct")
        assert len(set(wordings)) == len(wordings)
        assert not any("{" in text or text != text.strip() for text in wordings)


def test_two_findings_of_a_modality_share_no_wording() -> None:
    prompts = load_prompts()
    for modality, names in FINDINGS.items():
        every = [text for name in names for text in prompts.of(name, modality)]
        assert len(set(every)) == len(every)


def test_a_modality_may_word_a_label_its_own_way() -> None:
    prompts = load_prompts()
    assert prompts.of("haemorrhage", "mri") != prompts.of("haemorrhage", "pathology")
    assert "Brain MRI showing a glioma." in prompts.of("Glioma", "mri")


def test_unlisted_findings_use_the_templates_and_say_so() -> None:
    prompts = load_prompts()
    assert prompts.of("left_hook", "ct")[0] == "CT scan showing left hook."
    assert prompts.of("left_hook", "sketch")[0] == "Sketch showing left hook."
    assert prompts.origin("left_hook", "ct") == "general templates"


def test_wordings_need_no_modality() -> None:
    assert "Image showing a nodule." in load_prompts().of("nodule")
    assert load_prompts().of("white_stone")[0] == "Image showing white stone."
    assert spoken(" Spine_and  Muscles") == "spine and muscles"


def test_the_fingerprint_follows_the_content() -> None:
    table = {"templates": ["{finding}"], "groups": [{"origin": "me", "findings": {"a": ["one"]}}]}
    first = parse_prompts(json.dumps(table).encode())
    table["templates"] = ["{finding}!"]
    assert first.fingerprint != parse_prompts(json.dumps(table).encode()).fingerprint
    assert first.origin("a", "ct") == "me"


@pytest.mark.parametrize("second", [{"a": ["again"]}, {"b": []}])
def test_a_label_worded_twice_or_not_at_all_is_refused(second: dict[str, list[str]]) -> None:
    groups = [{"origin": "x", "findings": {"a": ["one"]}}, {"origin": "y", "findings": second}]
    with pytest.raises(ValueError, match="twice or not at all"):
        parse_prompts(json.dumps({"templates": [], "groups": groups}).encode())


def _parse(slots: dict[str, list[str]], **findings: list[str]) -> dict[str, tuple[str, ...]]:
    named = {key.replace("__", "/"): wordings for key, wordings in findings.items()}
    group = {"origin": "me", "slots": slots, "findings": named}
    return parse_prompts(json.dumps({"templates": [], "groups": [group]}).encode()).findings


def test_slots_are_written_out_in_every_combination() -> None:
    slots = {"size": ["small", "large"], "place": ["here"], "ct/place": ["left", "right"]}
    found = _parse(slots, ct__a=["{size} a {place} of {modality}.", "a"], mri__a=["{place}"], b=["{size} {size}"])
    assert found["ct/a"] == (
        "small a left of {modality}.",
        "small a right of {modality}.",
        "large a left of {modality}.",
        "large a right of {modality}.",
        "a",
    )
    assert found["mri/a"] == ("here",)
    assert found["b"] == ("small small", "large large")


@pytest.mark.parametrize("slots", [{}, {"place": []}, {"ct/place": ["left"]}])
def test_a_slot_without_values_is_refused(slots: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"no values for the slot \{place\} of 'in the \{place\}'"):
        _parse(slots, mri__a=["in the {place}"])
