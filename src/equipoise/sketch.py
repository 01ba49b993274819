"""gram="sketch": which few shared parameters stand for all of them when the Gram matrix is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

SMALL = 0.25
"""A tensor of up to this share of its layer's largest one counts as a bias or a normalisation parameter."""


def nearest(losses: Iterable[Tensor], shared: Mapping[int, Tensor]) -> list[int]:
    """Return positions of the shared parameters that a sketch looks at: of the last shared block, the small ones.

    Those that lie nearest to the losses by the longest path through the autograd graph (so that a gate which reads the embeddings
    does not make them near), if they are biases or normalisation parameters: small beside what lies up to two nodes further, a layer's
    weight. Else one of the nearest tensors. A bias under a normalisation is not taken: its gradient is rounding.

    Args:
        losses: one a task, with graphs.
        shared: {position: parameter}.
    """
    distance: dict[int, int] = {}
    by_id = {id(p): position for position, p in shared.items()}
    for loss in losses:
        for leaf, far in _distances(loss.grad_fn).items():
            if leaf in by_id:
                distance[by_id[leaf]] = max(far, distance.get(by_id[leaf], 0))
    first = min(distance.values())
    largest = max(shared[position].numel() for position, far in distance.items() if far <= first + 2)
    near = sorted(position for position, far in distance.items() if far == first)
    return [position for position in near if shared[position].numel() <= SMALL * largest] or near[:1]


def _distances(root: Any) -> dict[int, int]:
    """Return {id of a leaf tensor: longest path from the root}, over the autograd graph in topological order."""
    indegree: dict[Any, int] = {root: 0}
    order: list[Any] = [root]
    while order:
        for node, _ in order.pop().next_functions:
            if node is None:
                continue
            if node not in indegree:
                indegree[node] = 0
                order.append(node)
            indegree[node] += 1
    longest: dict[Any, int] = {root: 0}
    ready, found = [root], {}
    while ready:
        node = ready.pop()
        if hasattr(node, "variable"):
            found[id(node.variable)] = longest[node]
        for after, _ in node.next_functions:
            if after is None:
                continue
            longest[after] = max(longest.get(after, 0), longest[node] + 1)
            indegree[after] -= 1
            if indegree[after] == 0:
                ready.append(after)
    return found


def check(gram: Any) -> tuple[str, Sequence[Tensor]]:
    """Return ("exact" or "sketch", the user's parameters for the sketch, () for the default ones).

    Raises:
        ValueError: neither of the two words nor parameters.
    """
    if isinstance(gram, str):
        if gram not in ("exact", "sketch"):
            raise ValueError(
                f"gram must be one of 'exact', 'sketch', or the parameters to sketch with, got {gram!r}"
            )
        return gram, ()
    chosen = [gram] if isinstance(gram, Tensor) else list(gram)
    if not chosen or not all(isinstance(p, Tensor) for p in chosen):
        raise ValueError(
            f"gram must be one of 'exact', 'sketch', or the parameters to sketch with, got {gram!r}"
        )
    return "sketch", chosen
