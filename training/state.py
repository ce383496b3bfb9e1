"""What a training's checkpoint holds, by name: modules, optimisers, EMA, best states, scalars.

A part is anything with torch's pair `state_dict()` / `load_state_dict(...)`.  Tensors go into the checkpoint's
safetensors file, everything else (step counts, scores, lists) into its JSON.  Learning rates are no state: the
schedule sets them anew at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn


class Stateful(Protocol):
    """A part of a training; its state is flat: names to tensors and to JSON values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class NamedState:
    """The parts of a training under their names, as one flat mapping `part.entry` -> tensor or JSON value."""

    def __init__(self, **parts: Stateful | None) -> None:
        """Parts that are None are left out."""
        self.parts: dict[str, Stateful] = {name: part for name, part in parts.items() if part is not None}

    def modules(self) -> list[nn.Module]:
        """The networks themselves, which several ranks start equal."""
        return [part for part in self.parts.values() if isinstance(part, nn.Module)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors, detached."""
        return {name: value.detach() for name, value in self._flat().items() if isinstance(value, torch.Tensor)}

    def scalars(self) -> dict[str, Any]:
        """All that is no tensor."""
        return {name: value for name, value in self._flat().items() if not isinstance(value, torch.Tensor)}

    def load(self, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
        """The inverse of `tensors` and `scalars`.  Raises ValueError where they are of other parts or networks."""
        by_part: dict[str, dict[str, Any]] = {name: {} for name in self.parts}
        for name, value in {**tensors, **scalars}.items():
            part, _, entry = name.partition(".")
            if part not in by_part:
                raise ValueError(f"it holds {name}, which this training does not have")
            by_part[part][entry] = value
        for title, stateful in self.parts.items():
            try:
                if isinstance(stateful, torch.optim.Optimizer):
                    _load_optimizer(stateful, by_part[title])
                else:
                    stateful.load_state_dict(by_part[title])
            except (KeyError, RuntimeError) as error:
                raise ValueError(f"its {title} is another one: {error}") from error

    def _flat(self) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, part in self.parts.items():
            state = _optimizer_state(part) if isinstance(part, torch.optim.Optimizer) else part.state_dict()
            flat |= {f"{name}.{entry}": value for entry, value in state.items()}
        return flat


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Moments and step counts as `parameter index.entry`."""
    return {
        f"{index}.{entry}": torch.as_tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
        if value is not None
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in flat.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value.clone()
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for entry, value in entries.items():
            # Files hold tensors in plain order.  The fused kernels read moments in the parameter's memory order
            # (channels_last, say) without a look at the strides, so that the wrong weight would get the moment.
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[entry] = torch.empty_like(parameter).copy_(value)


class BestState:
    """The validation scores of a training (lower is better) and the network's state at the best of them.

    `keep`: False where only the scores are wanted.
    """

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep
        self.curve: list[tuple[int, float]] = []  # (finished steps, score)
        self.step, self.value = 0, float("inf")
        self._tensors: dict[str, torch.Tensor] = {}

    def note(self, step: int, value: float, network: nn.Module) -> None:
        """Note a score, and the network's state where it is the best so far; an equal later one does not replace it."""
        self.curve.append((step, value))
        if self.keep and value < self.value:
            self.step, self.value = step, value
            self._tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def restore(self, network: nn.Module) -> None:
        """Put the best state back into the network, where states are kept."""
        if self.keep:
            network.load_state_dict(self._tensors)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"curve": self.curve}
        return {**state, "step": self.step, "value": self.value, **self._tensors} if self._tensors else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        self.curve = [(int(step), float(value)) for step, value in state["curve"]]
        if tensors:
            self.step, self.value, self._tensors = int(state["step"]), float(state["value"]), tensors
