"""A diagnosis -> what it means in plain words, by the thresholds below."""

from __future__ import annotations

from equipoise.study.diagnose import Diagnosis, deviations, modules, pairs, strays

HARDLY = 0.1
"""Tasks hardly conflict when every pair's gradients have a cosine below 0 in at most this share of probes; of independent noise it is half."""
OFTEN = 0.5
"""A pair conflicts when its mean cosine is below 0 and its cosine is, in more than this share of probes."""
FAR = 0.1
"""A method's weights matter when one is this far from uniform (in shares of 1) and more than `SURE` standard errors."""
SURE = 3.0
ALIKE = 0.8
"""The angle of a balanced gradient's step is the optimizer's scaling where that of one task's own step is at least this share of it."""
LENGTHS = 5.0
"""Tasks whose gradients differ by this factor in length: the longer decides the sum."""


def advice(found: Diagnosis) -> list[str]:
    """Return the finding: whether tasks conflict, what Adam does to balance, and what to try first, with its reason."""
    every = pairs(found)
    conflicts = [p for p in every if p.gradients < 0 and p.gradients_conflict > OFTEN]
    worst = max(conflicts or every, key=lambda p: (p.gradients_conflict, -p.gradients))
    most = max(p.gradients_conflict for p in every)
    lengths = [sum(p.norms["gradients"][t] for p in found.probes) for t in range(len(found.tasks))]
    ratio = max(lengths) / max(min(lengths), 1e-30)
    longest = found.tasks[lengths.index(max(lengths))]
    moved = {
        method: [
            t for t, d in deviations(found, method).items() if abs(d.deviation) > FAR and abs(d.z) > SURE
        ]
        for method in ("nash", "pub")
    }
    name = " and ".join(worst.tasks)
    lines = []
    conflict = bool(conflicts)
    if most <= HARDLY:
        lines.append(
            f"Your tasks hardly conflict: even {name} pull apart in only {worst.gradients_conflict:.0%} of the steps looked at (mean cosine "
            f"{worst.gradients:+.2f}). Tune the learning rate of plain training first; a balancing method has little to balance."
        )
    elif conflict:
        lines.append(
            f"{name} conflict: their gradients have a mean cosine of {worst.gradients:+.2f} and oppose each other in "
            f"{worst.gradients_conflict:.0%} of the steps looked at (updates: {worst.updates_conflict:.0%})."
        )
    else:
        lines.append(
            f"Your tasks conflict now and then: {name} most, in {worst.gradients_conflict:.0%} of the steps looked at, with a mean cosine of "
            f"{worst.gradients:+.2f}. A cosine near 0 is what unrelated gradients have, and batches are noisy: this is no sign of harm."
        )
    if ratio > LENGTHS:
        lines.append(
            f"Their gradients differ in length by a factor of {ratio:.0f}: {longest} decides the sum. Fixed weights, tuned on validation, are the "
            "cheapest cure; uw or famo find weights as they train."
        )
    where = next(iter(modules(found).items()))
    lines.append(
        f"Conflict sits most in {where[0]} (mean cosine {where[1][0]:+.2f}, below 0 in {where[1][1]:.0%}), which holds "
        f"{found.modules[where[0]] / sum(found.modules.values()):.0%} of the shared parameters."
    )
    by = strays(found)
    adam = by["adam"]
    lines.append(
        f"Of a balanced gradient Adam's step leaves the worst-off task {adam['kept']:.0%} of the mean gain, where all alike was meant (of the plain "
        f"sum {adam['kept_sum']:.0%}, PUB's own step {adam['kept_pub']:.0%}; Adagrad {by['adagrad']['kept']:.0%}, SGD {by['sgd']['kept']:.0%}). The "
        f"step lies {adam['angle']:.0f} degrees from that gradient, Adam's step of one task's own gradient {adam['alone']:.0f} degrees from its: "
        + (
            "the angle is the optimizer's scaling of entries."
            if adam["alone"] >= ALIKE * adam["angle"]
            else "more than the optimizer's scaling of entries explains."
        )
    )
    lines.append(_weights(found, moved))
    lines.append(_try(conflict, most <= HARDLY, bool(moved["pub"]), bool(moved["nash"]), by["adam"]["kept"]))
    return lines


def _weights(found: Diagnosis, moved: dict[str, list[str]]) -> str:
    parts = []
    for method, label in (("pub", "PUB"), ("nash", "Nash-MTL")):
        of = deviations(found, method)
        if moved[method]:
            shown = ", ".join(f"{t} {of[t].mean:.2f}" for t in moved[method])
            parts.append(f"{label} would weigh {shown} instead of {1 / len(found.tasks):.2f}, beyond noise")
        else:
            widest = max(of, key=lambda t: abs(of[t].deviation))
            parts.append(
                f"{label} would weigh tasks nearly alike ({widest} {of[widest].mean:.2f}; noise between batches {of[widest].noise:.2f})"
            )
    return "; ".join(parts) + "."


def _try(conflict: bool, hardly: bool, pub: bool, nash: bool, kept: float) -> str:
    if hardly and not pub:
        return "Try: plain training with a tuned learning rate. Check with `equipoise compare` before you add anything."
    if conflict and kept < 0.5:
        return (
            "Try: PUB (method pub; with moments per task, pub+adatask, where tasks differ in scale), since the conflict is real and Adam would "
            "undo a balance of gradients. Compare it with tuned fixed weights: `equipoise compare`."
        )
    if conflict:
        return (
            "Try: a gradient method (nash, cagrad) or PUB against tuned fixed weights: `equipoise compare`."
        )
    if pub or nash:
        return (
            "Try: tuned fixed weights first, then PUB: weights would differ from uniform, but less because tasks conflict than because they "
            "differ in size. Compare: `equipoise compare`."
        )
    return "Try: plain training with a tuned learning rate, and fixed weights if one task matters more. Compare: `equipoise compare`."
