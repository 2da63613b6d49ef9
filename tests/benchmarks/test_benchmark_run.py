from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from small_sets import image, table, write

from medmoe.benchmarks import Judge, judge_of, load_set, load_suite, read_prompts, remarks, run_benchmark
from medmoe.benchmarks import table as as_table
from medmoe.benchmarks.figures import multi_label, single_label
from medmoe.data.sources.base import Source
from medmoe.errors import ConfigError, DataError
from medmoe.modalities import SIX
from medmoe.tasks.base import Context, Evidence
from medmoe.types import TextEmbedding
from small_runs import built

WIDTH = 64


def direction(text: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(text.encode()) * len(text))
    return torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)


def evidence_of(source: Source, embed: torch.Tensor) -> Evidence:
    size = len(source)
    none = torch.zeros(size, 0)
    return Evidence(
        image_embed=embed,
        regions=torch.zeros(size, 2, 3, 3),
        image_logits=torch.zeros(size, len(SIX)),
        has_report=torch.zeros(size, dtype=torch.bool),
        text_embed=torch.zeros_like(embed),
        words=torch.zeros(size, 0, 2),
        word_mask=none.bool(),
        text_logits=torch.zeros(size, len(SIX)),
        samples=tuple(source.facts(index) for index in range(size)),
        modalities=SIX,
        logit_scale=10.0,
    )


def encode(prompts: Sequence[str]) -> TextEmbedding:
    size = len(prompts)
    embed = torch.stack([direction(text) for text in prompts])
    none = torch.zeros(size, 0)
    return TextEmbedding(embed, torch.zeros(size, 0, 2), none.bool(), none, none)


def knowing(*names: str) -> Judge:
    """Give a judge whose images lie where the prompts of their class lie."""
    centres = {
        one.name: torch.nn.functional.normalize(encode(prompts).embed.mean(dim=0), dim=0)
        for name in names
        for one, prompts in zip(load_set(name).classes, load_set(name).prompts().values(), strict=True)
    }

    def see(source: Source, *, controls: bool = False) -> Evidence:
        labels = [source.facts(index).labels or () for index in range(len(source))]
        return evidence_of(source, torch.stack([centres[own[0]] for own in labels]))

    return Judge(see, Context(SIX, encode, None, resamples=30))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return judge_of(built(), batch_size=32, resamples=20)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the data sets of Table 1, all but the meniscus."""
    folder = tmp_path_factory.mktemp("root")
    for name in load_suite("paper-table1").sets:
        if name != "meniscal_mri":
            write(name, folder)
    return folder


@pytest.fixture(scope="module")
def result(judge: Judge, root: Path) -> dict[str, Any]:
    return run_benchmark("paper-table1", root, judge)


def test_running_twice_gives_the_same_bytes(judge: Judge, root: Path, result: dict[str, Any]):
    again = run_benchmark("paper-table1", root, judge_of(built(), batch_size=32, resamples=20))
    one, other = (json.dumps(found, indent=2, allow_nan=False) for found in (result, again))
    assert one == other
    assert str(root) not in one


def test_the_table_has_our_figures_beside_the_published_ones(result: dict[str, Any]):
    header, rows = as_table(result)
    assert header[:4] == ("data set", "n", "metric", "ours, % [95 %]")
    assert header[-1] == "MedMoE"
    assert list(dict.fromkeys(row[0] for row in rows[:-1])) == list(load_suite("paper-table1").sets)
    assert all(len(row) == len(header) for row in rows)
    chexpert = rows[0]
    assert chexpert[1:3] == ("15", "accuracy")
    assert chexpert[4:6] == ("20.0", "20.0")
    assert [row[2] for row in rows if row[0] == "breast_us"] == ["auroc", "accuracy"]
    assert chexpert[6:] == ("61.00", "59.42", "30.30", "38.30", "65.90", "66.03")
    assert rows[-1][0] == "mean of 8 of 9"


def test_what_is_not_on_disk_is_marked_with_what_is_expected(result: dict[str, Any]):
    row = next(row for row in result["rows"] if row["set"] == "meniscal_mri")
    assert row["status"] == "not on disk"
    assert "ours" not in row
    assert row["expected"].startswith(
        "meniscal_mri/meniscus_test_fold1.csv with the image in column 'img_dir', the class in column 'label'"
    )
    shown = next(row for row in as_table(result)[1] if row[0] == "meniscal_mri")
    assert shown[3] == "not on disk"
    assert shown[-1] == "74.87"


def test_a_row_says_what_it_was_computed_from(result: dict[str, Any]):
    row = next(row for row in result["rows"] if row["set"] == "acl_mri")
    assert (row["n"], row["patients"], row["split"], row["metric"]) == (6, 3, "fold1", "auroc")
    assert row["classes"] == {"no": 3, "yes": 3}
    assert row["prompts"]["count"] == {"no": 9, "yes": 9}
    assert row["prompts"]["origin"] == "medmoe"
    assert row["ours"] == row["figures"]["auroc"]
    controls = {"chance", "majority", "prompt_prior", "shuffled", "shuffled_low", "shuffled_high"}
    assert set(row["ours"]["controls"]) == controls
    assert row["prompt_prior"] in ("no", "yes")
    assert any("6 images on disk, 208 (fold1) published" in note for note in row["warnings"])


def test_a_model_that_knows_the_classes_is_right_everywhere(tmp_path: Path):
    write("fives", tmp_path, each=6)
    row = run_benchmark("fives", tmp_path, knowing("fives"))["rows"][0]
    for name in ("accuracy", "balanced_accuracy", "auroc"):
        assert row["figures"][name]["value"] == row["figures"][name]["low"] == 1.0
    assert "not above shuffled labels" not in row["warnings"]
    assert row["published"][0]["percent"] == {"BiomedCLIP": None, "PMC-CLIP": None, "UniMed-CLIP": None}


def test_a_model_that_answers_the_same_for_every_image_shows_nothing(tmp_path: Path):
    write("bach", tmp_path)
    known = knowing("bach")

    def see(source: Source, *, controls: bool = False) -> Evidence:
        return evidence_of(source, direction("one").repeat(len(source), 1))

    result = run_benchmark("bach", tmp_path, replace(known, see=see))
    row = result["rows"][0]
    assert row["ours"]["value"] == row["ours"]["controls"]["prompt_prior"] == 0.25
    assert row["figures"]["auroc"]["value"] == 0.5
    assert "not above shuffled labels" in row["warnings"]


def test_a_large_set_is_seen_part_by_part_and_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write("bach", tmp_path)
    judge = judge_of(built(), resamples=5)
    whole = run_benchmark("bach", tmp_path, judge)
    monkeypatch.setattr("medmoe.benchmarks.judge._PART", 5)
    parts = run_benchmark("bach", tmp_path, judge)
    assert whole["rows"][0]["figures"]["accuracy"] == parts["rows"][0]["figures"]["accuracy"]


def test_a_modality_the_model_does_not_know_is_kept_from_it_and_noted(tmp_path: Path):
    write("refuge", tmp_path)
    judge = judge_of(built('model.modalities=["xray","ct"]'), resamples=5)
    row = run_benchmark("refuge", tmp_path, judge)["rows"][0]
    assert row["n"] == 6
    assert "the model was not trained on fundus" in row["warnings"]


def test_a_model_without_modalities_takes_any(tmp_path: Path):
    write("fives", tmp_path)
    judge = knowing("fives")
    judge = replace(judge, context=replace(judge.context, modalities=()))
    assert not [note for note in run_benchmark("fives", tmp_path, judge)["rows"][0]["warnings"] if "trained" in note]


def test_each_data_set_is_told_before_it_is_judged(tmp_path: Path):
    write("fives", tmp_path)
    told: list[str] = []
    run_benchmark("fives", tmp_path, knowing("fives"), say=told.append)
    assert told == ["fives"]


def test_nothing_on_disk_gives_a_table_without_figures(tmp_path: Path, judge: Judge):
    result = run_benchmark("unimed-21", tmp_path, judge)
    assert {row["status"] for row in result["rows"]} == {"not on disk"}
    assert result["mean"] == {"sets": 0, "of": 21, "value": None, "low": None, "high": None, "controls": {}}
    header, rows = as_table(result)
    assert len(rows) == 21
    assert rows[-1][list(header).index("UniMed-CLIP")] == "?"
    told = remarks(result)
    assert any(line.startswith("pcam: not on disk; expected pcam/PCam_Test_preprocessed/IMAGE") for line in told)
    assert told[-1].startswith("?: published")
    with pytest.raises(ConfigError, match=r"--root: no folder"):
        run_benchmark("unimed-21", tmp_path / "absent", judge)


def test_a_wrong_data_set_stops_before_anything_is_judged(tmp_path: Path):
    write("bach", tmp_path)
    (tmp_path / "pcam").mkdir()
    own = tmp_path / "own.json"
    source = {"what": "table", "cite": "us", "url": "https://example.org"}
    value = {"name": "own", "title": "", "source": source, "protocol": "zero_shot", "sets": ["bach", "pcam"]}
    own.write_text(json.dumps(value))
    told: list[str] = []
    with pytest.raises(DataError, match="pcam: the folder is empty"):
        run_benchmark(str(own), tmp_path, knowing("bach"), say=told.append)
    assert told == []


def test_a_published_figure_that_cannot_be_the_named_metric_is_marked(tmp_path: Path):
    rows = [(f"images/{number}_1.jpg", "malignant" if number < 57 else "benign") for number in range(72)]
    table(tmp_path / "thyroid_us" / "thyroid_test_fold1.csv", ("img_dir", "label"), rows)
    for number, (name, _) in enumerate(rows):
        image(tmp_path / "thyroid_us" / name, number)
    result = run_benchmark("thyroid_us", tmp_path, knowing("thyroid_us"))
    assert result["rows"][0]["figure_readings"][0]["GLoRIA"] == {"accuracy": True, "auroc": False}
    header, shown = as_table(result)
    figures = dict(zip(header, shown[0], strict=True))
    assert figures["GLoRIA"] == "79.16!"
    assert figures["MedMoE"] == "62.74"
    assert remarks(result)[-1].startswith("!: can be no figure")


def test_ones_own_prompts_take_the_place_of_ours(tmp_path: Path):
    write("fives", tmp_path)
    names = [one.name for one in load_set("fives").classes]
    file = tmp_path / "authors.json"
    file.write_text(json.dumps({name.upper(): [f"A photo of {name}."] for name in names}))
    judge = judge_of(built(), resamples=5)
    ours = run_benchmark("fives", tmp_path, judge)["rows"][0]
    theirs = run_benchmark("fives", tmp_path, judge, prompts=file)["rows"][0]
    assert theirs["prompts"]["origin"] == "authors.json"
    assert set(theirs["prompts"]["count"].values()) == {1}
    assert theirs["prompts"]["fingerprint"] != ours["prompts"]["fingerprint"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            {"bach": {"Normal": ["a"], "Benign": ["b"]}},
            "bach: no prompt for 'Breast malignant in-situ carcinoma', 'Breast mal",
        ),
        ({"bach": {"Normla": ["a"]}}, "unknown class 'Normla'"),
        ({"bahc": {}}, r"unknown data set 'bahc' \(did you mean 'bach'\?\)"),
        ({"bach": {"Normal": []}}, "no list of prompts for 'Normal'"),
        ({"bach": ["a"], "pcam": {}}, "not an object {CLASS"),
        ([], "not an object {SET"),
    ],
)
def test_a_prompt_file_that_lacks_or_mistakes_a_class_is_refused(value: object, says: str, tmp_path: Path):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=says):
        read_prompts(file, [load_set("bach"), load_set("pcam")])


def test_a_prompt_file_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.json: can't be read"):
        read_prompts(tmp_path / "absent.json", [])
    (tmp_path / "text.json").write_text("prompts")
    with pytest.raises(ConfigError, match=r"text\.json: not JSON"):
        read_prompts(tmp_path / "text.json", [])


def test_figures_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 60)
    cosine = rng.normal(size=(60, 3)) + np.eye(3)[true]
    probability = torch.softmax(torch.from_numpy(10 * cosine), dim=1).numpy()
    how: dict[str, Any] = {"scale": 10.0, "seed": [0], "resamples": 20}
    found = single_label(cosine, true, [None] * 60, positive=None, **how)
    answer = cosine.argmax(axis=1)
    assert found["accuracy"].value == pytest.approx(accuracy_score(true, answer), abs=1e-9)
    assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(true, answer), abs=1e-9)
    expected = roc_auc_score(true, probability, multi_class="ovr", average="macro")
    assert found["auroc"].value == pytest.approx(expected, abs=1e-9)
    two = single_label(cosine[:, :2], np.minimum(true, 1), [None] * 60, positive=1, **how)
    expected = roc_auc_score(np.minimum(true, 1), cosine[:, 1] - cosine[:, 0])
    assert two["auroc"].value == pytest.approx(expected, abs=1e-9)
    truth = rng.random((60, 3)) < 0.4
    several = multi_label(cosine, truth, [None] * 60, **how)
    assert several["auroc"].value == pytest.approx(roc_auc_score(truth, probability, average="macro"), abs=1e-9)


def test_one_class_alone_has_no_auroc_and_breaks_nothing():
    found = single_label(
        np.zeros((4, 2)), np.zeros(4, np.int64), [None] * 4, scale=1.0, positive=1, seed=[0], resamples=5
    )
    assert found["auroc"].metric().to_json()["value"] is None
    assert found["accuracy"].value == 0.0  # a tie is never right


def test_the_probe_of_table_2_is_fitted_on_the_training_table(tmp_path: Path):
    write("rsna", tmp_path)
    folder = write("thyroid_us", tmp_path, each=12)
    rows = [(f"images/{100 + number}_1.jpg", ("benign", "malignant")[number % 2]) for number in range(24)]
    table(folder / "thyroid_train_fold1.csv", ("img_dir", "label"), rows)
    for number, (name, _) in enumerate(rows):
        image(folder / name, 200 + number)
    result = run_benchmark("paper-table2", tmp_path, knowing("thyroid_us", "rsna"))
    rsna, thyroid = result["rows"][:2]
    assert rsna["ours"] is None
    assert any("no probe: the training images" in note for note in rsna["warnings"])
    assert thyroid["fit_n"] == 24
    assert thyroid["ours"]["1"]["value"] == 1.0
    header, shown = as_table(result)
    lines = [dict(zip(header, row, strict=True)) for row in shown if row[0] == "thyroid_us"]
    assert [line["metric"] for line in lines] == ["auroc @1%", "auroc @10%", "auroc @100%"]
    assert [line["MedMoE"] for line in lines] == ["73.99", "76.96", "79.83"]
    assert lines[2]["ours, % [95 %]"].startswith("100.00")


def test_the_probe_stands_beside_features_that_nobody_trained(tmp_path: Path):
    folder = write("acl_mri", tmp_path, each=8)
    rows = [(f"images/{900 + number:04}_sagittal_1.000000.png", ("no", "yes")[number % 2]) for number in range(16)]
    table(folder / "train_fold1.csv", ("filename", "acl_label"), rows)
    for number, (name, _) in enumerate(rows):
        image(folder / name, 300 + number)
    result = run_benchmark("paper-table2", tmp_path, judge_of(built(), resamples=5))
    row = next(row for row in result["rows"] if row["set"] == "acl_mri")
    assert {"raw_pixels", "random_weights", "shuffled"} <= set(row["ours"]["1"]["controls"])


def test_a_patient_of_the_training_table_is_not_evaluated(tmp_path: Path):
    folder = write("acl_mri", tmp_path, each=8)
    (folder / "train_fold1.csv").write_bytes((folder / "test_fold1.csv").read_bytes())
    with pytest.raises(DataError, match="8 patients of the training split are evaluated too"):
        run_benchmark("paper-table2", tmp_path, knowing("acl_mri"))
