"""One backward pass that hands over the gradient of each captured output the moment autograd has it.

Guarantees: each gradient is complete when it is handed over; no weight gradient is computed on the way;
nothing is left on the graph, also after an error. May import torch and the errors. Source: the memory of a
backward pass falls as it goes only where nobody holds on to what it found (Griewank & Walther 2000).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from dp_diffusers.errors import GuaranteeError

Take = Callable[[int, Tensor], None]


def flow_back(objective: Tensor, edges: Sequence[GradientEdge], take: Take) -> None:
    """Calls `take(place, gradient of objective at edges[place])` for each edge that the objective depends on.

    The calls come in the order of the backward pass, without gradients being enabled. Raises
    `GuaranteeError` when the objective depends on none of the edges.
    """
    places: dict[Node, list[int]] = {}
    for place, edge in enumerate(edges):
        places.setdefault(edge.node, []).append(place)
    ends = [place for node, here in places.items() if not _leads_on(node, places) for place in here]
    taken = 0

    def counted(place: int, gradient: Tensor | None) -> None:
        nonlocal taken
        if gradient is not None:
            taken += 1
            take(place, gradient)

    hooks = [
        node.register_prehook(_handing_over(edges, here, counted))
        for node, here in places.items()
        if not set(here) & set(ends)
    ]
    try:
        if ends and objective.requires_grad:
            found = torch.autograd.grad(objective, [edges[place] for place in ends], allow_unused=True)
            with torch.no_grad():
                for place, gradient in zip(ends, found, strict=True):
                    counted(place, gradient)
    finally:
        for hook in hooks:
            hook.remove()
    if taken == 0:
        raise GuaranteeError(
            "the row losses do not depend on any trainable layer that ran since the last accumulate",
            hint="call accumulate once after each forward pass, with gradients enabled",
        )


def _handing_over(
    edges: Sequence[GradientEdge], here: list[int], take: Callable[[int, Tensor | None], None]
) -> Callable[[tuple[Tensor | None, ...]], None]:
    def hook(gradients: tuple[Tensor | None, ...]) -> None:
        for place in here:  # gradients are off: no graph of the backward pass is asked for
            take(place, gradients[edges[place].output_nr])

    return hook


def _leads_on(start: Node, marked: dict[Node, list[int]]) -> bool:
    """Whether a marked node lies behind this one, so that autograd has to run it. The next one is mostly
    near."""
    seen, stack = set(), [start]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node in marked:
                return True
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return False
