"""The wordings that come with the library."""

import json
from pathlib import Path

import pytest

from medmoe.data.sources.phantom_findings import FINDINGS
from medmoe.errors import ConfigError
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
    with pytest.raises(ConfigError, match="twice or not at all"):
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
    with pytest.raises(ConfigError, match=r"no values for the slot \{place\} of 'in the \{place\}'"):
        _parse(slots, mri__a=["in the {place}"])


OWN = {
    "version": 3,
    "groups": [
        {
            "origin": "everywhere",
            "findings": {"Benign": ["a benign lesion"], "ct/benign": ["a benign mass on {modality}"]},
        },
        {
            "origin": "two data sets",
            "sources": ["BUSI", "other"],
            "slots": {"size": ["small", "large"]},
            "findings": {"benign": ["a {size} breast mass"], "malignant": ["breast cancer"]},
        },
    ],
}


def written(table: object, folder: Path) -> Path:
    path = folder / "own.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def test_a_users_own_file_words_findings_for_all_data_sets_or_for_some(tmp_path: Path) -> None:
    prompts = load_prompts(written(OWN, tmp_path))
    assert prompts.version == 3
    assert prompts.of("benign", "ultrasound", "busi") == ("A small breast mass", "A large breast mass")
    assert prompts.of("benign", "ct", "Other") == prompts.of("benign", "ultrasound", "busi")
    assert prompts.of("BENIGN", "ultrasound", "elsewhere") == ("A benign lesion",)
    assert prompts.of("benign", "ct", "elsewhere") == ("A benign mass on CT scan",)
    assert prompts.origin("malignant", "ultrasound", "busi") == "two data sets"
    assert prompts.can_word("malignant", "ultrasound", "busi")
    assert not prompts.can_word("malignant", "ultrasound", "elsewhere")


def test_findings_that_a_file_without_templates_does_not_word_are_all_named(tmp_path: Path) -> None:
    path = written(OWN, tmp_path)
    prompts = load_prompts(path)
    with pytest.raises(ConfigError, match=r"own\.json: no wordings for malignant, normal of set / mri; add them"):
        prompts.check(["benign", "malignant", "normal"], "mri", "set")
    with pytest.raises(ConfigError, match="no wordings for normal;"):
        prompts.of("normal")
    load_prompts(written({**OWN, "templates": ["{finding}"]}, tmp_path)).check(["normal"], "mri", "set")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([], "a list stands where an object should"),
        ({"templates": []}, "groups must be a list"),
        ({"groups": [{}]}, "findings and slots must be objects"),
        ({"groups": ["a"]}, "group 1: a str stands where an object should"),
        ({"groups": [], "tempaltes": []}, "did you mean 'templates'"),
        ({"groups": [{"findings": {}, "source": ["a"]}]}, "did you mean 'sources'"),
        ({"groups": [{"findings": {"a": "one"}}]}, "group 1: a: must be a list of texts"),
        ({"groups": [{"findings": {"a": ["one", " "]}}]}, "must be a list of texts"),
        ({"groups": [{"findings": {"a": ["one"], "A": ["two"]}}]}, "'a' is worded twice"),
        ({"groups": [], "templates": ["{modality} {fnding}"]}, r"no values for the slot \{fnding\}"),
        ({"groups": [{"findings": {"a": ["{modality.name}"]}}]}, r"no values for the slot \{modality.name\}"),
        ({"groups": [{"findings": {"a": ["{modality:>9999999999}"]}}]}, "a slot is its name in braces"),
        ({"groups": [{"findings": {"a": ["{"]}}]}, "write {{ and }} for braces"),
        ({"groups": [{"findings": {"a": ["{s}"]}, "slots": {"s": ["{x}"]}}]}, r"no values for the slot \{x\}"),
        ({"groups": [], "version": "two"}, "version is 'two'"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_place(table: object, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_prompts(written(table, tmp_path))
    assert "own.json" in str(caught.value)


def test_a_file_that_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_prompts(tmp_path / "absent.json")
    for content in (b"{", b"\xff\xfe\x00"):
        (tmp_path / "own.json").write_bytes(content)
        with pytest.raises(ConfigError, match="isn't JSON"):
            load_prompts(tmp_path / "own.json")
