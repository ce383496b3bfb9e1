"""import-teacher and sample through the command line: every original checkpoint, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from image_data.fake import open_fakes
from layers.pixels import quantise
from teacher_sampler import load_teacher
from tests.support.parity_folder import expected_of, inputs_of, parity

EMBEDDING = "--label-embedding {folder}/ckpt_net_y2h.pth"
RANGE = "--label-range 0:90 --label-unit degrees"
LARGE = ("biggan_128", "biggan_deep")  # the smaller ones take the same way
CASES = [  # fixture, kind, checkpoint, more flags, fakes asked for, expected images
    ("biggan_32", "biggan", "G_ema.pth", "", "--nfake-per-class 10", "images"),
    ("biggan_64", "biggan", "G_ema.pth", "", "--nfake-per-class 10", "images"),
    ("biggan_128", "biggan", "G_ema.pth", "", "--nfake-per-class 10", "images"),
    ("biggan_deep", "biggan-deep", "G_ema.pth", "", "--nfake-per-class 10", "images"),
    ("biggan_32_mybn", "biggan", "G_ema.pth", "--truncation 0.5", "--nfake-per-class 10", "images_zstd0p5"),
    ("biggan_32_crossreplica", "biggan", "G_ema.pth", "", "--nfake-per-class 10", "images"),
    ("stylegan2ada_cifar_cond", "stylegan2-ada", "network-snapshot-000200.pkl", "--truncation 0.7",
     "--nfake-per-class 10", "images_psi0p7_const"),
    ("stylegan2ada_64_uncond", "stylegan2-ada", "network-snapshot-000200.pkl", "--noise-mode none",
     "--nfake-per-class 10", "images_psi1_none"),
    ("ccgan_sngan", "ccgan-sngan", "ckpt_CcGAN.pth", f"{EMBEDDING} {RANGE}", "--nfake-per-label 2", "images"),
    ("ccgan_sagan", "ccgan-sagan", "ckpt_CcGAN.pth", f"{EMBEDDING} {RANGE}", "--nfake-per-label 2", "images"),
    ("ccgan_sngan_nli", "ccgan-sngan", "ckpt_CcGAN.pth", RANGE, "--nfake-per-label 2", "images"),
]  # fmt: skip


def typed(capsys: pytest.CaptureFixture, text: str) -> tuple[int, dict, str]:
    capsys.readouterr()
    code = cli.main([*text.split(), "--json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out.strip() else {}, shown.err


@pytest.mark.parametrize(
    ("name", "arch", "file", "flags", "count", "key"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] * (case[0] in LARGE)) for case in CASES],
)
def test_parity_checkpoints_are_imported_and_sampled(
    name: str, arch: str, file: str, flags: str, count: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = parity(name)
    out = tmp_path / "teacher"
    flags = flags.format(folder=folder)
    code, _made, error = typed(capsys, f"import-teacher --arch {arch} --checkpoint {folder / file} {flags} --out {out}")
    assert code == 0, error
    teacher = load_teacher(out, torch.device("cpu"))
    given, expected = inputs_of(folder), expected_of(folder)[key]
    latents = given["z"][: len(expected)] * teacher.card.truncation.get("std", 1.0)
    if "c" in given:
        labels = given["c"].argmax(dim=1).numpy()
    elif "y" in given:
        labels = given["y"].numpy() if given["y"].ndim == 1 else teacher.label_space.decode(given["y"])
    else:
        labels = np.zeros(len(latents), dtype=np.int64)
    labels = labels[: len(expected)]
    if teacher.label_space.kind == "classes" and teacher.label_space.width == 1:
        labels = np.zeros_like(labels)
    keys = np.stack([np.zeros(len(labels), dtype=np.int64), np.arange(len(labels))], axis=1)
    images = teacher.generate(latents, labels, keys, 0)
    assert torch.allclose(images, expected, atol=1e-4, rtol=1e-4)

    fakes = tmp_path / "fakes"
    labels_asked = "--labels 3.3:88.8:25" if teacher.label_space.kind == "continuous" else ""
    asked = f"sample --teacher {out} {count} {labels_asked} --filter none --predictor none --out {fakes}"
    code, _sampled, error = typed(capsys, asked)
    assert code == 0, error
    dataset = open_fakes(fakes)
    assert len(dataset) == (10 if teacher.label_space.kind == "classes" else 2) * len(np.unique(dataset.labels))
    first = np.arange(2)
    stored, asked_labels, k = dataset.images(first), dataset.labels[first], first
    keys = np.stack([np.asarray(asked_labels).view(np.int64), k], axis=1)
    again = quantise(teacher.generate(teacher.latents(keys, 0), asked_labels, keys, 0)).numpy()
    assert np.abs(stored.astype(int) - again.astype(int)).max() <= 1
    code, _found, error = typed(capsys, f"verify {fakes}")
    assert code == 0, error


def test_all_that_is_missing_is_asked_for_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, _, error = typed(capsys, "import-teacher")
    assert code == 2
    assert "--arch" in error
    assert "--checkpoint" in error
    folder = parity("ccgan_sngan")
    out = tmp_path / "t"
    code, _, error = typed(
        capsys, f"import-teacher --arch ccgan-sngan --checkpoint {folder}/ckpt_CcGAN.pth --out {out}"
    )
    assert code == 2
    assert "--label-range" in error
    assert "--label-embedding" in error
    assert not out.exists()


@pytest.mark.parametrize("text", ["90:0", "1", "a:b", "0:inf", "5:5"])
def test_a_label_range_is_two_numbers(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.pth").write_bytes(b"")
    asked = f"import-teacher --arch ccgan-sngan --checkpoint {tmp_path / 'x.pth'} --label-range={text}"
    code, _, error = typed(capsys, asked)
    assert code == 2
    assert "--label-range" in error


def test_a_changed_truncation_is_another_teacher(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = parity("biggan_32")
    shared = f"import-teacher --arch biggan --checkpoint {folder / 'G_ema.pth'}"
    assert typed(capsys, f"{shared} --out {tmp_path / 'a'}")[0] == 0
    assert typed(capsys, f"{shared} --truncation 0.5 --out {tmp_path / 'b'}")[0] == 0
    assert typed(capsys, f"{shared} --standing-batches 2 --out {tmp_path / 'c'}")[0] == 0
    variant = f"import-teacher --arch retort --checkpoint {tmp_path / 'a'} --truncation 0.5 --out {tmp_path / 'd'}"
    assert typed(capsys, variant)[0] == 0
    digests = {}
    for name in "abcd":
        asked = f"sample --teacher {tmp_path / name} --nfake-per-class 2 --filter none --predictor none"
        code, found, error = typed(capsys, f"{asked} --out {tmp_path / f'fakes-{name}'}")
        assert code == 0, error
        digests[name] = found["digest"]
    assert len({digests["a"], digests["b"], digests["c"]}) == 3
    images = [open_fakes(tmp_path / f"fakes-{name}").images(np.arange(20)) for name in "bd"]
    assert np.array_equal(*images)
    code, _, error = typed(capsys, f"{shared} --truncation 0.7 --out {tmp_path / 'b'}")
    assert code == 2
    assert "truncation" in error


def test_a_moved_checkpoint_is_the_same_teacher(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = parity("biggan_32")
    shutil.copy(folder / "G_ema.pth", tmp_path / "copy.pth")
    out = tmp_path / "t"
    asked = f"import-teacher --arch biggan --out {out} --checkpoint"
    assert typed(capsys, f"{asked} {folder / 'G_ema.pth'}")[0] == 0
    written = (out / "card.json").stat().st_mtime_ns
    code, _, error = typed(capsys, f"{asked} {tmp_path / 'copy.pth'}")
    assert code == 0, error
    assert (out / "card.json").stat().st_mtime_ns == written


def test_a_filter_for_other_images_is_refused_before_work(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = parity("biggan_32")
    out, workspace = tmp_path / "t", tmp_path / "w"
    assert typed(capsys, f"import-teacher --arch biggan --checkpoint {folder / 'G_ema.pth'} --out {out}")[0] == 0
    code, _, error = typed(capsys, f"sample --teacher {out} --workspace {workspace}")
    assert code == 2
    assert "fit-filter" in error
    assert "none" in error
    assert not workspace.exists()


def test_ready_images_are_sampled_at_the_values_that_they_have(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    (tmp_path / "views").mkdir()
    for index in range(12):
        pixels = rng.integers(0, 256, size=(16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "views" / f"{index}.png")
        lines.append(f"{index}.png,{7.5 * (index % 4)}")
    (tmp_path / "views" / "labels.csv").write_text("\n".join(lines))
    out = tmp_path / "t"
    assert typed(capsys, f"import-teacher --arch images --checkpoint {tmp_path / 'views'} --out {out}")[0] == 0
    asked = f"sample --teacher {out} --nfake-per-label 3 --filter none --predictor none --out {tmp_path / 'f'}"
    code, found, error = typed(capsys, asked)
    assert code == 0, error
    assert found["images"] == 12
    assert sorted(set(open_fakes(tmp_path / "f").labels)) == [0.0, 7.5, 15.0, 22.5]
    code, _, error = typed(capsys, f"{asked}x --nfake-per-label 4")
    assert code == 2
    assert "has only 3 images" in error
    assert not (tmp_path / "fx" / "manifest.json").exists()
    code, _, error = typed(capsys, f"train-student --fakes {tmp_path / 'f'} --out {tmp_path / 's'}")
    assert code == 2
    assert "latents" in error
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("flag", ["--noise-mode none", "--label-range 0:1", "--output-range 0:1", "--channels 1"])
def test_a_flag_without_use_is_refused(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.pth").write_bytes(b"")
    code, _, error = typed(capsys, f"import-teacher --arch biggan --checkpoint {tmp_path / 'x.pth'} {flag}")
    assert code == 2
    assert flag.split()[0] in error
    assert "no use for it" in error


def test_flags_that_need_another_are_refused_without_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.pth").write_bytes(b"")
    asked = f"import-teacher --arch biggan --checkpoint {tmp_path / 'x.pth'} --standing-batch-size 8"
    code, _, error = typed(capsys, asked)
    assert code == 2
    assert "--standing-batches" in error
    code, _, error = typed(capsys, f"sample --ray-address 127.0.0.1:6379 --workspace {tmp_path / 'w'}")
    assert code == 2
    assert "--engine ray" in error
    assert not (tmp_path / "w").exists()
