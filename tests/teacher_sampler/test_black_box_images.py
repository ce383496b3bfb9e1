"""Teachers of ready-made images: every source, exact pixels, ends, damage, and sampling through the real loader."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from image_data.fake import export_h5, open_fakes, verify_fakes
from image_data.labels import ClassLabels, ContinuousLabels
from image_data.real import load_real, whole
from interfaces import Teacher
from layers.pixels import quantise
from runtime.atomic import write_json
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.seeds import label_bits
from teacher_sampler import load_teacher
from teacher_sampler.black_box.ready_images import IMAGES_FILE, ReadyImages
from teacher_sampler.black_box.ready_images_importing import import_images
from teacher_sampler.importers.registry import ImportRequest
from teacher_sampler.importers.writing import teacher_card, write_teacher
from teacher_sampler.sampling.plan import PILOT_START, LabelPlan, SamplingParts
from teacher_sampler.sampling.sampler import sample
from tests.support.sealed_cards import reseal
from tests.support.tiny_sampling import TinyAcceptance, class_error, class_plan, counting_parts, tiny_settings
from training.model_folder import CARD_FILE

CPU = torch.device("cpu")
RNG = np.random.default_rng(8)


def pixels(count: int, channels: int = 3, side: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def write_h5(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file.create_dataset(name, data=value)
    return path


def save_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.transpose(1, 2, 0)).save(path)


def imported(folder: Path, source: Path, **wishes: object) -> ReadyImages:
    """What `import-teacher --arch images` makes, loaded again."""
    request = ImportRequest(checkpoint=str(source), **wishes)
    found = import_images(request)
    write_teacher(folder, found, teacher_card(found, request, {}))
    teacher = load_teacher(folder, CPU)
    assert isinstance(teacher, ReadyImages)
    assert isinstance(teacher, Teacher)
    return teacher


def images_of(teacher: ReadyImages, label: object) -> np.ndarray:
    """All images of a label, as they would be stored."""
    count = int(teacher.candidates(np.array([label]))[0])
    labels = np.array([label] * count)
    keys = np.stack([label_bits(labels), np.arange(count)], axis=1)
    return quantise(teacher.generate(None, labels, keys, 0)).numpy()


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReadyImages, np.ndarray, np.ndarray]:
    """Labels in disorder, and images that were written where the labels say."""
    folder = tmp_path_factory.mktemp("classes")
    images, labels = pixels(90), RNG.permutation(np.repeat([0, 1, 2], [40, 30, 20]))
    write_h5(folder / "set.h5", images=images, labels=labels)
    return imported(folder / "teacher", folder / "set.h5", class_names=("cat", "dog", "cow")), images, labels


def test_every_image_stands_under_its_label_in_the_order_of_the_source(classes) -> None:
    teacher, images, labels = classes
    assert teacher.label_space == ClassLabels(("cat", "dog", "cow"))
    assert teacher.candidates(np.array([0, 1, 2, 1])).tolist() == [40, 30, 20, 30]
    for label in range(3):
        assert np.array_equal(images_of(teacher, label), images[labels == label])
    card = teacher.card
    assert (card.architecture, card.latent, card.arguments, card.channels, card.resolution_px) == (
        "images",
        {},
        {},
        3,
        8,
    )
    assert card.trained_on["images"] == 90
    assert card.trained_on["images_of_a_label"] == [20, 40]
    assert teacher.latents(np.array([[0, 0]]), 0) is None


def test_pixels_are_exact_levels(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(4, axis=0)
    teacher = imported(tmp_path / "t", write_h5(tmp_path / "r.h5", images=ramp, labels=[0, 0, 1, 1]))
    raw = teacher.generate(None, np.array([1]), np.array([[1, 1]]), 0)
    assert raw.dtype == torch.float32
    assert float(raw.min()) == -1.0
    assert float(raw.max()) == 1.0
    assert np.array_equal(images_of(teacher, 1), ramp[2:])


def test_beyond_the_end_a_pilot_begins_anew_and_anything_else_is_an_error(classes) -> None:
    teacher, images, labels = classes
    asked = np.array([2] * 3)
    keys = np.stack([asked, PILOT_START + np.array([0, 19, 20])], axis=1)
    found = quantise(teacher.generate(None, asked, keys, 0)).numpy()
    assert np.array_equal(found, images[labels == 2][(PILOT_START + np.array([0, 19, 20])) % 20])
    for k in (20, PILOT_START - 1, -1):
        with pytest.raises(ValueError, match="beyond the images"):
            teacher.generate(None, asked[:1], np.array([[2, k]]), 0)


def test_class_folders_with_roles_all_count(tmp_path: Path) -> None:
    images = pixels(12)
    for row, name in enumerate(["train/b", "train/a", "test/b", "val/a"] * 3):
        save_png(tmp_path / "set" / name / f"{row:02d}.png", images[row])
    teacher = imported(tmp_path / "t", tmp_path / "set")
    assert teacher.label_space == ClassLabels(("a", "b"))
    assert np.array_equal(images_of(teacher, 0), images[[1, 5, 9, 3, 7, 11]])
    assert np.array_equal(images_of(teacher, 1), images[[0, 4, 8, 2, 6, 10]])


def test_a_table_of_values(tmp_path: Path) -> None:
    images = pixels(6, side=10)
    lines = ["file,angle"]
    for row, angle in enumerate([30.0, -0.0, 12.5, 0.0, 30.0, 12.5]):
        save_png(tmp_path / "set" / f"{row}.png", images[row])
        lines.append(f"{row}.png,{angle}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines))
    teacher = imported(tmp_path / "t", tmp_path / "set", label_range=(-90.0, 90.0), label_unit="degrees")
    assert teacher.label_space == ContinuousLabels(-90.0, 90.0, "degrees")
    assert teacher.candidates(np.array([0.0, 12.5, 30.0, 30.000001])).tolist() == [2, 2, 2, 0]
    assert np.array_equal(images_of(teacher, 0.0), images[[1, 3]])
    assert np.array_equal(images_of(teacher, -0.0), images[[1, 3]])
    assert np.array_equal(images_of(teacher, 30.0), images[[0, 4]])
    with pytest.raises(UserError, match=r"no images of label 5.0 degrees"):
        teacher.generate(None, np.array([5.0]), np.stack([label_bits(np.array([5.0])), [PILOT_START]], axis=1), 0)
    with pytest.raises(UserError, match="outside the stated range"):
        import_images(ImportRequest(checkpoint=str(tmp_path / "set"), label_range=(0.0, 20.0)))


def test_vector_labels(tmp_path: Path) -> None:
    images, labels = pixels(4), np.array([[0.5, 1.0], [0.0, 1.0], [0.5, 1.0], [0.5, 0.0]])
    teacher = imported(tmp_path / "t", write_h5(tmp_path / "v.h5", images=images, labels=labels))
    asked = np.array([[0.5, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert teacher.candidates(asked).tolist() == [2, 1, 0]
    keys = np.stack([label_bits(asked[:1].repeat(2, axis=0)), [0, 1]], axis=1)
    found = quantise(teacher.generate(None, asked[:1].repeat(2, axis=0), keys, 0)).numpy()
    assert np.array_equal(found, images[[0, 2]])


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("rc49", "continuous"),
        ("utkface", "continuous"),
        ("cifar", "classes"),
        ("tiny", "classes"),
        ("fakes", "classes"),
    ],
)
def test_published_layouts_give_all_images(layout: str, kind: str, tmp_path: Path) -> None:
    """Images of every part, those that are in no index list too."""
    first, second = pixels(40), pixels(10)
    angles = np.repeat(np.arange(10.0), 4)
    sets = {
        "rc49": {"images_odd": first, "labels_odd": angles, "indx_odd_subtrain": np.arange(20),
                 "indx_odd_subvalid": np.arange(20, 25), "indx_odd_rest": np.arange(25, 30),
                 "images_even": second, "labels_even": np.arange(10) + 0.5},
        "utkface": {"images": first, "labels": np.arange(40) % 7 + 1, "indx_subtrain": np.arange(20),
                    "indx_subvalid": np.arange(20, 25), "indx_test": np.arange(25, 40)},
        "cifar": {"images_train": first, "labels_train": np.arange(40) % 4, "subtrain_indx": np.arange(30),
                  "subvalid_indx": np.arange(30, 35)},
        "tiny": {"imgs": first, "labels": np.arange(40) % 4, "indx_subtrain": np.arange(30),
                 "indx_subvalid": np.arange(30, 40), "imgs_val": second, "labels_val": np.arange(10) % 4},
        "fakes": {"fake_images": first, "fake_labels": (np.arange(40) % 4).astype(np.float64)},
    }  # fmt: skip
    chosen = sets[layout]
    teacher = imported(tmp_path / "t", write_h5(tmp_path / "set.h5", **chosen))
    assert teacher.label_space.kind == kind
    parts = [(value, chosen[name.replace("images", "labels").replace("imgs", "labels")])
             for name, value in chosen.items() if np.ndim(value) == 4]  # fmt: skip
    images = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([part for _, part in parts])
    assert teacher.card.trained_on["images"] == len(images)
    for label in np.unique(labels):
        mine = int(label) if kind == "classes" else float(label)
        assert np.array_equal(images_of(teacher, mine), images[labels == label])


def test_our_own_fakes_and_their_export_are_the_same_teacher(tmp_path: Path) -> None:
    fakes = sample(
        counting_parts, class_plan(12), tiny_settings(filter_digest="", predictor_digest=""), tmp_path / "f",
        LocalEngine(1),
    )  # fmt: skip
    one = imported(tmp_path / "one", fakes.path)
    export_h5(fakes.path, tmp_path / "fakes.h5", gzip_level=6)
    two = imported(tmp_path / "two", tmp_path / "fakes.h5", class_names=("zero", "one", "two"))
    assert one.label_space == two.label_space == fakes.label_space
    assert one.card.source_digest == two.card.source_digest
    assert np.array_equal(images_of(one, 1), fakes.images(np.flatnonzero(fakes.labels == 1)))
    again = load_real(tmp_path / "one" / IMAGES_FILE)
    assert again.train.pixels.shape[1:] == (3, 32, 32)


def test_sampling_all_of_it_and_one_more(classes, tmp_path: Path) -> None:
    teacher, images, labels = classes
    folder = teacher.path.parent

    def parts() -> SamplingParts:
        return SamplingParts(load_teacher(folder, CPU), None, None, TinyAcceptance(needs_ratio=False), class_error)

    settings = tiny_settings(unit_candidates=8, block_size=5, filter_digest="", predictor_digest="")
    plan = LabelPlan.classes(teacher.label_space, 20)
    found = sample(parts, plan, settings, tmp_path / "o", LocalEngine(1))
    assert verify_fakes(found.path) == []
    for label in range(3):
        mine = found.images(np.flatnonzero(found.labels == label))
        assert np.array_equal(mine, images[labels == label][:20])
    assert not open_fakes(found.path).has_latents
    with pytest.raises(UserError, match=r"label 2 \(cow\) has only 20 images, and 21 are wanted"):
        sample(parts, LabelPlan.classes(teacher.label_space, 21), settings, tmp_path / "p", LocalEngine(1))


def test_a_source_of_many_pieces_is_copied_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pixels(50, 1), RNG.integers(0, 3, 50)
    path = write_h5(tmp_path / "set.h5", images=images, labels=labels)
    once = imported(tmp_path / "once", path)
    monkeypatch.setattr(whole, "_PIECE_BYTES", 7 * 64)
    pieces = [len(piece) for piece in whole.open_whole(path).pieces()]
    assert pieces == [7] * 7 + [1]
    many = imported(tmp_path / "many", path)
    assert many.card.source_digest == once.card.source_digest
    assert many.path.read_bytes() == once.path.read_bytes()
    assert not list((tmp_path / "many").glob(".*"))


def test_sizes_and_channels_are_made_as_asked(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "set.h5", images=pixels(6, 3, 12), labels=[0, 1] * 3)
    teacher = imported(tmp_path / "t", path, resolution_px=8, channels=1)
    assert (teacher.card.resolution_px, teacher.card.channels) == (8, 1)
    assert images_of(teacher, 0).shape == (3, 1, 8, 8)
    oblong = write_h5(
        tmp_path / "oblong.h5", images=RNG.integers(0, 9, (4, 3, 8, 6), dtype=np.uint8), labels=[0, 1] * 2
    )
    with pytest.raises(UserError, match="not square"):
        import_images(ImportRequest(checkpoint=str(oblong)))


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ({"class_names": ("a",)}, "--class-names gives 1 names, but there are 2 classes"),
        ({"truncation": 0.5}, "--truncation"),
        ({"class_names": ("a", "b"), "label_range": (0.0, 1.0)}, "not both"),
        ({"resolution_px": 2}, "resolution_px"),
        ({"checkpoint": "/nowhere/at/all"}, "does not exist"),
    ],
)
def test_wishes_that_cannot_be_met(wishes: dict[str, object], named: str, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "set.h5", images=pixels(4), labels=[0, 1, 0, 1])
    request = ImportRequest(**{"checkpoint": str(path), **wishes})
    with pytest.raises(UserError, match=named):
        import_images(request)


def test_a_source_that_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no images")
    (tmp_path / "b.h5").write_bytes(b"no images")
    write_h5(tmp_path / "c.h5", other=np.zeros(3))
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "b.h5", "c.h5", "empty"):
        with pytest.raises(UserError, match=name):
            import_images(ImportRequest(checkpoint=str(tmp_path / name)))


@pytest.mark.parametrize("damage", ["pixel", "label", "sum", "short", "missing", "card"])
def test_damage_is_found(damage: str, tmp_path: Path) -> None:
    """Labels and digests when the teacher is opened, a pixel when its image is first used."""
    path = write_h5(tmp_path / "set.h5", images=pixels(20), labels=np.arange(20) % 2)
    store = imported(tmp_path / "t", path).path
    if damage in ("pixel", "label", "sum"):
        with h5py.File(store, "r+") as file:
            data = file[{"pixel": "fake_images", "label": "fake_labels", "sum": "row_sha256"}[damage]]
            flat = data[()].reshape(-1)
            flat[-1] ^= 1
            data[...] = flat.reshape(data.shape)
    elif damage == "short":
        store.write_bytes(store.read_bytes()[:600])
    elif damage == "missing":
        store.unlink()
    else:
        reseal(tmp_path / "t" / CARD_FILE, {"resolution_px": 4})
    if damage == "pixel":
        teacher = load_teacher(tmp_path / "t", CPU)
        assert teacher.generate(None, np.array([0]), np.array([[0, 0]]), 0).shape == (1, 3, 8, 8)
        with pytest.raises(UserError, match=r"images\.h5: image 19 does not match"):
            teacher.generate(None, np.array([1]), np.array([[1, 9]]), 0)
        return
    with pytest.raises(UserError, match=r"images\.h5"):
        load_teacher(tmp_path / "t", CPU)


def test_hostile_stores_are_refused(classes, tmp_path: Path) -> None:
    """A store that points at other files, or whose card claims latents."""
    teacher, _, _ = classes
    write_json(tmp_path / CARD_FILE, asdict(dataclasses.replace(teacher.card, latent={"dimension": 3})))
    (tmp_path / IMAGES_FILE).write_bytes(teacher.path.read_bytes())
    with pytest.raises(UserError, match="does not describe ready-made images"):
        load_teacher(tmp_path, CPU)
    write_json(tmp_path / CARD_FILE, asdict(teacher.card))
    with h5py.File(tmp_path / IMAGES_FILE, "w") as file:
        file["fake_images"] = h5py.ExternalLink("/etc/hostname", "/x")
    with pytest.raises(UserError, match="link to another place"):
        load_teacher(tmp_path, CPU)
