"""Gates on a model by forward hooks: attaching changes no module, detaching leaves no trace."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from metas_peft.backbones import Layout
from metas_peft.backbones.adapters import is_adapted
from metas_peft.backbones.hooks import GATED, argument, gate_layer, gate_presence, gate_ranks, gate_units
from metas_peft.core.errors import UsageError
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.gates.decide import expected_subnet
from metas_peft.gates.gate_set import GRANULARITIES, GateSet, GateValues, gate_shapes, network_of

_PASS = "_metas_gates"  # on the hidden states that enter a layer: the gates of the pass they belong to


def gate_values(subnet: Subnet, shape: BackboneShape) -> GateValues:
    """Zeros and ones that mask a model to a subnet."""
    tensors = {name: torch.zeros(size) for name, size in gate_shapes(shape).items()}
    for i, plan in enumerate(subnet.layers):
        tensors["layer"][i] = float(plan.is_kept)
        tensors["attention"][i] = float(plan.attention)
        tensors["ffn"][i] = float(plan.ffn)
        tensors["head"][i, list(plan.heads)] = 1.0
        tensors["ffn_block"][i, list(plan.ffn_blocks)] = 1.0
        for m, site in enumerate(shape.sites):
            kept = range(site.rank) if plan.ranks is None else plan.ranks[m]
            tensors["rank"][i, m, list(kept)] = 1.0
    return GateValues(**tensors)


class Attachment:
    """Gates that are on a model; a context manager that takes them off.

    Args:
        network: The model that they are on.
        handles: Handles of the hooks.
        gates: The gates, to let go of at the end; None if there is nothing to let go of.
    """

    def __init__(self, network: Any, handles: list[Any], gates: GateSet | None = None) -> None:
        self._model, self._handles, self._gates = network.base_model, handles, gates
        _count(self._model, 1)

    def detach(self) -> None:
        """Take the gates off: the model is what it was. Calling it again does nothing."""
        if self._handles:
            _count(self._model, -1)
        while self._handles:
            self._handles.pop().remove()
        if self._gates is not None:
            # Training that failed in its warm-up holds them open no longer.
            self._gates.are_held_open, self._gates = False, None

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(self, *_: Any) -> None:
        self.detach()


def attach(gates: GateSet, model: Any, *, decide: Callable[[GateSet], Subnet] = expected_subnet) -> Attachment:
    """Put gates on a model, until `detach` or the end of a `with` block.

    A pass in training mode runs under fresh samples (under open gates while `gates.are_held_open`), one in evaluation
    mode under the zeros and ones of what is decided, in a warm-up too: what is evaluated is always what the gates would
    be cut to.

    Args:
        gates: The gates.
        model: The PEFT model, or the `transformers` model that they were made for.
        decide: What they would be cut to; called in evaluation after the gates have changed.
    """
    network = network_of(model)
    decided: list[tuple[tuple[int, ...], GateValues]] = []

    def draw() -> GateValues | None:
        if network.base_model.training:
            return None if gates.are_held_open else gates.sample()
        version = tuple(a._version for a in gates.log_alpha.values())
        if not decided or decided[0][0] != version:
            decided[:] = [(version, gate_values(decide(gates), gates.shape))]
        return decided[0][1]

    # A decision may also take out whole what is gated by parts alone, such as a sub-layer whose heads have all closed.
    decides = () if decide is expected_subnet else GRANULARITIES
    return Attachment(network, _install(network, gates.shape, draw, gates.granularities, decides), gates)


@contextlib.contextmanager
def gated(
    model: Any,
    shape: BackboneShape,
    draw: Callable[[], GateValues | None],
    granularities: Iterable[str] = GRANULARITIES,
) -> Iterator[None]:
    """Run a model under gate values of one's own for the length of a block.

    Args:
        model: `transformers` model, with or without LoRA modules.
        shape: Its shape.
        draw: Called once at the start of every pass; gives that pass's gate values, or None where all are open. No
            slope reaches a value of exactly 0, nor a block's of exactly 1: hard-concrete samples are clipped there.
        granularities: Those that `draw` sets; the others cost nothing.
    """
    network = network_of(model)
    with Attachment(network, _install(network, shape, draw, granularities)):
        yield


@contextlib.contextmanager
def masked(model: Any, shape: BackboneShape, subnet: Subnet) -> Iterator[None]:
    """Run the whole model with everything outside a subnet multiplied by zero: the reference for compaction."""
    values = gate_values(subnet, shape)
    with gated(model, shape, lambda: values):
        yield


def _count(model: Any, change: int) -> None:
    """Keep on the model how many sets of gates are on it."""
    left = getattr(model, GATED, 0) + change
    if left:
        setattr(model, GATED, left)
    else:
        delattr(model, GATED)


class _Passes:
    """Which gates the running pass has: those drawn at its start, also when a layer is computed again backwards."""

    def __init__(
        self, draw: Callable[[], GateValues | None], trained: Sequence[str], evaluated: Sequence[str], n_layers: int
    ) -> None:
        self._draw, self._trained, self._evaluated = draw, trained, evaluated
        self._open = [dict[str, Any]()] * n_layers
        self._newest = self._open
        self._waiting, self._is_going_back = 0, False  # passes with gradients since the last backward pass
        self._found = [-1] * n_layers  # the backward pass in which a layer's gates were last found
        self.running = list(self._open)  # per layer: granularity -> that layer's gates, of ranks one tensor per site

    def begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """A pass of the whole model starts."""
        if torch.is_grad_enabled():
            self._waiting, self._is_going_back = (0 if self._is_going_back else self._waiting) + 1, False
        values = self._draw()
        if values is None:
            self._newest = self._open
            return
        device = next(module.parameters()).device
        self._newest = [{} for _ in self._open]
        for name in self._trained if module.training else self._evaluated:
            for row, z in zip(self._newest, _per_layer(getattr(values, name), device), strict=True):
                if z is not None:
                    row[name] = z

    def enter(self, i: int, states: torch.Tensor) -> None:
        """Hidden states enter layer i, or a module in it.

        Checkpointed layers are computed again during the backward pass, when another pass may have begun. What is first
        computed again in them is given the very tensors of the first time, which is how their gates are found.

        Raises:
            UsageError: It was given copies, and there are several passes whose gates it could need.
        """
        going_back = torch._C._current_graph_task_id()
        if going_back == -1:
            return
        self._is_going_back = True
        row = getattr(states, _PASS, None)
        if row is not None:
            self.running[i], self._found[i] = row, going_back
        elif self._waiting > 1 and self._found[i] != going_back:
            raise UsageError(
                f"Layer {i} is computed again from a copy of what it was given at first, where the tensor itself was "
                f"expected: the gates of {self._waiting} passes cannot be told apart. Cast before the layers and "
                "checkpoint whole ones, or go backwards after every pass."
            )

    def start(self, i: int, states: torch.Tensor) -> None:
        """Hidden states enter layer i as a whole."""
        if torch._C._current_graph_task_id() == -1:
            self.running[i] = self._newest[i]
            setattr(states, _PASS, self._newest[i])
        else:
            self.enter(i, states)


def _per_layer(z: torch.Tensor, device: torch.device) -> Sequence[Any]:
    """One tensor per layer, of rank gates (L, M, R) a tuple of one per site; None for a whole block that is open."""
    if z.ndim == 3:
        pieces, sites = z.to(device).flatten(0, 1).unbind(0), z.shape[1]
        return [pieces[i * sites : (i + 1) * sites] for i in range(z.shape[0])]
    pieces = z.to(device).unbind(0)
    if z.ndim == 2 or z.device.type != "cpu":  # elsewhere, to look would be to wait
        return pieces
    used: list[Any] = [None if value == 1.0 else piece for value, piece in zip(z.tolist(), pieces, strict=True)]
    if z.requires_grad and all(piece is None for piece in used):
        used[0] = pieces[0]  # a pass in which all happen to be open has a way back to the log-odds too: its slope is 0
    return used


def _install(
    network: Any,
    shape: BackboneShape,
    draw: Callable[[], GateValues | None],
    granularities: Iterable[str],
    in_evaluation: Iterable[str] = (),
) -> list[Any]:
    """Hooks for the granularities alone, and for further ones that only passes in evaluation set; gives the handles."""
    layout, trained = Layout(network), set(granularities)
    wanted = trained | set(in_evaluation)
    in_training, in_all = ([g for g in GRANULARITIES if g in some] for some in (trained, wanted))
    passes = _Passes(draw, in_training, in_all, shape.n_layers)

    def gate(name: str, i: int) -> Callable[[], torch.Tensor | None]:
        return lambda: passes.running[i].get(name)

    handles = [network.base_model.register_forward_pre_hook(passes.begin, with_kwargs=True)]
    for i, layer in enumerate(layout.layers):
        attention, ffn = layout.attention(layer), layout.ffn(layer)
        handles += _follow(passes, i, layer)
        if "layer" in wanted:
            handles += gate_layer(layer, gate("layer", i))
        for table, presence, units in ((attention, "attention", "head"), (ffn, "ffn", "ffn_block")):
            if presence in wanted:
                handles += gate_presence(layer, table, gate(presence, i))
            if units in wanted:
                handles += gate_units(layout, layer, table, gate(units, i))
        if "rank" in wanted:
            handles += _gate_sites(layout, layer, shape, passes, i)
    return handles


def _follow(passes: _Passes, i: int, layer: Any) -> list[Any]:
    def into_layer(module: Any, args: Any, kwargs: Any) -> None:
        passes.start(i, argument(args, kwargs, 0))

    def into_part(module: Any, args: Any, kwargs: Any) -> None:
        if args or "hidden_states" in kwargs:
            passes.enter(i, argument(args, kwargs, 0))

    return [
        layer.register_forward_pre_hook(into_layer, with_kwargs=True),
        *(m.register_forward_pre_hook(into_part, with_kwargs=True) for m in layer.children()),
    ]


def _gate_sites(layout: Layout, layer: Any, shape: BackboneShape, passes: _Passes, i: int) -> list[Any]:
    handles = []
    for m, site in enumerate(shape.sites):
        module = layout.projection(layer, site.name)
        if is_adapted(module):

            def ranks(m: int = m, r: int = site.rank) -> torch.Tensor | None:
                each = passes.running[i].get("rank")
                return None if each is None else each[m] if len(each[m]) == r else each[m][:r]

            handles.append(gate_ranks(module, ranks))
    return handles
