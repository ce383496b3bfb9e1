"""Which network of a checkpoint is taken, whatever wraps it and whatever the entries are called."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
from runtime.errors import UserError
from runtime.safe_files.entries import FoundNetwork, is_averaged, read_network
from runtime.safe_files.state_dicts import open_checkpoint, read_tensors
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.stylegan2_ada import import_stylegan2_ada, read_arguments
from tests.support.stylegan2_snapshots import (
    TINY,
    Call,
    Raw,
    module,
    pickled,
    random_plain,
    snapshot_bytes,
    write_snapshot,
)

PARAMETERS = {"first.weight": torch.arange(6.0).reshape(2, 3), "last.bias": torch.ones(2)}
STATISTICS = {"norm.running_mean": torch.zeros(2)}
JUDGE = {"judge.weight": torch.zeros(2)}


def state(scale: float, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: scale * value for name, value in {**PARAMETERS, **STATISTICS}.items()}


def taken(path: Path, stored: Any, entry: str | None = None, zipped: bool = True) -> FoundNetwork:
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    return read_network(path, lambda names: "first.weight" in names and "last.bias" in names, entry)


def scale_of(found: FoundNetwork) -> float:
    assert set(found.tensors) == {*PARAMETERS, *STATISTICS}
    return float(found.tensors["last.bias"][0])


@pytest.mark.parametrize(
    "name",
    ["ema", "EMA", "g_ema", "G_ema", "netG_ema", "netGEMA", "generator_ema", "averaged", "shadow", "model_ema",
     "ema_state_dict", "state_dict_ema", "G_avg", "emaGenerator", "g_running", "swa_model", "generator_smooth", "Gs"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["beside", "nested", "dotted"])
def test_the_averaged_generator_is_taken_whatever_its_name(name: str, form: str, tmp_path: Path) -> None:
    stored: Any = {"netG": state(1.0), "netD": JUDGE, name: state(2.0), "iteration": 7}
    if form == "nested":
        stored = {"models": stored, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    elif form == "dotted":
        stored = {"state_dict": {**state(1.0, "netG."), **state(2.0, f"{name}.")}, "epoch": 3}
    found = taken(tmp_path / "c.pth", stored)
    assert scale_of(found) == 2.0
    assert found.entry.endswith(name)
    assert any("netG" in other for other in found.others)
    assert found.notes()["entry"] == found.entry


@pytest.mark.parametrize("name", ["schema", "generator", "remapped", "best", "semantic"])
def test_other_names_are_no_averages(name: str) -> None:
    assert not is_averaged(name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.module.", "_orig_mod.module.", "module.module."]
)
def test_wrappers_are_removed_in_any_order(prefix: str, zipped: bool, tmp_path: Path) -> None:
    assert scale_of(taken(tmp_path / "a.pth", OrderedDict(state(1.0, prefix)), zipped=zipped)) == 1.0
    averaged = {"n_averaged": torch.tensor(3), **state(3.0, f"module.{prefix}")}
    found = taken(tmp_path / "b.pth", {"G": state(1.0, prefix), "second": averaged}, zipped=zipped)
    assert (scale_of(found), found.entry) == (3.0, "second")
    assert read_tensors(tmp_path / "a.pth").keys() == found.tensors.keys()


def test_a_wrapper_inside_and_names_that_become_one(tmp_path: Path) -> None:
    inner = {"first._orig_mod.weight": PARAMETERS["first.weight"], "last.module.bias": PARAMETERS["last.bias"]}
    assert set(taken(tmp_path / "a.pth", inner).tensors) == set(PARAMETERS)
    with pytest.raises(UserError, match=r"holds first\.weight twice"):
        taken(tmp_path / "b.pth", {**PARAMETERS, "module.first.weight": torch.zeros(2, 3)})


def test_an_average_of_parameters_gets_the_trained_networks_statistics(tmp_path: Path) -> None:
    stored = {"G": state(1.0), "ema": {"decay": 0.999, "shadow": {n: 2 * v for n, v in PARAMETERS.items()}}}
    found = taken(tmp_path / "c.pth", stored)
    assert scale_of(found) == 2.0
    assert (found.entry, found.completed_from) == ("ema.shadow", "G")


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ({"G": state(1.0), "G_best": state(2.0)}, r"several generators, none .* \(G, G_best\); .* --entry G"),
        ({"ema_0.99": state(1.0), "ema_0.999": state(2.0)}, r"several averaged generators .*--entry ema_0"),
        ({"netD": JUDGE, "netE": dict(JUDGE)}, r"none of its entries \(netD, netE\)"),
        ({"G": state(1.0), "ema": {"shadow_params": [torch.ones(1)]}}, r"no names \(ema\.shadow_params\).*--entry G"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_with_the_entries(stored: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        taken(tmp_path / "c.pth", stored)
    assert "\n" not in str(caught.value)


def test_the_user_may_choose_and_equal_generators_are_no_choice(tmp_path: Path) -> None:
    stored = {"nets": {"G": state(1.0), "G_ema": state(2.0)}}
    for asked in ("G", "nets.G"):
        assert scale_of(taken(tmp_path / "c.pth", stored, asked)) == 1.0
    with pytest.raises(UserError, match=r"--entry H: .* nets\.G, nets\.G_ema"):
        taken(tmp_path / "c.pth", stored, "H")
    assert scale_of(taken(tmp_path / "d.pth", {"G": state(1.0), "last": state(1.0)})) == 1.0


def test_what_a_training_keeps_beside_its_networks_does_no_harm(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    network.weight.note = "an attribute"  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    stored = {"G_ema": {"first": network.weight, **PARAMETERS}, "optimizer": optimizer.state_dict(),
              "rng": torch.get_rng_state(), "size": torch.Size([1, 2]), "half": torch.ones(2, dtype=torch.bfloat16),
              "dtype": torch.float16, "names": {"a", "b"}, "none": None, "pair": (1, 2.5)}  # fmt: skip
    for zipped in (True, False):
        found = taken(tmp_path / "c.pth", stored, zipped=zipped)
        assert torch.equal(found.tensors["first"], network.weight)
    with open_checkpoint(tmp_path / "c.pth") as checkpoint:
        assert checkpoint.load({"half": checkpoint.content["half"]})["half"].dtype == torch.bfloat16


def test_small_files_that_unpack_to_much_are_refused_by_what_they_declare(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"first.weight": torch.zeros(1_000_000)}, path)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    with pytest.raises(UserError, match="is compressed or encrypted"):
        read_tensors(packed)
    forged = path.read_bytes().replace(struct.pack("<I", 1_000_000), struct.pack("<I", 2_000_000_000))
    path.write_bytes(forged)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)


def _hashes_for_ever() -> bytes:
    """A key that is a tuple of itself twice, sixty levels deep: its hash takes 2^60 steps."""
    return pickled(Raw(b"}K\x01\x85" + b"q\x00h\x00h\x00\x86" * 60 + b"K\x01s"), 2)


@pytest.mark.parametrize(
    "pickle",
    [
        _hashes_for_ever(),
        pickled(Call("builtins", "bytearray", 1 << 40), 2),
        pickled(Call("torch", "FloatTensor", 1 << 40)),
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02(" + b"}" * 100_000 + b"t.",
        b"\x80\x02X\xff\xff\xff\xffa.",
    ],
)
def test_pickles_that_take_time_or_memory_are_refused(pickle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
    with pytest.raises(UserError, match=r"c\.pth"):
        read_tensors(path)


def _flat(**more: Any) -> dict[str, Any]:
    return {**{name: TINY[name] for name in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}, **more}


def test_a_stylegan2_network_of_the_stylegan3_program(tmp_path: Path) -> None:
    synthesis = {"channel_base": 32, "channel_max": 7, "num_fp16_res": 4}
    flat, _ = read_arguments(_flat(**synthesis, fused_modconv_default="inference_only"), tmp_path)
    assert (flat["channel_base"], flat["channel_max"], flat["conv_clamp"]) == (32, 7, 256.0)
    assert read_arguments(_flat(**synthesis, conv_clamp=None), tmp_path)[0]["conv_clamp"] is None
    assert read_arguments(_flat(synthesis_kwargs=synthesis), tmp_path)[0]["conv_clamp"] is None
    assert read_arguments(_flat(), tmp_path, True)[0]["conv_clamp"] == 256.0
    path = tmp_path / "network-snapshot-000200.pkl"
    plain = random_plain()
    nested = import_stylegan2_ada(ImportRequest(str(write_snapshot(path, plain))))
    changes = {**TINY["synthesis_kwargs"], "fused_modconv_default": "inference_only"}
    path.write_bytes(snapshot_bytes(plain, synthesis_kwargs=None, **changes))
    found = import_stylegan2_ada(ImportRequest(str(path)))
    assert found.arguments == nested.arguments
    assert (found.notes["entry"], found.notes["other_entries"]) == ("G_ema", ["G"])
    assert nested.network is not None
    assert found.network is not None
    expected = nested.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.network.state_dict().items())


def test_an_average_of_another_name_in_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "s.pkl"
    data = snapshot_bytes(random_plain())
    path.write_bytes(data.replace(b"G_ema", b"Gmean").replace(b"Gmean", b"g_avg"))
    assert import_stylegan2_ada(ImportRequest(str(path))).notes["entry"] == "g_avg"
    path.write_bytes(data.replace(b"G_ema", b"Gbest"))
    with pytest.raises(UserError, match=r"no averaged generator \(G, Gbest\); choose one with --entry G"):
        import_stylegan2_ada(ImportRequest(str(path)))
    assert import_stylegan2_ada(ImportRequest(str(path), entry="Gbest")).notes["entry"] == "Gbest"


@pytest.mark.parametrize("found_by", ["argument", "module"])
def test_stylegan3_is_refused_by_name(found_by: str, tmp_path: Path) -> None:
    array = Raw(b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x02\x85NNtb")
    kwargs = _flat(**({"magnitude_ema_beta": 0.999} if found_by == "argument" else {}))
    synthesis = module("SynthesisNetwork", _modules={"input": module("SynthesisInput", size=array)})
    network = module(_modules={"synthesis": synthesis}, _init_args=(), _init_kwargs=kwargs)
    path = tmp_path / "stylegan3t.pkl"
    path.write_bytes(pickled({"G": network, "G_ema": network}))
    with pytest.raises(UserError, match="is a StyleGAN3 network, which is not supported; export it to ONNX"):
        import_stylegan2_ada(ImportRequest(str(path)))


def test_files_of_other_programs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"g": PARAMETERS, "d": PARAMETERS, "g_ema": PARAMETERS}, tmp_path / "r.pt")
    torch.save({"g": PARAMETERS}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "snapshot.pkl").write_bytes(pickled({"G_ema": 1, "D": None}))
    (tmp_path / "weights").mkdir()
    torch.save(PARAMETERS, tmp_path / "weights" / "G_ema.pth")
    for arch, checkpoint, sentence in (
        ("stylegan2-ada", tmp_path / "r.pt", "is a torch file of another program (g, d, g_ema)"),
        ("stylegan2-ada", tmp_path / "old.pt", "is a torch file of another program (g)"),
        ("biggan", tmp_path / "snapshot.pkl", "is a pickle of modules"),
        ("biggan", tmp_path / "weights", "is a folder; give the G_ema.pth in it"),
        ("stylegan2-ada", "https://host/ffhq.pkl", "https://host/ffhq.pkl is an address; download it first"),
        ("biggan", "/dev/zero", "is a device"),
        ("onnx", "/dev/zero", "is a device"),
        ("torch-export", tmp_path / "weights", "is a folder"),
    ):
        out = tmp_path / "out"
        code = cli.main(["import-teacher", "--arch", arch, "--checkpoint", str(checkpoint), "--out", str(out)])
        message = capsys.readouterr().err
        assert code == 2, message
        assert sentence in message
        assert not out.exists()


def test_a_class_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "s.pkl", random_plain())
    with pytest.raises(UserError, match="the name cat twice"):
        import_stylegan2_ada(ImportRequest(str(path), class_names=("cat", "dog", "cat")))
