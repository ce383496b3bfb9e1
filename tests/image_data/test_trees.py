"""Folders, tables, StyleGAN datasets and archives: what is read, what is named, and each key of dataset.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_data.real import RealData, load_real
from image_data.real.decoding import IMAGE_SUFFIXES
from image_data.real.label_kinds import MOST_CLASSES
from image_data.real.whole import open_whole
from runtime.errors import UserError
from tests.image_data.test_folder import class_folder, picture
from tests.image_data.test_label_kinds import spoken  # noqa: F401


def count(data: RealData) -> int:
    return len(data.train) + len(data.val) + len(data.open_test())


def refused(source: Path, words: str) -> None:
    for opener in (load_real, open_whole):
        with pytest.raises(UserError) as caught:
            opener(source)
        assert words in str(caught.value)


def test_folders_inside_class_folders_count_to_the_class(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class_folder(tmp_path, 5)
    for number in range(7):
        picture(tmp_path / "cat" / "second" / "deep" / f"{number}.png", value=5000 + number)
    assert count(load_real(tmp_path)) == 17
    assert "count to that class: cat/second/deep (7)" in capsys.readouterr().err
    shutil.copytree(tmp_path / "cat", tmp_path / "again" / "train" / "cat")
    shutil.copytree(tmp_path / "dog", tmp_path / "again" / "train" / "dog")
    assert count(load_real(tmp_path / "again")) == 17
    assert "train/cat/second/deep (7)" in capsys.readouterr().err


def test_image_files_that_are_not_used_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class_folder(tmp_path, 5)
    for number in range(3):
        picture(tmp_path / f"{number}.png")
        shutil.copy(tmp_path / "0.png", tmp_path / "cat" / f"unnamed{number}")
        (tmp_path / "dog" / f"{number}.HEIC").write_bytes(b"")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat" / "notes.txt").write_text("words")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"\x89PNG\r\n")
    assert count(load_real(tmp_path)) == 10
    said = capsys.readouterr().err
    assert f"3 image files in {tmp_path} are not used: outside the class folders (0.png, ...)" in said
    assert f"3 image files in {tmp_path / 'cat'} are not used: an image needs its ending" in said
    assert f"3 image files in {tmp_path / 'dog'} are not used: .heic is not read (0.HEIC, ...)" in said
    assert f"1 image file in {tmp_path / 'dog'} is not used: a link to nothing" in said
    assert said.count("not used") == 4


@pytest.mark.parametrize("suffix", ["jfif", "JPG", "jpe", "tga", "bmp", "webp", "gif", "tiff", "ppm", "pnm"])
def test_every_ending_is_read(suffix: str, tmp_path: Path) -> None:
    kinds = {"jfif": "JPEG", "JPG": "JPEG", "jpe": "JPEG", "pnm": "PPM"}
    class_folder(tmp_path, 4)
    for path in tmp_path.glob("dog/*.png"):
        Image.open(path).save(path.with_suffix(f".{suffix}"), format=kinds.get(suffix))
        path.unlink()
    assert count(load_real(tmp_path)) == 8


def test_frames_beyond_the_first_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class_folder(tmp_path, 4)
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(tmp_path / "dog" / "film.gif", save_all=True, append_images=frames[1:])
    assert count(load_real(tmp_path)) == 9
    assert "1 files hold several frames, of which the first is used" in capsys.readouterr().err


def test_folders_that_are_numbers_stand_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class_folder(tmp_path / "a", 4, names=tuple(map(str, range(11))))
    data = load_real(tmp_path / "a")
    assert data.label_space.names == tuple(map(str, range(11)))
    assert "ImageFolder has the order 0, 1, 10, 2, 3, ..., 9" in capsys.readouterr().err
    for number in (2, 10):  # label and folder stay together
        stored = np.asarray(Image.open(tmp_path / "a" / str(number) / "000.png")).transpose(2, 0, 1).tobytes()
        found = [
            label
            for part in (data.train, data.val, data.open_test())
            for image, label in zip(part.pixels, part.labels, strict=True)
            if image.tobytes() == stored
        ]
        assert found == [number]
    class_folder(tmp_path / "b", 4, names=("9", "10", "x"))
    assert load_real(tmp_path / "b").label_space.names == ("10", "9", "x")


def test_one_class_and_flat_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(8):
        for role in ("train", "test"):
            picture(tmp_path / "roles" / role / f"{number}.png", value=number + 100 * len(role))
        picture(tmp_path / "flat" / f"{number}.png", value=number)
        picture(tmp_path / "shards" / f"{number // 4:05d}" / f"img{number:08d}.png", value=number)
    for name, images in (("flat", 8), ("roles", 16), ("shards", 8)):
        data = load_real(tmp_path / name)
        assert (data.label_space.names, count(data)) == (("all",), images)
        assert open_whole(tmp_path / name).label_space.names == ("all",)
        assert "images are one class, all" in capsys.readouterr().err
    (tmp_path / "flat" / "dataset.json").write_text('{"class_names": ["face"], "augmentations": ["flip"]}')
    assert load_real(tmp_path / "flat").label_space.names == ("face",)
    (tmp_path / "flat" / "dataset.json").write_text('{"label_kind": "continuous"}')
    refused(tmp_path / "flat", "write a labels.csv with a value for each image")
    picture(tmp_path / "roles" / "test" / "cat" / "0.png")
    refused(tmp_path / "roles", "cat is a class that train/ does not have")


def test_every_key_of_the_description_acts_on_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class_folder(tmp_path, 6, names=("1", "2", "10"))
    about = tmp_path / "dataset.json"
    for fields, names in (
        ({"class_names": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"class_names": ["10", "2", "1"]}, ("10", "2", "1")),
        ({"label_kind": "classes"}, ("1", "2", "10")),
    ):
        about.write_text(json.dumps(fields))
        data = load_real(tmp_path)
        assert data.label_space.names == names
    about.write_text('{"class_names": ["10", "2", "1"]}')
    images = open_whole(tmp_path)
    stored = np.asarray(Image.open(tmp_path / "10" / "000.png")).transpose(2, 0, 1)
    pixels = np.concatenate(list(images.pieces()))
    assert [int(images.labels[row]) for row in range(18) if np.array_equal(pixels[row], stored)] == [0]
    assert "orders the folders: 10, 2, 1" in capsys.readouterr().err
    about.write_text('{"unit": "years", "low": 0, "high": 20}')
    space = load_real(tmp_path).label_space
    assert (space.kind, space.low, space.high, space.unit) == ("continuous", 0, 20, "years")
    assert "folder names are whole numbers from 1 to 10" in capsys.readouterr().err
    for fields, words in (
        ({"class_names": ["a", "b"]}, "gives 2 names, but there are 3 classes (1, 2, 10)"),
        ({"class_names": ["2", "x", "y"]}, "uses '2', which is the name of one of the classes"),
        ({"class_names": ["a", "b", "c"], "low": 0}, "low is for values"),
        ({"label_kind": "continuous", "high": 5}, "outside the stated range"),
        ({"class_names": []}, "must name each class once"),
        ({"class_names": ["a", " ", "b"]}, "must be a list of texts"),
    ):
        about.write_text(json.dumps(fields))
        refused(tmp_path, words)
    (tmp_path / "2").rename(tmp_path / "two")
    about.write_text('{"label_kind": "continuous"}')
    refused(tmp_path, "folder name 'two' is no number")


def table(folder: Path, text: str, encoding: str = "utf-8", count: int = 12) -> Path:
    for number in range(count):
        picture(folder / "all" / f"{number}.png", value=number)
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return folder


def lines(header: str, labels: list[object], mark: str = ",", end: str = "\n") -> str:
    return end.join([header, *(f"all/{number}.png{mark}{label}" for number, label in enumerate(labels))]) + end


CYCLE = [number % 3 for number in range(12)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (lines("file,class", CYCLE), ("0", "1", "2")),
        (lines("file,label", [label + 5 for label in CYCLE]), ("5", "6", "7")),
        (lines("file,age", CYCLE), (0.0, 2.0)),
        (lines("file,angle", [label + 0.5 for label in CYCLE]), (0.5, 2.5)),
        (lines("file,species", ["cat", "dog", "eel"] * 4), ("cat", "dog", "eel")),
        (lines("file;angle", ["0,5", "1,25", "7"] * 4, ";"), (0.5, 7.0)),
        (lines("file\tangle", [label + 0.5 for label in CYCLE], "\t"), (0.5, 2.5)),
        (lines(" File , Angle ", [f" {label}.5 " for label in CYCLE], end="\r\n"), (0.5, 2.5)),
        (lines("filename,label", CYCLE).replace("all/", "all\\"), ("0", "1", "2")),
        (lines("file,label", CYCLE) + "\n,\n\n", ("0", "1", "2")),
        (lines("file,cat,dog", ["1,0", "0,1"] * 6), ("cat", "dog")),
        (lines("file,yaw,pitch", ["1,0", "1,1"] * 6), (0.0, 1.0)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables(text: str, found: tuple, encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    space = open_whole(table(tmp_path, text, encoding)).label_space
    assert found == (space.names if space.kind == "classes" else (space.low, space.high))
    assert "taken as" in capsys.readouterr().err


def test_keys_of_the_description_act_on_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table(tmp_path, lines("file,age", CYCLE))
    (tmp_path / "dataset.json").write_text('{"label_kind": "classes"}')
    assert load_real(tmp_path).label_space.names == ("0", "1", "2")
    (tmp_path / "dataset.json").write_text('{"class_names": ["a", "b", "c"]}')
    assert load_real(tmp_path).label_space.names == ("a", "b", "c")
    picture(tmp_path / "all" / "more.png")
    load_real(tmp_path)
    assert "1 image file in " + str(tmp_path / "all") + " is not used: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lines("file,label", ["cat", 3, *CYCLE[2:]]), "line 2: a label is no number ('cat')"),
        (lines("file,age,sex", ["3,m"] * 12), "line 2: a label is no number ('m')"),
        (lines("file,angle", ["1_000", *CYCLE[1:]]), "line 2: a label is no number ('1_000')"),
        (lines("file,angle", ["1e999", *CYCLE[1:]]), "not a finite number"),
        (lines("file,angle", ['"0,5"', '"1,25"'] * 6), "labels such as 0,5 have a decimal comma; write a point"),
        (lines("file,label", CYCLE) + "./all/0.png,1\n", "line 14: all/0.png stands there twice"),
        (lines("file,label", CYCLE) + "..\\x.png,1\n", "must be a path inside the folder"),
        (lines("file,label", CYCLE) + '"all/0.png,1\n', "line 14"),
        ("file,label\n" + "\x00,\n", "line 2"),
        (lines("file,label", CYCLE).replace("1", "\x1b[31m1"), "\\x1b[31m"),
    ],
)
def test_bad_tables(text: str, words: str, tmp_path: Path) -> None:
    refused(table(tmp_path, text), words)


def stylegan(folder: Path, labels: object, count: int = 12) -> Path:
    for number in range(count):
        picture(folder / f"{number // 6:05d}" / f"img{number:08d}.png", value=number)
    (folder / "dataset.json").write_text(json.dumps(labels))
    return folder


def pairs(labels: list) -> dict:
    return {"labels": [[f"{number // 6:05d}/img{number:08d}.png", label] for number, label in enumerate(labels)]}


@pytest.mark.parametrize("packed", ["folder", "zip", "zip of a folder"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (pairs(CYCLE), ("0", "1", "2")),
        (pairs([[0.1 * label, 0.5] for label in CYCLE]), (0.0, 0.5)),
        (pairs([[float(label == 0), float(label != 0)] for label in CYCLE]), ("0", "1")),
        ({"labels": dict(pairs(CYCLE)["labels"])}, ("0", "1", "2")),
        (pairs(CYCLE) | {"class_names": ["a", "b", "c"], "augmentations": ["flip"]}, ("a", "b", "c")),
        (pairs(CYCLE[:10]), ("0", "1", "2")),
        ({"labels": None}, ("all",)),
    ],
)
def test_stylegan_datasets(content: dict, found: tuple, packed: str, tmp_path: Path) -> None:
    source = stylegan(tmp_path / "set" / "inner", content)
    if packed != "folder":
        top = source if packed == "zip" else source.parent
        source = Path(shutil.make_archive(str(tmp_path / "set"), "zip", top))
    whole = open_whole(source)
    space = whole.label_space
    assert found == (space.names if space.kind == "classes" else (space.low, space.high))
    pixels = np.concatenate(list(whole.pieces()))
    stored = np.asarray(Image.open(tmp_path / "set" / "inner" / "00001" / "img00000007.png")).transpose(2, 0, 1)
    assert [row for row in range(len(pixels)) if np.array_equal(pixels[row], stored)] == [7]
    if "class_names" in content:
        data = load_real(source)
        assert data.label_space == space
        assert data.allowed_augmentations == ("flip",)


def test_class_folders_in_an_archive_are_those_of_the_folder(tmp_path: Path) -> None:
    class_folder(tmp_path / "pets")
    (tmp_path / "pets" / ".hidden").mkdir()
    picture(tmp_path / "pets" / ".hidden" / "0.png")
    packed = load_real(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "pets"))
    assert packed.digest == load_real(tmp_path / "pets").digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pairs([0, [1.0], *CYCLE[2:]]), "label 1 is [1.0], unlike the first"),
        (pairs([[0.5], [0.5, 1], *CYCLE[2:]]), "label 1 is [0.5, 1], unlike the first"),
        (pairs([True] * 12), "label 0 is True"),
        (pairs([None] * 12), "label 0 is None"),
        ({"labels": [["00000/img00000000.png", 1, 2]]}, "entry 0 of labels is no [file, label]"),
        ({"labels": [["x.png", 1]]}, "x.png is not there"),
        ({"labels": pairs(CYCLE)["labels"] * 2}, "stands in labels twice"),
        ({"labels": "all"}, "labels must be a list"),
        ({"labels": []}, "labels must be a list"),
        ({"label": []}, "key 'label' is unknown; known are augmentations, label_kind"),
        (pairs(CYCLE) | {"label_kind": "classes", "unit": "m"}, "unit is for values"),
    ],
)
def test_bad_stylegan_labels(content: dict, words: str, tmp_path: Path) -> None:
    refused(stylegan(tmp_path, content), words)


def test_two_lists_of_labels_and_odd_files_are_refused(tmp_path: Path) -> None:
    import os

    (stylegan(tmp_path / "a", pairs(CYCLE)) / "labels.csv").write_text("file,age\n")
    refused(tmp_path / "a", "both list labels")
    class_folder(tmp_path / "b", 4)
    os.mkfifo(tmp_path / "b" / "dataset.json")
    refused(tmp_path / "b", "dataset.json is no regular file")
    class_folder(tmp_path / "c", 4)
    (tmp_path / "c" / "cat" / "up").symlink_to(tmp_path / "c")
    refused(tmp_path / "c", "is a link to a folder above it")
    for name in ("val", "valid", "train"):
        class_folder(tmp_path / "d" / name, 2)
    refused(tmp_path / "d", "are the same part")


def test_the_page_names_every_ending_and_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    endings = page.split("Images are `", 1)[1].split("`", 1)[0].split()
    assert set(endings) == IMAGE_SUFFIXES
    for key in ("label_kind", "class_names", "unit", "low", "high", "augmentations", "labels"):
        assert f"`{key}`" in page
    assert f"{MOST_CLASSES:,}" in page
