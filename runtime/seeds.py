"""Randomness as a function: every draw is named by (seed, purpose, position), so a resume needs no saved state.

Per-sample numbers come from the Philox counter generator: sample k of a label starts at counter k * stride, so one
sample's numbers do not depend on which other samples are drawn with it.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import torch

_WORDS_PER_COUNT = 4  # Philox4x64 gives four 64-bit words for each counter value
_SPLITMIX_STEP = np.uint64(0x9E3779B97F4A7C15)
_SPLITMIX_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any parts, equal on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(*parts: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh torch generator for (seed, purpose, step, ...)."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A fresh NumPy generator for (seed, purpose, step, ...)."""
    return np.random.Generator(np.random.Philox(derive_seed(*parts)))


def seed_step(seed: int, purpose: str, step: int) -> None:
    """Reseed torch's global generators for one training step (dropout and the like)."""
    torch.manual_seed(derive_seed(seed, purpose, step))


def label_bits(labels: np.ndarray) -> np.ndarray:
    """int64 name of each label: the class index, or the bit pattern of a continuous label (vector labels are hashed).

    int64 N -> int64 N; float64 N or N x d -> int64 N.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    values = np.ascontiguousarray(labels, dtype=np.float64) + 0.0  # turns -0.0 into 0.0
    if values.ndim == 1:
        return values.view(np.int64).copy()
    return np.array([derive_seed(row.tobytes().hex()) for row in values], dtype=np.int64)


def numbered_keys(labels: np.ndarray, first: int = 0) -> np.ndarray:
    """int64 N x 2, (label bits, k): the j-th appearance of a label gets k = first + j, so that no key comes twice."""
    bits = label_bits(labels)
    order = np.argsort(bits, kind="stable")
    ordered = bits[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(bits) else np.zeros(0, dtype=np.int64)
    run = np.arange(len(bits)) - np.repeat(starts, np.diff(np.r_[starts, len(bits)]))
    k = np.empty(len(bits), dtype=np.int64)
    k[order] = first + run
    return np.stack([bits, k], axis=1)


def sample_uniforms(keys: np.ndarray, seed: int, purpose: str, count: int) -> np.ndarray:
    """float64 N x count in [0, 1): a pure function of (seed, purpose, label bits, k).  `keys` is int64 N x 2."""
    keys = np.asarray(keys, dtype=np.int64)
    stride = -(-count // _WORDS_PER_COUNT)
    words = np.empty((len(keys), stride * _WORDS_PER_COUNT), dtype=np.uint64)
    breaks = np.flatnonzero((np.diff(keys[:, 0]) != 0) | (np.diff(keys[:, 1]) != 1)) + 1
    starts = [0, *breaks.tolist(), len(keys)] if len(keys) else []
    for begin, end in itertools.pairwise(starts):
        label, k = int(keys[begin, 0]), int(keys[begin, 1])
        bits = np.random.Philox(key=derive_seed(seed, purpose, label), counter=k * stride)
        words[begin:end] = bits.random_raw(words[begin:end].size).reshape(end - begin, -1)
    return (words[:, :count] >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_normals(keys: np.ndarray, seed: int, purpose: str, count: int) -> np.ndarray:
    """float32 N x count standard normals (Box-Muller on `sample_uniforms`)."""
    half = -(-count // 2)
    uniforms = sample_uniforms(keys, seed, purpose, 2 * half)
    radius = np.sqrt(-2.0 * np.log1p(-uniforms[:, :half]))
    angle = 2.0 * np.pi * uniforms[:, half:]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals[:, :count].astype(np.float32)


def keyed_words(keys: np.ndarray, first: np.ndarray | int, count: int, *parts: int | str) -> np.ndarray:
    """uint64 N x count: words first, first + 1, ... of each key's own stream, a pure function of (parts, key, place).

    keys: any whole numbers N; first: N or one for all.  SplitMix64 (Steele et al. 2014): a few vector operations
    for keys in any order, where `sample_uniforms` has a generator for each run of neighbours.
    """
    state = _mixed(np.asarray(keys).astype(np.uint64) ^ np.uint64(derive_seed(*parts)))
    places = np.asarray(first).astype(np.uint64).reshape(-1, 1) + np.arange(1, count + 1, dtype=np.uint64)
    return _mixed(state[:, None] + places * _SPLITMIX_STEP)


def keyed_uniforms(keys: np.ndarray, first: np.ndarray | int, count: int, *parts: int | str) -> np.ndarray:
    """float64 N x count in [0, 1): `keyed_words` as uniform numbers."""
    return (keyed_words(keys, first, count, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(words: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: one to one, and each bit of the result depends on all of the word's."""
    for shift, factor in _SPLITMIX_ROUNDS:
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
