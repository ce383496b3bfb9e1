"""Image folders: layouts, resizing, continuous labels, and one real broken folder for each refusal."""

from __future__ import annotations

import json
import lzma
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_data.real import RealData, load_real
from runtime.errors import UserError

SHARED = Path(os.environ.get("RETORT_SHARED_DIR") or Path(__file__).parents[3] / "shared")
CIFAR_TAR = SHARED / "data" / "cifar10-jpeg.tar.xz"


def picture(path: Path, width: int = 8, height: int = 8, mode: str = "RGB", value: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode()) if value is None else value
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path)
    return path


def class_folder(
    folder: Path, per_class: int = 20, names: tuple[str, ...] = ("cat", "dog"), mode: str = "RGB", first: int = 0
) -> Path:
    for name in names:
        for number in range(per_class):
            picture(folder / name / f"{number:03d}.png", mode=mode, value=first + number + 1000 * names.index(name))
    return folder


def sizes(data: RealData) -> list[int]:
    return [len(data.train), len(data.val), len(data.open_test())]


def test_class_folders_are_split_by_what_the_images_show(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "pets")
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / "dog" / ".hidden.png").write_bytes(b"not an image either")
    (folder / ".cache").mkdir()
    data = load_real(folder)
    assert data.label_space.names == ("cat", "dog")
    assert sizes(data) == [25, 9, 6]
    assert data.remarks == ()
    assert data.digest == load_real(folder, seed=5).digest
    assert data.describe()["split_off"] == ["val", "test"]
    assert data.describe()["resizing"] == "none"
    assert data.allowed_augmentations == ()
    whole = {image.tobytes() for part in (data.train, data.val, data.open_test()) for image in part.pixels}
    stored = {
        np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes()
        for path in folder.glob("*/*.png")
        if path.stem[0] != "."
    }
    assert whole == stored


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_given_roles_are_kept(tmp_path: Path, val_name: str) -> None:
    for first, (role, count) in enumerate((("train", 10), (val_name, 3), ("test", 4))):
        class_folder(tmp_path / role, count, first=100 * first)
    data = load_real(tmp_path)
    assert [len(data.train), len(data.val), len(data.open_test())] == [20, 6, 8]
    assert data.describe()["split_off"] == []


def test_only_the_missing_role_is_split_off(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", 20)
    class_folder(tmp_path / "test", 5, first=100)
    data = load_real(tmp_path, real_per_class=3)
    assert sizes(data) == [6, 9, 10]
    assert data.describe()["split_off"] == ["val"]


def test_channels_follow_the_files(tmp_path: Path) -> None:
    grey = load_real(class_folder(tmp_path / "grey", mode="L"))
    assert grey.channels == 1
    assert load_real(tmp_path / "grey", channels=3).train.pixels.shape[1] == 3
    picture(tmp_path / "grey" / "cat" / "z.png", mode="RGB")
    assert load_real(tmp_path / "grey").channels == 3
    palette = load_real(class_folder(tmp_path / "palette", mode="P"), channels=1)
    assert palette.channels == 1


def test_transparent_pixels_become_black(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "a", 10)
    for path in folder.glob("*/*.png"):
        clear = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
        clear.putpixel((0, 0), (int(path.stem), 10 * (path.parent.name == "cat"), 0, 255))  # no two are the same image
        clear.save(path)
    assert load_real(folder).train.pixels.max() <= 10


def test_sizes_are_mended_only_when_asked(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "mixed")
    odd = picture(folder / "dog" / "005.png", 20, 12)
    with pytest.raises(UserError, match=r"005\.png is 20 x 12, but .*cat/000\.png is 8 x 8"):
        load_real(folder)
    data = load_real(folder, resolution_px=8)
    assert data.resolution_px == 8
    assert "centre crop" in data.describe()["resizing"]
    twin = Image.open(odd).crop((4, 0, 16, 12)).resize((8, 8), Image.Resampling.BICUBIC)
    stored = [image.tobytes() for part in (data.train, data.val, data.open_test()) for image in part.pixels]
    assert np.asarray(twin).transpose(2, 0, 1).tobytes() in stored
    wide = class_folder(tmp_path / "wide")
    for path in wide.glob("*/*.png"):
        picture(path, 8, 6)
    with pytest.raises(UserError, match="not square"):
        load_real(wide)
    with pytest.raises(UserError, match="resolution_px must lie"):
        load_real(wide, resolution_px=2)


def test_bad_images_are_named(tmp_path: Path) -> None:
    good = class_folder(tmp_path / "good")
    torn = good / "dog" / "007.png"
    data = torn.read_bytes()
    for broken in (b"", b"hello", data[: len(data) // 2], data[:20]):
        torn.write_bytes(broken)
        with pytest.raises(UserError, match=r"dog/007\.png is no readable image"):
            load_real(good)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(torn)
    with pytest.raises(UserError, match=r"dog/007\.png has more than 8 bits"):
        load_real(good)


def check_refused(folder: Path, words: str, **options: object) -> None:
    with pytest.raises(UserError, match=words):
        load_real(folder, **options)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_refused(tmp_path / "empty", "empty holds no class folders")
    class_folder(tmp_path / "one", names=("cat",))
    assert load_real(tmp_path / "one").label_space.names == ("cat",)
    class_folder(tmp_path / "hollow")
    (tmp_path / "hollow" / "eel").mkdir()
    check_refused(tmp_path / "hollow", "eel holds no images; fill")
    class_folder(tmp_path / "deep" / "all")
    check_refused(tmp_path / "deep", "one folder level too high")
    class_folder(tmp_path / "rare", 20)
    picture(tmp_path / "rare" / "eel" / "0.png")
    check_refused(tmp_path / "rare", "class 'eel' has [01] training images")
    class_folder(tmp_path / "tiny", 1)
    check_refused(tmp_path / "tiny", "2 images are too few")
    class_folder(tmp_path / "untrained" / "test")
    check_refused(tmp_path / "untrained", "test/ but no train/")
    class_folder(tmp_path / "mixed" / "train")
    class_folder(tmp_path / "mixed", names=("eel",))
    check_refused(tmp_path / "mixed", "eel stands beside train/")
    class_folder(tmp_path / "extra" / "train")
    class_folder(tmp_path / "extra" / "test", names=("cat", "eel"))
    check_refused(tmp_path / "extra", "eel is a class that train/ does not have")
    class_folder(tmp_path / "bare" / "train")
    (tmp_path / "bare" / "test").mkdir()
    check_refused(tmp_path / "bare", "test holds no class folders")
    check_refused(tmp_path / "extra", "one split only", fold=1)


def test_the_user_says_which_augmentations_are_allowed(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "pets")
    assert load_real(folder, augmentations=["translate", "flip"]).allowed_augmentations == ("flip", "translate")
    check_refused(folder, "'rotate' is unknown", augmentations=["rotate"])
    note = folder / "dataset.json"
    note.write_text(json.dumps({"augmentations": ["flip"]}))
    assert load_real(folder).allowed_augmentations == ("flip",)
    assert load_real(folder, augmentations=[]).allowed_augmentations == ()
    for text, words in (
        ("{", "no readable JSON"),
        ("[]", "one JSON object"),
        ('{"augment": []}', "key 'augment' is unknown"),
        ('{"augmentations": ["rotate"]}', r"dataset\.json: augmentation 'rotate' is unknown"),
        ('{"augmentations": "flip"}', "augmentations must be a list"),
        ('{"low": "a"}', "low must be a finite number"),
        ('{"high": NaN}', "no readable JSON .NaN is no number"),
        ('{"unit": 3}', "unit must be a text"),
        ('{"label_kind": "both"}', "label_kind must be"),
        ('{"class_names": ["a", "a"]}', "stands twice"),
        ("[" * 100_000, "no readable JSON"),
    ):
        note.write_text(text)
        check_refused(folder, words)


def table_folder(folder: Path, header: str = "file,angle", count: int = 40) -> Path:
    lines = [header]
    for number in range(count):
        picture(folder / "all" / f"{number:03d}.png", value=number)
        lines.append(f"all/{number:03d}.png" + f",{number * 0.5}" * header.count(","))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_continuous_labels_from_a_table(tmp_path: Path) -> None:
    folder = table_folder(tmp_path / "dial")
    data = load_real(folder)
    assert data.label_space.to_json() | {"low": 0.0, "high": 19.5, "unit": ""} == data.label_space.to_json()
    assert sizes(data) == [25, 9, 6]
    for image, label in zip(data.train.pixels, data.train.labels, strict=True):
        stored = Image.open(folder / "all" / f"{round(label * 2):03d}.png")
        assert np.array_equal(np.asarray(stored).transpose(2, 0, 1), image)
    (folder / "dataset.json").write_text('{"unit": "degrees", "low": 0, "high": 90}')
    stated = load_real(folder)
    assert (stated.label_space.low, stated.label_space.high, stated.label_space.unit) == (0.0, 90.0, "degrees")
    assert "degrees" in stated.histogram()
    (folder / "dataset.json").write_text('{"low": 5}')
    check_refused(folder, "outside the stated range 5 to 19.5")
    vectors = load_real(table_folder(tmp_path / "pose", "file,yaw,pitch"))
    assert vectors.label_space.dimension == 2
    assert vectors.train.labels.shape == (25, 2)
    vectors.histogram()


def test_roles_in_a_table_are_its_first_folders(tmp_path: Path) -> None:
    lines = ["file,age"]
    for role, count in (("train", 10), ("val", 3), ("test", 4)):
        for number in range(count):
            picture(tmp_path / role / f"{number}.png", value=number + 100 * len(role))
            lines.append(f"{role}/{number}.png,{number}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data = load_real(tmp_path)
    assert [len(data.train), len(data.val), len(data.open_test())] == [10, 3, 4]


def test_bad_tables_name_the_line(tmp_path: Path) -> None:
    folder = table_folder(tmp_path)
    good = (folder / "labels.csv").read_text()
    for text, words in (
        ("", "header line"),
        ("picture,angle\n", "header line"),
        ("file,angle\n", "no training images"),
        (good + "all/000.png,1\n", r"line 42: all/000\.png stands there twice"),
        (good + "all/999.png,1\n", r"line 42: .*999\.png is not there"),
        (good + "../other.png,1\n", "line 42: .*inside the folder"),
        (good + "/etc/passwd,1\n", "line 42: .*inside the folder"),
        (good + "all/x.png\n", "line 42 has 1 columns"),
        (good.replace(",19.5", ",north"), "line 41: a label is no number"),
        (good.replace(",19.5", ",nan"), "not a finite number"),
        ("\n".join(line.split(",")[0] + ",3" if "/" in line else line for line in good.splitlines()), "is empty"),
    ):
        (folder / "labels.csv").write_text(text)
        check_refused(folder, words)
    (folder / "labels.csv").write_bytes(b"file,angle\n\xff\xfe,1\n")
    check_refused(folder, "no readable CSV")


@pytest.mark.skipif(not CIFAR_TAR.exists(), reason=f"real CIFAR-10 pictures are not at {CIFAR_TAR}")
def test_real_cifar10_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first classes of the real JPEG files, as far as the archive's first megabytes go."""
    with lzma.open(CIFAR_TAR) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = Path(member.name)
            if path.parent.name == "bird":
                break
            if member.isfile() and path.suffix == ".jpg" and path.stem < "0040":
                content = archive.extractfile(member)
                assert content is not None
                target = tmp_path / "cifar10" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path))
    data = load_real("cifar10")
    assert data.label_space.names == ("airplane", "automobile")
    assert data.train.pixels.shape == (56, 3, 32, 32)
    assert data.allowed_augmentations == ("flip", "translate")
    means = [data.train.pixels[data.train.labels == label].mean(axis=(0, 2, 3)) for label in (0, 1)]
    assert means[0][2] > means[0][0]  # aeroplanes stand before a blue sky
