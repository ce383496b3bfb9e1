"""Seeds and digests: pure functions, equal on every machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.digests import canonical_json, digest_of, file_sha256, tensors_sha256
from runtime.seeds import (
    derive_seed,
    keyed_uniforms,
    keyed_words,
    label_bits,
    numpy_generator,
    sample_normals,
    sample_uniforms,
    seed_step,
    torch_generator,
)

FEW = settings(max_examples=50, deadline=None)


def keys_of(label: int, ks: list[int]) -> np.ndarray:
    return np.array([[label, k] for k in ks], dtype=np.int64).reshape(-1, 2)


def test_seeds_are_pinned() -> None:
    """Every published number hangs on these values."""
    assert derive_seed(0, "latents", 3) == 9146089687889913906
    assert numpy_generator(0, "epoch").integers(0, 1000, 3).tolist() == [603, 801, 24]
    assert sample_uniforms(keys_of(5, [7]), 1, "latents", 2)[0].tolist() == [0.3581674835772447, 0.9953075148055421]


def test_parts_do_not_run_into_each_other() -> None:
    parts = [(1, 2), (12,), ("1", 2), ("1", "2"), (1, "2"), (2, 1), (0, 1, 2), ("12",)]
    assert len({derive_seed(*part) for part in parts}) == len(parts)
    assert all(0 <= derive_seed(index) < 2**63 for index in range(200))


def test_generators_repeat() -> None:
    assert torch.equal(
        torch.randn(5, generator=torch_generator(1, "a")), torch.randn(5, generator=torch_generator(1, "a"))
    )
    assert not torch.equal(
        torch.randn(5, generator=torch_generator(1, "a")), torch.randn(5, generator=torch_generator(1, "b"))
    )
    seed_step(1, "train", 5)
    first = torch.rand(3)
    torch.rand(100)
    seed_step(1, "train", 5)
    assert torch.equal(torch.rand(3), first)


@FEW
@given(
    ks=st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    label=st.integers(-(2**63), 2**63 - 1),
    count=st.integers(1, 70),
)
def test_a_sample_does_not_depend_on_its_company(ks: list[int], label: int, count: int) -> None:
    together = sample_uniforms(keys_of(label, ks), 3, "latents", count)
    normals = sample_normals(keys_of(label, ks), 3, "latents", count)
    assert together.shape == normals.shape == (len(ks), count)
    assert together.min() >= 0
    assert together.max() < 1
    for row, k in enumerate(ks):
        assert np.array_equal(sample_uniforms(keys_of(label, [k]), 3, "latents", count)[0], together[row])
        assert np.array_equal(sample_normals(keys_of(label, [k]), 3, "latents", count)[0], normals[row])


def test_ranges_of_k_join_without_seam_and_without_repeat() -> None:
    whole = sample_uniforms(keys_of(2, list(range(1000))), 0, "latents", 6)
    cut = np.concatenate(
        [sample_uniforms(keys_of(2, list(range(a, a + 125))), 0, "latents", 6) for a in range(0, 1000, 125)]
    )
    assert np.array_equal(whole, cut)
    assert len(np.unique(whole)) == whole.size
    mixed = np.concatenate([keys_of(2, [0, 1]), keys_of(3, [0, 1]), keys_of(2, [2])])
    assert np.array_equal(sample_uniforms(mixed, 0, "latents", 6)[[0, 1, 4]], whole[:3])
    assert sample_uniforms(np.empty((0, 2), dtype=np.int64), 0, "latents", 6).shape == (0, 6)
    others = [(1, "latents", 2), (0, "uniforms", 2), (0, "latents", 3)]
    for seed, purpose, label in others:
        assert not np.isin(sample_uniforms(keys_of(label, list(range(50))), seed, purpose, 6), whole).any()


def test_draws_have_the_distribution_that_they_name() -> None:
    keys = keys_of(0, list(range(20_000)))
    uniforms, normals = sample_uniforms(keys, 0, "latents", 3), sample_normals(keys, 0, "latents", 3)
    assert np.abs(uniforms.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.histogram(uniforms, 10, (0, 1))[0] / uniforms.size - 0.1).max() < 0.005
    assert np.abs(normals.mean(axis=0)).max() < 0.03
    assert np.abs(np.cov(normals.T) - np.eye(3)).max() < 0.05
    assert abs(np.mean(normals**4) - 3) < 0.2
    assert normals.dtype == np.float32


def test_normals_against_a_slow_twin() -> None:
    uniforms = sample_uniforms(keys_of(4, [9]), 0, "latents", 6)[0]
    twin = [
        np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * np.pi * v) for u, v in zip(uniforms[:3], uniforms[3:], strict=True)
    ]
    twin += [
        np.sqrt(-2 * np.log(1 - u)) * np.sin(2 * np.pi * v) for u, v in zip(uniforms[:3], uniforms[3:], strict=True)
    ]
    assert np.allclose(sample_normals(keys_of(4, [9]), 0, "latents", 5)[0], twin[:5], atol=1e-6)


def test_label_bits_name_every_label() -> None:
    assert label_bits(np.array([0, 7])).tolist() == [0, 7]
    values = np.array([0.1, -0.0, 0.0, 89.9])
    bits = label_bits(values)
    assert bits.dtype == np.int64
    assert bits[1] == bits[2]
    assert np.array_equal(bits.view(np.float64), np.abs(values))
    vectors = label_bits(np.array([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0]]))
    assert vectors[0] == vectors[2] != vectors[1]


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "ü"]}) == '{"a":[1.5,null,"ü"],"b":1}'
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": 3})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            canonical_json({"a": bad})


def test_digests_of_files_and_tensors(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    first = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    assert tensors_sha256(first) == tensors_sha256(dict(reversed(first.items())))
    transposed = {"a": torch.arange(6.0), "b": torch.ones(3, 2).t()}
    assert tensors_sha256(first) == tensors_sha256(transposed)
    for change in (
        {"a": torch.arange(6.0)},
        {"a": torch.arange(6), "b": torch.ones(2, 3)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, 3)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.ones(2, 3)},
        {"c": torch.arange(6.0), "b": torch.ones(2, 3)},
    ):
        assert tensors_sha256(change) != tensors_sha256(first)


def split_mix(state: int) -> int:
    """SplitMix64's finaliser in Python's whole numbers."""
    mask = (1 << 64) - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
    return state ^ (state >> 31)


@FEW
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 2**31))
def test_words_by_key_are_split_mix(keys: list[int], first: int, seed: int) -> None:
    found = keyed_words(np.array(keys, dtype=np.uint64), np.full(len(keys), first), 3, seed, "views")
    for key, words in zip(keys, found.tolist(), strict=True):
        begin = split_mix(key ^ derive_seed(seed, "views"))
        places = range(first + 1, first + 4)
        assert words == [split_mix((begin + place * 0x9E3779B97F4A7C15) % 2**64) for place in places]
    assert np.array_equal(keyed_words(np.array(keys, dtype=np.uint64), first, 3, seed, "views"), found)


def test_uniforms_by_key_are_spread() -> None:
    values = keyed_uniforms(np.arange(50_000), 0, 2, 0, "views")
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(values.mean(axis=0) - 0.5).max() < 0.006
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.02
    assert np.abs(np.corrcoef(values[1:, 0], values[:-1, 0])[0, 1]) < 0.02
