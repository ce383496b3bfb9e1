"""Module outputs by name, read by forward hook.

A tap never changes what a network computes.  Asking for outputs when a path has not fired is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from runtime.errors import UserError


class ForwardTap:
    """Keeps the last output of each named module of `network` (module paths as in `named_modules()`).

    `owner` is the word for the network in messages, e.g. "teacher".
    """

    def __init__(self, network: nn.Module, paths: Iterable[str], owner: str = "network") -> None:
        self.owner, self.paths = owner, tuple(dict.fromkeys(paths))
        modules = dict(network.named_modules())
        self._found: dict[str, torch.Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for path in self.paths:
            if path not in modules or not path:
                near = ", ".join(name for name in modules if name and name.count(".") <= 1)
                raise UserError(f"the {owner} has no module {path!r} to tap; its modules are {near[:600]}.")
        for path in self.paths:
            self._handles.append(modules[path].register_forward_hook(self._keep(path)))

    def _keep(self, path: str):  # type: ignore[no-untyped-def]  # the hook's own type is torch's
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, torch.Tensor):
                raise UserError(f"the {self.owner}'s module {path!r} gives no single tensor; tap another module.")
            self._found[path] = output

        return hook

    def outputs(self) -> dict[str, torch.Tensor]:
        """The outputs since the last `clear`; a UserError naming the paths that have not fired."""
        silent = [path for path in self.paths if path not in self._found]
        if silent:
            raise UserError(
                f"the {self.owner}'s tap on {', '.join(map(repr, silent))} did not fire: the forward pass does not "
                "use that module; tap one that it uses."
            )
        return dict(self._found)

    def clear(self) -> None:
        """Forget the kept outputs (and with them their graphs)."""
        self._found.clear()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()


@contextmanager
def quiet_forward(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; the mode of every submodule is put back after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def map_shapes(network: nn.Module, *inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Path -> output shape of every module that gives an N x C x H x W tensor, in the order of execution.

    One forward pass on `inputs` in evaluation mode; running statistics stay as they are.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def note(path: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, received: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                shapes.pop(path, None)  # a module called twice counts where it was called last
                shapes[path] = tuple(output.shape)

        return hook

    try:
        for path, module in network.named_modules():
            if path:
                handles.append(module.register_forward_hook(note(path)))
        with quiet_forward(network):
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def blocks_by_size(network: nn.Module, *inputs: torch.Tensor) -> dict[tuple[int, int], str]:
    """(height, width) -> path of the last block with that output size.

    A block is a member of an nn.ModuleList; a network without any offers all its modules but those whose output has
    as few channels as the image.
    """
    shapes = map_shapes(network, *inputs)
    lists = [path for path, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    members = [path for path in shapes if path.rpartition(".")[0] in lists]
    if not members and shapes:
        image_channels = list(shapes.values())[-1][1]
        members = [path for path, shape in shapes.items() if shape[1] > image_channels]
    return {shapes[path][2:]: path for path in members}  # type: ignore[misc]  # shapes are N x C x H x W
