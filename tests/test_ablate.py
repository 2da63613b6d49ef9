"""Two arms, one seed, a few steps on a dozen phantoms; and the statistics against slow, obvious references."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medmoe.ablation.compare import compare, figures, t_interval, t_test
from medmoe.ablation.plan import OUTCOMES, RUN, SCORES, Data, Plan, make_plan, named, read_job
from medmoe.ablation.results import summarise
from medmoe.ablation.run import _Crew, cores, cost, run_all, run_job
from medmoe.ablation.subset import fewer_patients
from medmoe.ablation.tables import markdown, page, shown
from medmoe.ablation.worker import main
from medmoe.build import load_model, tokenizer_of
from medmoe.cli.ablate import ablate
from medmoe.data.sources.phantom import PhantomSource
from medmoe.errors import ConfigError, DataError, ModelError, UserError
from medmoe.evaluate import evaluate, gather
from medmoe.metrics import balanced_accuracy
from medmoe.tasks import Context, Evidence, make_context
from medmoe.tasks.outcomes import METRICS, Outcome, folded, load_outcomes, outcomes_of, save_outcomes, shares
from medmoe.types import Sample
from small_runs import built, changed, phantoms, rows

SMALL = (
    "model.vision.image_size=32",
    "model.vision.channels=[8,8,16,16]",
    "model.text.width=16",
    "model.text.heads=2",
    "model.experts.width=8",
    "model.experts.grid=4",
    "model.embed_dim=16",
    "data.batch_size=8",
    "train.steps=3",
    "train.save_every=2",
    "train.log_every=1",
)
ARMS = ("one_expert", "separate")


def plan(root: Path, *settings: str, **options: object) -> Plan:
    given: dict[str, object] = {
        "seeds": 1,
        "arms": ARMS,
        "sizes": (12,),
        "test_patients": 12,
        "settings": (*SMALL, *settings),
        **options,
    }
    return make_plan(root, "routing", **given)  # type: ignore[arg-type]


def command(out: Path, *settings: str, **options: object) -> None:
    """Run the command on a dozen phantoms."""
    given: dict[str, object] = {
        "seeds": 1,
        "arms": ",".join(ARMS),
        "patients": "12",
        "test_patients": 12,
        "resamples": 20,
        "settings": [*SMALL, *settings],
        **options,
    }
    ablate("ROUTING", out=out, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Give a grid that has run: one arm in this process, the other in its own."""
    made = plan(tmp_path_factory.mktemp("ablation") / "out")
    run_job(made.every()[0], made.root)
    assert run_all(made.every(), made.root, workers=1) == {}
    return made


@pytest.fixture(scope="module")
def judged() -> tuple[Evidence, Context, dict[str, Outcome]]:
    model = built()
    evidence = gather(model, PhantomSource(110, size=32, seed=4), workers=0)
    context = make_context(model, tokenizer_of(model), resamples=5)
    return evidence, context, outcomes_of(evidence, context)


def outcome(values: list[float], cells: list[str], patients: list[str] | None = None) -> Outcome:
    items = tuple(str(place) for place in range(len(values)))
    return Outcome(np.array(values), np.full(len(values), 0.5), items, tuple(patients or items), tuple(cells))


# What models got right


def test_the_mean_of_the_items_is_the_figure_of_the_task(judged: tuple[Evidence, Context, dict[str, Outcome]]):
    evidence, _, found = judged
    tasks = evaluate(
        built(), evidence, ["routing", "zeroshot_retrieval", "zeroshot_classification", "grounding"], resamples=5
    )["tasks"]
    for name, (task, metric) in {
        "report_to_image": ("zeroshot_retrieval", "report_to_image_recall@5"),
        "image_to_report": ("zeroshot_retrieval", "image_to_report_recall@5"),
        "global_report_to_image": ("zeroshot_retrieval", "global_report_to_image_recall@5"),
        "zero_shot": ("zeroshot_classification", "balanced_accuracy"),
        "pointing": ("grounding", "pointing"),
        "image_router": ("routing", "image_router_accuracy"),
    }.items():
        own, theirs = found[name], tasks[task][metric]
        assert float(folded(own.values, own.cells)) == pytest.approx(theirs["value"], abs=1e-12), name
        assert len(own.values) == theirs["n"], name
        assert float(folded(own.chance, own.cells)) == pytest.approx(theirs["controls"]["chance"], abs=1e-9), name


def test_every_metric_has_items_and_no_item_twice(judged: tuple[Evidence, Context, dict[str, Outcome]]):
    assert list(judged[2]) == list(METRICS)
    for found in judged[2].values():
        assert len(set(found.items)) == len(found.items) > 0


def test_metrics_whose_data_are_absent_are_left_out():
    model = built()
    source = changed(phantoms(), report=None, labels=None, boxes=None)
    found = outcomes_of(gather(model, source, workers=0), make_context(model, tokenizer_of(model)))
    assert list(found) == ["image_router"]


def test_outcomes_come_back_from_their_file_as_they_were(tmp_path: Path):
    before = {"pointing": outcome([1.0, 0.0], ["ct", "mri"], ["a", ""]), "zero_shot": outcome([0.5], ["x|y|z"])}
    after = load_outcomes(save_outcomes(tmp_path / "o.npz", before))
    assert list(after) == list(before)
    for name in before:
        assert after[name].values.tolist() == before[name].values.tolist()
        assert (after[name].items, after[name].patients, after[name].cells) == (
            before[name].items,
            before[name].patients,
            before[name].cells,
        )


def test_folding_two_levels_averages_cells_within_their_group():
    values = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    cells = ("ct|a", "ct|a", "ct|b", "mri|c", "mri|c", "mri|c")
    assert float(folded(values, cells)) == pytest.approx(((0.5 + 0.0) / 2 + 2 / 3) / 2)


def test_folding_with_weights_equals_folding_the_repeated_items():
    rng = np.random.default_rng(0)
    values, weights = rng.random(30), rng.integers(0, 3, (4, 30)).astype(float)
    cells = tuple(f"{place % 2}|{place % 5}" for place in range(30))
    for row, got in zip(weights.astype(int), folded(values, cells, weights), strict=True):
        times = np.repeat(np.arange(30), row)
        assert got == pytest.approx(float(folded(values[times], tuple(cells[place] for place in times))))


def test_folding_classes_is_balanced_accuracy_in_every_resample():
    rng = np.random.default_rng(1)
    true, chosen, weights = rng.integers(0, 3, 40), rng.integers(0, 3, 40), rng.integers(0, 2, (6, 40)).astype(float)
    right = (true == chosen).astype(float)
    np.testing.assert_allclose(
        folded(right, tuple(map(str, true)), weights), balanced_accuracy(true, chosen, weights), atol=1e-12
    )


def test_where_nothing_has_weight_the_figure_is_undefined():
    assert np.isnan(folded(np.ones(2), ("a", "b"), np.zeros((1, 2)))).all()


# Is the difference real?


def test_seeds_that_differ_in_nothing_are_no_difference_and_those_that_differ_alike_are_not_testable():
    assert (t_test(np.zeros(3)), t_interval(np.zeros(3))) == (1.0, (0.0, 0.0))
    for alike in (np.full(3, 0.5), np.full(5, 0.1), np.array([0.3, 0.1 + 0.2, 0.3])):  # the last but for rounding
        assert all(math.isnan(one) for one in (t_test(alike), *t_interval(alike)))


def test_what_an_item_counts_is_what_its_value_moves_the_figure_by():
    cells = ("ct|a|x", "ct|a|x", "ct|b|x", "mri|c|x", "mri|c|y", "mri|c|y")
    moved = [float(folded(one, cells)) for one in np.eye(6)]
    assert shares(cells).tolist() == pytest.approx(moved)
    assert shares(cells).sum() == pytest.approx(1.0)


def test_patients_are_resampled_whole_and_in_pairs():
    cells, patients = ["ct"] * 8, list("aabbccdd")
    ours = outcome([1, 1, 1, 1, 0, 0, 1, 0], cells, patients)
    theirs = outcome([1, 1, 0, 0, 0, 0, 1, 0], cells, patients)
    found = compare([ours], [theirs], resamples=4000)
    assert (found.difference, found.n, found.patients) == (0.25, 8, 4)
    by_patient = [0.0, 1.0, 0.0, 0.0]  # every way of drawing four patients of four, all as likely
    every = np.array([np.mean(drawn) for drawn in itertools.product(by_patient, repeat=4)])
    assert found.over_patients == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.01)
    assert found.p_patients == 1.0  # one patient differs, and might as well have differed the other way


def test_p_is_that_of_exchanging_the_arms_for_whole_patients():
    cells = ("ct", "ct", "ct", "mri", "mri", "mri")
    patients = ["a", "a", "b", "c", "d", "d"]
    ours, theirs = (
        outcome([1, 1, 1, 1, 0, 1], list(cells), patients),
        outcome([0, 1, 0, 0, 0, 0], list(cells), patients),
    )
    gaps, extreme = ours.values - theirs.values, []
    for signs in itertools.product((-1, 1), repeat=4):
        flipped = gaps * [dict(zip("abcd", signs, strict=True))[patient] for patient in patients]
        extreme.append(abs(float(folded(flipped, cells))) >= abs(float(folded(gaps, cells))) - 1e-12)
    assert compare([ours], [theirs], resamples=5).p_patients == pytest.approx(np.mean(extreme))


def test_outcomes_are_averaged_over_seeds_before_patients_are_drawn():
    cells = ["ct"] * 4
    one, two = outcome([1, 0, 1, 0], cells), outcome([0, 1, 0, 1], cells)
    zero = outcome([0, 0, 0, 0], cells)
    found = compare([one, two], [zero, zero], resamples=50)
    assert found.seeds == (0.5, 0.5)
    assert found.over_patients == (0.5, 0.5)  # each item is right with one seed of two, whoever is drawn
    assert math.isnan(found.p_seeds)
    assert not found.clear  # two seeds that differ alike don't tell how seeds differ


def test_an_arm_does_not_differ_from_itself():
    own = outcome([1, 0, 1], ["a", "a", "b"])
    found = compare([own, own], [own, own], resamples=20)
    assert (found.difference, found.over_patients, found.p_seeds, found.p_patients) == (0.0, (0.0, 0.0), 1.0, 1.0)
    assert not found.clear


def test_one_seed_is_never_clear():
    assert not compare([outcome([1, 1], ["a", "a"])], [outcome([0, 0], ["a", "a"])], resamples=20).clear


def test_arms_judged_on_other_items_are_not_compared():
    with pytest.raises(DataError, match="judged on different items"):
        compare([outcome([1, 0], ["a", "a"])], [outcome([1], ["a"])], resamples=5)


# Plans


def test_a_plan_is_every_arm_with_every_seed_in_one_folder_each(tmp_path: Path):
    made = plan(tmp_path, seeds=2, train=Data("phantom:patients=12"), test=Data("phantom:patients=6"), sizes=(4, 8))
    folders = [job.folder for job in made.every()]
    assert len(set(folders)) == len(folders) == 2 * 2 * 2
    assert folders[:2] == ["patients-4/one_expert/seed-0", "patients-4/separate/seed-0"]
    assert [job.config.train.seed for job in made.every()] == [0] * 4 + [1] * 4
    assert {job.config.recipe for job in made.every()} == set(ARMS)
    assert all(read_job(tmp_path, job.folder) == job for job in made.every())


def test_arms_run_in_the_grids_order(tmp_path: Path):
    data = {"train": Data("phantom"), "test": Data("phantom"), "sizes": ()}
    assert plan(tmp_path, arms=("separate", "one_expert"), **data).arms == ARMS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("separat",)}, "did you mean 'separate'"),
        ({"recipe": "tyni"}, "unknown recipe 'tyni'"),
        ({"settings": ("train.stpes=3",)}, "did you mean 'train.steps'"),
        ({"train": Data("phantom")}, "give both"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_runs(tmp_path: Path, options, message: str):
    with pytest.raises(ConfigError) as error:
        plan(tmp_path / "out", **options)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_data_are_named_alike_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "out"
    assert named(f"phantom:patients=6::out/data/x::{tmp_path}/y", root) == f"phantom:patients=6::data/x::{tmp_path}/y"


def test_a_smaller_number_of_patients_is_part_of_a_larger_one():
    source = PhantomSource(20, size=32)
    few, more = fewer_patients(source, 5), fewer_patients(source, 12)
    keys = [{other.facts(index).key for index in range(len(other))} for other in (few, more)]
    assert keys[0] < keys[1]
    assert len({few.facts(index).patient for index in range(len(few))}) == 5
    assert few[0].key == few.facts(0).key
    assert few.content(1) == source.content(few.rows[1])


def test_patients_of_one_id_in_two_data_sets_are_two():
    class Renamed(PhantomSource):
        def facts(self, index: int) -> Sample:
            return replace(super().facts(index), patient="1", source=f"set {index % 3}")

    few = fewer_patients(Renamed(6, size=32), 2)
    assert len({few.facts(index).source for index in range(len(few))}) == 2


def test_more_patients_than_there_are_is_refused():
    with pytest.raises(DataError, match="7 patients asked for, there are 6"):
        fewer_patients(PhantomSource(6, size=32), 7)


# Running


def test_a_grid_leaves_scores_outcomes_and_a_run_for_every_arm(finished: Plan):
    for job in finished.every():
        folder = finished.root / job.folder
        scores = json.loads((folder / SCORES).read_text())
        found = load_outcomes(folder / OUTCOMES)
        assert scores["figures"] == {name: float(figures([own])[0]) for name, own in found.items()}
        assert {"pointing", "image_router"} <= set(found)
        assert (folder / RUN / "model").is_dir()
        assert len(rows(folder / RUN)) == 3


def test_what_is_done_is_not_run_again(finished: Plan):
    times = {job.folder: (finished.root / job.folder / OUTCOMES).stat().st_mtime_ns for job in finished.every()}
    said: list[str] = []
    assert run_all(finished.every(), finished.root, workers=0, tell=said.append) == {}
    assert said == ["2 of 2 runs are done already"]
    assert times == {job.folder: (finished.root / job.folder / OUTCOMES).stat().st_mtime_ns for job in finished.every()}


def test_a_stopped_training_goes_on_where_it_was(finished: Plan, tmp_path: Path):
    made = plan(tmp_path)
    job = made.every()[0]
    run_job(job, made.root)
    folder = made.root / job.folder
    before = load_outcomes(folder / OUTCOMES)
    (folder / SCORES).unlink()
    for newest in (folder / RUN).glob("checkpoints/*3"):
        newest.rename(tmp_path / "lost")
    run_job(job, made.root)
    assert [row["step"] for row in rows(folder / RUN)] == [1, 2, 3]
    after = load_outcomes(folder / OUTCOMES)
    assert all(before[name].values.tolist() == after[name].values.tolist() for name in before)


def test_every_arm_of_a_seed_starts_from_the_model_of_that_seed(finished: Plan, tmp_path: Path):
    for seed in (0, 1):
        shutil.copytree(finished.root / "patients-12" / "one_expert" / "seed-0" / RUN, tmp_path / f"base-{seed}")
    made = plan(tmp_path / "out", "train.lr=1e-9", seeds=2, init=str(tmp_path / "base-{seed}"))
    assert {(job.seed, Path(job.init or "").name) for job in made.every()} == {(0, "base-0"), (1, "base-1")}
    job = next(job for job in made.every() if job.arm == "separate" and job.seed == 1)
    assert read_job(made.root, job.folder) == job
    run_job(job, made.root)
    before, after = (load_model(path) for path in (tmp_path / "base-1", made.root / job.folder / RUN))
    for name, value in after.vision.named_parameters():  # the statistics of its norms go on
        torch.testing.assert_close(value, before.vision.get_parameter(name), atol=1e-6, rtol=0)


def test_a_model_to_start_from_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path):
    with pytest.raises(ModelError, match=r"base-0: no such folder"):
        plan(tmp_path / "out", init=str(tmp_path / "base-{seed}"))
    assert not (tmp_path / "out").exists()


def test_a_folder_begun_with_other_settings_is_refused(finished: Plan):
    with pytest.raises(ConfigError, match=r"train\.steps was 3, is 4"):
        plan(finished.root, "train.steps=4")
    assert plan(finished.root) == finished


def test_a_failing_run_is_named_and_its_arm_left_out(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(finished.root / "data", tmp_path / "data")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho first\necho no memory left\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UserError) as error:
        command(tmp_path, arms="one_expert", jobs=1)
    assert "1 of 1 runs failed (no memory left)" in str(error.value)
    assert str(tmp_path / "patients-12/one_expert/seed-0/log.txt") in str(error.value)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["unfinished"] == ["patients-12/one_expert/seed-0"]
    assert results["sizes"]["patients-12"]["arms"] == {}
    assert "Not done: patients-12/one_expert/seed-0." in (tmp_path / "table.md").read_text()
    assert "Not done: patients-12/one_expert/seed-0." in (tmp_path / "table.html").read_text()


def test_a_run_that_is_stopped_saves_first(finished: Plan, tmp_path: Path):
    shutil.copytree(finished.root / "data", tmp_path / "data")
    made = plan(tmp_path, "train.steps=1000000", arms=("one_expert",))
    job, crew = made.every()[0], _Crew(tmp_path, "cpu", 1)
    said: list[str | None] = []
    thread = threading.Thread(target=lambda: said.append(crew.run(job)))
    thread.start()
    while not list((tmp_path / job.folder / RUN).glob("checkpoints/step-*")):
        assert thread.is_alive(), said
        time.sleep(0.1)
    crew.stop()
    thread.join()
    assert said[0] is not None
    assert said[0].startswith("stopped at step")
    assert said[0].endswith("go on with --resume latest")
    assert not job.done(tmp_path)
    assert crew.run(job) == "stopped"  # nothing is begun any more


def test_the_command_leaves_tables_and_runs_nothing_twice(
    finished: Plan, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    command(finished.root, json_to=str(tmp_path / "copy.json"))
    said = capsys.readouterr().out
    assert "2 of 2 runs are done already" in said
    assert "separate" in said
    results = json.loads((finished.root / "results.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == results
    assert results["settings"] == list(SMALL)
    assert (finished.root / "table.md").read_text() == markdown(results)
    assert (finished.root / "table.html").read_text() == page(results)


def test_the_command_prints_nothing_but_json_when_asked(finished: Plan, capsys: pytest.CaptureFixture[str]):
    command(finished.root, json_to="-")
    assert json.loads(capsys.readouterr().out)["grid"] == "routing"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "--seeds: got 0"),
        ({"patients": "12,many"}, "--patients: got 'many'"),
        ({"reference": "two_experts"}, "--reference: 'two_experts' is none of the arms: one_expert, separate"),
    ],
)
def test_the_command_refuses_what_cannot_be(finished: Plan, options: dict[str, object], message: str):
    with pytest.raises(ConfigError) as error:
        command(finished.root, **options)
    assert message in str(error.value)


def test_a_worker_tells_a_users_mistake_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(str(tmp_path), "nowhere", "cpu") == 2
    assert "nowhere" in capsys.readouterr().err


def test_multiply_adds_are_those_of_the_experts_that_an_image_passes():
    made = {
        name: cost(built(*settings), 32)
        for name, settings in {
            "hard": (),
            "top_2": ("model.router.selection=top_k", "model.router.k=2"),
            "soft": ("model.router.selection=soft",),
            "one": ("model.experts.shared=1", "model.experts.special=false"),
            "oracle": ("model.router.infer=label",),
        }.items()
    }
    adds = {name: own["multiply_adds"] for name, own in made.items()}
    assert adds["hard"] == adds["one"] == adds["oracle"]
    expert = adds["top_2"] - adds["hard"]
    assert expert > 0
    assert adds["soft"] == adds["hard"] + 5 * expert
    assert made["hard"]["expert_parameters"] == 6 * made["one"]["expert_parameters"]


def test_this_process_may_use_a_core():
    assert cores() >= 1


# The tables


def test_every_arm_is_compared_with_the_one_it_names(finished: Plan):
    results = summarise(finished, resamples=20)
    arms = results["sizes"]["patients-12"]["arms"]
    assert (arms["one_expert"]["against"], arms["separate"]["against"]) == (None, "one_expert")
    own, other = (arms[name]["metrics"]["pointing"] for name in ("separate", "one_expert"))
    assert own["difference"]["mean"] == pytest.approx(own["mean"] - other["mean"])
    assert own["over_patients"][0] <= own["mean"] <= own["over_patients"][1]
    assert own["difference"]["over_seeds"] == [None, None]
    low, high = own["difference"]["over_patients"]
    assert low <= own["difference"]["mean"] <= high
    assert other["difference"] is None
    turned = summarise(finished, reference="separate", resamples=20)["sizes"]["patients-12"]["arms"]
    assert (turned["one_expert"]["against"], turned["separate"]["against"]) == ("separate", None)


def test_the_same_runs_give_the_same_results(finished: Plan):
    first, second = (json.dumps(summarise(finished, resamples=20), allow_nan=False) for _ in range(2))
    assert first == second


def test_a_reference_that_is_no_arm_is_refused(finished: Plan):
    with pytest.raises(ConfigError, match="unknown arm 'two_experts'"):
        summarise(finished, reference="two_experts", resamples=5)


def test_the_tables_hold_figures_costs_chance_and_differences(finished: Plan):
    results = summarise(finished, resamples=20)
    figures_table, differences = shown(results)
    assert [row[0] for row in figures_table.rows] == ["one_expert", "separate", "chance"]
    assert {"pointing", "image router", "vision parameters", "multiply-adds"} <= set(figures_table.heading)
    assert {row[:2] for row in differences.rows} == {("separate", "one_expert")}
    text, html = markdown(results), page(results)
    for table in (figures_table, differences):
        assert all("| " + " | ".join(row) + " |" in text for row in table.rows)
        assert all(len(row) == len(table.heading) for row in table.rows)
    assert html.count("<table>") == 2
    assert "http" not in html
    assert "<script" not in html


def test_a_dash_over_seeds_says_why(finished: Plan):
    results = summarise(finished, resamples=20)
    pointing = results["sizes"]["patients-12"]["arms"]["separate"]["metrics"]["pointing"]["difference"]
    place = shown(results)[1].heading.index("over seeds")
    for seeds, ends, expected in (
        ([0.1], [None, None], "– (one seed)"),
        ([0.1, 0.1], [None, None], "– (the same in every seed)"),
        ([0.1, 0.3], [-0.2, 0.6], "−0.200 to +0.600"),
    ):
        pointing |= {"seeds": seeds, "over_seeds": ends}
        assert expected in [row[place] for row in shown(results)[1].rows]


def test_a_curve_puts_sizes_side_by_side(finished: Plan):
    results = summarise(finished, resamples=20)
    results["sizes"] = {"patients-6": {**results["sizes"]["patients-12"], "arms": {}}, **results["sizes"]}
    curve = shown(results)[-1]
    assert curve.heading == ("arm", "against", "metric", "patients-6", "patients-12")
    assert {row[0] for row in curve.rows} == {"separate"}
    assert {row[3] for row in curve.rows} == {"–"}


def test_phantoms_are_made_once_and_train_and_test_share_no_picture(finished: Plan):
    folders = sorted(path.name for path in (finished.root / "data").iterdir())
    assert folders == ["test-12-32", "train-12-32"]
    train, test = (
        Data(f"data/{name}", "all").open(finished.root, usual="train", config=finished.every()[0].config)
        for name in ("train-12-32", "test-12-32")
    )
    assert not any(np.array_equal(train[0].image, test[place].image) for place in range(len(test)))
    assert torch.get_num_threads() == 1
