from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medmoe.report.flows import flows, usage
from medmoe.report.plots import Line, chart
from medmoe.report.runs import Run


def routed(**found: Any) -> Run:
    return Run("run", Path("run.json"), details={"routing": found})


def test_points_lie_where_the_axes_say():
    drawn = chart("ROC", [Line("all", [(0.0, 0.0), (1.0, 1.0)])], x="x", y="y", unit=True)
    assert 'points="46,230 348,10"' in drawn


def test_a_line_with_intervals_has_a_band():
    drawn = chart("noise", [Line("all", [(0, 0.8, 0.7, 0.9), (5, 0.4, 0.3, 0.5)])], x="level", y="auroc")
    assert drawn.count('class="band s0"') == 1
    assert drawn.count('class="dot s0"') == 2


def test_a_dot_is_larger_the_more_items_it_stands_for():
    drawn = chart("r", [Line("all", [(0.1, 0.1, 4), (0.9, 0.9, 100)], dots=True)], x="x", y="y", unit=True)
    small, large = (float(found) for found in re.findall(r'<circle [^>]*r="([\d.]+)"', drawn))
    assert small < large


def test_lines_beyond_the_colours_are_counted():
    lines = [Line(str(place), [(0, place), (1, place)]) for place in range(11)]
    assert "3 more aren’t drawn" in chart("many", lines, x="x", y="y")


def test_many_points_are_thinned_and_the_last_kept():
    line = Line("all", [(place / 5000, 0.5) for place in range(5001)])
    drawn = chart("ROC", [line], x="x", y="y", unit=True)
    assert len(re.findall(r"[\d.]+,[\d.]+", drawn)) < 500
    assert "348,120" in drawn


def test_a_chart_without_lines_is_empty_but_there():
    assert "<svg" in chart("none", [], x="x", y="y")


def test_flows_are_as_wide_as_their_counts():
    run = routed(
        modalities=["xray", "ct"], image={"confusion": [[30, 10], [0, 40]]}, text={"confusion": [[40, 0], [0, 40]]}
    )
    drawn = flows(run)
    assert drawn is not None
    assert sorted(re.findall(r"<path><title>|<title>(\d+)</title>", drawn)) == ["10", "30", "40", "40", "40"]
    assert drawn.count("flow wrong") == 1
    assert "xray 30" in drawn  # what the pixels send there
    assert "by the report → true modality → by the pixels" in drawn


def test_joint_counts_lead_from_report_to_pixels():
    drawn = flows(routed(modalities=["xray", "ct"], image_by_text=[[3, 1], [0, 4]]))
    assert drawn is not None
    assert "by the report → by the pixels" in drawn
    assert re.findall(r">xray (\d)<", drawn) == ["3", "4"]  # by the report, by the pixels


def test_experts_of_each_finding_are_counted():
    own = {"images": 5, "experts": [4, 1], "probability": 0.75}
    table = usage(routed(modalities=["xray", "ct"], findings={"xray/nodule": own, "odd": 3, "short": {"experts": [1]}}))
    assert table is not None
    assert "<td>4</td><td>1</td><td>0.750</td>" in table
    assert "odd" not in table
    assert usage(routed(modalities=["xray"])) is None


def test_without_reports_flows_start_at_the_true_modality():
    drawn = flows(routed(modalities=["xray", "ct"], image={"confusion": [[0, 0], [0, 0]]}))
    assert drawn is not None
    assert "true modality → by the pixels" in drawn


def test_there_is_no_flow_without_a_confusion_that_fits():
    assert flows(routed()) is None
    assert flows(routed(modalities=["xray"], image={"confusion": [[1, 2]]})) is None
    assert flows(routed(modalities=["xray"], image={"confusion": [3]})) is None
