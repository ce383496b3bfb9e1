"""Equal networks as one, with grouped convolutions: G students that train at once, each on its own images.

The joined network takes N x (G C) x H x W, network g's channels at g C to (g + 1) C, and gives N x (G K).  Its
convolutions have G times the groups, its batch norms G times the channels, and its linear layers are a batch of G
products, so that no network sees another's numbers: the gradient of a sum of losses is each network's own.  On small
networks one grouped convolution takes less than G small ones.

A network can be joined if it keeps every map's channels in place: convolutions, batch norms, activations, poolings,
sums and means over places.  One that shuffles, cuts or appends channels cannot; `join` finds out by numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


class GroupedLinear(nn.Module):
    """G linear layers side by side: N x (G in) -> N x (G out)."""

    def __init__(self, layer: nn.Linear, networks: int) -> None:
        super().__init__()
        self.networks, self.bias = networks, None
        self.weight = nn.Parameter(torch.cat([layer.weight.detach()] * networks))
        if layer.bias is not None:
            self.bias = nn.Parameter(torch.cat([layer.bias.detach()] * networks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of all networks at once."""
        inputs = x.reshape(len(x), self.networks, -1).transpose(0, 1)
        weight = self.weight.view(self.networks, -1, inputs.shape[2])
        out = torch.bmm(inputs, weight.transpose(1, 2)).transpose(0, 1).flatten(1)
        return out if self.bias is None else out + self.bias


def join(networks: Sequence[nn.Module], example: torch.Tensor) -> nn.Module | None:
    """One network of these, with their weights and statistics; None where they cannot be joined.

    example: N x C x H x W, on which the joined network is held against each.
    """
    joined = copy.deepcopy(networks[0])
    if not _widen(joined, len(networks)):
        return None
    states = [network.state_dict() for network in networks]
    if any(state.keys() != states[0].keys() for state in states) or joined.state_dict().keys() != states[0].keys():
        return None
    joined.load_state_dict({name: _joined([state[name] for state in states]) for name in states[0]})
    return joined if _equal(joined, networks, example) else None


def split_state(joined: nn.Module, networks: int, number: int) -> dict[str, torch.Tensor]:
    """The state of network `number` of the joined one, copied."""
    state = joined.state_dict()
    return {
        name: (value if value.ndim == 0 else value.chunk(networks)[number]).clone() for name, value in state.items()
    }


def _joined(values: list[torch.Tensor]) -> torch.Tensor:
    return values[0] if values[0].ndim == 0 else torch.cat(values)  # the count of batches is the same for all


def _widen(network: nn.Module, count: int) -> bool:
    """Replace every layer that has weights by `count` of its kind, side by side; False for a layer of unknown kind."""
    for name, layer in list(network.named_children()):
        wide: nn.Module | None = None
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
            wide = _wide_convolution(layer, count)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            wide = type(layer)(
                layer.num_features * count, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
            )
        elif isinstance(layer, nn.Linear):
            wide = GroupedLinear(layer, count)
        elif any(True for _ in layer.children()):
            if not _widen(layer, count):
                return False
            continue
        elif any(True for _ in layer.state_dict()) or isinstance(layer, nn.modules.dropout._DropoutNd):
            return False  # what it drops is drawn from the whole map: not what each would drop alone
        if wide is not None:
            dtype = next(layer.parameters()).dtype
            setattr(network, name, wide.to(dtype).train(layer.training))
    own = [*network._parameters, *network._buffers]
    return not own or isinstance(network, (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, GroupedLinear))


def _wide_convolution(layer: nn.Conv2d, count: int) -> nn.Conv2d:
    wide = copy.deepcopy(layer)  # of its own class, which may have a forward of its own
    wide.in_channels, wide.out_channels = layer.in_channels * count, layer.out_channels * count
    wide.groups = layer.groups * count
    wide.weight = nn.Parameter(torch.cat([layer.weight.detach()] * count))
    if layer.bias is not None:
        wide.bias = nn.Parameter(torch.cat([layer.bias.detach()] * count))
    return wide


@torch.no_grad()
def _equal(joined: nn.Module, networks: Sequence[nn.Module], example: torch.Tensor) -> bool:
    """Whether the joined network gives what each gives, in evaluation mode, but for rounding."""
    modes = [network.training for network in (joined, *networks)]
    for network in (joined, *networks):
        network.eval()
    count = len(networks)
    try:
        # Of each network another example: numbers that leak from one to another are seen.
        examples = [example.roll(number, dims=0) for number in range(count)]
        singles = [network(own) for network, own in zip(networks, examples, strict=True)]
        found = joined(torch.cat(examples, dim=1)).reshape(len(example), count, -1)
        scale = max(float(one.abs().max()) for one in singles)
        return all(
            torch.allclose(found[:, number], one.flatten(1), rtol=0, atol=1e-3 * max(scale, 1e-6))
            for number, one in enumerate(singles)
        )
    except RuntimeError:  # shapes that do not meet
        return False
    finally:
        for network, mode in zip((joined, *networks), modes, strict=True):
            network.train(mode)
