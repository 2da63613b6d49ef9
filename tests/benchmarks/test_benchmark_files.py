from __future__ import annotations

import json
from importlib import resources
from itertools import combinations

import pytest

from medmoe.benchmarks import SETS, SUITES, load_set, load_suite
from medmoe.benchmarks.arithmetic import possible, readings
from medmoe.benchmarks.catalog import Suite
from medmoe.benchmarks.spec import DataSet, parse_set
from medmoe.errors import ConfigError

TABLE1_MEANS = {"GLoRIA": 43.66, "MedCLIP": 42.12, "PMC-CLIP": 49.14, "BiomedCLIP": 44.06, "MedMoE": 58.26}


def content(name: str) -> dict[str, object]:
    file = resources.files("medmoe.benchmarks").joinpath("sets", f"{name}.json")
    value: dict[str, object] = json.loads(file.read_bytes())
    return value


def parsed(value: dict[str, object]) -> DataSet:
    return parse_set(json.dumps(value).encode(), "own.json")


def zero_shot(name: str) -> dict[str, float | None]:
    return next(one.percent for one in load_set(name).published if one.protocol == "zero_shot")


@pytest.mark.parametrize("name", SETS)
def test_every_file_is_a_data_set_of_its_name(name: str):
    found = load_set(name)
    assert found.name == name
    assert all(reference.url.startswith("https://") for reference in found.sources)
    prompts = found.prompts()
    assert list(prompts) == list(found.labels)
    assert all(len(own) >= 4 for own in prompts.values())
    assert all(not set(one) & set(other) for one, other in combinations(prompts.values(), 2))


@pytest.mark.parametrize("name", SETS)
def test_what_a_file_leaves_out_it_gives_a_reason_for(name: str):
    found = load_set(name)
    missing = {
        "splits.n": any(split.n is None for split in found.splits),
        "published.percent": any(value is None for one in found.published for value in one.percent.values()),
        "published.metric": any(one.metric is None for one in found.published),
        "train": any(one.protocol == "linear_probe" for one in found.published) and found.train is None,
    }
    for key, left_out in missing.items():
        assert not left_out or found.unknown[key]


@pytest.mark.parametrize("name", SETS)
def test_a_metric_that_differs_from_the_published_one_is_explained(name: str):
    found = load_set(name)
    stated = {one.metric for one in found.published if one.protocol == "zero_shot"} - {None}
    assert stated <= {found.metric} or found.metric_why


def test_the_suites_list_the_tables():
    assert SUITES == ("paper-table1", "paper-table2", "unimed-21")
    first, second, third = (load_suite(name) for name in SUITES)
    assert [len(suite.sets) for suite in (first, second, third)] == [9, 4, 21]
    assert set(second.sets) < set(first.sets) < set(third.sets) == set(SETS)
    assert second.protocol == "linear_probe"


def test_published_figures_have_the_means_that_were_published_beside_them():
    columns = [zero_shot(name) for name in load_suite("paper-table1").sets]
    for model, published in TABLE1_MEANS.items():
        assert sum(column[model] or 0 for column in columns) / 9 == pytest.approx(published, abs=0.011)


def test_single_figures_tell_which_published_mean_is_of_which_modality():
    means = load_suite("unimed-21").means or {}
    for modality in ("xray", "ct", "mri", "ultrasound"):
        group = means[modality]
        assert {load_set(name).modality for name in group.sets} == {modality}
        for model, published in group.percent.items():
            figures = [zero_shot(name)[model] or 0 for name in group.sets]
            assert sum(figures) / len(figures) == pytest.approx(published, abs=0.011)
    weights = {name: len(group.sets) for name, group in means.items() if name != "all"}
    for model, published in means["all"].percent.items():
        total = sum(means[name].percent[model] * size for name, size in weights.items())
        assert total / sum(weights.values()) == pytest.approx(published, abs=0.011)


@pytest.mark.parametrize(
    ("name", "counts"), [("thyroid_us", (15, 57)), ("breast_us", (113, 43)), ("acl_mri", (91, 117))]
)
def test_figures_published_as_accuracy_can_only_be_auroc_but_for_one_row(name: str, counts: tuple[int, int]):
    assert load_set(name).splits[0].n == sum(counts)
    figures = {model: percent or 0 for model, percent in zero_shot(name).items()}
    assert [model for model, percent in figures.items() if possible(percent, sum(counts))] == ["GLoRIA"]
    assert figures.pop("GLoRIA") in [int(10_000 * count / sum(counts)) / 100 for count in counts]
    assert all(possible(percent, 2 * counts[0] * counts[1]) for percent in figures.values())


def test_readings_are_given_only_where_they_tell_something():
    found = readings({"a": 79.16, "b": 71.35, "c": None}, [15, 57])
    assert found == {"a": {"accuracy": True, "auroc": False}, "b": {"accuracy": False, "auroc": True}}
    assert readings({"a": 50.0}, [4003, 4003]) == {}
    assert list(readings({"a": 50.0}, [10, 10, 10])["a"]) == ["accuracy"]


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"own.json: unknown key 'licence' \(did you mean 'license'\?\)"):
        parsed({**content("bach"), "licence": "free"})
    layout = {**content("bach")["layout"], "header_line": True}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"bach.layout: unknown key 'header_line' \(did you mean 'header'\?\)"):
        parsed({**content("bach"), "layout": layout})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modality": "xrays"}, "unknown modality 'xrays'"),
        ({"metric": "acc"}, "unknown metric 'acc'"),
        ({"task": "retrieval"}, "unknown task"),
        ({"layout": {"kind": "zip"}}, "unknown layout kind 'zip'"),
        ({"templates": ["No slot."]}, "exactly one {}"),
        ({"positive": "Cancer"}, "the positive one isn't"),
        ({"splits": []}, "no split"),
        ({"splits": [{"name": "a", "n": "400"}]}, r"splits\[0\].n: got '400', allowed: int"),
        ({"folders": "BACH"}, "allowed: a list"),
        ({"unknown": []}, "allowed: an object"),
        ({"sources": ["a link"]}, "allowed: an object"),
        (
            {"classes": [{"label": "Normal", "name": "Normal", "phrases": []}] * 2},
            r"no phrase for \['Normal', 'Normal'\]",
        ),
        ({"layout": {"kind": "table", "file": "a.csv", "image": 0, "label": True}}, "allowed: int"),
        ({"layout": {"kind": "folders", "patient": "("}}, "not a pattern"),
    ],
)
def test_a_wrong_value_is_refused(change: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=says):
        parsed({**content("bach"), **change})


def test_a_missing_key_and_broken_json_are_refused():
    value = content("bach")
    del value["license"]
    with pytest.raises(ConfigError, match="the key 'license' is missing"):
        parsed(value)
    with pytest.raises(ConfigError, match=r"own.json: not JSON"):
        parse_set(b"{", "own.json")


def test_suites_go_by_name_by_data_set_or_by_file(tmp_path):
    assert load_suite("rsna@9006").sets == ("rsna@9006",)
    assert load_set("rsna").split("9006").n == 9006
    with pytest.raises(ConfigError, match=r"rsna: unknown split '7006'"):
        load_set("rsna").split("7006")
    own = tmp_path / "mine.json"
    source = {"what": "table", "cite": "us", "url": "https://example.org"}
    value = {"name": "mine", "title": "Mine", "source": source, "protocol": "zero_shot", "sets": ["bach", "pcam"]}
    own.write_text(json.dumps(value))
    assert isinstance(load_suite(str(own)), Suite)
    own.write_text(json.dumps({**value, "sets": ["bahc"]}))
    with pytest.raises(ConfigError, match=r"unknown data set 'bahc' \(did you mean 'bach'\?\)"):
        load_suite(str(own))
    own.write_text("[")
    with pytest.raises(ConfigError, match="not JSON"):
        load_suite(str(own))
    with pytest.raises(ConfigError, match=r"unknown benchmark 'paper-table3' \(did you mean 'paper-table"):
        load_suite("paper-table3")
