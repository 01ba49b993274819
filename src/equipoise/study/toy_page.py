"""The paths of `equipoise toy` -> PNG, SVG and JSON in a folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from equipoise.config import write_text
from equipoise.study.landscape import OPTIMUM, STARTS, front
from equipoise.study.toy import NAMES, Paths

TITLES = {
    "sum": "plain sum",
    "cagrad": "CAGrad",
    "imtl_g": "IMTL-G",
    "nash": "Nash-MTL",
    "famo": "FAMO",
    "pub": "PUB, scale raw",
    "pub_convex": "PUB, scale convex",
}
LOOKS = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (6, 1, 1, 1)), "v"))
"""Dash pattern and mark of each start, so that the figure reads in grey."""


def needs_matplotlib() -> None:
    """Raise ImportError with the extra's name unless matplotlib is there; asked before the long run."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("equipoise toy draws with matplotlib: pip install 'equipoise[plot]'") from error


def write(paths: Paths, out: Path) -> dict[str, Path]:
    """Write toy.png, toy.svg and toy.json into `out` and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"steps": paths.steps[-1], "lr": paths.lr, "final": paths.table(), "reached": paths.reached()}
    write_text(out / "toy.json", json.dumps(content, indent=1) + "\n")
    made = {}
    for kind, data in draw(paths).items():
        file = out / f"toy.{kind}"
        beside = out / f".toy.{kind}.new"
        beside.write_bytes(data)
        beside.replace(file)
        made[kind] = file
    return made


def draw(paths: Paths) -> dict[str, bytes]:
    """Return the figure as {"png", "svg"}: a panel a method, loss 1 against loss 2, the Pareto front, a line a start."""
    needs_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True).flatten()
    best = front().numpy()
    for panel, name in zip(panels, NAMES, strict=False):
        _panel(panel, paths, NAMES.index(name), best)
        panel.set_title(f"{TITLES[name]}: {paths.reached()[name]} of {len(STARTS)} at the optimum")
    legend, last = panels[len(NAMES) :][0], panels[len(NAMES) - 1]
    handles, labels = last.get_legend_handles_labels()
    legend.axis("off")
    legend.legend(handles, labels, loc="center", title=f"{paths.steps[-1]:,} steps of Adam, lr {paths.lr:g}")
    for panel in panels[4 : len(NAMES)]:
        panel.set_xlabel("loss 1")
    for panel in panels[::4]:
        panel.set_ylabel("loss 2")
    made = {}
    for kind, canvas in (("png", FigureCanvasAgg), ("svg", FigureCanvasSVG)):
        stream = io.BytesIO()
        canvas(figure).print_figure(
            stream, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None
        )
        made[kind] = stream.getvalue()
    return made


def _panel(panel: Any, paths: Paths, method: int, best: Any) -> None:
    """Draw one method's five paths."""
    panel.plot(*best.T, color="0.75", linewidth=6, solid_capstyle="round", label="Pareto front", zorder=1)
    for at, (start, (dash, mark)) in enumerate(zip(STARTS, LOOKS, strict=True)):
        l1, l2 = paths.losses[:, method, at].numpy().T
        shade = str(0.1 + 0.12 * at)
        panel.plot(l1, l2, linestyle=dash, color=shade, linewidth=1.2, zorder=2)
        panel.plot(
            l1[0], l2[0], marker=mark, markerfacecolor="white", markeredgecolor=shade, linestyle="", zorder=3
        )
        label = f"from ({start[0]:g}, {start[1]:g}): open at the start, filled at the end"
        panel.plot(
            l1[-1], l2[-1], marker=mark, color=shade, markersize=7, linestyle="", label=label, zorder=4
        )
    panel.plot(
        *OPTIMUM, marker="*", markersize=14, color="black", linestyle="", label="symmetric optimum", zorder=5
    )
    panel.grid(color="0.9")
