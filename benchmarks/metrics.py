"""Time and error of AUC and GAUC: exact, streaming, scikit-learn. All sides in one process, medians of ratios.

python benchmarks/metrics.py [--rows 5000000] [--groups 200000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

import equipoise as eq
from equipoise.metrics import auc, gauc


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """Return (seconds, value)."""
    begun = time.perf_counter()
    value = function()
    return time.perf_counter() - begun, value


def streamed(y: np.ndarray, s: np.ndarray) -> float:
    """Return the streaming AUC of one update."""
    state = eq.StreamingAUC()
    state.update(y, s)
    return state.value()


def loop(y: np.ndarray, s: np.ndarray, g: np.ndarray) -> float:
    """Return the impression-weighted AUC by one scikit-learn call a group that has both classes."""
    order = np.argsort(g, kind="stable")
    y, s, g = y[order], s[order], g[order]
    bounds = np.flatnonzero(np.diff(g)) + 1
    total = weight = 0.0
    for a, b in zip([0, *bounds], [*bounds, len(g)], strict=True):
        if 0 < y[a:b].sum() < b - a:
            total += roc_auc_score(y[a:b], s[a:b]) * (b - a)
            weight += b - a
    return total / weight


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--groups", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    result = {}
    for rate in (0.05, 0.0005, 0.00017):
        eta = rng.normal(size=chosen.rows) * 1.5 + np.log(rate)
        y = (rng.random(chosen.rows) < 1 / (1 + np.exp(-eta))).astype(np.int8)
        s = (eta + rng.normal(size=chosen.rows)).astype(np.float32)
        exact, stream, values = [], [], {}
        for _ in range(chosen.repeats):
            reference, values["scikit-learn"] = timed(lambda y=y, s=s: float(roc_auc_score(y, s)))
            mine, values["exact"] = timed(lambda y=y, s=s: auc(y, s))
            fast, values["streaming"] = timed(lambda y=y, s=s: streamed(y, s))
            exact.append(reference / mine)
            stream.append(reference / fast)
        result[f"auc at {y.mean():.4%} positives"] = {
            "exact_times_faster": statistics.median(exact),
            "streaming_times_faster": statistics.median(stream),
            "exact_error": abs(values["exact"] - values["scikit-learn"]),
            "streaming_error": abs(values["streaming"] - values["scikit-learn"]),
            "spread_exact": [min(exact), max(exact)],
            "spread_streaming": [min(stream), max(stream)],
        }
    g = rng.integers(chosen.groups, size=chosen.rows)
    y, s = (rng.random(chosen.rows) < 0.1).astype(np.int8), rng.normal(size=chosen.rows)
    tenth = g < chosen.groups // 10
    ratios = []
    for _ in range(max(1, chosen.repeats - 2)):
        whole, _ = timed(lambda: gauc(y, s, g))
        part, looped = timed(lambda: loop(y[tenth], s[tenth], g[tenth]))
        ratios.append(whole / part)
    result[f"gauc over {chosen.groups:,} groups"] = {
        "time_over_loop_on_a_tenth": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "error": abs(gauc(y[tenth], s[tenth], g[tenth]) - looped),
    }
    for name, entry in result.items():
        print(
            f"| {name} | "
            + " | ".join(f"{k} {v if isinstance(v, list) else format(v, '.3g')}" for k, v in entry.items())
            + " |"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
