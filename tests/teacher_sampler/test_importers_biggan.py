"""The BigGAN importers: any configuration of the original program, and every file that is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from benchmarks.plain_biggan import PlainBigGAN, PlainBigGANDeep, randomise
from image_data.labels import ClassLabels
from layers.conditional_norm import ConditionalBatchNorm2d
from layers.upsampled_conv import UpsampledConv2d
from runtime.errors import UserError
from runtime.safe_files.state_dicts import check_tensors
from teacher_sampler.importers import IMPORTERS
from teacher_sampler.importers.biggan import convert, expected_tensors, read_layout
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.networks import TEACHERS
from tests.support.parity_folder import parity

PROPERTY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
SMALL = {"resolution": 32, "width": 2, "dim_z": 8, "classes": 3, "shared_dim": 5, "hier": True}


def save(network: nn.Module, path: Path, **more: torch.Tensor) -> Path:
    torch.save({**network.state_dict(), **more}, path)
    return path


def small_checkpoint(folder: Path, **more: object) -> Path:
    return save(randomise(PlainBigGAN(**{**SMALL, **more}), 0), folder / "G_ema.pth")


def assert_imports(plain: nn.Module, path: Path, arch: str, classes: int) -> None:
    teacher = IMPORTERS.get(arch)(ImportRequest(str(save(plain, path))))
    assert teacher.latent["dimension"] == plain.dim_z
    assert teacher.label_space.width == classes
    z, y = torch.randn(classes, plain.dim_z, dtype=torch.float64), torch.arange(classes)
    with torch.inference_mode():  # in float64, since random deep networks magnify the rounding of either side
        expected, images = plain.double()(z, y), teacher.network.double()(z, y)
    assert expected.std() > 0.05
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


@settings(PROPERTY, max_examples=20)
@given(
    resolution=st.sampled_from([32, 64]),
    width=st.sampled_from([2, 4]),
    classes=st.integers(2, 6),
    pieces=st.integers(1, 5),
    shared_dim=st.integers(1, 9),
    label=st.sampled_from(["tables", "shared", "hier"]),
    attention=st.sets(st.sampled_from([8, 16])),
    dialect=st.sampled_from(["plain", "mybn", "cross_replica"]),
    normed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_biggan(tmp_path, resolution, width, classes, pieces, shared_dim, label, attention, dialect, normed, seed):
    dim_z = pieces * (4 if resolution == 32 else 5)
    if width == 2:
        attention = ()  # needs eight channels
    plain = PlainBigGAN(
        resolution, width, dim_z, classes, 0 if label == "tables" else shared_dim, label == "hier", tuple(attention),
        dialect, normed,
    )  # fmt: skip
    assert_imports(randomise(plain, seed), tmp_path / "G.pth", "biggan", classes)


@settings(PROPERTY, max_examples=12)
@given(
    size=st.sampled_from([(32, 1), (32, 2), (32, 3), (64, 2)]),
    width=st.sampled_from([2, 4]),
    classes=st.integers(2, 6),
    dim_z=st.integers(1, 9),
    shared_dim=st.integers(1, 9),
    attention=st.sets(st.sampled_from([8, 16])),
    dialect=st.sampled_from(["plain", "mybn", "cross_replica"]),
    normed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_biggan_deep(tmp_path, size, width, classes, dim_z, shared_dim, attention, dialect, normed, seed):
    (resolution, depth), attended = size, tuple(attention) if width == 4 else ()
    plain = PlainBigGANDeep(resolution, width, dim_z, classes, shared_dim, depth, attended, dialect, normed)
    assert_imports(randomise(plain, seed), tmp_path / "G.pth", "biggan-deep", classes)


@pytest.mark.parametrize(("resolution", "arch"), [(256, "biggan"), (512, "biggan"), (256, "biggan-deep")])
def test_large_images_have_their_row(resolution, arch):
    options = {"resolution": resolution, "width": 1, "dim_z": 9, "classes": 2, "shared_dim": 3}
    with torch.device("meta"):
        plain = PlainBigGANDeep(**{**options, "width": 4}) if arch == "biggan-deep" else PlainBigGAN(**options)
    layout = read_layout(plain.state_dict(), Path("G.pth"))
    assert (layout.resolution_px, layout.deep) == (resolution, arch == "biggan-deep")
    found = {name: tuple(value.shape) for name, value in plain.state_dict().items() if not name.endswith(".sv0")}
    assert found == expected_tensors(layout)


def test_norms_without_statistics_leave_the_map_as_it_is(tmp_path):
    plain = randomise(PlainBigGAN(**SMALL), 0)
    kept = {name: value for name, value in plain.state_dict().items() if ".0.bn" not in name or "_" not in name[-6:]}
    torch.save(kept, tmp_path / "G.pth")
    assert len(kept) == len(plain.state_dict()) - 12
    for name, module in plain.named_modules():
        if name.endswith(("bn1", "bn2")):
            module.stored_mean.zero_()
            module.stored_var.fill_(1.0 - 1e-5)
    teacher = IMPORTERS.get("biggan")(ImportRequest(str(tmp_path / "G.pth")))
    z, y = torch.randn(3, 8), torch.arange(3)
    torch.testing.assert_close(teacher.network(z, y), plain(z, y), rtol=1e-4, atol=1e-4)


def test_further_singular_values_and_half_precision_are_read(tmp_path):
    plain = randomise(PlainBigGAN(**SMALL), 0)
    path = save(plain, tmp_path / "G.pth", **{"linear.u1": torch.ones(1, 128), "linear.sv1": torch.ones(1)})
    once = IMPORTERS.get("biggan")(ImportRequest(str(path))).network
    half = {name: value.half() for name, value in torch.load(path).items()}
    torch.save(half, tmp_path / "half.pth")
    twice = IMPORTERS.get("biggan")(ImportRequest(str(tmp_path / "half.pth"))).network
    assert twice.linear.weight.dtype == torch.float32
    z, y = torch.randn(3, 8), torch.arange(3)
    torch.testing.assert_close(twice(z, y), once(z, y), rtol=0.05, atol=0.05)


def test_entries_of_a_training_checkpoint(tmp_path):
    plain, other = randomise(PlainBigGAN(**SMALL), 0), randomise(PlainBigGAN(**SMALL), 1)
    torch.save({"G": other.state_dict(), "G_ema": plain.state_dict(), "itr": 5}, tmp_path / "all.pth")
    teacher = IMPORTERS.get("biggan")(ImportRequest(str(tmp_path / "all.pth"), truncation=0.7))
    assert teacher.truncation == {"std": 0.7}
    z, y = torch.randn(3, 8), torch.arange(3)
    torch.testing.assert_close(teacher.network(z, y), plain(z, y), rtol=1e-4, atol=1e-4)


def test_the_other_family_is_named(tmp_path):
    deep = randomise(PlainBigGANDeep(32, 4, 4, 2, 3), 0)
    with pytest.raises(UserError, match="give --arch biggan-deep"):
        IMPORTERS.get("biggan")(ImportRequest(str(save(deep, tmp_path / "G.pth"))))
    with pytest.raises(UserError, match=r"give --arch biggan\."):
        IMPORTERS.get("biggan-deep")(ImportRequest(str(small_checkpoint(tmp_path))))


def _without(*names: str) -> object:
    def harm(state: dict[str, torch.Tensor]) -> None:
        for name in names:
            del state[name]

    return harm


def _with(**tensors: torch.Tensor) -> object:
    return lambda state: state.update({name.replace("__", "."): value for name, value in tensors.items()})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without("linear.weight"), "linear.weight is missing"),
        (_without("shared.weight"), "shared.weight is missing"),
        (_without("blocks.1.0.conv2.bias"), "blocks.1.0.conv2.bias is missing"),
        (_without("blocks.1.0.conv2.u0"), "blocks.1.0.conv2.u0 is missing"),
        (_without("blocks.1.0.bn2.stored_var"), "stored_var is missing"),
        (_with(blocks__1__0__extra=torch.zeros(1)), "extra is surplus"),
        (_with(blocks__1__1__theta__weight=torch.zeros(1, 8, 1, 1)), "theta.weight is surplus"),
        (_with(nothing__sv0=torch.zeros(1)), "nothing.sv0 is surplus"),
        (_with(linear__bias=torch.zeros(3)), r"linear.bias has shape \[3\] in place of \[128\]"),
        (_with(linear__weight=torch.zeros(3)), r"linear.weight has shape \[3\]"),
        (_with(blocks__1__0__conv1__weight=torch.zeros(8, 9, 3, 3)), "conv1.weight has shape"),
        (_with(linear__bias=torch.full((128,), float("nan"))), "linear.bias holds numbers that are not finite"),
        (_with(linear__u0=torch.zeros(1, 128)), "linear.weight cannot be normalised"),
        (_with(blocks__7__0__conv1__weight=torch.zeros(8, 8, 3, 3)), "8 blocks"),
        (_with(blocks__999999__0__conv1__weight=torch.zeros(1)), "1000000 blocks"),
        (lambda state: state.clear(), "no named tensors"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, harm, message):
    state = dict(randomise(PlainBigGAN(**SMALL), 0).state_dict())
    harm(state)
    torch.save(state, tmp_path / "G_ema.pth")
    with pytest.raises(UserError, match=message) as caught:
        IMPORTERS.get("biggan")(ImportRequest(str(tmp_path / "G_ema.pth")))
    assert "G_ema.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_class_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="--class-names gives 2 names"):
        IMPORTERS.get("biggan")(ImportRequest(str(small_checkpoint(tmp_path)), class_names=("a", "b")))


class StyleGANSnapshot(dict):
    """Any class that torch does not know."""


def test_pickles_of_objects_are_refused(tmp_path):
    path = tmp_path / "network-snapshot-000200.pkl"
    path.write_bytes(pickle.dumps({"G_ema": StyleGANSnapshot()}, protocol=4))
    with pytest.raises(UserError, match="snapshot") as caught:
        IMPORTERS.get("biggan")(ImportRequest(str(path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["state_dict.pth", "renamed.pth"])
def test_parity_bookkeeping_file_is_no_checkpoint(tmp_path, name):
    path = tmp_path / name
    path.write_bytes((parity("biggan_64") / "state_dict.pth").read_bytes())
    with pytest.raises(UserError, match=r"no weights; give G_ema\.pth"):
        IMPORTERS.get("biggan")(ImportRequest(str(path)))


def test_parity_stylegan_snapshot_is_no_biggan():
    path = parity("stylegan2ada_cifar_cond") / "network-snapshot-000200.pkl"
    with pytest.raises(UserError, match=r"network-snapshot-000200\.pkl"):
        IMPORTERS.get("biggan")(ImportRequest(str(path)))


def test_conditional_norm_in_eval_mode_equals_the_plain_form():
    norm = ConditionalBatchNorm2d(3, 5, eps=0.01)
    norm.bn.running_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    norm.bn.running_var.copy_(torch.tensor([0.1, 2.0, 3.0]))
    nn.init.normal_(norm.gain.weight)
    nn.init.normal_(norm.bias.weight)
    x, c = torch.randn(4, 3, 2, 2), torch.randn(4, 5)
    gain, bias = norm.gain(c)[:, :, None, None], norm.bias(c)[:, :, None, None]
    norm.eval()
    torch.testing.assert_close(norm(x, c), norm.bn(x) * (1 + gain) + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [1, 2, 5])
def test_upsampled_convolution_equals_the_plain_form_and_follows_its_weight(height):
    layer = UpsampledConv2d(3, 4).double().eval()
    x = torch.randn(2, 3, height, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):

        def plain() -> torch.Tensor:
            return F.conv2d(F.interpolate(x, scale_factor=2.0), layer.weight, layer.bias, padding=1)

        with torch.inference_mode():
            torch.testing.assert_close(layer(x), plain())
        got = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight])
        torch.testing.assert_close(got, torch.autograd.grad(plain().square().sum(), [x, layer.weight]))
        with torch.no_grad():
            layer.weight.mul_(-2.0).add_(0.1)  # the kept taps must not outlive this
    layer.requires_grad_(False)
    with torch.inference_mode():
        layer(x)
    torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(layer.train()(x), plain())


def test_attention_at_several_resolutions_and_as_one_number():
    space = ClassLabels(("a", "b"))
    for arch, indices in (("biggan", ["1", "2"]), ("biggan-deep", ["3", "5"])):
        build = TEACHERS.get(arch)
        network = build(space, resolution_px=32, channels=1, width=2, attention_px=[32, 16])
        assert list(network.attention) == indices
        one = build(space, resolution_px=32, channels=1, width=2, attention_px=16)
        assert list(one.attention) == indices[:1]
        assert not build(space, resolution_px=32, channels=1, width=2, attention_px=[]).attention
        with pytest.raises(UserError, match="attention at 24"):
            build(space, resolution_px=32, channels=1, width=2, attention_px=[16, 24])
    with pytest.raises(UserError, match="depth 0"):
        TEACHERS.get("biggan-deep")(space, resolution_px=32, channels=1, depth=0)


def test_a_read_layout_loses_no_tensor():
    plain = randomise(PlainBigGAN(**SMALL, dialect="mybn"), 0)
    state = plain.state_dict()
    layout = read_layout(state, Path("G.pth"))
    check_tensors(state, expected_tensors(layout), Path("G.pth"), lambda name: name.endswith(("sv0", "counter")))
    used: set[str] = set()

    class Noting(dict):
        def __getitem__(self, name):
            used.add(name)
            return super().__getitem__(name)

        def get(self, name, default=None):
            used.add(name)
            return super().get(name, default)

    convert(Noting(state), layout)
    assert set(expected_tensors(layout)) <= used
