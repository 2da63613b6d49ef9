"""`medmoe bench` prints, writes and appends what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from micro import medmoe


def test_bench_writes_every_figure_with_target_spread_and_what_made_it(tmp_path: Path):
    out, page, plot = tmp_path / "bench.json", tmp_path / "page.md", tmp_path / "bench.svg"
    page.write_text("# Results\n")
    said = medmoe(
        *("bench", "local-loss-small", "--small", "--rounds", 2, "--json", out, "--markdown", page, "--plot", plot)
    )
    assert said.code == 0, said
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert row["name"] == "local-loss-small"
    assert row["ratio"] > 0
    assert len(row["spread"]) == 2
    assert row["target"].startswith("≤ ")
    assert row["seconds"]["ours"]["median"] > 0
    assert row["peak_bytes"]["ours"] > 0
    assert found["about"]["versions"]["torch"]
    assert page.read_text().startswith("# Results\n")
    assert "| local-loss-small | time ours / plain |" in page.read_text()
    assert ElementTree.fromstring(plot.read_text()).tag.endswith("svg")


def test_bench_lists_its_items_and_refuses_an_unknown_one():
    assert "local-loss-large: " in medmoe("bench", "list").out
    said = medmoe("bench", "local-los")
    assert said.code == 2
    assert "local-loss" in said.err


def test_bench_tells_how_cost_grows(tmp_path: Path):
    out, plot = tmp_path / "scaling.json", tmp_path / "scaling.svg"
    said = medmoe("bench", "scaling", "--small", "--json", out, "--plot", plot)
    assert said.code == 0, said
    assert "expert stage: B " in said.out
    found = json.loads(out.read_text())
    assert {curve["part"] for curve in found["curves"]} == {"expert stage", "local loss"}
    assert found["about"]["versions"]["torch"]
    assert ElementTree.fromstring(plot.read_text()).tag.endswith("svg")
