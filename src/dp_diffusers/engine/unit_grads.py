"""Raw gradients per owner for one pass: by hooks and layer rules (fast), or one backward pass per owner (the
oracle).

Guarantees: both give `[U, *parameter.shape]` for every parameter; no weight gradient that nobody needs is
computed; a layer whose rows are not the rows of the losses is refused by name. May import torch and the
engine's rules. Source: Goodfellow (2015, arXiv 1510.01799) for gradients from captured inputs and backprops.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from dp_diffusers.engine.backward import flow_back
from dp_diffusers.engine.checkpointing import Part, current
from dp_diffusers.engine.generic_rule import Call, by_vmap, tensors_of
from dp_diffusers.engine.graph_checks import refuse_mixing, refuse_use_outside
from dp_diffusers.engine.laid_out import lay_out
from dp_diffusers.engine.layer_checks import check_layers, owns_trainable, trainable
from dp_diffusers.engine.layer_rules import applied, linear, rule_for
from dp_diffusers.engine.owners import RowOwners
from dp_diffusers.engine.postponed import Gradient, written_out
from dp_diffusers.errors import GuaranteeError, ModelError

Gradients = list[
    Gradient | None
]  # one per parameter: [U, *shape], or None where no row reaches the parameter


class UnitGradientSource(Protocol):
    """What `PrivateGradient` needs: the parameters, and their gradients per owner after a forward pass."""

    parameters: list[nn.Parameter]
    names: list[str]

    @property
    def module(self) -> nn.Module | None:
        """The model, where someone showed it."""

    def compute(self, row_losses: Tensor, weight: Tensor, owners: RowOwners) -> Gradients:
        """Gradients of `sum(weight * row_losses)` over the rows of each owner."""

    def forget(self) -> None:
        """Drops whatever a forward pass left behind."""


@dataclass(frozen=True, kw_only=True)
class _Capture:
    """One call of one layer: what came in (detached) and where in the graph it came out.

    before: where in the graph that came from, until a first pass was looked at.
    part: of the model that will run again, whose call `number` it was; `call` has no arguments until then.
    """

    name: str
    call: Call
    edges: list[GradientEdge | None]
    versions: list[int]
    before: list[Node]
    part: Part | None = None
    number: int = 0

    def complete(self, asker: int) -> _Capture:
        """With the arguments of the call."""
        if self.part is None:
            return self
        call, versions = self.part.call(asker, self.number)
        if call.layer is not self.call.layer:
            raise GuaranteeError("a checkpointed part of the model called other layers when it ran again")
        return replace(self, call=call, versions=versions, part=None)


class _Waiting:
    """Captures until the gradients of their outputs are there; each is handed out once and let go."""

    def __init__(self, captures: list[_Capture]) -> None:
        self._captures = dict(enumerate(captures))
        self._places = [
            (which, output)
            for which, capture in self._captures.items()
            for output, edge in enumerate(capture.edges)
            if edge is not None
        ]
        self._found: dict[int, list[Tensor | None]] = {}
        edges = (self._captures[which].edges[output] for which, output in self._places)
        self.edges = [edge for edge in edges if edge is not None]

    def take(self, place: int, backprop: Tensor) -> tuple[_Capture, list[Tensor | None]] | None:
        """The gradient at `edges[place]`; gives the capture back if it was the last one that it needs."""
        which, output = self._places[place]
        edges = self._captures[which].edges
        backprops = self._found.setdefault(which, [None] * len(edges))
        backprops[output] = backprop
        missing = any(edge is not None and flow is None for edge, flow in zip(edges, backprops, strict=True))
        return None if missing else self._pop(which)

    def rest(self) -> Iterator[tuple[_Capture, list[Tensor | None]]]:
        """Those of which some output, not all, led to the losses."""
        yield from map(self._pop, list(self._found))

    def _pop(self, which: int) -> tuple[_Capture, list[Tensor | None]]:
        return self._captures.pop(which), self._found.pop(which)


class HookedUnitGradients:
    """Fast path: forward hooks on the modules that own trainable parameters, one backward pass, then layer
    rules.

    Only calls made while gradients are enabled are captured. `compute` takes all captures since the last
    `compute`; those that the losses do not depend on (a forward pass that was given up) have no gradient and
    drop out. Raises `ModelError` for layers that mix units or have no rule, and when the rows of a layer are
    not the losses' rows.
    """

    def __init__(self, module: nn.Module) -> None:
        check_layers(module)
        named = trainable(module)
        self.names, self.parameters = list(named), list(named.values())
        self._place = {id(parameter): place for place, parameter in enumerate(self.parameters)}
        self._captures: list[_Capture] = []
        self._paused = False
        self._looked_at = False
        self.module = module
        self._mixing_looked_at: set[tuple[bool, ...]] = set()
        layers = [(name, layer) for name, layer in module.named_modules() if owns_trainable(layer)]
        # a module around other trained ones uses its own tensors beside them, which is no use outside
        self._alone = {id(layer) for _, layer in layers if not _owns_below(layer)}
        around = {
            id(p) for _, layer in layers if id(layer) not in self._alone for p in layer.parameters(False)
        }
        self._watched = {name: parameter for name, parameter in named.items() if id(parameter) not in around}
        handles = [
            layer.register_forward_hook(_hook(weakref.ref(self), name), with_kwargs=True, prepend=True)
            for name, layer in layers
        ]
        handles += [
            layer.register_forward_pre_hook(lay_out) for _, layer in layers if rule_for(layer) is linear
        ]
        self._finalizer = weakref.finalize(self, _remove, handles)

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._finalizer()
        self.forget()

    def forget(self) -> None:
        """Drops the captures of a forward pass that will not be accumulated."""
        self._captures = []

    def compute(self, row_losses: Tensor, weight: Tensor, owners: RowOwners) -> Gradients:
        """Gradients per owner of `sum(weight * row_losses)`; the captures are gone afterwards, also after an
        error."""
        self._paused = True
        try:
            self._look_at(row_losses)
            waiting, self._captures = _Waiting(self._captures), []
            with torch.autocast(row_losses.device.type, enabled=False):
                return self._apply_rules((weight * row_losses).sum(), waiting, owners)
        finally:
            self._captures, self._paused = [], False

    def _look_at(self, row_losses: Tensor) -> None:
        """At the first pass: a walk over the graph of each would cost a training some percent.

        For rows that mix, in each mode (`train` or `eval`, of any part) that the model has not been seen in.
        """
        several = row_losses.numel() > 1  # one row alone mixes with none
        modes = tuple(part.training for part in self.module.modules())
        if modes not in self._mixing_looked_at:
            refuse_mixing(row_losses)
            self._mixing_looked_at |= {modes} if several else set()
        if self._looked_at:
            return
        calls: dict[Node, list[Node]] = {}
        for capture in self._captures:
            for edge in capture.edges if id(capture.call.layer) in self._alone else ():
                if edge is not None:
                    calls.setdefault(edge.node, []).extend(capture.before)
        refuse_use_outside(row_losses, calls, self._watched)
        self._looked_at = several

    def _apply_rules(self, objective: Tensor, waiting: _Waiting, owners: RowOwners) -> Gradients:
        """Each layer's rule runs as soon as its backprop is known, and its input is let go: memory peaks
        where that of an ordinary backward pass does."""
        totals: Gradients = [None] * len(self.parameters)

        def take(place: int, backprop: Tensor) -> None:
            if (ready := waiting.take(place, backprop)) is not None:
                self._add(totals, *ready, owners)

        flow_back(objective, waiting.edges, take)
        with torch.no_grad():
            for capture, backprops in waiting.rest():
                self._add(totals, capture, backprops, owners)
        return totals

    def _add(
        self, totals: Gradients, capture: _Capture, backprops: list[Tensor | None], owners: RowOwners
    ) -> None:
        """A layer used several times, and a parameter shared by several layers, get the sum of all uses."""
        capture = capture.complete(id(self))
        _check_rows(capture, backprops, owners)
        layer = capture.call.layer
        rule, first = rule_for(layer), capture.call.first_input
        if rule is None or first is None or backprops[0] is None:
            found = by_vmap(capture.name, capture.call, backprops, owners)
        else:
            found = applied(rule, layer, first, backprops[0], owners)
        for name, gradient in found.items():
            place = self._place[id(layer._parameters[name])]
            so_far = totals[place]
            totals[place] = gradient if so_far is None else written_out(so_far) + written_out(gradient)

    def capture(
        self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Called by the hooks: remembers one call. Outputs are kept as graph edges, so in-place changes do no
        harm."""
        outputs, part = tensors_of(out), current()
        if not torch.is_grad_enabled() or not any(output.requires_grad for output in outputs):
            return
        if part is not None and part.again:
            call = Call.of(layer, args, kwargs)
            part.tell(id(self), (call, _versions(call)))
        elif not self._paused:
            call = Call.of(layer, args, kwargs) if part is None else Call.of(layer, (), {})
            edges = [get_gradient_edge(output) if output.requires_grad else None for output in outputs]
            number = 0 if part is None else part.number(id(self))
            self._captures.append(
                _Capture(
                    name=name or "the model",
                    call=call,
                    edges=edges,
                    versions=_versions(call),
                    before=[] if self._looked_at else _nodes((*args, *kwargs.values())),
                    part=part,
                    number=number,
                )
            )


class ReferenceUnitGradients:
    """Exact path for any iterable of parameters: one backward pass per owner. Slow, and the oracle of the
    fast path.

    A non-finite gradient reaches the other owners' gradients through plain weight gradients (0 * NaN), which
    cannot be undone here: it raises `GuaranteeError`. Pass the module to have such an owner masked instead.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.names = [f"parameter {place}" for place in range(len(self.parameters))]
        self.module = None

    def compute(self, row_losses: Tensor, weight: Tensor, owners: RowOwners) -> Gradients:
        """Gradients per owner of `sum(weight * row_losses)`, by `torch.autograd.grad`.

        Nobody showed the model, so its graph is looked at: in each pass, which is little beside this one.
        """
        refuse_mixing(row_losses)
        rows: list[tuple[Tensor | None, ...]] = []
        for owner in range(owners.count):
            mine = owners.index == owner
            objective = (weight[mine] * row_losses[mine]).sum()
            rows.append(torch.autograd.grad(objective, self.parameters, retain_graph=True, allow_unused=True))
        gradients: list[Tensor | None] = [
            _stacked(parameter, found) for parameter, found in zip(self.parameters, zip(*rows))
        ]
        if not all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients):
            raise GuaranteeError(
                "a non-finite gradient cannot be kept apart from other owners when only parameters are given",
                hint="pass the nn.Module instead of its parameters",
            )
        return list(gradients)

    def forget(self) -> None:
        """Nothing is kept between calls."""


def _owns_below(layer: nn.Module) -> bool:
    return any(owns_trainable(each) for each in layer.modules() if each is not layer)


def _nodes(values: Iterable[Any]) -> list[Node]:
    return [value.grad_fn for value in values if isinstance(value, Tensor) and value.grad_fn is not None]


def _hook(source: weakref.ref[HookedUnitGradients], name: str) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        owner = source()
        if owner is not None:
            owner.capture(name, layer, args, kwargs, output)

    return hook


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _versions(call: Call) -> list[int]:
    return [tensor._version for tensor in call.tensors]


def _check_rows(capture: _Capture, backprops: list[Tensor | None], owners: RowOwners) -> None:
    if _versions(capture.call) != capture.versions:
        raise ModelError(
            f"layer {capture.name}: its input was changed in place after the call",
            hint="use the version of the following operation that is not in place",
        )
    for tensor in (capture.call.first_input, *backprops):
        if tensor is not None and (tensor.ndim == 0 or tensor.shape[0] != owners.rows):
            raise ModelError(
                # how many rows there are is for nobody to know
                f"layer {capture.name}: expected one row per loss as its first dimension",
                hint="every trainable layer must see one row per loss as its first dimension",
            )


def _stacked(parameter: nn.Parameter, found: tuple[Tensor | None, ...]) -> Tensor | None:
    if all(gradient is None for gradient in found):
        return None
    return torch.stack([torch.zeros_like(parameter) if gradient is None else gradient for gradient in found])
