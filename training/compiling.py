"""torch.compile for the passes of a training: fused kernels, made at the first step.

What is compiled is the `forward` of the largest modules inside which no feature is read; hooks, names, weights and
checkpoints stay as they are.  A network that is trained runs uncompiled while it is validated, so that one shape of
batch is compiled and no other.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from runtime.errors import UserError

_COMPILERS = ("g++", "clang++", "c++")
_MOST_PARTS = 256  # of a network


def check_compile(device: torch.device) -> None:
    """UserError where torch could not make kernels for the device: no C++ compiler for a CPU, no Triton for a GPU."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), *_COMPILERS))):
        raise UserError(
            "--compile needs a C++ compiler on a CPU, and none is found (g++); install one, or leave it out."
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError(
            "--compile needs the package triton on a GPU, and it is not installed; install it, or leave it out."
        )


def compile_passes(network: nn.Module, read: Iterable[nn.Module] = (), *, while_training: bool) -> None:
    """Compile the parts of the network, in place, that have no module of `read` inside; `plain_passes` undoes it.

    while_training: only in training mode; else in evaluation mode.
    """
    import torch._functorch.config as functorch  # here, since it takes a while

    functorch.donated_buffer = False  # the check of a method's terms goes through the first step's backward pass, too
    torch._dynamo.config.recompile_limit = _MOST_PARTS  # which share some of torch's code
    _compile(network, {id(module) for module in read}, while_training)


def plain_passes(network: nn.Module) -> None:
    """As before `compile_passes`."""
    for module in network.modules():
        if isinstance(vars(module).get("forward"), _CompiledForward):
            del module.forward


def _compile(module: nn.Module, read: set[int], while_training: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule) or not any(True for _ in module.children()):
        return  # fusing begins where there are two layers
    inner = [part for part in module.modules() if part is not module]
    if any(id(part) in read for part in inner):
        for child in module.children():
            _compile(child, read, while_training)
    else:
        module.forward = _CompiledForward(module, while_training)  # type: ignore[assignment]


class _CompiledForward:
    """In place of a module's `forward`: the compiled one in the mode that it was made for."""

    def __init__(self, module: nn.Module, while_training: bool) -> None:
        self._module, self._plain, self._while_training = module, module.forward, while_training
        self._compiled: Any = torch.compile(module.forward, dynamic=False)

    def __call__(self, *inputs: Any) -> Any:
        if self._module.training is not self._while_training:
            return self._plain(*inputs)
        try:
            return self._compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:  # type: ignore[attr-defined]
            reason = str(error).strip().splitlines()[0][:200]
            raise UserError(f"--compile: torch cannot compile this network here ({reason}); leave it out.") from error
