"""Likes against clicks for every side of two tables of docs/results.md, and the front among the models that are shared.

python benchmarks/front.py [--results docs/results.md] [--write docs/front.svg]

Left the pooled test days of KuaiRand (`no_task_pays.py`), right the simulated log `independent` (`results.py`, SharedBottom). Bars are one standard
deviation over seeds each way. A side is on the front when no other shared side is better on one of the two and no worse on the other. Needs matplotlib
(`pip install 'equipoise[plot]'`).
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from equipoise.config import write_text

CELL = re.compile(r"^\s*([\d.]+) \(([\d.]+)\)\s*$")
PANELS = (
    (
        "KuaiRand, test days 05-04 to 05-06",
        "### Is there a setting under which no task",
        "is_click",
        "is_like",
    ),
    ("Simulated, independent tasks", "<!-- independent/shared_bottom -->", "click soft AUC", "like soft AUC"),
)
OUTSIDE = ("clippy",)
"""Named in the corner: a side so far away that it would leave the others no room."""


class Point(NamedTuple):
    """A side's mean and standard deviation over seeds of the two tasks."""

    name: str
    click: float
    click_sd: float
    like: float
    like_sd: float

    @property
    def shared(self) -> bool:
        return not self.name.startswith("single")


def read(text: str, after: str, click: str, like: str) -> list[Point]:
    """Return the rows of the first table after a mark that has both columns, cells written "mean (sd)".

    A table with a column "metric" has a row for each, below the side's first, and columns named by task alone: "click soft AUC" is
    then the column click in the rows of soft AUC.

    Raises:
        SystemExit: there is no such table.
    """
    lines = text.partition(after)[2].splitlines()
    for at, line in enumerate(lines):
        if not line.startswith("|"):
            continue
        head = [cell.strip().lower() for cell in line.strip("|").split("|")]
        wanted, metric = [click.lower(), like.lower()], ""
        if "metric" in head:
            wanted, metric = [name.partition(" ")[0] for name in wanted], wanted[0].partition(" ")[2]
        if not all(name in head for name in wanted):
            continue
        points, side = [], ""
        for row in lines[at + 2 :]:
            if not row.startswith("|"):
                break
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            side = cells[0] or side
            found = [CELL.match(cells[head.index(name)]) for name in wanted]
            if all(found) and (not metric or cells[head.index("metric")].lower() == metric):
                values = [float(x) for match in found if match for x in match.groups()]
                points.append(Point(side, *values))
        return points
    raise SystemExit(
        f"the file with results must have a table with {click} and {like} after {after!r}, found none"
    )


def front(points: list[Point]) -> list[Point]:
    """Return the shared sides that no other shared side dominates, by clicks."""
    among = [p for p in points if p.shared]
    best = [
        p
        for p in among
        if not any(
            q.click >= p.click and q.like >= p.like and (q.click, q.like) != (p.click, p.like) for q in among
        )
    ]
    return sorted(best, key=lambda p: p.click)


def draw(panels: dict[str, list[Point]]) -> str:
    """Return the figure as SVG: sides are numbered, the front filled and joined, single task a square."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        _panel(axis, [p for p in points if p.name not in OUTSIDE], [p for p in points if p.name in OUTSIDE])
        axis.set_title(title)
        kind = "soft AUC" if title.startswith("Simulated") else "AUC"
        axis.set_xlabel(f"click, test {kind}")
        axis.set_ylabel(f"like, test {kind}")
    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "front"}):
        FigureCanvasSVG(figure).print_figure(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode()


def _panel(axis: Any, points: list[Point], outside: list[Point]) -> None:
    best = front(points)
    axis.plot([p.click for p in best], [p.like for p in best], "--", color="black", linewidth=1, zorder=1)
    for number, p in enumerate(points, 1):
        mark = "o" if p.shared else "s"
        fill = "black" if p in best else "white"
        axis.errorbar(p.click, p.like, p.like_sd, p.click_sd, color="0.8", linewidth=1, zorder=0)
        axis.plot(
            p.click, p.like, mark, color="black", markerfacecolor=fill, label=f"{number}  {p.name}", zorder=2
        )
        beside, side = ((5, 4), "left") if p.shared else ((-5, 4), "right")
        axis.annotate(str(number), (p.click, p.like), beside, textcoords="offset points", fontsize=9, ha=side)
    for p in outside:
        axis.plot([], [], " ", label=f"outside: {p.name}, {p.click:.3f} / {p.like:.3f}")
    axis.grid(color="0.92")
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, fontsize=8, handlelength=1.2, frameon=False
    )


def main() -> None:
    """Read both tables, print each front, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--write", type=Path, default=Path("docs/front.svg"))
    given = parser.parse_args()
    text = given.results.read_text(encoding="utf-8")
    panels = {title: read(text, *where) for title, *where in PANELS}
    for title, points in panels.items():
        print(f"{title}: {'; '.join(f'{p.name} {p.click:.4f} / {p.like:.4f}' for p in front(points))}")
    write_text(given.write, draw(panels))


if __name__ == "__main__":
    main()
