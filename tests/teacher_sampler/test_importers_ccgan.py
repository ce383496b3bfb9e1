"""CcGAN files of every layout against a plain rendering, and what is said of files and options that do not fit."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.plain_ccgan import PlainAttention, PlainLabelEmbedding, PlainSAGAN, PlainSNGAN
from image_data.labels import ClassLabels, ContinuousLabels
from layers import attention
from layers.attention import SelfAttention2d
from runtime.errors import UserError
from teacher_sampler.importers.ccgan_labels import read_label_embedding
from teacher_sampler.importers.registry import IMPORTERS, ImportedTeacher, ImportRequest
from teacher_sampler.networks import TEACHERS

EMBED = 32


def used(network: nn.Module, *examples: torch.Tensor) -> nn.Module:
    """The network as if trained: nothing is zero, one or at rest, and the singular vectors lag behind the weights."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(*examples)
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("sigma"):
                value.fill_(0.8)
            elif value.is_floating_point() and not name.endswith(("weight_u", "weight_v")):
                value.add_(torch.randn_like(value) * (0.3 * value.std() if value.ndim > 1 else 0.1))
    return network.eval()


def plain_sngan(width: int = 4, dim_embed: int = EMBED, **more: object) -> nn.Module:
    network = PlainSNGAN(z_dim=9, width=width, dim_embed=dim_embed, **more)
    return used(network, torch.randn(4, 9), torch.rand(4, dim_embed or 1))


def plain_sagan(size: int = 64, **more: object) -> nn.Module:
    network = PlainSAGAN(z_dim=9, gene_ch=4, dim_embed=EMBED, img_size=size, **more)
    return used(network, torch.randn(2, 9), torch.rand(2, EMBED))


def plain_embedding(**more: object) -> nn.Module:
    return used(PlainLabelEmbedding(EMBED, **more), torch.rand(4, 1))


def written(path: Path, network: nn.Module | dict[str, torch.Tensor], prefix: str = "module.") -> Path:
    """A generator's or embedding's file as the original programs write it."""
    state = network.state_dict() if isinstance(network, nn.Module) else network
    entry = "net_state_dict" if "main.0.weight" in state else "netG_state_dict"
    torch.save({entry: {prefix + name: value for name, value in state.items()}}, path)
    return path


def request_of(folder: Path, generator: object, embedding: object = None, **more: object) -> ImportRequest:
    options = {"label_range": (0.0, 90.0), **more}
    if embedding is not None:
        options["label_embedding"] = written(folder / "y2h.pth", embedding)
    return ImportRequest(str(written(folder / "G.pth", generator)), **options)


def refusal(arch: str, request: ImportRequest) -> str:
    with pytest.raises(UserError) as caught:
        IMPORTERS.get(arch)(request)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def check_same_images(teacher: ImportedTeacher, plain: nn.Module, embedding: nn.Module | None = None) -> None:
    z, y = torch.randn(3, 9), torch.rand(3, 1)
    with torch.inference_mode():
        expected = plain(z, y if embedding is None else embedding(y))
        got = teacher.network(z, y)
        moved = teacher.network(z, y.flip(0))
    assert got.shape == (3, teacher.channels, teacher.resolution_px, teacher.resolution_px)
    assert 0.02 < expected.std() < 0.9  # neither flat nor all at the ends of tanh
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (moved - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    ("more", "embed"),
    [({}, {}), ({"first": 8, "nc": 1}, {"final_relu": False}), ({"width": 3}, {"layers": 7})],
)
def test_sngan_with_improved_label_input(tmp_path, more, embed):
    torch.manual_seed(0)
    plain, embedding = plain_sngan(**more), plain_embedding(**embed)
    request = request_of(tmp_path, plain, embedding, final_relu=embed.get("final_relu", True), label_unit="degrees")
    teacher = IMPORTERS.get("ccgan-sngan")(request)
    check_same_images(teacher, plain, embedding)
    assert teacher.label_space == ContinuousLabels(0.0, 90.0, "degrees")
    rebuilt = TEACHERS.get("ccgan")(teacher.label_space, **teacher.arguments)
    rebuilt.load_state_dict(teacher.network.state_dict())
    assert {"blocks.0", "blocks.3"} <= {name for name, _ in rebuilt.named_modules()}


@pytest.mark.parametrize("more", [{"sequence": True}, {"first": 8}, {"sequence": True, "nc": 1, "width": 3}])
def test_sngan_with_naive_label_input(tmp_path, more):
    torch.manual_seed(1)
    plain = plain_sngan(dim_embed=0, **more)
    teacher = IMPORTERS.get("ccgan-sngan")(request_of(tmp_path, plain))
    check_same_images(teacher, plain)
    assert teacher.arguments["conditioning"] == "added"


@pytest.mark.parametrize("size", [64, 128, 192, 256])
def test_sagan_of_every_size(tmp_path, size):
    torch.manual_seed(2)
    plain, embedding = plain_sagan(size), plain_embedding()
    teacher = IMPORTERS.get("ccgan-sagan")(request_of(tmp_path, plain, embedding))
    assert teacher.resolution_px == size
    check_same_images(teacher, plain, embedding)


def _whole(state: dict[str, torch.Tensor], path: Path) -> None:
    nets = {"netG_state_dict": state, "netD_state_dict": {"dense.weight": torch.zeros(1, 2)}}
    more = {"optimizerG_state_dict": {"state": {}, "param_groups": []}, "rng_state": torch.get_rng_state()}
    torch.save({**nets, **more}, path)


FORMS = {
    "training.pth": _whole,
    "generator.pth": lambda state, path: torch.save({"generator": state}, path),
    "state_dict.pth": lambda state, path: torch.save({"state_dict": state}, path),
    "bare.pth": torch.save,
    "wrapped.pth": lambda state, path: torch.save({f"module.{name}": value for name, value in state.items()}, path),
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "a.safetensors": lambda state, path: save_file({name: value.clone() for name, value in state.items()}, path),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_file(tmp_path, form):
    torch.manual_seed(3)
    plain = plain_sngan(dim_embed=0)
    FORMS[form](plain.state_dict(), tmp_path / form)
    request = ImportRequest(str(tmp_path / form), label_range=(0.0, 60.0))
    check_same_images(IMPORTERS.get("ccgan-sngan")(request), plain)


@pytest.mark.parametrize("dropped", [("weight_v",), ("weight_v", "weight_u", "weight_orig")])
def test_files_of_old_torch_hold_the_normalised_weight(tmp_path, dropped):
    torch.manual_seed(4)
    plain, embedding = plain_sagan(), plain_embedding()
    with torch.no_grad():
        plain(torch.randn(1, 9), torch.rand(1, EMBED))
    state = {name: value for name, value in plain.state_dict().items() if not name.endswith(dropped)}
    for name, module in plain.named_modules():
        if hasattr(module, "weight_orig"):
            state[f"{name}.weight"] = module.weight.detach()
    check_same_images(IMPORTERS.get("ccgan-sagan")(request_of(tmp_path, state, embedding)), plain, embedding)


def test_redundant_tensors_may_be_left_out_but_stand_in_no_other_place(tmp_path):
    torch.manual_seed(5)
    plain, embedding = plain_sngan(), plain_embedding()
    state = plain.state_dict()
    lean = {name: value for name, value in state.items() if ".model." not in name and ".bypass." not in name}
    lean = {name: value for name, value in lean.items() if not name.endswith("num_batches_tracked")}
    check_same_images(IMPORTERS.get("ccgan-sngan")(request_of(tmp_path, lean, embedding)), plain, embedding)
    others = ["final.weight", "genblock4.conv1.bias", "genblock0.model.7.bias", "label_encoder.0.bias", "x"]
    message = refusal("ccgan-sngan", request_of(tmp_path, {**state, **dict.fromkeys(others, torch.ones(2))}, embedding))
    assert all(f"{name} is surplus" in message for name in others)
    assert message.count("surplus") == len(others)


def test_all_wrong_tensors_are_listed_at_once(tmp_path):
    torch.manual_seed(6)
    for arch, plain, conv in (
        ("ccgan-sngan", plain_sngan(), "genblock1.conv1.weight"),
        ("ccgan-sagan", plain_sagan(), "block2.snconv2d1.weight_orig"),
    ):
        state = plain.state_dict()
        missing, bad = (
            conv.replace("1.weight", "2.weight"),
            next(name for name in state if name.endswith("beta.weight")),
        )
        del state[missing]
        state |= {conv: state[conv][:-1], "extra.weight": torch.zeros(3), bad: state[bad] * math.nan}
        message = refusal(arch, request_of(tmp_path, state, plain_embedding()))
        assert "G.pth" in message
        assert f"{missing} is missing" in message
        assert f"{conv} has shape [{len(state[conv])}, " in message
        assert "extra.weight is surplus" in message
        assert f"{bad} holds numbers that are not finite" in message
        assert message.count(";") == 3


@pytest.mark.parametrize("arch", ["ccgan-sngan", "ccgan-sagan"])
def test_one_wrong_tensor_is_named_whichever_it_is(tmp_path, arch):
    torch.manual_seed(8)
    sagan = arch == "ccgan-sagan"
    plain = plain_sagan() if sagan else plain_sngan(dim_embed=0, sequence=True)
    embedding = plain_embedding() if sagan else None
    state, redundant = plain.state_dict(), ("num_batches_tracked", "model.3", "model.6", "bypass.1", "final.")
    names = [name for name in state if not any(part in name for part in redundant)]
    tried = names[::9] + ["snlinear0.weight_v" if sagan else "dense.weight"]
    for name in tried:
        without = {other: value for other, value in state.items() if other != name}
        assert f"{name} is missing" in refusal(arch, request_of(tmp_path, without, embedding))
        misshapen = {**state, name: torch.zeros(())}
        assert f"{name} has shape []" in refusal(arch, request_of(tmp_path, misshapen, embedding))
    block = "block4." if sagan else "genblock3.1."
    without = {name: value for name, value in state.items() if not name.startswith(block)}
    assert refusal(arch, request_of(tmp_path, without, embedding)).count(f"{block}") > 5
    assert len(tried) > 4


def test_singular_vectors_of_zero_are_refused(tmp_path):
    state = plain_sagan().state_dict()
    state["snlinear0.weight_u"].zero_()
    assert "snlinear0.weight_orig, " in refusal("ccgan-sagan", request_of(tmp_path, state, plain_embedding()))


def test_all_missing_options_are_asked_for_at_once(tmp_path):
    for arch, plain in (("ccgan-sngan", plain_sngan()), ("ccgan-sagan", plain_sagan())):
        message = refusal(arch, request_of(tmp_path, plain, label_range=None))
        assert message.startswith(f"--arch {arch} ")
        assert "--label-range LOW:HIGH (" in message
        assert "-88.13:97.92" in message
        assert "--label-embedding FILE (" in message
    message = refusal("ccgan-sngan", request_of(tmp_path, plain_sngan(dim_embed=0), label_range=None))
    assert "--label-range" in message
    assert "--label-embedding" not in message


@pytest.mark.parametrize("label_range", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_ranges_that_are_none_are_refused(tmp_path, label_range):
    request = request_of(tmp_path, plain_sngan(dim_embed=0), label_range=label_range)
    assert refusal("ccgan-sngan", request).startswith(f"--label-range {label_range[0]:g}:")


def test_options_that_do_not_belong_are_refused(tmp_path):
    naive = plain_sngan(dim_embed=0)
    assert "y2h.pth" in refusal("ccgan-sngan", request_of(tmp_path, naive, plain_embedding()))
    assert "--no-final-relu" in refusal("ccgan-sngan", request_of(tmp_path, naive, final_relu=False))
    assert "--truncation" in refusal("ccgan-sngan", request_of(tmp_path, naive, truncation=0.5))


def test_the_arch_that_fits_is_named(tmp_path):
    embedding = plain_embedding()
    assert "--arch ccgan-sagan" in refusal("ccgan-sngan", request_of(tmp_path, plain_sagan(), embedding))
    assert "--arch ccgan-sngan" in refusal("ccgan-sagan", request_of(tmp_path, plain_sngan(), embedding))
    dcgan = {"linear.weight": torch.zeros(8, 2), "deconv1.weight": torch.zeros(2, 2, 4, 4)}
    assert "DCGAN" in refusal("ccgan-sngan", request_of(tmp_path, dcgan, embedding))
    other = {"blocks.0.0.conv1.weight": torch.zeros(1), "shared.weight": torch.zeros(1)}
    assert "shared.weight" in refusal("ccgan-sagan", request_of(tmp_path, other, embedding))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"main.0.weight": torch.zeros(4, 3, 3, 3), "h2y.0.bias": torch.zeros(1)}, "x2y"),
        ({"dense.weight": torch.zeros(1)}, "main.0"),
        ({"main.0.bias": torch.zeros(EMBED), "main.12.bias": torch.zeros(EMBED)}, "main.0.weight is missing; main.1."),
        ({**PlainLabelEmbedding(24).state_dict()}, "24 numbers"),
        ({**PlainLabelEmbedding(EMBED).state_dict(), "main.15.bias": torch.zeros(EMBED)}, "main.18.weight is missing"),
        (
            {**PlainLabelEmbedding(EMBED).state_dict(), "main.9.weight": torch.zeros(2)},
            r"main.9.weight has shape \[2\]",
        ),
        ({"main.0.weight": torch.zeros(12, 1), "main.0.bias": torch.zeros(12)}, "12 numbers"),
    ],
)
def test_label_embeddings_that_do_not_fit(tmp_path, state, message):
    request = request_of(tmp_path, plain_sngan())
    file = tmp_path / "y2h.pth"
    torch.save({"net_state_dict": state}, file)
    with pytest.raises(UserError, match=message) as caught:
        IMPORTERS.get("ccgan-sngan")(ImportRequest(request.checkpoint, file, (0.0, 1.0)))
    assert "y2h.pth" in str(caught.value)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_hostile_and_damaged_files_are_refused_and_nothing_runs(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"netG_state_dict": Hostile(marker)}, tmp_path / "hostile.pth")
    whole = written(tmp_path / "G.pth", plain_sngan(dim_embed=0)).read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("netG_state_dict")
    torch.save({"netD_state_dict": {"a": torch.ones(1)}}, tmp_path / "other.pth")
    for name in ("hostile.pth", "short.pth", "text.pth", "other.pth", "absent.pth"):
        request = ImportRequest(str(tmp_path / name), label_range=(0.0, 1.0))
        assert name in refusal("ccgan-sngan", request)
        with pytest.raises(UserError, match=name):
            read_label_embedding(tmp_path / name, True)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning": "both"}, "conditioning 'both'"),
        ({"widths": [4]}, "make no block"),
        ({"attention_after": 2}, "attention_after 2"),
        ({"embedding_layers": 6}, "6 layers"),
        ({"embedding_dim": 12}, "12 numbers"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    arguments = {"latent_dim": 5, "widths": [8, 4, 2], "channels": 1, "embedding_dim": 8, **change}
    with pytest.raises(UserError, match=message):
        TEACHERS.get("ccgan")(ContinuousLabels(0.0, 1.0), **arguments)
    for space in (ClassLabels(("a", "b")), ContinuousLabels(0.0, 1.0, dimension=2)):
        with pytest.raises(UserError, match="one continuous label"):
            TEACHERS.get("ccgan")(space)


@pytest.mark.parametrize("pairs_at_once", [1, 150, 1 << 24])
def test_attention_with_biases_equals_the_plain_one_in_parts_or_whole(monkeypatch, pairs_at_once):
    torch.manual_seed(7)
    monkeypatch.setitem(attention.PAIRS_AT_ONCE, "cpu", pairs_at_once)
    plain = used(PlainAttention(8), torch.randn(2, 8, 4, 6)).eval()
    x = torch.randn(5, 8, 4, 6)
    with torch.no_grad():
        expected = plain(x)
        layer = SelfAttention2d(8, spectral_normed=False, bias=True)
        for ours, theirs in (("theta", "theta"), ("phi", "phi"), ("g", "g"), ("o", "attn")):
            module = getattr(plain, f"snconv1x1_{theirs}")
            getattr(layer, ours).load_state_dict({"weight": module.weight, "bias": module.bias})
        layer.gamma.copy_(plain.sigma[0])
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(layer(last), expected, rtol=1e-5, atol=1e-5)
    assert set(SelfAttention2d(8, False).state_dict()) == {
        "gamma",
        *(f"{part}.weight" for part in ("theta", "phi", "g", "o")),
    }
