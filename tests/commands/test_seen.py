"""What commands say and refuse about the images that GAN, filter, predictor and the rest have seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cli
from commands.support.lineage import seen_of, seen_of_fakes
from image_data.real import load_real
from image_data.seen_names import CLASSIFIER, GAN, PREDICTOR, RATIO, SEEN_FILE, STUDENT
from runtime.errors import UserError
from runtime.safe_files import write_sealed_json

pytestmark = pytest.mark.xdist_group("workspace")
DISTILL = "--train-on real --method none"


def pictures(folder: Path, roles: dict[str, int], first: int = 0) -> Path:
    """Two classes of noise, no image twice."""
    for number, (role, count) in enumerate(roles.items()):
        for name in ("cat", "dog"):
            place = folder / role / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                rng = np.random.default_rng([first, number, name == "cat", index])
                Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{index:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("command", "counts"),
    [
        ("search-rho --fold 1", "148 of 300 validation images and 381 of 497 test images"),
        ("distill --fold 2", "138 of 300 validation images and 387 of 497 test images"),
        ("distill --fold 2 --no-test", "fitted on 138 of 300 validation images; use"),
        ("evaluate --fold 1 --judge-steps 5", "148 of 300 validation images"),
    ],
)
def test_parts_of_another_fold_are_refused_with_counts(workspace, capsys, command, counts):
    before = sorted(workspace.folder.rglob("*"))
    name, _, words = command.partition(" ")
    assert workspace.type(name, words) == 2
    shown = capsys.readouterr().err
    assert counts in shown
    assert "GAN, density ratio, predictor" in shown
    assert sorted(workspace.folder.rglob("*")) == before


def test_every_part_hands_on_what_it_has_seen_and_the_number_says_it(workspace, capsys, tmp_path):
    data = load_real("digits")
    train, val = np.unique(data.hashes("train")).tolist(), np.unique(data.hashes("val")).tolist()
    fakes = (workspace.folder / "fakes" / "latest").resolve()
    moved = shutil.copytree(fakes, tmp_path / "moved")  # to a machine that has nothing else
    parts = seen_of_fakes(moved).parts
    assert {name: set(roles) for name, roles in parts.items()} == {
        GAN: {"train"}, RATIO: {"train"}, PREDICTOR: {"train", "val"}
    }  # fmt: skip
    assert all(roles["train"].tolist() == train for roles in parts.values())
    assert parts[PREDICTOR]["val"].tolist() == val
    found = workspace.json(capsys, "distill", f"--fakes {moved} --rho 0.5 --nfake-per-class 20")
    assert found["seen"] == "test images: 497, seen by none of GAN, density ratio, predictor, soft-label teacher"
    assert found["test"]["digest"] == data.test_digest
    child = seen_of("predictor", found["classifier"])
    assert list(child.parts) == [GAN, CLASSIFIER, RATIO, PREDICTOR, "soft-label teacher"]
    words = f"--fakes {moved} --method none --init-from {found['classifier']} --fold 1"
    assert workspace.type("distill", words) == 2
    assert "initial classifier" in capsys.readouterr().err
    student = workspace.json(capsys, "train-student", "")["student"]
    assert STUDENT in seen_of("student", student).names
    assert seen_of("student", student).parts[GAN]["train"].tolist() == train
    (moved / SEEN_FILE).unlink()
    found = workspace.json(capsys, "distill", f"--fakes {moved} --method none --out {tmp_path / 'c'}")
    parts = (f"{part} (the fakes do not say)" for part in (GAN, RATIO, PREDICTOR))
    assert found["seen"] == f"test images: 497; unknown: {', '.join(parts)}"


def test_a_lost_or_changed_record_is_refused_and_a_foreign_teacher_is_unknown(workspace, capsys, tmp_path):
    teacher = shutil.copytree((workspace.folder / "teacher" / "latest").resolve(), tmp_path / "teacher")
    assert seen_of("teacher", teacher).names == [GAN]
    shutil.copy(workspace.folder / "predictor" / "latest" / SEEN_FILE, teacher / SEEN_FILE)
    with pytest.raises(UserError, match="not the file that the card beside it names"):
        seen_of("teacher", teacher)
    (teacher / SEEN_FILE).unlink()
    with pytest.raises(UserError, match=r"seen\.safetensors is missing"):
        seen_of("teacher", teacher)
    other = tmp_path / "variant"
    source = (workspace.folder / "teacher" / "latest").resolve()
    words = ["import-teacher", "--arch", "retort", "--checkpoint", str(source), "--truncation", "0.5"]
    assert cli.main([*words, "--out", str(other)]) == 0
    assert (
        seen_of("teacher", other).parts[GAN]["train"].tolist()
        == seen_of("teacher", source).parts[GAN]["train"].tolist()
    )
    card = json.loads((other / "card.json").read_text())
    del card["trained_on"]["seen"]  # as a card of a foreign checkpoint is
    del card["seal"]
    write_sealed_json(other / "card.json", card)
    assert seen_of("teacher", other).unknown == {GAN: "imported"}
    assert seen_of("teacher", "http://127.0.0.1:1").unknown == {GAN: "served elsewhere"}
    words = f"--teacher {other} --filter none --predictor none --rho 1 --out {tmp_path / 'f'}"
    workspace.json(capsys, "sample", words)
    found = workspace.json(capsys, "distill", f"--fakes {tmp_path / 'f'} --method none --rho 1 --out {tmp_path / 'c'}")
    assert found["seen"] == "test images: 497; unknown: GAN (imported)"


def test_ready_images_have_seen_themselves_at_any_size(workspace, capsys, tmp_path):
    source = pictures(tmp_path / "data", {"train": 20, "val": 5, "test": 5})
    box = tmp_path / "box"
    words = ["import-teacher", "--arch", "images", "--checkpoint", str(source / "test"), "--resolution", "16"]
    assert cli.main([*words, "--out", str(box)]) == 0
    seen = seen_of("teacher", box)
    assert seen.parts[GAN]["train"].tolist() == np.unique(load_real(source).hashes("test")).tolist()
    words = f"--teacher {box} --filter none --predictor none --nfake-per-class 5 --rho 1 --out {tmp_path / 'f'}"
    workspace.json(capsys, "sample", words, tiny=False)
    asked = f"--data {source} --resolution 16 --fakes {tmp_path / 'f'} --method none --rho 1 --out {tmp_path / 'c'}"
    assert workspace.type("distill", asked) == 2
    assert "GAN fitted on 10 of 10 test images" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    found = workspace.json(capsys, "distill", f"{asked} --no-test")
    assert found["seen"] == (
        "validation images: 10, trained on by none of GAN; unknown: GAN (ready images, whose maker does not say)"
    )


def test_other_test_images_are_opened_with_the_same_weights(workspace, capsys, tmp_path):
    source, out = pictures(tmp_path / "data", {"train": 20, "val": 5, "test": 5}), tmp_path / "c"
    first = workspace.json(capsys, "distill", f"{DISTILL} --data {source} --out {out}")
    weights = (out / "weights.safetensors").read_bytes()
    shutil.rmtree(source / "test" / "cat")
    second = workspace.json(capsys, "distill", f"{DISTILL} --data {source} --out {out}")
    assert (first["test"]["images"], second["test"]["images"]) == (10, 5)
    assert first["test"]["digest"] != second["test"]["digest"]
    assert second["seen"] == "test images: 5, no other part had a say"
    assert (out / "weights.safetensors").read_bytes() == weights
    record = json.loads((out / "command.json").read_text())
    assert record["content"]["opened"] == {"test": second["test"]["digest"]}
    before = (out / "result.json").stat().st_mtime_ns
    assert workspace.json(capsys, "distill", f"{DISTILL} --data {source} --out {out}") == second
    assert (out / "result.json").stat().st_mtime_ns == before
    shutil.rmtree(source / "val" / "cat")
    assert workspace.type("distill", f"{DISTILL} --data {source} --out {out}") == 2
    assert "data: " in capsys.readouterr().err


def test_images_in_two_roles_are_left_out_by_name_at_once(workspace, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RETORT_PROGRESS", "plain")
    source = pictures(tmp_path / "data", {"train": 20, "val": 5, "test": 5})
    shutil.copy(source / "train" / "cat" / "000.png", source / "val" / "cat" / "zz_copy.png")
    Image.open(source / "val" / "dog" / "001.png").convert("RGB").save(source / "test" / "dog" / "again.bmp")
    for number, command in enumerate(("train-classifier", "distill --train-on real --method none")):
        name, _, words = command.partition(" ")
        assert workspace.type(name, f"{words} --data {source} --channels 1 --out {tmp_path / str(number)}"
                              .replace("--channels 1 ", "")) == 0  # fmt: skip
        shown = " ".join(capsys.readouterr().err.split())
        assert "2 of 11 val images are left out" in shown
        assert "val/cat/zz_copy.png equals train/cat/000.png" in shown
        assert "val/dog/001.png equals test/dog/again.bmp" in shown
