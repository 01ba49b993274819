"""The declared funnel: which task comes before which, by `given:` in the schema."""

from __future__ import annotations

from equipoise.data.schema import Schema


def funnel(schema: Schema, model: str, binary: bool = False) -> dict[str, str]:
    """Return {task: the task that it is given}, earlier steps first whatever the order of labels.

    Args:
        model: name for the error.
        binary: only steps between binary tasks.

    Raises:
        ValueError: several tasks and no such step. One task alone has no funnel, and needs none.
    """
    found: dict[str, str] = {}
    waiting = [label for label in schema.labels if label.given is not None]
    while waiting:  # a funnel has no circle: the schema says so
        for label in list(waiting):
            if label.given not in {other.name for other in waiting}:
                waiting.remove(label)
                assert label.given is not None
                if not binary or {label.kind, schema.label(label.given).kind} == {"binary"}:
                    found[label.name] = label.given
    if not found and len(schema.tasks) > 1:
        raise ValueError(
            f"model {model!r} needs a declared funnel{' of binary tasks' if binary else ''}, and no label of "
            f"{', '.join(schema.tasks)} says given: the task before it; declare it (--label buy:given=click), or choose "
            "mmoe or ple"
        )
    return found
