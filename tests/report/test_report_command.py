from __future__ import annotations

from pathlib import Path

import pytest
import typer
from evaluations import Page, evaluation, write
from typer.testing import CliRunner, Result

from medmoe.cli.report import report
from medmoe.errors import UserError


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(report)
    return app


def call(app: typer.Typer, *words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_writes_the_page_and_says_the_warnings(app: typer.Typer, tmp_path: Path):
    paths = [write(tmp_path / "a.json", evaluation()), write(tmp_path / "b.json", evaluation(warnings=["leaky"]))]
    done = call(app, *paths, "--out", tmp_path / "page.html", "--resamples", 50, "--title", "Two models")
    assert done.exit_code == 0, done.output
    assert "warning: B · b: leaky" in done.output
    assert "a: no heatmaps (its model or data isn’t here)" in done.output
    assert "<h1>Two models</h1>" in Page(tmp_path / "page.html").source


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--heatmaps", -1], "0 or more"),
        (["--minimum", -2], "0 or more"),
        (["--resamples", 0], "1 or more"),
        (["--out", "page.pdf"], "isn't an HTML file"),
    ],
)
def test_options_that_make_no_sense_are_refused(app: typer.Typer, tmp_path: Path, options: list[object], said: str):
    done = call(app, write(tmp_path / "a.json", evaluation()), *options)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)
