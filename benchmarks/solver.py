"""`solve.balance` against the sequence of convex programs (CCP) that the literature solves with a modelling package.

python benchmarks/solver.py [--matrices 5] [--solver ECOS]

The CCP is that of Nash-MTL's code: at most 20 programs over log terms, each linearised at the last weights, with CLARABEL (ECOS where it
is installed). Residual: max_t |w_t (M w)_t - 1|. Both sides take the same matrices in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import cvxpy
import numpy as np

from equipoise.solve import balance


def ccp(m: np.ndarray, solver: str) -> np.ndarray:
    """Return the weights of the CCP on M scaled by its Frobenius norm, brought back to M w = 1/w."""
    num, size = len(m), np.linalg.norm(m)
    gram = m / size
    w = cvxpy.Variable(num, nonneg=True)
    before, slope = cvxpy.Parameter(num), cvxpy.Parameter(num)
    phi = cvxpy.sum(gram @ w) + slope @ (w - before)
    constraints = [-cvxpy.log(w[t]) - cvxpy.log(gram[t] @ w) <= 0 for t in range(num)]
    problem = cvxpy.Problem(cvxpy.Minimize(phi), constraints)
    found = np.ones(num) / num
    for _ in range(20):
        before.value = found
        slope.value = 1.0 / found + gram.T @ (1.0 / (gram @ found))
        try:
            problem.solve(solver=solver, warm_start=True)
        except cvxpy.error.SolverError:
            break
        if w.value is None:
            break
        moved = np.abs(w.value - found).max()
        found = np.maximum(w.value, 1e-12)
        if moved < 1e-6:
            break
    return found / np.sqrt(size)


def residual(m: np.ndarray, w: np.ndarray) -> float:
    """Return max_t |w_t (M w)_t - 1|."""
    return float(np.abs(w * (m @ w) - 1).max())


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--matrices", type=int, default=5)
    parser.add_argument(
        "--solver",
        default="ECOS" if "ECOS" in cvxpy.installed_solvers() else "CLARABEL",
        help="ECOS, CLARABEL",
    )
    chosen = parser.parse_args()
    solver = chosen.solver
    result = {}
    print(
        f"| T | CCP with {solver} ms | balance ms | times faster | residual CCP | residual balance |\n| --- | --- | --- | --- | --- | --- |"
    )
    for num in (2, 8, 40):
        ratios, theirs, mine, worse = [], [], [], []
        for seed in range(chosen.matrices):
            u = np.random.default_rng(seed).normal(size=(num, 3 * num)) + 0.3
            m = u @ u.T
            begun = time.perf_counter()
            w = ccp(m, solver)
            long = time.perf_counter() - begun
            balance(m)  # warm
            times = []
            for _ in range(20):
                begun = time.perf_counter()
                solution = balance(m)
                times.append(time.perf_counter() - begun)
            short = statistics.median(times)
            ratios.append(long / short)
            theirs.append((long, residual(m, w)))
            mine.append((short, residual(m, solution.weights.numpy())))
            worse.append(mine[-1][1] > theirs[-1][1])
        result[num] = {
            "times_faster": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)],
            "ccp_ms": 1e3 * statistics.median(t for t, _ in theirs),
            "balance_ms": 1e3 * statistics.median(t for t, _ in mine),
            "ccp_residual": max(r for _, r in theirs),
            "balance_residual": max(r for _, r in mine),
            "larger_residual": sum(worse),
        }
        e = result[num]
        print(
            f"| {num} | {e['ccp_ms']:.1f} | {e['balance_ms']:.3f} | {e['times_faster']:.0f} ({min(ratios):.0f} to {max(ratios):.0f}) | "
            f"{e['ccp_residual']:.1e} | {e['balance_residual']:.1e} |",
            flush=True,
        )
    print(json.dumps({"solver": solver, "result": result}))


if __name__ == "__main__":
    main()
