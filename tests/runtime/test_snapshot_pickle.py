"""The reader of snapshots never runs what a file names, and meets every damage with one sentence."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.safe_files.snapshot_pickle import read_snapshot
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.stylegan2_ada import import_stylegan2_ada
from tests.support.stylegan2_snapshots import (
    Call,
    Raw,
    assemble,
    module,
    mutated,
    pickled,
    random_plain,
    shared,
    snapshot_bytes,
    storage_bytes,
    tensor,
)

QUICKLY_S = 20.0  # CPU seconds, for what takes one or less; an attack that works takes hours
MUTATIONS = 400
STORAGE = storage_bytes([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.fixture(scope="module")
def original() -> bytes:
    """A good snapshot."""
    return snapshot_bytes(random_plain())


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of G_ema."""
    snapshot = read_snapshot(path)
    return snapshot.tensors(snapshot.module("G_ema", "Generator"))


def refusal(folder: Path, data: bytes) -> str:
    """The one sentence with which the bytes are refused, quickly: while they are read or asked for tensors."""
    path = folder / "snapshot.pkl"
    path.write_bytes(data)
    begin = time.process_time()
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert time.process_time() - begin < QUICKLY_S
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500
    return message


def generator(**parameters: Any) -> dict[str, Any]:
    """Entries with a G_ema of these parameters."""
    return {"G_ema": module(_parameters=parameters)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_gives_the_state_dict_back(tmp_path, protocol):
    network = random_plain()
    network.synthesis.b8.conv1.weight.data = network.synthesis.b8.conv1.weight.to(memory_format=torch.channels_last)
    path = tmp_path / "snapshot.pkl"
    path.write_bytes(snapshot_bytes(network, protocol))
    snapshot = read_snapshot(path)
    found = snapshot.tensors(snapshot.module("G_ema", "Generator"))
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(value.is_contiguous() for value in found.values())
    assert snapshot.entries["G_ema"].state["weight_gain"] == 0.5  # a NumPy scalar
    assert "module_src" not in vars(snapshot.entries["G_ema"])


def test_hidden_buffers_and_absent_parameters_are_left_out(tmp_path):
    state = {
        "_parameters": {"a": tensor(STORAGE, 1, (2, 2), (1, 2)), "none": None},
        "_buffers": {"seen": tensor(STORAGE, 0, (), ()), "hidden": tensor(STORAGE, 0, (1,), (1,))},
        "_non_persistent_buffers_set": Call("__builtin__", "set", ["hidden"]),
        "_modules": {"inner": module("Other", _parameters={"b": tensor(STORAGE, 5, (3,), (0,))}), "gone": None},
    }
    path = tmp_path / "snapshot.pkl"
    path.write_bytes(pickled({"G_ema": module(**state)}))
    snapshot = read_snapshot(path)
    found = snapshot.tensors(snapshot.module("G_ema", "Generator"))
    assert list(found) == ["a", "seen", "inner.b"]
    assert found["a"].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert found["seen"].shape == ()
    assert found["inner.b"].tolist() == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(("kind", "dtype"), [("HalfStorage", "<f2"), ("DoubleStorage", "<f8"), ("LongStorage", "<i8")])
def test_other_numbers_become_float32(tmp_path, kind, dtype):
    data = storage_bytes([], kind, 3, data=np.array([1, 2, 3], dtype).tobytes())
    path = tmp_path / "snapshot.pkl"
    path.write_bytes(pickled(generator(a=tensor(data, 0, (3,), (1,)))))
    snapshot = read_snapshot(path)
    found = snapshot.tensors(snapshot.entries["G_ema"])["a"]
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, 2.0, 3.0]


def canary(path: Path) -> Raw:
    """Opcodes that call os.system when an ordinary unpickler reads them."""
    return Raw(b"cos\nsystem\n" + assemble((f"touch {path}",)) + b"R")


def test_the_canary_sings_for_an_ordinary_unpickler(tmp_path):
    pickle.loads(pickled(canary(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def named(module_name: str, name: str) -> bytes:
    """A name taken from the stack (protocol 4) and called with nothing."""
    return b"\x80\x04" + assemble(module_name) + assemble(name) + b"\x93)R."


FORBIDDEN: dict[str, tuple[bytes, str]] = {
    "eval": (pickled(Call("builtins", "eval", "1")), "builtins.eval"),
    "getattr": (pickled(Call("builtins", "getattr", {}, "clear")), "builtins.getattr"),
    "python 2's name": (pickled(Call("__builtin__", "eval", "1")), "__builtin__.eval"),
    "torch.load": (pickled(Call("torch", "load", "x")), "torch.load"),
    "the real reader of bytes": (pickled(Call("torch.storage", "_load_from_bytes.__globals__", b"")), "__globals__"),
    "dotted name": (named("torch_utils.persistence", "_reconstruct_persistent_obj.__class__"), "__class__"),
    "dotted module": (named("torch_utils", "persistence._reconstruct_persistent_obj"), "torch_utils.persistence"),
    "line feed in a name": (named("os\nsystem", "popen"), r"os\nsystem.popen"),
    "no letters": (named("", ""), "it names ."),
    "long name": (named("a" * 100_000, "\U0001f40d" * 100_000), "it names aaa"),
    "a class of this program": (named("runtime.safe_files.snapshot_pickle", "SavedModule"), "SavedModule"),
    "storage class outside a storage": (pickled(Call("torch", "FloatStorage")), "torch.FloatStorage"),
    "called result": (b"\x80\x03ccollections\nOrderedDict\n)R)R.", "calls what is no known name"),
    "called word": (pickled(Raw(assemble("os.system") + assemble(("x",)) + b"R")), "calls what is no known name"),
    "called with no tuple": (pickled(Raw(b"ccollections\nOrderedDict\n]R")), "calls what is no known name"),
    "new object": (b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n)\x81.", "no plain dictionary"),
    "state of a dictionary": (b"\x80\x03}(K\x01tb.", "sets the state"),
    "state of a module": (pickled(Raw(assemble(module()) + b")b")), "sets the state"),
    "persistent id": (b"\x80\x03K\x01Q.", "outside the file"),
    "instance": (b"\x80\x02(ios\nsystem\n.", "opcode 0x69"),
    "object": (b"\x80\x02(cos\nsystem\no.", "os.system"),
    "object of a known name": (b"\x80\x02(ccollections\nOrderedDict\no.", "opcode 0x6f"),
    "extension": (b"\x80\x02\x82\x01.", "opcode 0x82"),
    "new object with keywords": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "opcode 0x92"),
    "bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".", "opcode 0x96"),
    "buffer": (b"\x80\x05\x97.", "opcode 0x97"),
    "frozen set": (b"\x80\x04(\x91.", "opcode 0x91"),
    "old whole number": (b"\x80\x02I1\n.", "opcode 0x49"),
    "very long whole number": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".", "opcode 0x8b"),
    "huge bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", "opcode 0x8e"),
    "tuple as key": (pickled(Raw(b"})K\x01s")), "a key or a set element"),
    "huge number as key": (pickled({1 << 61: 1}), "a key or a set element"),
    "tuple in a set": (b"\x80\x04\x8f()\x90.", "a key or a set element"),
    "tuple in an old set": (pickled(Call("builtins", "set", [()])), "a key or a set element"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_no_snapshot_does_is_refused_by_name(tmp_path, what):
    data, reason = FORBIDDEN[what]
    message = refusal(tmp_path, data)
    assert "is refused" in message
    assert reason in message
    assert "source you trust" in message


PLACES = ("alone", "in an entry", "in a module", "as an argument", "in a storage", "as a storage", "as a key")


@pytest.mark.parametrize("place", PLACES)
def test_nothing_runs_wherever_it_stands(tmp_path, place):
    payload = canary(tmp_path / "ran")
    data = {
        "alone": payload,
        "in an entry": {"training_set_kwargs": payload, **generator()},
        "in a module": generator(a=payload),
        "as an argument": generator(a=Call("torch._utils", "_rebuild_parameter", payload, False, None)),
        "in a storage": generator(a=tensor(storage_bytes([1.0], system=pickled(payload, 2)), 0, (1,), (1,))),
        "as a storage": generator(a=tensor(pickled(payload, 2) + STORAGE, 0, (1,), (1,))),
        "as a key": generator(a=tensor(storage_bytes([1.0], keys=pickled(payload, 2)), 0, (1,), (1,))),
    }[place]
    message = refusal(tmp_path, pickled(data))
    assert "it names os.system" in message
    assert not (tmp_path / "ran").exists()


def test_tensorflow_networks_have_a_sentence_of_their_own(tmp_path):
    network = Raw(b"cdnnlib.tflib.network\nNetwork\n)\x81" + assemble({"version": 4}) + b"b")
    message = refusal(tmp_path, pickled((network, network, network)))
    assert "TensorFlow" in message
    assert "legacy.py" in message


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"not a pickle at all", b"PK\x03\x04" + bytes(100), b"\x80\x09N.", b"\x80\x03N.", b"\x80\x03}.",
     pickled([1]), pickled({1: 2}), pickled({"G": module()}), pickled({"G_ema": {}}),
     pickled({"G_ema": module("Discriminator")}), b"\x80\x03NN.", b"\x80\x03(N.", b"\x80\x030."],
)  # fmt: skip
def test_files_of_other_kinds_are_refused(tmp_path, data):
    message = refusal(tmp_path, data)
    assert "StyleGAN2-ADA" in message


def test_a_path_without_a_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.pkl"):
        with pytest.raises(UserError, match="is no file"):
            read_snapshot(path)


LYING_STORAGES = {
    "other magic": {"magic": pickled(7, 2)},
    "other version": {"version": pickled(1002, 2)},
    "big endian": {"system": pickled({"little_endian": False}, 2)},
    "system is no dictionary": {"system": pickled([1], 2)},
    "key of another": {"keys": pickled(["9"], 2)},
    "two keys": {"keys": pickled(["1234", "1234"], 2)},
    "other class": {"description": pickled(("storage", "float", "1234", "cpu", 6, None), 2)},
    "no persistent id": {"description": pickled("storage", 2)},
    "short description": {"description": b"\x80\x02" + assemble(("storage",)) + b"Q."},
    "more numbers than said": {"data": bytes(28)},
    "fewer numbers than said": {"data": bytes(20)},
    "other count": {"count": struct.pack("<q", 5)},
    "negative count": {"count": struct.pack("<q", -1)},
    "no count": {"count": b"", "data": b""},
    "giant": {"count": struct.pack("<q", 2**62)},
    "a view of another": {"description": b"\x80\x02" + assemble(("storage", "a", "1234", "cpu", 6, "view")) + b"Q."},
}


@pytest.mark.parametrize("lie", LYING_STORAGES)
def test_storages_that_lie_are_refused(tmp_path, lie):
    data = storage_bytes([0.0] * 6, **LYING_STORAGES[lie])
    assert "is damaged" in refusal(tmp_path, pickled(generator(a=tensor(data, 0, (1,), (1,)))))


IMPOSSIBLE_TENSORS = {
    "giant": (STORAGE, 0, (2**40, 2**40), (1, 1)),
    "more numbers than there are, by a stride of 0": (STORAGE, 0, (7,), (0,)),
    "out of nothing, by a stride of 0": (STORAGE, 0, (2**40, 0), (0, 0)),
    "beyond the end": (STORAGE, 3, (2, 2), (2, 1)),
    "offset beyond the end": (STORAGE, 6, (1,), (1,)),
    "offset before the start": (STORAGE, -1, (1,), (1,)),
    "backwards": (STORAGE, 5, (2,), (-1,)),
    "negative size": (STORAGE, 0, (-1,), (1,)),
    "sizes and strides of two kinds": (STORAGE, 0, (2, 3), (1,)),
    "many dimensions": (STORAGE, 0, (1,) * 40, (1,) * 40),
    "size of words": (STORAGE, 0, ("2",), (1,)),
    "size of truth": (STORAGE, 0, (True,), (1,)),
    "size is no tuple": (STORAGE, 0, [2], [1]),
    "offset is a tuple": (STORAGE, (0,), (1,), (1,)),
    "without storage": (None, 0, (1,), (1,)),
    "a tensor as storage": (tensor(STORAGE, 0, (6,), (1,)), 0, (1,), (1,)),
    "text as storage": (Call("torch.storage", "_load_from_bytes", "text"), 0, (1,), (1,)),
}


@pytest.mark.parametrize("what", IMPOSSIBLE_TENSORS)
def test_impossible_tensors_are_refused(tmp_path, what):
    assert "is damaged" in refusal(tmp_path, pickled(generator(a=tensor(*IMPOSSIBLE_TENSORS[what]))))


@pytest.mark.parametrize(
    "thing",
    [
        Call("torch._utils", "_rebuild_parameter", "no tensor", False, None),
        Call("torch._utils", "_rebuild_parameter"),
        Call("torch_utils.persistence", "_reconstruct_persistent_obj", {"type": "class"}),
        Call("torch_utils.persistence", "_reconstruct_persistent_obj", {"type": "function", "class_name": "a"}),
        Call("torch_utils.persistence", "_reconstruct_persistent_obj", "text"),
        Call("collections", "OrderedDict", [1]),
        Call("numpy", "dtype", "O", False, True),
        Call("numpy.core.multiarray", "scalar", Call("numpy", "dtype", "f8"), b"short"),
        Call("numpy.core.multiarray", "scalar", "f8", bytes(8)),
        Call("_codecs", "encode", "text", "rot13"),
        Raw(assemble(Call("numpy", "dtype", "f8")) + assemble((3, ">")) + b"b"),
        Raw(assemble(Call("numpy", "dtype", "f8")) + assemble((3, tensor(STORAGE, 0, (6,), (1,)))) + b"b"),
    ],
)
def test_known_names_with_wrong_arguments_are_refused(tmp_path, thing):
    assert "is damaged" in refusal(tmp_path, pickled({"G": thing}))


@pytest.mark.parametrize(
    "state",
    [
        {"_parameters": []},
        {"_parameters": {1: None}},
        {"_parameters": {"a\nb": None}},
        {"_parameters": {"a": 7}},
        {"_modules": {"a": {}}},
        {"_modules": {"a" * 41: module()}},
    ],
)
def test_modules_of_an_odd_form_are_refused(tmp_path, state):
    assert "is damaged" in refusal(tmp_path, pickled({"G_ema": module(**state)}))


def test_lengths_beyond_the_file_are_refused_before_memory_is_taken(tmp_path):
    for opcode, layout in ((b"B", "<I"), (b"X", "<I"), (b"C", "<B"), (b"\x8c", "<B"), (b"\x8a", "<B"), (b"\x95", "<Q")):
        giant = 2 ** (8 * struct.calcsize(layout)) - 1
        message = refusal(tmp_path, b"\x80\x04" + opcode + struct.pack(layout, giant) + b"abc.")
        assert "it breaks off" in message
    assert "not there" in refusal(tmp_path, b"\x80\x04j" + struct.pack("<I", 2**32 - 1) + b".")
    far = b"\x80\x04Nr" + struct.pack("<I", 2**32 - 1) + b"."  # an index, no allocation
    assert "no named networks" in refusal(tmp_path, far)


def test_sharing_without_end_is_refused(tmp_path):
    for levels in (7, 100):
        data = {"all": shared(levels), "G_ema": module(_modules={"a": Raw(b"h" + bytes([levels]))})}
        begin = time.process_time()
        path = tmp_path / "snapshot.pkl"
        path.write_bytes(pickled(data))
        snapshot = read_snapshot(path)
        if levels == 7:
            assert snapshot.tensors(snapshot.entries["G_ema"]) == {}
        else:
            with pytest.raises(UserError, match="nests modules endlessly"):
                snapshot.tensors(snapshot.entries["G_ema"])
        assert time.process_time() - begin < QUICKLY_S


def test_a_module_inside_itself_is_refused(tmp_path):
    inner = Raw(b"}q\x01")  # filled after the module exists
    state = module(_modules=inner)
    data = b"\x80\x03}(" + assemble("G_ema") + assemble(state) + b"q\x02" + assemble("again")
    data += b"h\x01" + assemble("a") + b"h\x02s" + b"u."
    assert "nests modules endlessly" in refusal(tmp_path, data)


def test_work_beyond_the_size_of_the_file_is_refused(tmp_path):
    assert "more work" in refusal(tmp_path, b"\x80\x04(" + b"\x8f" * 400_000 + b"t.")
    items = b"\x80\x03(](" + b"K\x01" * 100_000 + b"eq\x00cbuiltins\nset\nq\x01"
    assert "more work" in refusal(tmp_path, items + b"h\x01h\x00\x85R" * 1000 + b"t.")
    text = b"\x80\x03(" + assemble("a" * 1_000_000) + b"q\x00" + assemble("latin1") + b"q\x01"
    assert "more work" in refusal(tmp_path, text + b"c_codecs\nencode\nh\x00h\x01\x86R" * 1000 + b"t.")
    storage = b"\x80\x03(" + assemble(STORAGE) + b"q\x00ctorch.storage\n_load_from_bytes\nq\x01"
    assert "more work" in refusal(tmp_path, storage + b"h\x01h\x00\x85R" * 50_000 + b"t.")


def test_deep_nesting_neither_crashes_nor_recurses(tmp_path):
    for opcodes in (b")" + b"\x85" * 200_000, b"](" * 60_000 + b"](e" + b"e" * 60_000):
        assert "no named networks" in refusal(tmp_path, b"\x80\x03" + opcodes + b".")
    data = b"\x80\x03})q\x00" + b"h\x00\x85q\x00" * 60_000 + b"0."  # each step goes one deeper
    assert "opcode 0x30" in refusal(tmp_path, data)


def test_a_tensor_used_over_and_over_takes_no_memory_beyond_the_file(tmp_path):
    storage = storage_bytes([0.0] * 10_000)
    names = {f"a{index}": Raw(b"h\x00") for index in range(5_000)}
    names = {"first": Raw(assemble(tensor(storage, 0, (10_000,), (1,))) + b"q\x00"), **names}
    assert "larger tensors than bytes" in refusal(tmp_path, pickled(generator(**names)))


def test_a_file_that_breaks_off_anywhere_is_refused(tmp_path, original):
    positions = [position for _, _, position in pickletools.genops(original)]
    chosen = random.Random(0).sample(positions[2:], 150)
    for position in chosen:
        assert "snapshot.pkl" in refusal(tmp_path, original[:position])


def test_mutated_snapshots_are_refused_or_read_and_never_run(tmp_path, original, monkeypatch):
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    payload = assemble(canary(tmp_path / "ran"))
    positions = [position for _, _, position in pickletools.genops(original)]
    rng = random.Random(20261121)
    path = tmp_path / "snapshot.pkl"
    messages: list[str] = []
    begin = time.process_time()
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(original, positions, rng, payload))
        try:
            import_stylegan2_ada(ImportRequest(str(path)))
        except UserError as error:
            messages.append(str(error))
    assert time.process_time() - begin < 60 * QUICKLY_S
    assert not ran
    assert not (tmp_path / "ran").exists()
    assert all("snapshot.pkl" in message and "\n" not in message for message in messages)
    assert len(messages) > MUTATIONS / 2
    assert len({message.partition("(")[2] for message in messages}) > 10  # many ways to go wrong were met
