from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from small_sets import image, table, write

from medmoe.benchmarks import Judge, judge_of, load_set, load_suite, read_prompts, remarks, run_benchmark
from medmoe.benchmarks import table as as_table
from medmoe.benchmarks.figures import multi_label, single_label
from medmoe.benchmarks.run import _means
from medmoe.data.sources.base import Source
from medmoe.data.sources.manifest import ManifestSource
from medmoe.doubts import Doubts, of_leaks
from medmoe.errors import ConfigError, DataError
from medmoe.leaks import remember
from medmoe.modalities import SIX
from medmoe.tasks.base import Context, Evidence
from medmoe.tasks.figures import Figure
from medmoe.types import TextEmbedding
from micro import medmoe
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
    assert list(dict.fromkeys(row[0] for row in rows[:-2])) == list(load_suite("paper-table1").sets)
    assert all(len(row) == len(header) for row in rows)
    chexpert = rows[0]
    assert chexpert[1:3] == ("15", "accuracy")
    assert chexpert[4:6] == ("20.0", "20.0")
    assert [row[2] for row in rows if row[0] == "breast_us"] == ["auroc", "accuracy"]
    assert chexpert[6:] == ("61.00", "59.42", "30.30", "38.30", "65.90", "66.03")


def test_means_are_over_data_sets_of_one_metric_beside_the_published_ones_of_the_same(result: dict[str, Any]):
    accuracy, auroc = result["means"]
    assert (accuracy["metric"], auroc["metric"]) == ("accuracy", "auroc")
    assert auroc["sets"] == ["rsna", "thyroid_us", "breast_us", "acl_mri"]  # the meniscus isn't on disk
    judged = {row["set"]: row for row in result["rows"] if row["status"] == "evaluated"}
    for mean in (accuracy, auroc):
        values = [judged[name]["ours"]["value"] for name in mean["sets"]]
        assert mean["value"] == pytest.approx(np.mean(values), abs=1e-12)
    header, rows = as_table(result)
    assert [row[:3] for row in rows[-2:]] == [("mean of 4 of 9", "", "accuracy"), ("mean of 4 of 9", "", "auroc")]
    for mean, row in zip((accuracy, auroc), rows[-2:], strict=True):
        for model in ("MedMoE", "GLoRIA"):
            percents = [judged[name]["published"][0]["percent"][model] for name in mean["sets"]]
            assert row[header.index(model)].rstrip("!") == f"{np.mean(percents):.2f}"
    assert not [cell for row in rows[-2:] for cell in row[6:] if not cell]


def test_an_undefined_figure_is_in_no_mean():
    one, lost = Figure(0.5, np.full(3, 0.5), 9), Figure(float("nan"), np.full(3, np.nan), 9)
    (mean,) = _means([(load_set("rsna"), one), (load_set("acl_mri"), lost), (load_set("bach"), lost)], of=4)
    assert (mean["metric"], mean["sets"], mean["of"], mean["value"]) == ("auroc", ["rsna"], 4, 0.5)


def test_a_mean_stands_beside_those_whose_figures_of_all_its_data_sets_are_published(tmp_path: Path):
    write("rsna", tmp_path)
    write("bach", tmp_path)
    own = tmp_path / "own.json"
    source = {"what": "table", "cite": "us", "url": "https://example.org"}
    value = {"name": "own", "title": "", "source": source, "protocol": "zero_shot", "sets": ["rsna", "bach", "fives"]}
    own.write_text(json.dumps(value))
    result = run_benchmark(str(own), tmp_path, judge_of(built(), resamples=5))
    assert [(mean["metric"], mean["sets"], mean["of"]) for mean in result["means"]] == [
        ("auroc", ["rsna"], 3),
        ("accuracy", ["bach"], 3),
    ]
    header, rows = as_table(result)
    assert rows[-1][header.index("GLoRIA")] == ""  # says nothing of bach
    assert rows[-1][header.index("UniMed-CLIP")] == "?"


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


def trained_on(folder: Path, rows: list[dict[str, str]]) -> Callable[[Source], Doubts]:
    """Let a run in a folder remember a manifest's rows, and give what looks for them."""
    folder.mkdir(exist_ok=True)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["image", "text", "modality", "patient_id", "source"])
        writer.writeheader()
        writer.writerows({"text": "a", "modality": "xray", **row} for row in rows)
    remember(folder, ManifestSource(folder / "manifest.csv"))
    return lambda source: of_leaks(folder, built(), source)


def test_patients_and_images_of_training_are_looked_for_in_each_data_set(tmp_path: Path):
    folder = write("chexpert_5x200", tmp_path)
    paths = sorted((folder / "CheXpert-v1.0-small").rglob("*.jpg"))
    known = {"image": str(paths[0]), "patient_id": "patient00000", "source": "chexpert_5x200"}
    check = trained_on(tmp_path / "run", [known, {"image": str(paths[-1]), "patient_id": "x", "source": "mine"}])
    told = run_benchmark("chexpert_5x200", tmp_path, judge_of(built(), resamples=5), check=check)
    row = told["rows"][0]
    assert row["leak_check"] == "1 of 8 patients and 1 copied images of 15 images were trained on"
    assert row["audit"]["images_of_shared_patients"] == 2
    for words in ("1 of 8 judged patients (2 images) were trained on", "1 image of 15 is a copy of images"):
        assert any(words in warning for warning in row["warnings"])
        assert any(line.startswith("chexpert_5x200: ") and words in line for line in remarks(told))


def test_patient_ids_of_training_under_another_name_are_told_apart_from_shared_patients(tmp_path: Path):
    folder = write("chexpert_5x200", tmp_path)
    image(tmp_path / "run" / "own.png", 99)
    check = trained_on(tmp_path / "run", [{"image": "own.png", "patient_id": "patient00001", "source": "CheXpert"}])
    row = run_benchmark(folder.name, tmp_path, judge_of(built(), resamples=5), check=check)["rows"][0]
    assert row["audit"]["shared_patients"] == 0
    assert row["audit"]["patient_ids_of_training_under_another_name"] == 1
    assert any("1 of 8 patient ids occur in training under another data set’s name" in one for one in row["warnings"])


def test_a_model_without_a_record_says_once_that_nobody_could_look(tmp_path: Path):
    for name in ("fives", "refuge"):
        write(name, tmp_path)
    own = tmp_path / "own.json"
    source = {"what": "table", "cite": "us", "url": "https://example.org"}
    value = {"name": "own", "title": "", "source": source, "protocol": "zero_shot", "sets": ["fives", "refuge"]}
    own.write_text(json.dumps(value))
    judge = judge_of(built(), resamples=5)
    told = run_benchmark(str(own), tmp_path, judge, check=lambda source: of_leaks(tmp_path, built(), source))
    assert [line.startswith("leak check: not possible") for line in remarks(told)].count(True) == 1


def test_the_command_looks_for_images_of_training_and_tells_of_them(run: Path, phantoms: Path, tmp_path: Path):
    seen = next(row for row in read_table(phantoms / "manifest.parquet").to_pylist() if row["split"] == "train")
    folder = write("breast_us", tmp_path)
    copied = sorted((folder / "images").iterdir())[0]
    copied.write_bytes((phantoms / seen["image"]).read_bytes())
    out = tmp_path / "table.json"
    words = ("--root", tmp_path, "--resamples", 5, "--workers", 0, "--json", out)
    said = medmoe("eval", run, "--benchmark", "breast_us", *words)
    assert said.code == 0, said
    row = json.loads(out.read_text())["benchmark"]["rows"][0]
    assert row["audit"]["identical_images_of_other_patients"] == 1
    told = "breast_us: 1 image of 6 is a copy of images that were trained on, under other patients"
    assert told in " ".join(said.out.split())


def test_each_data_set_is_told_before_it_is_judged(tmp_path: Path):
    write("fives", tmp_path)
    told: list[str] = []
    run_benchmark("fives", tmp_path, knowing("fives"), say=told.append)
    assert told == ["fives"]


def test_nothing_on_disk_gives_a_table_without_figures(tmp_path: Path, judge: Judge):
    result = run_benchmark("unimed-21", tmp_path, judge)
    assert {row["status"] for row in result["rows"]} == {"not on disk"}
    assert result["means"] == []
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


def test_copies_of_the_images_that_a_probe_is_fitted_on_are_told(tmp_path: Path):
    folder = write("thyroid_us", tmp_path, each=12)
    rows = [(f"images/{100 + number}_1.jpg", ("benign", "malignant")[number % 2]) for number in range(24)]
    table(folder / "thyroid_train_fold1.csv", ("img_dir", "label"), rows)
    for number, (name, _) in enumerate(rows):
        image(folder / name, number if number < 3 else 200 + number)
    row = run_benchmark("paper-table2", tmp_path, knowing("thyroid_us"))["rows"][1]
    assert "3 of 24 images are copies of images that the probe is fitted on" in row["warnings"]


def test_a_patient_of_the_training_table_is_not_evaluated(tmp_path: Path):
    folder = write("acl_mri", tmp_path, each=8)
    (folder / "train_fold1.csv").write_bytes((folder / "test_fold1.csv").read_bytes())
    with pytest.raises(DataError, match="8 patients of the training split are evaluated too"):
        run_benchmark("paper-table2", tmp_path, knowing("acl_mri"))
