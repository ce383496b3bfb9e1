"""A finished network on disk: `card.json` (sealed, written last) and `weights.safetensors`, named by its digest.

Generators, classifiers, filters and judges differ in what their cards say, and in little else: `ModelFolder` states
that little, and reads and writes all of them.  A folder with a card is finished; format 1 is the only one so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.atomic import make_folder
from runtime.digests import file_sha256, tensors_sha256
from runtime.errors import UserError
from runtime.safe_files import MissingFile, printable, read_sealed_json, write_sealed_json
from runtime.tensor_files import read_tensors, write_tensors

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"
FORMAT_VERSION = 1
_CARD_FAULTS = (KeyError, TypeError, ValueError, OverflowError, RuntimeError)


@dataclass(frozen=True)
class ModelFolder:
    """What one kind of finished network is called, and where its card keeps the digest of its weights.

    kind: the card's entry `kind`, where it has one.  remake: what mends a damaged folder, after "restore it or".
    of_tensors: the digest is of the tensors and not of their file.
    """

    noun: str
    remake: str
    kind: str | None = None
    digest: str = "source_digest"
    of_tensors: bool = False

    def finished(self, folder: Path) -> bool:
        return (Path(folder) / CARD_FILE).is_file()

    def write(self, folder: Path, card: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Write the weights, then the card, which marks the folder as finished.  Returns the card with its digest."""
        make_folder(folder)
        write_tensors(folder / WEIGHTS_FILE, tensors)
        return self.write_card(folder, card, tensors_sha256(tensors) if self.of_tensors else None)

    def write_card(
        self, folder: Path, card: Mapping[str, Any], digest: str | None = None, file: str = WEIGHTS_FILE
    ) -> dict[str, Any]:
        """Write the card of a folder in which `file` lies already; `digest`: where it is not that of the file."""
        named = {"format_version": FORMAT_VERSION, self.digest: digest or file_sha256(folder / file)}
        whole = {**({} if self.kind is None else {"kind": self.kind}), **card, **named}
        write_sealed_json(folder / CARD_FILE, whole)
        return whole

    def read_card(self, folder: Path) -> dict[str, Any]:
        """UserError where there is none, or where it is damaged, another thing's, or of another format."""
        path = Path(folder) / CARD_FILE
        try:
            card = read_sealed_json(path, f"restore it or {self.remake}")
        except MissingFile as error:
            raise UserError(f"{folder} holds no {CARD_FILE}; give the folder of a finished {self.noun}.") from error
        kind, version = card.get("kind"), card.get("format_version", FORMAT_VERSION)
        if kind != self.kind:
            raise UserError(f"{path} is not a {self.noun}'s card (its kind is {printable(kind)}); {self.remake}.")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {printable(version)}; this program reads version {FORMAT_VERSION}."
            )
        return card

    def load(self, folder: Path, card: Mapping[str, Any], build: Callable[[], nn.Module]) -> nn.Module:
        """The network of the card with its weights.  UserError where either is missing or damaged, or do not fit.

        build: gives the untrained network; what it raises on a garbled card becomes a sentence.
        """
        try:
            network = build()
        except _CARD_FAULTS as error:
            text = f"{Path(folder) / CARD_FILE} lacks or garbles an entry ({printable(error)})"
            raise UserError(f"{text}; {self.remake}.") from error
        self.load_weights(folder, card, network)
        return network

    def load_weights(self, folder: Path, card: Mapping[str, Any], network: nn.Module) -> None:
        """Load the folder's weights into `network`; a UserError that names the file where they do not fit."""
        path = Path(folder) / WEIGHTS_FILE
        try:
            tensors = read_tensors(path)
            if (tensors_sha256(tensors) if self.of_tensors else file_sha256(path)) != card.get(self.digest):
                raise UserError(f"{path} does not match the digest in its card; restore it or {self.remake}.")
            network.load_state_dict(tensors)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; restore it or {self.remake}.") from error
        except (RuntimeError, ValueError, OSError) as error:
            text = f"{path} does not hold the network of its card ({printable(error)})"
            raise UserError(f"{text}; restore it or {self.remake}.") from error
