"""Batch norm in a training that several ranks share: statistics of the whole batch, not of each rank's part."""

from __future__ import annotations

import torch
from torch import nn

from runtime.collectives import mean_over_ranks
from runtime.progress import say
from runtime.ranks import Ranks

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_BEHIND = ("drop", "act")  # what timm's batch norm applies to its output


def share_statistics(network: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The network, its batch norms exchanged in place for ones over the whole batch where there are several ranks.

    On GPUs that is torch's SyncBatchNorm, which the CPU lacks; there, and for timm's batch norm with an activation
    inside (which torch's conversion would lose), `WholeBatchNorm`.  Weights, buffers and their names stay.  In train
    mode all ranks must then run the network together: take copies for one rank alone before this call.
    """
    if ranks.count == 1:
        return network
    left = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            if type(child) in _PLAIN and device.type == "cuda":
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            elif type(child) in _PLAIN or hasattr(child, "act"):
                setattr(parent, name, WholeBatchNorm(child))
            else:
                left += 1
    if left:
        say(f"{left} batch norms of a kind of their own use each rank's part of a batch, not the whole batch")
    return network


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm (Ioffe and Szegedy 2015) over the parts of all ranks; in eval mode the norm that it replaces.

    N x C x ... -> the same shape.  All ranks' parts are equally large.  The running variance is the unbiased one of
    the whole batch, as in `nn.BatchNorm2d`.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self._modules = {name: module for name, module in norm._modules.items() if name in _BEHIND}
        self.train(norm.training)

    def _check_input_dim(self, input: torch.Tensor) -> None:  # any number of places
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = self._normalised(input) if self.training else super().forward(input)
        for module in self._modules.values():
            out = out if module is None else module(out)
        return out

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        places = [0, *range(2, x.ndim)]
        along = (1, -1, *[1] * (x.ndim - 2))
        values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        mean = mean_over_ranks(values.mean(places))
        centred = values - mean.view(along)
        variance = mean_over_ranks(centred.square().mean(places))
        self._note(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        out = centred * torch.rsqrt(variance + self.eps).view(along)
        if self.affine:
            out = out * self.weight.view(along) + self.bias.view(along)
        return out.to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: torch.Tensor, variance: torch.Tensor, places: int) -> None:
        """Move the running statistics; `places`: values of a channel in this rank's part."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        whole = places * torch.distributed.get_world_size()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (whole / (whole - 1))).to(self.running_var.dtype), share)
