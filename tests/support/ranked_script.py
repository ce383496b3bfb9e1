"""What a rank of a test does under torchrun: commands of the command line, one after another, from a JSON file.

`torchrun --nproc-per-node 2 tests/support/ranked_script.py COMMANDS.json`: the file holds lists of words; a list that
begins with "call" names a function of this module.  One launch for many trainings saves most of the time of the tests.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> int:
    import cli

    codes = []
    for words in json.loads(Path(sys.argv[1]).read_text()):
        codes.append(globals()[words[1]](*words[2:]) if words[0] == "call" else cli.main(words))
    return max(codes)


def in_float64(*words: str) -> int:
    """The command with float64 networks, see `tests/support/float64.py`."""
    import cli
    from tests.support.float64 import float64_trainings

    with float64_trainings():
        return cli.main([*words])


def elsewhere(folder: str, *words: str) -> int:
    """The command, run by each rank in a folder of its own."""
    import cli

    os.chdir(Path(folder) / os.environ["RANK"])
    return cli.main([*words])


def whole_batch_in_float64() -> int:
    """Two steps by two ranks and by one alone: equal losses, gradients and batch statistics, to rounding."""
    import torch

    from layers.batch_statistics import share_statistics
    from runtime.ranks import ALONE, join_ranks

    ranks, device = join_ranks("cpu", 12)
    torch.manual_seed(3)
    alone = _network().double()
    shared = share_statistics(copy.deepcopy(alone), ranks, device)
    assert [name for name, _ in shared.named_buffers()] == [name for name, _ in alone.named_buffers()]
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (alone, shared)]
    for _ in range(2):
        images, wanted = torch.randn(12, 3, 6, 6).double(), torch.randn(12, 5, 6, 6).double()
        found = []
        for network, mine, optimizer in zip((alone, shared), (ALONE, ranks), optimizers, strict=True):
            optimizer.zero_grad()
            loss = _loss(network, mine, images, wanted)
            loss.backward()
            mine.average_gradients(network.parameters())
            gradients = [parameter.grad.clone() for parameter in network.parameters()]
            optimizer.step()
            found.append([mine.mean({"loss": loss.detach()})["loss"], *gradients, *network.buffers()])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(alone.eval()(images), shared.eval()(images), rtol=1e-10, atol=1e-12)
    return 0


def _network():  # type: ignore[no-untyped-def]
    from timm.layers import BatchNormAct2d
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(),
        nn.Conv2d(4, 5, 3, padding=1), BatchNormAct2d(5, act_layer=nn.Tanh),
        nn.BatchNorm2d(5, momentum=None, affine=False),
    )  # fmt: skip


def _loss(network, ranks, images, wanted):  # type: ignore[no-untyped-def]
    """A mean over rows, and a term that is none: the kernel alignment of the whole batch."""
    from runtime.collectives import rows_of_all_ranks
    from white_box.losses.kernel_alignment import EPSILON, rows_of

    made, wanted = network(ranks.part(images)), ranks.part(wanted)
    loss = (made - wanted).square().mean()
    if ranks.count > 1:
        made, wanted = (rows_of_all_ranks(maps, ranks.number) for maps in (made, wanted))
    x, y = (maps.movedim(1, -1).flatten(0, -2) for maps in (made, wanted))  # as in kernel_alignment, in float64
    assert rows_of(made, "position").shape == x.shape
    return loss - (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm() + EPSILON)


if __name__ == "__main__":
    sys.exit(main())
