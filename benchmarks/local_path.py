"""Draw cost and quality of the grid `local_path`: python benchmarks/local_path.py RESULTS… SVG."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from medmoe.report.markup import tag

METRICS = {"pointing": "pointing", "report_to_image": "report → image R@5", "zero_shot": "zero-shot balanced accuracy"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 330, 270, 44, 30, 40


def main(*results: str) -> str:
    arms: dict[str, dict] = {}
    for path in results:
        (size,) = json.loads(Path(path).read_text(encoding="utf-8"))["sizes"].values()
        arms |= size["arms"]
    panels = [
        tag(
            "g",
            *panel(title, {name: point(arm, metric) for name, arm in arms.items()}),
            transform=f"translate({i * WIDTH} 0)",
        )
        for i, (metric, title) in enumerate(METRICS.items())
    ]
    whole = WIDTH * len(panels)
    sheet = tag("rect", width=whole, height=HEIGHT, fill="#ffffff")
    about = {"viewBox": f"0 0 {whole} {HEIGHT}", "font_family": "sans-serif", "font_size": 11, "fill": "#222222"}
    return tag("svg", sheet, *panels, xmlns="http://www.w3.org/2000/svg", **about)


def point(arm: dict, metric: str) -> tuple[float, float]:
    """Give an arm's multiply-adds an image and its figure."""
    return float(arm["cost"]["multiply_adds"]), float(arm["metrics"][metric]["mean"])


def panel(title: str, points: dict[str, tuple[float, float]]) -> list[str]:
    xs, ys = zip(*points.values(), strict=True)
    low, high = min(ys) - 0.02, max(ys) + 0.02
    left, right = math.log(min(xs) / 1.2), math.log(max(xs) * 1.6)

    def x(value: float) -> float:
        return round(LEFT + (math.log(value) - left) / (right - left) * (WIDTH - LEFT - 10), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP), 1)

    parts = [tag("text", title, x=LEFT, y=18, font_weight="bold")]
    for mark in (5e6, 10e6, 20e6, 40e6):
        parts.append(tag("text", f"{mark / 1e6:g} M", x=x(mark), y=HEIGHT - 22, text_anchor="middle", fill="#666666"))
    parts.append(tag("text", "multiply-adds an image", x=WIDTH / 2, y=HEIGHT - 6, text_anchor="middle", fill="#666666"))
    for share in range(5):
        value = low + (high - low) * share / 4
        parts.append(tag("line", x1=LEFT, x2=WIDTH - 10, y1=y(value), y2=y(value), stroke="#e5e5e5"))
        parts.append(tag("text", f"{value:.2f}", x=LEFT - 6, y=y(value) + 4, text_anchor="end", fill="#666666"))
    for index, (name, (cost, value)) in enumerate(points.items()):
        colour = "#c2571a" if name == "layers_1" else "#2563a8"
        parts.append(tag("circle", cx=x(cost), cy=y(value), r=4, fill=colour))
        parts.append(tag("text", name, x=x(cost) + 6, y=y(value) + (13 if index % 2 else -5), fill=colour))
    return parts


if __name__ == "__main__":
    *given, out = sys.argv[1:]
    Path(out).write_text(main(*given), encoding="utf-8")
