"""Refusals of the readers that teachers and classifiers share, in the words of a classifier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError

_WORDS = (
    (r"an image must follow from its latents and label alone", "its outputs must follow from the image alone"),
    (r"without noise or with fixed noise", "in eval mode"),
    (r"\bgenerator\b", "classifier"),
    (r"\bgenerators\b", "classifiers"),
    (r"\b(kind of|import the) teacher\b", r"\1 predictor"),
    (r"\bONNX teachers need\b", "ONNX predictors need"),
)


@contextmanager
def of_a_classifier(path: Path) -> Iterator[None]:
    """A UserError of the block with the shared words changed; the name of the file stays as it is."""
    try:
        yield
    except UserError as error:
        parts = str(error).split(str(path))
        for pattern, word in _WORDS:
            parts = [re.sub(pattern, word, part) for part in parts]
        raise UserError(str(path).join(parts)) from error
