"""Features of a network by name, read by forward hook.

A name is one that the network gives to a module of its own (`feature_paths`: stem, stage1, ..., pooled, logits for
classifiers), or the module's path as in `named_modules()`.  Hooks are in place only while a pass is read: they never
change what a network computes, and copies of the network have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from interfaces.method import Views
from runtime.errors import UserError

_LISTED = 600  # characters of a message


def feature_paths(network: nn.Module) -> dict[str, str]:
    """Name -> module path of the features that the network names; {} where it names none."""
    return dict(getattr(network, "feature_paths", {}))


class FeatureReader:
    """Runs a network and keeps the outputs of the named modules.  owner: the network's word in messages."""

    def __init__(self, network: nn.Module, names: Iterable[str] = (), owner: str = "network") -> None:
        """UserError for a name that the network does not have."""
        self.network, self.owner = network, owner
        self._modules: dict[str, nn.Module] = {}
        names = tuple(dict.fromkeys(names))
        paths, modules = (feature_paths(network), dict(network.named_modules())) if names else ({}, {})
        for name in names:
            path = paths.get(name, name)
            if path not in modules or not path:
                known = ", ".join(paths or [path for path in modules if path and path.count(".") <= 1])
                raise UserError(f"the {owner} has no feature {name!r} to read; it has {known[:_LISTED]}.")
            self._modules[name] = modules[path]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Those whose outputs are read."""
        return tuple(self._modules.values())

    def __call__(self, *inputs: torch.Tensor) -> Views:
        """One pass.  output: float32; features as they are.  UserError naming those that the pass did not touch."""
        features: dict[str, torch.Tensor] = {}
        versions: dict[str, int] = {}
        with hooked(self._modules, features, versions):
            output = self.network(*inputs).float()
        silent = [name for name in self._modules if name not in features]
        if silent:
            raise UserError(
                f"the {self.owner}'s {', '.join(map(repr, silent))} did not fire, or gave no single tensor: the "
                "forward pass does not use that module; name one that it uses."
            )
        changed = [name for name, feature in features.items() if feature._version != versions[name]]
        if changed:
            raise UserError(
                f"the {self.owner}'s {', '.join(map(repr, changed))} is overwritten by the module behind it (in "
                "place); name that one."
            )
        return Views(output, features)


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module], outputs: dict[str, torch.Tensor], versions: dict[str, int]
) -> Iterator[None]:
    """Inside the block each module's output is put into `outputs` under its name, in the order of execution.

    versions: how often each had been written to by then; a later write (an in-place ReLU) counts on.
    """

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                outputs.pop(name, None)  # a module called twice counts where it was called last
                outputs[name], versions[name] = output, output._version

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Insides:
    """What can be read from a network, known from one pass on example inputs, made when first asked."""

    def __init__(self, network: nn.Module, examples: tuple[torch.Tensor, ...], owner: str) -> None:
        self.network, self.examples, self.owner = network, examples, owner

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name or module path -> shape without the batch of all that is read as one tensor, in order of execution."""
        outputs: dict[str, torch.Tensor] = {}
        paths, modules = feature_paths(self.network), {path: one for path, one in self.network.named_modules() if path}
        with hooked(modules, outputs, {}), quiet(self.network):
            self.network(*self.examples)
        shapes = {path: tuple(output.shape[1:]) for path, output in outputs.items() if output.ndim > 1}
        return {name: shapes[path] for name, path in paths.items() if path in shapes} | shapes

    def shape(self, name: str, dims: int = 3) -> tuple[int, ...]:
        """The shape of a feature: (C, H, W), or (d,) with dims 1.  UserError where it has none such."""
        FeatureReader(self.network, [name], self.owner)  # refuses a name that is not there
        shape = self.shapes.get(name, ())
        if len(shape) != dims:
            wanted = "N x C x H x W map" if dims == 3 else "N x d matrix"
            raise UserError(
                f"the {self.owner}'s {name!r} does not fire, or gives no {wanted}; name a module that does and that "
                "the forward pass uses."
            )
        return shape

    def maps_by_size(self) -> dict[tuple[int, int], str]:
        """(height, width) -> name of the last map of that size, in order of execution.

        Maps are those that the network names; else its blocks, the members of an nn.ModuleList; else all modules but
        those whose output has as few channels as the image.
        """
        maps = {name: shape for name, shape in self.shapes.items() if len(shape) == 3}
        lists = [path for path, module in self.network.named_modules() if isinstance(module, nn.ModuleList)]
        names = [name for name in maps if name in feature_paths(self.network)]
        names = names or [name for name in maps if name.rpartition(".")[0] in lists]
        if not names and maps:
            image_channels = list(maps.values())[-1][0]
            names = [name for name, shape in maps.items() if shape[0] > image_channels]
        return {(maps[name][1], maps[name][2]): name for name in names}


@contextmanager
def quiet(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; the mode of every submodule is put back after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
