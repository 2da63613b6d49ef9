"""Figures within each source as Markdown tables between the marks of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from evaluations import Page, figure, write
from typer.testing import CliRunner

from medmoe.cli.report import report
from medmoe.errors import DataError
from medmoe.report import read_runs, write_markdown, write_review
from medmoe.report.by_value import rows, silent
from medmoe.report.markdown import markdown


def evaluation() -> dict[str, Any]:
    recall = figure(0.5, n=60, chance=0.1, shuffled=0.12, shuffled_low=0.05, shuffled_high=0.2, raw_pixels=0.48)
    told = {"candidates": {"ct": {"pairs": 60, "from_template": 0}, "mri": {"pairs": 60, "from_template": 0}}}
    labelled = {"candidates": {"xray": {"pairs": 40, "from_template": 40}}}
    names = ("image_to_report_recall@10", "image_to_report_recall@10/ct", "image_to_report_recall@10/mri")
    routed = {"image_router_accuracy": figure(0.9, n=120, chance=0.2, raw_pixels=0.5)}
    values = {
        "cases": {
            "images": 120,
            "patients": 30,
            "modalities": {"ct": {"images": 60, "patients": 20}, "mri": {"images": 60, "patients": 11}},
            "tasks": {"routing": routed, "zeroshot_retrieval": dict.fromkeys(names, recall), "grounding": {}},
            "details": {"zeroshot_retrieval": told, "grounding": {"skipped": "no boxes"}},
        },
        "chests": {
            "images": 40,
            "patients": 40,
            "modalities": {"xray": {"images": 40, "patients": 40}},
            "tasks": {
                "routing": {"image_router_accuracy": figure(0.2, n=12, chance=0.2)},
                "zeroshot_retrieval": {"image_to_report_recall@10/xray": recall},
                "grounding": {},
            },
            "details": {"zeroshot_retrieval": labelled, "grounding": {"skipped": "no boxes"}},
        },
    }
    return {
        "tasks": {"routing": routed, "zeroshot_retrieval": {}, "grounding": {}},
        "details": {},
        "by": {"column": "source", "fewest": 10, "values": values, "left_out": {"few": "3 images, fewer than 10"}},
        "about": {
            "command": "medmoe eval /home/me/runs/mine --data=/mnt/far/corpus/manifest.parquet",
            "images": 163,
            "patients": 71,
            "seed": 0,
            "git_commit": "0123456789abcdef",
        },
    }


def test_a_source_of_several_modalities_has_a_row_for_each_with_its_own_patients() -> None:
    found = [(row.value, row.modality, row.patients) for row in rows(evaluation(), "zeroshot_retrieval")]
    assert found == [("cases", "ct", 20), ("cases", "mri", 11)]


def test_retrieval_among_reports_made_from_labels_has_no_row_but_a_reason() -> None:
    reasons = silent(evaluation(), "zeroshot_retrieval")
    assert reasons == {"chests": "all its reports were made from labels"}
    assert silent(evaluation(), "grounding") == {"cases": "no boxes", "chests": "no boxes"}


def test_a_row_holds_value_interval_n_patients_and_every_control() -> None:
    text = markdown(evaluation())
    header = "| source | modality | n | images | patients | Image → report, R@10 | chance | shuffled | raw pixels |"
    assert header in text
    assert "| cases | ct | 60 | 60 | 20 | 0.500 [0.450, 0.550] | 0.100 | 0.120 (to 0.200) | 0.480 |" in text
    assert "| all together |  | 120 | 163 | 71 | **0.900** [0.850, 0.950] | 0.200 | 0.500 |" in text
    assert "Without a figure: cases, chests (no boxes)." in text
    assert text.count("few (3 images, fewer than 10)") == 1


def test_a_figure_of_too_few_items_is_named_and_not_printed() -> None:
    text = markdown(evaluation())
    assert "| chests |" not in text
    assert "Image router accuracy, fewer than 20 items: chests." in text
    assert "| chests |  | 12 | 40 | 40 | 0.200 [0.150, 0.250] | 0.200 |  |" in markdown(evaluation(), minimum=12)


def test_every_row_of_a_table_has_as_many_cells_as_its_header() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", markdown(evaluation()), re.M)
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_made_the_figures_is_said_without_the_folders_of_the_machine() -> None:
    last = markdown(evaluation()).strip().splitlines()[-1]
    assert last.startswith("Made by `medmoe eval runs/mine --data=corpus/manifest.parquet`; commit `0123456789ab`")
    assert "/home" not in last


def test_figures_go_between_the_marks_and_writing_twice_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- figures -->\nold\n<!-- /figures -->\n\nThe end.\n", encoding="utf-8")
    write_markdown(page, evaluation())
    first = page.read_text(encoding="utf-8")
    assert first.startswith("# Mine\n\n<!-- figures -->\n\n### Routing")
    assert first.endswith("<!-- /figures -->\n\nThe end.\n")
    assert "old" not in first
    write_markdown(page, evaluation())
    assert page.read_text(encoding="utf-8") == first
    assert markdown(evaluation()) in write_markdown(tmp_path / "new.md", evaluation()).read_text(encoding="utf-8")


def test_a_page_without_a_place_and_an_evaluation_without_a_column_are_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has 0 places for figures, allowed: one"):
        write_markdown(page, evaluation())
    with pytest.raises(DataError, match=r"--by source"):
        markdown({"tasks": {}})


def test_the_command_fills_a_page_and_refuses_two_runs_or_another_kind_of_file(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    path, page = write(tmp_path / "a.json", evaluation()), tmp_path / "page.md"
    done = CliRunner().invoke(app, [str(path), "--markdown", str(page)])
    assert done.exit_code == 0, done.output
    assert "### Zero-shot retrieval" in page.read_text(encoding="utf-8")
    two = CliRunner().invoke(app, [str(path), str(page), "--markdown", str(page)])
    assert "got 2 runs, allowed: one" in str(two.exception)
    other = CliRunner().invoke(app, [str(path), "--markdown", str(tmp_path / "page.txt")])
    assert "isn't a Markdown file" in str(other.exception)


def test_the_page_folds_each_source_away_under_its_name(tmp_path: Path) -> None:
    runs = read_runs([write(tmp_path / "a.json", evaluation())])
    page = Page(write_review(tmp_path / "page.html", runs))
    assert page.says("By source")
    assert page.says("cases: 120 images of 30 patients")
    assert page.says("few: left out, 3 images, fewer than 10.")
    assert all(kind == "a" and target.startswith("#") for kind, target in page.loads)
