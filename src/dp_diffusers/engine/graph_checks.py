"""What the graph behind the losses shows of a model that nobody handed over.

Guarantees: batch normalisation of several rows in training mode is refused wherever a gradient passes through
it, also where no module says so; a trained tensor that is used beside the layer that owns it is refused by
name. May import torch and the errors. Source: the nodes that autograd records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.autograd.graph import Node

from dp_diffusers.errors import ModelError


def nodes_behind(losses: Tensor, jumps: Mapping[Node, Sequence[Node]] | None = None) -> Iterator[Node]:
    """Every node of the graph that a backward pass from the losses may reach, each once.

    jumps: what follows some nodes here, instead of what does in the graph.
    """
    seen: set[Node] = set()
    stack = [losses.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if jumps is not None and node in jumps:
            stack.extend(jumps[node])
        else:
            stack.extend(following for following, _ in node.next_functions)


def refuse_mixing(losses: Tensor) -> None:
    """Raises `ModelError` where batch normalisation in training mode carries rows into each other's losses.

    What lies before the first trained parameter has no graph, and arithmetic over the batch has no name in
    it: neither is seen here.
    """
    if any(_mixes(node) for node in nodes_behind(losses)):
        raise ModelError(
            "batch normalisation in training mode mixes the units of a batch",
            hint="replace it with nn.GroupNorm",
        )


def refuse_use_outside(
    losses: Tensor, calls: Mapping[Node, Sequence[Node]], named: Mapping[str, nn.Parameter]
) -> None:
    """Raises `ModelError` where the losses reach a tensor of `named` by another way than its layer's calls.

    calls: from the nodes where layers gave their outputs to those that their inputs came from.
    """
    reached = {id(getattr(node, "variable", None)) for node in nodes_behind(losses, calls)}
    outside = [name for name, parameter in named.items() if id(parameter) in reached]
    if outside:
        raise ModelError(
            f"{', '.join(outside)}: used outside the module that owns them, where no rule reaches",
            hint="call the module, and let its loss come from what it returns (a penalty on weights is the "
            "optimizer's: weight_decay); or freeze them",
        )


def _mixes(node: Node) -> bool:
    """Instance normalisation is the same operation over one row, and may stay unless it keeps averages."""
    if "BatchNorm" not in node.name() or not getattr(node, "_saved_training", True):
        return False
    averages = getattr(node, "_saved_running_mean", None) is not None
    return averages or node._input_metadata[0].shape[0] > 1  # of what flows back, so of the output
