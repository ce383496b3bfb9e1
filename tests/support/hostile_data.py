"""Sixty damaged or hostile inputs of each kind that `--data` reads, from one seed, each a whole source."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

COUNT = 12
CASES = 60


def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (COUNT, 3, 8, 8), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, format=kind)
    return stream.getvalue()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, a cut, a run of one value, a piece twice, or noise."""
    changed = bytearray(data)
    way = int(rng.integers(6))
    at = int(rng.integers(len(changed)))
    if way == 0:
        for place in rng.integers(0, len(changed), int(rng.integers(1, 12))):
            changed[place] ^= 1 << int(rng.integers(8))
    elif way == 1:
        return bytes(changed[:at])
    elif way == 2:
        changed[at : at + 40] = bytes([int(rng.integers(256))]) * len(changed[at : at + 40])
    elif way == 3:
        changed[at:at] = changed[at // 2 : at]
    elif way == 4:
        changed[at : at + 8] = struct.pack("<Q", int(rng.integers(2**63)))[: len(changed[at : at + 8])]
    else:
        return bytes(rng.integers(0, 256, int(rng.integers(400)), dtype=np.uint8))
    return bytes(changed)


def hdf5(folder: Path, case: int, rng: np.random.Generator) -> Path:
    """Every other file is whole and odd in its content; the rest are damaged in their bytes."""
    path = folder / "data.h5"
    labels: np.ndarray = np.arange(COUNT) % 2
    odd: list[Callable[[h5py.File], object]] = [
        lambda f: f.create_dataset("images", (2**36, 3, 64, 64), "u1", chunks=(2**12, 3, 64, 64), compression="gzip"),
        lambda f: f.create_dataset("images", (COUNT, 3, 2**20, 2**20), "u1", chunks=(1, 3, 64, 64), fillvalue=7),
        lambda f: f.create_dataset("images", data=np.zeros((COUNT, 3, 8, 8), "u1"), scaleoffset=0),
        lambda f: f.create_dataset("images", data=np.full((COUNT, 3, 8, 8), np.nan)),
        lambda f: f.create_dataset("images", data=np.zeros((COUNT, 0, 8, 8), "u1")),
        lambda f: f.create_dataset("images", data=np.zeros((0, 3, 8, 8), "u1")),
        lambda f: f.create_dataset("images", data=np.zeros((COUNT, 3, 8, 9, 1), "u1")),
        lambda f: f.create_dataset("images", data=np.uint8(3)),
        lambda f: f.create_dataset("images", data=np.zeros((COUNT, 3, 8, 8), "i8")),
        lambda f: f.create_dataset("images", data=np.zeros((COUNT, 3, 8, 8), "c8")),
        lambda f: f.update({"images": h5py.ExternalLink("/etc/passwd", "/a")}),
        lambda f: f.update({"images": h5py.SoftLink("/labels")}),
        lambda f: f.create_dataset("images", data=np.array(["a" * 9] * COUNT, dtype=h5py.string_dtype())),
        lambda f: f.create_group("images").create_group("images"),
        lambda f: f.create_dataset("images", (COUNT, 3, 8, 8), "u1", external=[("/etc/passwd", 0, COUNT * 192)]),
    ]
    with h5py.File(path, "w") as file:
        if case < len(odd):
            odd[case](file)
        else:
            file.create_dataset("images", data=pixels(rng), compression="gzip" if case % 2 else None)
        values = {
            16: np.full(COUNT, np.nan), 17: np.full(COUNT, np.inf), 18: np.array([b"\xff"] * COUNT), 19: labels[:5],
            20: np.zeros((COUNT, 2, 2)), 21: np.full(COUNT, 2**63, "u8"), 22: labels * 1e300, 23: np.zeros((COUNT, 0)),
            24: np.full(COUNT, np.iinfo("i8").min), 25: np.uint8(1),
        }.get(case, labels)  # fmt: skip
        file.create_dataset("labels", data=values)
        if case in (26, 27, 28, 29):
            split = [np.arange(99), np.full(COUNT, 2.0**60), np.arange(-9, 3), np.array([np.nan] * 3)][case - 26]
            file.create_dataset("train_idx", data=split)
    if case >= 30:
        path.write_bytes(damaged(path.read_bytes(), rng))
    return path


def zipped(folder: Path, case: int, rng: np.random.Generator) -> Path:
    """Archives that lie about sizes, hold odd entries, or are damaged in their bytes."""
    path = folder / "data.zip"
    method = zipfile.ZIP_DEFLATED if case % 2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, image in enumerate(pixels(rng)):
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", encoded(image))
        odd: list[Callable[[], None]] = [
            lambda: archive.writestr("../../etc/x.png", encoded(pixels(rng)[0])),
            lambda: archive.writestr("a/bomb.png", b"\0" * (300 << 20), zipfile.ZIP_DEFLATED),
            lambda: archive.writestr("dataset.json", b'"' + b"0" * (70 << 20), zipfile.ZIP_DEFLATED),
            lambda: archive.writestr("/etc/x.png", encoded(pixels(rng)[0])),
            lambda: archive.writestr("a/x\x1b[2J.png", b"no image"),
            lambda: archive.writestr("a/inner.zip", b"PK\x03\x04"),
            lambda: archive.writestr("a/x.png", b"no image", zipfile.ZIP_LZMA),
            lambda: archive.writestr("dataset.json", b'{"labels": [["a/0.png", 1e999]]}'),
            lambda: archive.writestr("dataset.json", b"[" * 100_000),
            lambda: archive.writestr("labels.csv", b"file,x\n\xff,1\n"),
            lambda: archive.writestr("a/" + "deep/" * 2000 + "x.png", b"no image"),
            lambda: archive.writestr("c/", b""),
        ]
        if case < len(odd):
            odd[case]()
    data = path.read_bytes()
    if case in (12, 13, 14):  # the last record lies
        at = data.rfind(b"PK\x05\x06")
        lie = [(8, "<HH", (65535, 65535)), (12, "<L", (2**31,)), (16, "<L", (2**32 - 2,))][case - 12]
        changed = bytearray(data)
        struct.pack_into(lie[1], changed, at + lie[0], *lie[2])
        path.write_bytes(bytes(changed))
    elif case in (15, 16, 17):  # an entry lies about its size, method or password
        at = data.find(b"PK\x01\x02")
        lie = [(24, "<L", (2**31,)), (10, "<H", (95,)), (8, "<H", (1,))][case - 15]
        changed = bytearray(data)
        struct.pack_into(lie[1], changed, at + lie[0], *lie[2])
        path.write_bytes(bytes(changed))
    elif case >= 20:
        path.write_bytes(damaged(data, rng))
    return path


def images(folder: Path, case: int, rng: np.random.Generator) -> Path:
    """One file of a class folder is damaged, oversized, of another kind, or no file."""
    source = folder / "data"
    for number, image in enumerate(pixels(rng)):
        place = source / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(image))
    victim = source / "a" / "0.png"
    huge = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0) + b"\0" * 4
    )
    odd = [
        b"", huge, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a" + b"\xff" * 30, b"P6 8 8 255\n", b"P6 99999999 99999999 255\n", b"BM" + b"\xff" * 60,
        b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x00" * 40, b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    ]  # fmt: skip
    if case < len(odd):
        victim.write_bytes(odd[case])
    elif case == 10:
        victim.unlink()
        victim.mkdir()
    elif case == 11:
        Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(victim)
    else:
        kind = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"][case % 8]
        name = victim if kind != "TGA" else victim.with_suffix(".tga")
        name.write_bytes(damaged(encoded(pixels(rng)[0], kind), rng))
    return source


def tables(folder: Path, case: int, rng: np.random.Generator) -> Path:
    """labels.csv or dataset.json of odd content, or damaged in its bytes."""
    source = folder / "data"
    for number, image in enumerate(pixels(rng)):
        place = source / "all" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(image))
    listed = [[f"all/{number}.png", number % 2] for number in range(COUNT)]
    text = "file,label\n" + "".join(f"{name},{label}\n" for name, label in listed)
    about = json.dumps({"labels": listed})
    odd = [
        "", "\n\n\n", "file", "file,label", "file,label\n" + "all/0.png," + "9" * 400, text.replace(",1", ",1e400"),
        text.replace(",1", ",0x1"), text.replace(",1", ",\u0661"), text.replace(",", ",,"), text + '"' + "x" * 200_000,
        text.replace("all/1.png", "all/\u202egnp.1"), text.replace("all/0.png", "all"), text.replace("all/0.png", ""),
        text.replace(",1", ", "), text.replace("\n", "\r"), text.replace("label", "label\x00"), "\ufeff\ufeff" + text,
        text.replace(",1", ",nan"), "file,a,b\n" + "all/0.png,1,x\n", text.replace("all/0.png", "all/" + "x" * 5000),
    ]  # fmt: skip
    other = [
        '{"labels": [[]]}', '{"labels": [["all/0.png", {}]]}', '{"labels": {"all/0.png": [[1]]}}', '{"labels": 1e5}',
        '{"labels": [["all/0.png", 99999999999999999999999]]}', '{"labels": [["all/0.png", []]]}', "nul", "\ufeff{}",
        '{"labels": [["\\ud800.png", 1]]}', '{"low": 5, "high": 1}', '{"class_names": "ab"}', '{"unit": "\\u001b[2J"}',
    ]  # fmt: skip
    if case < len(odd):
        (source / "labels.csv").write_bytes(odd[case].encode())
    elif case < len(odd) + len(other):
        (source / "dataset.json").write_bytes(other[case - len(odd)].encode())
    elif case % 2:
        (source / "labels.csv").write_bytes(damaged(text.encode(), rng))
    else:
        (source / "dataset.json").write_bytes(damaged(about.encode(), rng))
    return source


KINDS: dict[str, Callable[[Path, int, np.random.Generator], Path]] = {
    "hdf5": hdf5,
    "zip": zipped,
    "images": images,
    "tables": tables,
}


def sources(kind: str, folder: Path, chosen: range) -> Iterator[tuple[int, Path]]:
    """(number, source) of the chosen cases, each in a folder of its own."""
    for case in chosen:
        place = folder / f"{kind}{case}"
        place.mkdir()
        yield case, KINDS[kind](place, case, np.random.default_rng([8, sorted(KINDS).index(kind), case]))
