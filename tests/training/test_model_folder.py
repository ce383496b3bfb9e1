"""The folder of a finished network: written whole, read back, refused by name for every fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runtime.digests import file_sha256, tensors_sha256
from runtime.errors import UserError
from tests.support.sealed_cards import reseal
from training.model_folder import ModelFolder

TOY = ModelFolder("toy", "train the toy again", kind="toy")
BY_TENSORS = ModelFolder("toy", "train the toy again", digest="digest", of_tensors=True)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TOY.write(tmp_path / "toy", {"width": 3}, network().state_dict())
    return tmp_path / "toy"


def test_a_written_folder_is_read_back(folder: Path) -> None:
    card = TOY.read_card(folder)
    digest = file_sha256(folder / "weights.safetensors")
    assert card == {"kind": "toy", "width": 3, "format_version": 1, "source_digest": digest}
    loaded = TOY.load(folder, card, lambda: torch.nn.Linear(card["width"], 2))
    assert torch.equal(loaded.get_parameter("weight"), network().get_parameter("weight"))
    assert TOY.finished(folder)
    assert not TOY.finished(folder.parent)


def test_a_digest_may_be_of_the_tensors_and_a_card_without_kind(tmp_path: Path) -> None:
    card = BY_TENSORS.write(tmp_path, {}, network().state_dict())
    assert card == {"format_version": 1, "digest": tensors_sha256(network().state_dict())}
    BY_TENSORS.load(tmp_path, BY_TENSORS.read_card(tmp_path), network)
    with pytest.raises(UserError, match="does not match the digest"):
        BY_TENSORS.load(tmp_path, card | {"digest": "0"}, network)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "card.json").unlink(), r"holds no card\.json; give the folder of a finished toy\."),
        (
            lambda folder: reseal(folder / "card.json", {"kind": "judge"}),
            "not a toy's card .its kind is judge.; train",
        ),
        (lambda folder: reseal(folder / "card.json", {"format_version": 2}), "format version 2; this program reads"),
        (
            lambda folder: (folder / "card.json").write_text("{"),
            "no readable JSON.*; restore it or train the toy",
        ),
        (lambda folder: (folder / "weights.safetensors").unlink(), r"weights\.safetensors is missing; restore it or"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x" * 99), "does not"),
        (lambda folder: reseal(folder / "card.json", {"width": "x"}), r"card\.json lacks or garbles an entry"),
        (lambda folder: reseal(folder / "card.json", {"width": 4}), "does not hold the network of its card"),
    ],
)
def test_every_fault_is_named_with_its_remedy(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)

    def load() -> None:
        card = TOY.read_card(folder)
        TOY.load(folder, card, lambda: torch.nn.Linear(card["width"], 2))

    with pytest.raises(UserError, match=message):
        load()
