"""Reading foreign checkpoints: containers, prefixes, entries, folding, and everything that is refused."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import UserError
from runtime.safe_files.state_dicts import check_tensors, read_tensors
from teacher_sampler.importers.folding import fold_one_step, fold_stored

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("entry", [None, "G_ema"])
def test_containers_prefixes_and_entries(tmp_path, zipped, prefix, entry):
    path = tmp_path / "G.pth"
    state = OrderedDict((prefix + name, value) for name, value in TENSORS.items())
    stored = state if entry is None else {"G": {"b": torch.zeros(1)}, entry: state, "iteration": 7}
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    assert same(read_tensors(path, ("G_ema", "G")))


def test_safetensors_files(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert same(read_tensors(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("protocol", ["zip", "old", "bare"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, protocol):
    path, trace = tmp_path / "G.pth", tmp_path / "trace"
    stored = {**TENSORS, "evil": Hostile(trace)}
    if protocol == "bare":
        path.write_bytes(pickle.dumps(stored, protocol=2))
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(UserError, match=r"G\.pth") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, zipped, part):
    path = tmp_path / "G.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(UserError, match=r"G\.pth") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({}, "no named tensors"),
        ([torch.zeros(2)], "no named tensors"),
        ({"netG": {"a": torch.zeros(1)}}, "G_ema.*netG"),
        ({"a": torch.zeros(1), "itr": 3}, "other things than tensors"),
    ],
)
def test_other_dictionaries_are_refused(tmp_path, stored, message):
    path = tmp_path / "G.pth"
    torch.save(stored, path)
    with pytest.raises(UserError, match=message):
        read_tensors(path, ("G_ema",))


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "G.pth"
    torch.save({"a.weight": torch.zeros(1).expand(10**7, 10**5)}, path)
    with pytest.raises(UserError, match=r"a\.weight"):
        read_tensors(path)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pth"):
        read_tensors(tmp_path / "nothing.pth")


def test_the_first_ten_wrong_tensors_are_listed(tmp_path):
    expected = {f"layer{index}": (2,) for index in range(14)}
    found = {f"layer{index}": torch.zeros(2) for index in range(2, 14)}
    found |= {"layer5": torch.zeros(3), "layer6": torch.tensor([0.0, float("nan")]), "more": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        check_tensors(found, expected, tmp_path / "G.pth")
    message = str(caught.value)
    for part in ("layer0 is missing", "layer5 has shape [3] in place of [2]", "more is surplus", "layer6 holds"):
        assert part in message
    with pytest.raises(UserError, match=r"layer9 is missing and 4 more"):
        check_tensors({}, expected, tmp_path / "G.pth")
    check_tensors({"a": torch.zeros(2), "b.log": torch.zeros(1)}, {"a": (2,)}, tmp_path, lambda name: "log" in name)


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)])
def test_folding_equals_its_numpy_twin(shape):
    generator = np.random.default_rng(0)
    weight, u = generator.normal(size=shape), 3.0 * generator.normal(size=shape[0])
    matrix = weight.reshape(shape[0], -1)
    v = u @ matrix / np.linalg.norm(u @ matrix)
    once = v @ matrix.T
    sigma = (v @ matrix.T) @ (once / np.linalg.norm(once))
    got = fold_one_step(torch.from_numpy(weight), torch.from_numpy(u)[None])
    np.testing.assert_allclose(got.numpy(), weight / sigma, rtol=1e-12)
    stored = generator.normal(size=matrix.shape[1])
    got = fold_stored(torch.from_numpy(weight), torch.from_numpy(u), torch.from_numpy(stored))
    np.testing.assert_allclose(got.numpy(), weight / (u @ matrix @ stored), rtol=1e-12)
    assert fold_one_step(torch.from_numpy(weight).float(), torch.from_numpy(u).float()).dtype == torch.float32
