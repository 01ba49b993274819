"""Where a training step spends its time: forward, backward passes, everything after; a plot of stacked bars.

python benchmarks/step_parts.py [--tasks 4] [--rounds 12] [--plot docs/step_parts.svg]

The model of step_time.py; all sides take turns in one process, medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from step_time import Both, Model, data

import equipoise as eq

MODES: dict[str, dict[str, object]] = {
    "PUB exact": {},
    "PUB compiled": {"compile": True},
    "PUB sketch": {"gram": "sketch"},
    "PUB every 10, weighted": {"every": 10, "between": "weighted"},
}
PARTS = ("forward", "backward", "after")
SHADES = ("#9db7d5", "#4f7cac", "#1c2f45")  # told apart in grey too


def measure(num_tasks: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return {side: {part: milliseconds}}; a cadence's parts are means, the others' medians."""
    plain = Model(num_tasks, sparse=False)
    adam = Both(plain)
    sides = {}
    for name, options in MODES.items():
        model = Model(num_tasks, sparse=False)
        sides[name] = (
            model,
            eq.Balancer(Both(model).parts, "pub", shared=model.shared_parameters(), **options),
        )  # type: ignore[arg-type]
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("plain Adam", *sides)}
    for round_ in range(rounds + 3):
        ids, labels = data(num_tasks)
        for name in list(times)[:: 1 if round_ % 2 else -1]:
            model, balancer = sides.get(name, (plain, None))
            begun = time.perf_counter()
            losses, _ = model.losses(ids, labels)
            forward = time.perf_counter()
            if balancer is None:
                adam.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
                backward = time.perf_counter()
                adam.step()
            else:
                balancer.backward(losses)
                backward = time.perf_counter()
                balancer.step()
            done = time.perf_counter()
            if round_ >= 3:
                times[name].append((forward - begun, backward - forward, done - backward))
    found = {}
    for name, each in times.items():
        centre = statistics.mean if "every" in name else statistics.median
        found[name] = {part: 1e3 * centre(t[k] for t in each) for k, part in enumerate(PARTS)}
    return found


def bars(found: dict[str, dict[str, float]], title: str) -> str:
    """Return an SVG of stacked horizontal bars."""
    longest = max(sum(parts.values()) for parts in found.values())
    left, width, row = 190, 420, 34
    height = 60 + row * len(found) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="22" font-size="15">{title}</text>',
    ]
    for k, (part, shade) in enumerate(zip(PARTS, SHADES, strict=True)):
        lines.append(f'<rect x="{left + 130 * k}" y="32" width="12" height="12" fill="{shade}"/>')
        lines.append(f'<text x="{left + 130 * k + 18}" y="43">{part}</text>')
    for at, (name, parts) in enumerate(found.items()):
        x, y = float(left), 56 + row * at
        lines.append(f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{name}</text>')
        for part, shade in zip(PARTS, SHADES, strict=True):
            long = width * parts[part] / longest
            lines.append(f'<rect x="{x:.1f}" y="{y}" width="{long:.1f}" height="24" fill="{shade}"/>')
            x += long
        lines.append(f'<text x="{x + 6:.1f}" y="{y + 17}">{sum(parts.values()):.0f} ms</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    """Print a table and one JSON object; write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    found = measure(chosen.tasks, chosen.rounds)
    print("| side | forward ms | backward ms | after ms |\n| --- | --- | --- | --- |")
    for name, parts in found.items():
        print(f"| {name} | " + " | ".join(f"{parts[part]:.0f}" for part in PARTS) + " |")
    if chosen.plot:
        chosen.plot.write_text(
            bars(found, f"One training step, T = {chosen.tasks}, 2 cores"), encoding="utf-8"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
