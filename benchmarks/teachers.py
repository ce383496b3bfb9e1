"""Imported teachers against plain renderings of the same networks, weights and batches.

    python benchmarks/teachers.py            about three minutes: networks of parity size and of full size
    python benchmarks/teachers.py --small    half a minute: of parity size

The plain side is what a direct reading of each published generator gives (`benchmarks/plain_*.py`): NCHW, spectral
norm at every forward pass, upsampling before the convolutions.  Ours is what sampling runs: the importer's network.
Both run in turns in one process with the same threads; seconds are medians, ratios plain / ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plain_biggan import PlainBigGAN, PlainBigGANDeep, randomise
from benchmarks.plain_ccgan import PlainLabelEmbedding, PlainSAGAN, PlainSNGAN
from benchmarks.plain_stylegan2 import PlainStyleGAN2
from teacher_sampler.importers import IMPORTERS
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.stylegan2_ada import convert, read_arguments
from teacher_sampler.importers.writing import teacher_card
from teacher_sampler.networks.stylegan2 import StyleGAN2Generator
from training.generator_folder import NetworkGenerator


@dataclass(frozen=True)
class Pair:
    """The same generator twice; each side takes the batch that it was given when it was made."""

    plain: Callable[[], torch.Tensor]
    ours: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A row of the table.  `make(batch, device, folder)` gives the pair; `repeats` of both sides."""

    name: str
    size: str
    batch: int
    repeats: int
    make: Callable[[int, torch.device, Path], Pair]


def biggan(arch: str, **options: Any) -> Callable[[int, torch.device, Path], Pair]:
    """BigGAN or BigGAN-deep through a checkpoint file."""

    def make(batch: int, device: torch.device, folder: Path) -> Pair:
        kind = PlainBigGANDeep if arch == "biggan-deep" else PlainBigGAN
        plain = randomise(kind(**options), 0).to(device)  # type: ignore[arg-type]
        torch.save(plain.state_dict(), folder / "G_ema.pth")
        ours = imported(arch, ImportRequest(str(folder / "G_ema.pth")), device)
        z = torch.randn(batch, options["dim_z"]).to(device)
        y = torch.randint(options["classes"], (batch,)).to(device)
        return Pair(lambda: plain(z, y), lambda: ours(z, y))

    return make


def ccgan(arch: str, width: int, latent_dim: int, embedding_dim: int) -> Callable[[int, torch.device, Path], Pair]:
    """CcGAN with improved label input, through its two files; the plain side embeds the label at every pass too."""

    def make(batch: int, device: torch.device, folder: Path) -> Pair:
        embedding = disturbed(PlainLabelEmbedding(embedding_dim))
        if arch == "ccgan-sagan":
            plain: nn.Module = PlainSAGAN(latent_dim, gene_ch=width, dim_embed=embedding_dim)
        else:
            plain = PlainSNGAN(latent_dim, width=width, dim_embed=embedding_dim)
        disturbed(plain, torch.randn(8, latent_dim), embedding(torch.rand(8, 1)))
        torch.save({"netG_state_dict": plain.state_dict()}, folder / "G.pth")
        torch.save({"net_state_dict": embedding.state_dict()}, folder / "y2h.pth")
        request = ImportRequest(str(folder / "G.pth"), label_embedding=folder / "y2h.pth", label_range=(0.0, 1.0))
        ours = imported(arch, request, device)
        z, y = torch.randn(batch, latent_dim).to(device), torch.rand(batch, 1).to(device)
        plain.to(device)
        embedding.to(device)
        return Pair(lambda: plain(z, embedding(y)), lambda: ours(z, y))

    return make


def stylegan2(**options: Any) -> Callable[[int, torch.device, Path], Pair]:
    """StyleGAN2-ADA with constant noise in float32."""

    def make(batch: int, device: torch.device, folder: Path) -> Pair:
        plain = disturbed(PlainStyleGAN2(**options)).to(device)
        arguments, lr_multiplier = read_arguments(options, folder)
        arguments["noise_mode"] = "const"
        network = StyleGAN2Generator(**arguments)
        network.load_state_dict(convert({k: v.cpu() for k, v in plain.state_dict().items()}, arguments, lr_multiplier))
        ours = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        z, y = torch.randn(batch, options["z_dim"]).to(device), torch.randint(10, (batch,)).to(device)
        one_hot = nn.functional.one_hot(y, options["c_dim"]).float()
        return Pair(lambda: plain(z, one_hot), lambda: ours(z, y))

    return make


def imported(arch: str, request: ImportRequest, device: torch.device) -> nn.Module:
    """The network as sampling runs it."""
    teacher = IMPORTERS.get(arch)(request)
    assert teacher.network is not None
    return NetworkGenerator(teacher_card(teacher, request, {}), teacher.network, teacher.label_space, device).network


@torch.no_grad()
def disturbed(network: nn.Module, *examples: torch.Tensor) -> nn.Module:
    """In eval mode, with no gain, bias or mean at its initial value, and batch norms that fit `examples`."""
    for name, value in network.state_dict().items():
        if value.ndim < 2 and value.is_floating_point() and not name.endswith(("weight_u", "weight_v", "_var")):
            value.add_(0.1 * torch.randn_like(value))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    if examples:
        network.train()(*examples)
    return network.eval()


CIFAR_STYLE = {"z_dim": 512, "c_dim": 10, "w_dim": 512, "img_resolution": 32, "img_channels": 3}
SMALL_STYLE = {**CIFAR_STYLE, "z_dim": 32, "w_dim": 32}
MAPPING, CLAMP = {"num_layers": 2}, {"conv_clamp": 256}
PARITY = (
    Case("biggan 32", "ch 8", 64, 9, biggan("biggan", resolution=32, width=8, dim_z=128, classes=10)),
    Case("biggan 64", "ch 4", 64, 5,
         biggan("biggan", resolution=64, width=4, dim_z=20, classes=7, shared_dim=16, hier=True, attention=(32, 64))),
    Case("biggan-deep 128", "ch 6", 16, 5,
         biggan("biggan-deep", resolution=128, width=6, dim_z=24, classes=12, shared_dim=16, attention=(64,))),
    Case("ccgan-sngan 64", "ch 4", 64, 5, ccgan("ccgan-sngan", 4, 16, 32)),
    Case("ccgan-sagan 64", "ch 4", 64, 5, ccgan("ccgan-sagan", 4, 16, 32)),
    Case("stylegan2-ada 32", "ch 32", 64, 5,
         stylegan2(**SMALL_STYLE, mapping_kwargs=MAPPING, synthesis_kwargs={**CLAMP, "channel_max": 32})),
)  # fmt: skip
FULL = (
    Case("biggan 32", "ch 64", 64, 3, biggan("biggan", resolution=32, width=64, dim_z=128, classes=10)),
    Case("biggan 128", "ch 64", 16, 3,
         biggan("biggan", resolution=128, width=64, dim_z=120, classes=1000, shared_dim=128, hier=True,
                attention=(64,))),
    Case("biggan-deep 128", "ch 128", 16, 3,
         biggan("biggan-deep", resolution=128, width=128, dim_z=128, classes=100, shared_dim=128, attention=(64,))),
    Case("ccgan-sngan 64", "ch 64", 32, 3, ccgan("ccgan-sngan", 64, 256, 128)),
    Case("ccgan-sagan 64", "ch 64", 32, 3, ccgan("ccgan-sagan", 64, 256, 128)),
    Case("stylegan2-ada 32", "ch 512", 8, 3,
         stylegan2(**CIFAR_STYLE, mapping_kwargs=MAPPING, synthesis_kwargs=CLAMP)),
)  # fmt: skip


def clocks(device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds, once the device has done all it was given; on a busy machine the second is the
    steadier measure."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


@torch.inference_mode()
def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """One row: seconds of both sides, their ratios, and the largest difference of a pixel in [-1, 1]."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        pair = case.make(case.batch, device, Path(folder))
    sides = {"plain": pair.plain, "ours": pair.ours}
    difference = float((pair.plain() - pair.ours()).abs().max())  # the first pass of either side is not measured
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(case.repeats):
        for side, run in sides.items():
            before = clocks(device)
            run()
            after = clocks(device)
            seconds[side].append((after[0] - before[0], after[1] - before[1]))
    medians = {side: torch.tensor(values).median(dim=0).values.tolist() for side, values in seconds.items()}
    return {
        "teacher": case.name,
        "size": case.size,
        "batch": case.batch,
        "plain_s": medians["plain"][0],
        "ours_s": medians["ours"][0],
        "ratio": medians["plain"][0] / medians["ours"][0],
        "ratio_processor_time": medians["plain"][1] / medians["ours"][1],
        "largest_difference": difference,
    }


def main() -> None:
    """Print a table on stderr and one JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="parity sizes only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="rows whose teacher begins so")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    where = {"threads": options.threads, "device": str(device), "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in where.items()), file=sys.stderr)
    header = ("teacher", "size", "batch", "plain, s", "ours, s", "plain / ours", "processor time", "difference")
    print("{:<17}{:<8}{:>5}{:>10}{:>10}{:>14}{:>16}{:>12}".format(*header), file=sys.stderr)
    rows = []
    for case in PARITY if options.small else PARITY + FULL:
        if case.name.startswith(options.only):
            rows.append(measure(case, device))
            line = "{:<17}{:<8}{:>5}{:>10.4f}{:>10.4f}{:>14.2f}{:>16.2f}{:>12.1e}".format(*rows[-1].values())
            print(line, file=sys.stderr, flush=True)
    print(json.dumps({**where, "rows": rows}))


if __name__ == "__main__":
    main()
