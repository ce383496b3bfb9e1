"""One training shared by several processes (`torchrun`): each computes its part of every batch.

A step's batch, latents and random changes are drawn for the whole batch from the step's number; every rank then takes
its own rows of them, so any number of ranks sees the same batches.  The gradients are averaged before the optimiser's
step, which is the gradient of the whole batch because every loss is a mean over equally large parts.  Without
torchrun there is one rank: nothing is sent, values come back as the same objects, and accelerate is not imported.

Gradients are averaged after the backward pass, over accelerate's process group, and modules stay bare.
DistributedDataParallel reduces inside the backward pass of one `forward`; a GAN's step calls networks without
gradients, twice before one backward pass, through other methods than `forward`, frozen and thawed, and its white-box
adapters and taps lie outside the module.  The price is that sending does not overlap with computing.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError

if TYPE_CHECKING:
    import torch

_BUCKET_NUMBERS = 16 << 20  # gradients sent at once: 64 MiB of float32
_LONGEST_WAIT = timedelta(hours=2)  # for the main rank, while it validates or writes; a rank that died is seen earlier
_REPORT_SECONDS = 10.0  # that a rank leaves to the main rank for saying the same
_LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun


def launched_ranks() -> int:
    """How many processes torchrun has started for this command; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(name) for name in _LAUNCH) else 1


def is_main_process() -> bool:
    """Whether this process prints and writes; known before the ranks have met."""
    return launched_ranks() == 1 or os.environ["RANK"] == "0"


@dataclass(frozen=True)
class Ranks:
    """This process is number `number` of `count`; 0 is the main rank, which alone writes files and prints."""

    number: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.number == 0

    def part(self, values: Any, groups: int = 1, dim: int = 0) -> Any:
        """This rank's rows of a whole batch (array, tensor or None) along `dim`.

        `groups`: `values` are that many whole batches joined end to end; the parts come in the same order.
        """
        if self.count == 1 or values is None:
            return values
        size = values.shape[dim] // (groups * self.count)
        shape = (*values.shape[:dim], groups, self.count, size, *values.shape[dim + 1 :])
        own = values.reshape(shape)[(slice(None),) * (dim + 1) + (self.number,)]
        return own.reshape((*values.shape[:dim], groups * size, *values.shape[dim + 1 :]))

    def purpose(self, name: str) -> str:
        """The name of a random stream that is this rank's own (dropout); the main rank's is `name`."""
        return name if self.main else f"{name}, rank {self.number}"

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """After the backward pass: the gradient of the mean loss over all ranks, in place."""
        if self.count == 1:
            return
        import torch
        from accelerate.utils import reduce

        for bucket in _buckets(parameter.grad for parameter in parameters):
            flat = reduce(torch.cat([gradient.reshape(-1) for gradient in bucket]), "mean")
            for gradient, piece in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                gradient.copy_(piece.view(gradient.shape))

    def mean(self, scalars: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Means over the ranks of scalars that are means over their parts."""
        if self.count == 1 or not scalars:
            return dict(scalars)
        import torch
        from accelerate.utils import reduce

        means = reduce(torch.stack([value.detach().double() for value in scalars.values()]), "mean")
        return dict(zip(scalars, means.cpu(), strict=True))

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """The whole batch from the ranks' parts, without gradients."""
        if self.count == 1:
            return part
        from accelerate.utils import gather

        return gather(part.detach().contiguous())

    def broadcast(self, number: int) -> int:
        """The main rank's number, on all ranks; a meeting point."""
        if self.count == 1:
            return number
        import torch
        from accelerate.utils import broadcast

        return int(broadcast(torch.tensor([number], device=_state().device))[0])

    def wait(self) -> None:
        """Until all ranks are here."""
        self.broadcast(0)

    def begin(self, step: int, modules: Iterable[torch.nn.Module]) -> None:
        """All ranks start with the main rank's weights and buffers; UserError where they start at different steps."""
        if self.count == 1:
            return
        import torch
        from accelerate.utils import broadcast

        steps = self.gather(torch.tensor([step], device=_state().device)).tolist()
        if len(set(steps)) > 1:
            raise UserError(
                f"the ranks would continue from different steps ({', '.join(map(str, steps))}); "
                "give an --out that every node sees."
            )
        for module in modules:
            for value in module.state_dict().values():
                value.copy_(broadcast(value.detach().contiguous().clone()))


ALONE = Ranks()


def join_ranks(device_name: str, batch_size: int) -> tuple[Ranks, torch.device]:
    """Meet the other ranks; this rank, and its device: under torchrun cuda:LOCAL_RANK (NCCL) or the CPU (gloo).

    UserError: a whole batch that the ranks cannot share evenly, two images each or more; fewer GPUs than ranks.
    """
    from runtime.devices import pick_device, set_threads

    count = launched_ranks()
    if count == 1:
        device = pick_device(device_name)
        set_threads(1)
        return ALONE, device
    if batch_size % count or batch_size < 2 * count:
        raise UserError(
            f"--batch-size {batch_size} counts the images of all {count} ranks together and cannot be shared evenly, "
            f"two or more each; give a multiple of {count}, from {2 * count} on."
        )
    device = _device_of_this_rank(device_name)
    set_threads(int(os.environ.get("LOCAL_WORLD_SIZE", count)))
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=_LONGEST_WAIT)
    atexit.register(_leave)
    if not state.is_main_process:
        os.environ["RETORT_PROGRESS"] = "off"
    return Ranks(state.process_index, state.num_processes), state.device


def _device_of_this_rank(name: str) -> torch.device:
    import torch

    from runtime.devices import pick_device

    device = pick_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"--device {name}: torchrun gives each rank a GPU of its own; use --device cuda.")
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= gpus:
        raise UserError(
            f"torchrun started more ranks than this machine has GPUs ({gpus}); give --nproc-per-node {gpus}, "
            "or --device cpu."
        )
    return torch.device("cuda", local)


def _state() -> Any:
    from accelerate import PartialState

    return PartialState()


def _leave() -> None:
    _state().destroy_process_group()


def _buckets(gradients: Iterable[torch.Tensor | None]) -> Iterator[list[torch.Tensor]]:
    """Gradients of one type, in order, some `_BUCKET_NUMBERS` numbers at a time."""
    bucket: list[torch.Tensor] = []
    numbers = 0
    for gradient in gradients:
        if gradient is None:
            continue
        if bucket and (numbers + gradient.numel() > _BUCKET_NUMBERS or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(gradient)
        numbers += gradient.numel()
    if bucket:
        yield bucket


@contextmanager
def error_report() -> Iterator[str | None]:
    """Who prints the error that ends the command: "" or "rank R: " where this process does, None where it does not.

    The main rank prints; another one only where it met the error alone.  Ranks share no memory, and torchrun ends all
    of them as soon as one has gone, so that another rank waits here until the main rank has printed its error, or for
    ten seconds.
    """
    if launched_ranks() == 1:
        yield ""
        return
    atexit.unregister(_leave)  # the others are still at work: no farewell, which might wait for them
    key = f"retort/error-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if is_main_process():
        yield ""
        with suppress(RuntimeError, OSError):
            _launchers_store().set(key, "printed")
        return
    speaker: str | None = None
    try:
        _launchers_store().wait([key], timedelta(seconds=_REPORT_SECONDS))
    except (RuntimeError, OSError):
        speaker = f"rank {os.environ['RANK']}: " if _is_first(key) else None
    yield speaker


def _is_first(key: str) -> bool:
    try:
        return bool(_launchers_store().add(f"{key}-others", 1) == 1)
    except (RuntimeError, OSError):
        return True


def _launchers_store() -> Any:
    """torchrun's own table of words, which outlives the ranks."""
    from torch.distributed import TCPStore

    wait = timedelta(seconds=_REPORT_SECONDS)
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=wait, wait_for_workers=False)
