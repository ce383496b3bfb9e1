"""What an artefact has seen: hashes that name an image whatever its size, and the file that tells them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_data.real import load_real
from image_data.real.decoding import decode_hashed
from image_data.real.tree import FolderTree, Picture
from image_data.seen import Seen, image_hashes, merge, read_seen, write_seen
from image_data.seen_names import GAN, PREDICTOR, RATIO, SEEN_FILE
from runtime.errors import UserError


def noise(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def test_a_hash_is_that_of_the_users_pixels_whatever_is_asked_for(tmp_path: Path) -> None:
    pixels = noise(1)[0].transpose(1, 2, 0)
    grey = Image.fromarray(pixels).convert("L")
    for name, image in (("a.png", Image.fromarray(pixels)), ("g.png", grey), ("g.bmp", grey.convert("RGB"))):
        image.save(tmp_path / name)
    asked = [(8, 3), (16, 3), (8, 1), (4, 1)]
    pictures = {name: Picture(FolderTree(tmp_path), name) for name in ("a.png", "g.png", "g.bmp")}
    for name in ("a.png", "g.png"):
        assert len({decode_hashed(pictures[name], size, channels)[1] for size, channels in asked}) == 1
    names = {name: decode_hashed(picture, 8, 3)[1] for name, picture in pictures.items()}
    assert names["g.png"] == names["g.bmp"] != names["a.png"]
    assert names["a.png"] == image_hashes(pixels.transpose(2, 0, 1)[None])[0]
    assert load_real("digits", resolution_px=8).hashes("val").tolist() == load_real("digits").hashes("val").tolist()
    turned = load_real("rotated-digits")  # turning a digit makes no other image of it
    assert set(turned.hashes("train").tolist()) == set(load_real("digits").hashes("train").tolist())


def test_hashes_tell_images_shapes_and_single_levels_apart() -> None:
    pixels = noise(2000, size=4)
    assert len(np.unique(image_hashes(pixels))) == 2000
    assert image_hashes(pixels[:1])[0] != image_hashes(pixels[:1].reshape(1, 3, 2, 8))[0]
    changed = pixels[:1].copy()
    changed[0, 2, 3, 3] ^= 1
    assert image_hashes(changed)[0] != image_hashes(pixels[:1])[0]
    assert image_hashes(pixels[:0]).shape == (0,)
    grey = np.repeat(pixels[:5, :1], 3, axis=1)
    assert image_hashes(grey).tolist() == image_hashes(pixels[:5, :1]).tolist()


def test_the_file_holds_equal_sets_once_and_children_hold_their_parents(tmp_path: Path) -> None:
    train, val = image_hashes(noise(10_000, 1, 4)), image_hashes(noise(100, 1, 4, seed=1))
    gan = Seen.of(GAN, train=train)
    made = merge([gan, Seen.of(RATIO, train=train[::-1]), Seen.of("classifier", train=train, val=val)])
    made = merge([made.renamed("classifier", PREDICTOR), Seen.nothing_known("GAN of a friend", "imported")])
    digest = write_seen(tmp_path, made)
    assert (tmp_path / SEEN_FILE).stat().st_size < 8 * 10_100 + 1500
    assert write_seen(tmp_path, made) == digest
    found = read_seen(tmp_path, digest)
    assert found is not None
    assert found.names == [GAN, RATIO, PREDICTOR, "GAN of a friend"] or set(found.names) == set(made.names)
    assert found.parts[PREDICTOR]["val"].tolist() == np.unique(val).tolist()
    assert found.parts[GAN]["train"].tolist() == found.parts[RATIO]["train"].tolist() == np.unique(train).tolist()
    assert found.unknown == {"GAN of a friend": "imported"}
    twice = merge([gan, Seen.of(GAN, train=val)])
    assert len(twice.parts[GAN]["train"]) == 10_100
    write_seen(tmp_path / "empty", Seen())
    assert read_seen(tmp_path / "empty").names == []  # type: ignore[union-attr]


def test_a_missing_changed_or_damaged_file_is_refused(tmp_path: Path) -> None:
    assert read_seen(tmp_path) is None
    with pytest.raises(UserError, match=r"seen\.safetensors is missing"):
        read_seen(tmp_path, "0" * 64)
    digest = write_seen(tmp_path, Seen.of(GAN, train=image_hashes(noise(20))))
    with pytest.raises(UserError, match="not the file that the card beside it names"):
        read_seen(tmp_path, "0" * 64)
    path = tmp_path / SEEN_FILE
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"seen\.safetensors"):
            read_seen(tmp_path)
        with pytest.raises(UserError, match=r"seen\.safetensors"):
            read_seen(tmp_path, digest)
    for cut in (b"", whole[:40], b"{}"):
        path.write_bytes(cut)
        with pytest.raises(UserError, match="damaged"):
            read_seen(tmp_path)
