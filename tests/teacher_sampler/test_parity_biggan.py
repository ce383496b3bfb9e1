"""Parity with BigGAN-PyTorch: its own checkpoints give its own images, through the importer and through a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.plain_biggan import PlainBigGAN, PlainBigGANDeep
from image_data.labels import ClassLabels
from interfaces import TeacherCard
from runtime.seeds import label_bits
from teacher_sampler import load_teacher
from teacher_sampler.importers.biggan import import_biggan, import_biggan_deep
from teacher_sampler.importers.registry import ImportedTeacher, ImportRequest
from tests.support.parity_folder import expected_of, inputs_of, parity
from training.ema import accumulate_standing_statistics
from training.generator_folder import NetworkGenerator, save_generator

FOLDERS = ("biggan_32", "biggan_64", "biggan_128", "biggan_deep", "biggan_32_mybn", "biggan_32_crossreplica")
CPU = torch.device("cpu")
PLAIN = {
    "biggan_32": (PlainBigGAN, {"resolution": 32, "width": 8, "dim_z": 128, "classes": 10}),
    "biggan_64": (
        PlainBigGAN,
        {"resolution": 64, "width": 4, "dim_z": 20, "classes": 7, "shared_dim": 16, "hier": True,
         "attention": (32, 64)},
    ),
    "biggan_128": (
        PlainBigGAN,
        {"resolution": 128, "width": 4, "dim_z": 120, "classes": 12, "shared_dim": 128, "hier": True,
         "attention": (64,)},
    ),
    "biggan_deep": (
        PlainBigGANDeep,
        {"resolution": 128, "width": 6, "dim_z": 24, "classes": 12, "shared_dim": 16, "attention": (64,)},
    ),
    "biggan_32_mybn": (
        PlainBigGAN,
        {"resolution": 32, "width": 4, "dim_z": 32, "classes": 10, "shared_dim": 32, "attention": (16,),
         "dialect": "mybn"},
    ),
    "biggan_32_crossreplica": (
        PlainBigGAN,
        {"resolution": 32, "width": 4, "dim_z": 32, "classes": 10, "shared_dim": 24, "hier": True, "attention": (16,),
         "dialect": "cross_replica"},
    ),
}  # fmt: skip


def imported(folder: Path, **more: object) -> ImportedTeacher:
    load = import_biggan_deep if folder.name == "biggan_deep" else import_biggan
    return load(ImportRequest(str(folder / "G_ema.pth"), **more))


def card_of(teacher: ImportedTeacher) -> TeacherCard:
    return TeacherCard(
        teacher.architecture,
        dict(teacher.arguments),
        teacher.resolution_px,
        teacher.channels,
        teacher.label_space.to_json(),
        dict(teacher.latent),
        dict(teacher.truncation),
        "",
        "",
        [],
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_of_images_and_label_embedding(name):
    folder = parity(name)
    inputs, expected = inputs_of(folder), expected_of(folder)
    network = imported(folder).network
    with torch.inference_mode():
        images = network(inputs["z"], inputs["y"])
        small = network(0.5 * inputs["z"], inputs["y"])[: len(expected["images_zstd0p5"])]
        shared = network.embedding(inputs["y"])
    torch.testing.assert_close(images, expected["images"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small, expected["images_zstd0p5"], rtol=1e-4, atol=1e-4)
    if "shared_y" in expected:
        width = expected["shared_y"].shape[1]
        torch.testing.assert_close(shared[:, :width], expected["shared_y"], rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(shared.argmax(dim=1), inputs["y"])


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_through_a_teacher_folder(name, tmp_path):
    folder = parity(name)
    inputs, expected = inputs_of(folder), expected_of(folder)
    teacher = imported(folder, truncation=0.5)
    save_generator(tmp_path / "t", card_of(teacher), teacher.network)
    loaded = load_teacher(tmp_path / "t", CPU)
    assert isinstance(loaded, NetworkGenerator)
    labels = inputs["y"].numpy()
    keys = np.stack([label_bits(labels), np.arange(len(labels))], axis=1)
    images = loaded.generate(inputs["z"], labels, keys, 0)
    torch.testing.assert_close(images, expected["images"], rtol=1e-4, atol=1e-4)
    untruncated = dataclasses.replace(loaded.card, truncation={})
    whole = NetworkGenerator(untruncated, loaded.network, loaded.label_space, CPU).latents(keys, 3)
    assert torch.equal(loaded.latents(keys, 3), 0.5 * whole)
    assert whole.shape[1] == inputs["z"].shape[1]


def test_parity_of_statistics_frozen_from_one_batch():
    folder = parity("biggan_32")
    inputs, expected = inputs_of(folder), expected_of(folder)
    network = imported(folder).network
    accumulate_standing_statistics(network, lambda index: (inputs["z"], inputs["y"]), 1, settle=0, biased=True)
    assert not network.training
    with torch.inference_mode():
        images = network(inputs["z"], inputs["y"])
    torch.testing.assert_close(images, expected["images_batchstats"], rtol=1e-4, atol=1e-4)
    assert (images - expected["images"]).abs().max() > 0.1


@pytest.mark.parametrize("name", FOLDERS)
def test_parity_of_the_plain_rendering(name):
    folder = parity(name)
    inputs, expected = inputs_of(folder), expected_of(folder)
    kind, options = PLAIN[name]
    network = kind(**options)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    with torch.inference_mode():
        images = network.eval()(inputs["z"], inputs["y"])
    torch.testing.assert_close(images, expected["images"], rtol=1e-4, atol=1e-4)


def test_parity_names_of_classes_are_the_users():
    folder = parity("biggan_64")
    names = tuple("abcdefg")
    assert imported(folder, class_names=names).label_space == ClassLabels(names)
