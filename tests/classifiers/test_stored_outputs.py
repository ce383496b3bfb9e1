"""Stored outputs: keyed views, the same training as with a running teacher, kills, damage, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifiers import STUDENTS, ClassifierSettings, train_classifier
from classifiers.networks import build_student
from classifiers.predictor import ClassifierPredictor
from classifiers.stored_outputs import StoredTeacher, content_digest, fake_keys, open_outputs
from classifiers.storing_outputs import ViewedImages, ViewPlan, store_outputs
from image_data.augment import augment_view
from image_data.fake import FakeDataset
from image_data.fake.view import FakeView
from image_data.real import RealData, load_real
from image_data.seen import image_hashes
from image_data.sources import ArraySource, Concatenation
from runtime.errors import UserError
from runtime.ranks import Ranks
from runtime.safe_files import read_sealed_json, write_sealed_json
from tests.support.store_runs import ARMED, arm
from tests.support.store_runs import run as sample_fakes
from tests.support.tiny_sampling import CLASSES, save_tiny_teacher
from training.methods import METHODS

CPU = torch.device("cpu")
NETWORK = STUDENTS.choose("vgg8", {"width": 0.0625})
ALL = ("flip", "translate")


class Exact(torch.nn.Module):
    """Whole numbers below 2^24 alone, scaled, so that its outputs do not depend on how rows are put together."""

    has_insides = True

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.feature_paths = {"pooled": "pooled"}
        self.pooled, self.outputs = torch.nn.Identity(), outputs
        self.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.long().flatten(1)
        weights = torch.arange(pixels.shape[1] * self.outputs).reshape(-1, self.outputs) * 37 % 11
        return self.pooled((pixels[:, :, None] * weights).sum(dim=1).float() / 2**17)


def exact(data: RealData) -> ClassifierPredictor:
    card = {"label_space": data.label_space.to_json(), "channels": 1, "resolution_px": 16, "source_digest": "exact"}
    return ClassifierPredictor(card, Exact(data.label_space.width), data.label_space, CPU)


@pytest.fixture(scope="module")
def digits() -> RealData:
    return load_real("digits", real_per_class=4)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    folder = tmp_path_factory.mktemp("fakes")
    return sample_fakes(save_tiny_teacher(folder / "teacher", CLASSES), folder / "f", fakes=12)


def stored(
    folder: Path, data: RealData, fakes: FakeDataset | None = None, views: int = 3, names: Any = ALL, **more: Any
) -> Path:
    plan = ViewPlan(views, 7, tuple(names), more.pop("pooled", False))
    predictor = more.pop("predictor", None) or exact(data)
    store_outputs(folder, ViewedImages(data.train, fakes), predictor, "the predictor", plan, {}, **more)
    return folder


def views_of(teacher: StoredTeacher, source: Any, rows: np.ndarray, step: int) -> torch.Tensor:
    return teacher.images(torch.from_numpy(source.images(rows)), rows, 0, step)


def test_a_view_does_not_depend_on_where_its_image_lies() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (40, 3, 16, 16), dtype=np.uint8))
    keys = rng.integers(0, 2**63, 40).astype(np.uint64)
    views = rng.integers(0, 5, 40)
    whole = augment_view(images, ALL, keys, views, 1)
    order = rng.permutation(40)[:11]
    assert torch.equal(augment_view(images[order], ALL, keys[order], views[order], 1), whole[order])
    for other in (augment_view(images, ALL, keys, views + 1, 1), augment_view(images, ALL, keys, views, 2)):
        assert (other != whole).flatten(1).any(dim=1).float().mean() > 0.8
    assert torch.equal(augment_view(images, (), keys, views, 1), images)


def test_views_are_spread_as_augmentation_is() -> None:
    """Over many views: half are mirrored, and each of the shifts -2 to 2 comes as often in both directions."""
    place = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    count = 4000
    seen = augment_view(place.expand(count, 1, 16, 16), ALL, np.full(count, 5), np.arange(count), 0)
    mirrored = (seen[:, 0, 8, 9].int() - seen[:, 0, 8, 8].int()) < 0
    assert abs(int(mirrored.sum()) - count / 2) < 5 * (count / 4) ** 0.5
    down = (seen[:, 0, 8, 8].int() // 16 - 8).tolist()
    sides = (seen[:, 0, 8, 8].int() % 16).tolist()
    right = [15 - side - 8 if flipped else side - 8 for side, flipped in zip(sides, mirrored.tolist(), strict=True)]
    for shifts in (down, right):
        counts = [shifts.count(shift) for shift in range(-2, 3)]
        assert sum(counts) == count
        assert max(abs(one - count / 5) for one in counts) < 5 * (count * 0.16) ** 0.5


def test_the_files_hold_every_view_of_every_image(digits: RealData, fakes: FakeDataset, tmp_path: Path) -> None:
    opened = open_outputs(stored(tmp_path / "o", digits, fakes, pooled=True))
    predictor = exact(digits)
    assert opened.outputs.shape == opened.pooled.shape == (40 + len(fakes), 3, 10)
    keys = image_hashes(digits.train.pixels)
    for row in (0, 17, 39):
        place = int(np.flatnonzero(opened.keys == keys[row])[0])
        for view in range(3):
            image = augment_view(torch.from_numpy(digits.train.pixels[row : row + 1]), ALL, keys[[row]], [view], 7)
            assert np.array_equal(opened.outputs[place, view], predictor(image)[0])
            assert np.array_equal(opened.pooled[place, view], predictor(image)[0])
    last = np.array([len(fakes) - 1])
    image = augment_view(torch.from_numpy(fakes.images(last)), ALL, fake_keys(fakes.digest, last), [2], 7)
    assert np.array_equal(opened.outputs[-1, 2], predictor(image)[0])
    assert np.array_equal(np.load(tmp_path / "o" / "outputs.npy"), opened.outputs)  # as a user reads it
    assert (tmp_path / "o" / "outputs.npy").stat().st_size < 4 * (40 + len(fakes)) * 3 * 10 + 4096


def test_a_training_sees_what_the_predictor_saw(digits: RealData, fakes: FakeDataset, tmp_path: Path) -> None:
    """Repeated real images, and selected fakes in another order; on each of two ranks too."""
    view = FakeView(fakes, np.array([30, 2, 2, 11]), np.zeros(4, dtype=np.int64))
    source = Concatenation([digits.train, digits.train, view])
    teacher = StoredTeacher(open_outputs(stored(tmp_path / "o", digits, fakes, pooled=True)), source)
    predictor = exact(digits)
    rows = np.array([3, 43, 80, 81, 82, 83, 79, 0])
    chosen = set()
    for step in range(30):
        images = views_of(teacher, source, rows, step)
        given = teacher.outputs(rows, 0, step, ("pooled",))
        assert torch.equal(given.output, predictor(images))
        assert torch.equal(given.features["pooled"], predictor(images))
        mine = Ranks(1, 2).part(rows)
        assert torch.equal(views_of(teacher, source, mine, step), images[4:])
        assert torch.equal(teacher.outputs(mine, 0, step).output, given.output[4:])
        chosen |= set(enumerate(teacher.drawn(rows, 0, step).tolist()))
    assert len(chosen) == len(rows) * 3  # each row meets each of its views
    assert any((teacher.drawn(rows, 0, step) != teacher.drawn(rows, 1, step)).any() for step in range(3))


@pytest.mark.parametrize(("method", "name"), [("blkd", "digits"), ("rkd", "digits"), ("blkd", "rotated-digits")])
def test_without_augmentation_the_training_is_the_live_one(
    digits: RealData, tmp_path: Path, method: str, name: str
) -> None:
    data = digits if name == "digits" else load_real(name)
    opened = open_outputs(stored(tmp_path / "o", data, views=1, names=(), pooled=True))
    assert np.unique(opened.outputs).size > 30
    settings = ClassifierSettings(
        network=NETWORK, method=METHODS.choose(method), steps=6, batch_size=16, augmentation=()
    )
    for side, teacher in (("live", exact(data)), ("stored", StoredTeacher(opened, data.train))):
        train_classifier(data.train, data.val, data.label_space, settings, tmp_path / side, CPU, (), teacher)
    for file in ("weights.safetensors", "card.json"):
        assert (tmp_path / "live" / file).read_bytes() == (tmp_path / "stored" / file).read_bytes()


def test_a_networks_stored_outputs_differ_by_rounding_alone(digits: RealData, tmp_path: Path) -> None:
    """In float64, where the grouping of rows into blocks cannot be seen after rounding to float32."""
    network = build_student(NETWORK, 1, 16, digits.label_space).double().eval()
    predictor = exact(digits)
    predictor.network, predictor._outputs = network, None
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", lambda tensor: tensor.double())
            predictor._outputs = predictor.reader()
            opened = open_outputs(stored(tmp_path / "o", digits, names=(), views=1, predictor=predictor))
            teacher = StoredTeacher(opened, digits.train)
            rows = np.arange(0, 40, 3)
            live = predictor(torch.from_numpy(digits.train.pixels[rows]))
    finally:
        torch.set_default_dtype(before)
    given = teacher.outputs(rows, 0, 0).output
    assert live.dtype == torch.float64
    assert float((given - live).abs().max()) <= 2.0**-23 * float(live.abs().max())


KILLED = """
import sys
from pathlib import Path
from image_data.real import load_real
from tests.classifiers.test_stored_outputs import stored
stored(Path(sys.argv[1]), load_real("digits", real_per_class=4), views=64, commit_views=256)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_killed_run_continues(digits: RealData, tmp_path: Path) -> None:
    environment = {**os.environ, "RETORT_FAILURE_POINT": "atomic.after_rename:3", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    assert subprocess.run(command, env=environment, cwd=root, check=False).returncode == -signal.SIGKILL
    assert read_sealed_json(tmp_path / "killed" / "progress.json")["rows"] == 12
    for name in ("killed", "whole"):
        stored(tmp_path / name, digits, views=64)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["none", "behind the commit", "before the commit"])
def test_a_stopped_run_continues_to_the_same_bytes(
    digits: RealData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    folder = tmp_path / "stopped"
    arm(monkeypatch, "atomic.after_rename:3=enospc")
    with pytest.raises(UserError, match="stopped"):
        stored(folder, digits, views=64, commit_views=256)
    monkeypatch.delenv(ARMED)
    with pytest.raises(UserError, match="no finished stored outputs; run the same"):
        open_outputs(folder)
    with open(folder / "outputs.npy", "r+b") as file:
        file.seek(*{"none": (0, 0), "behind the commit": (0, os.SEEK_END), "before the commit": (1000, 0)}[harm])
        file.write(b"" if harm == "none" else b"torn")
    asked: list[int] = []
    predictor = exact(digits)
    original = predictor.views
    predictor.views = lambda images, reader: asked.append(len(images)) or original(images, reader)  # type: ignore
    stored(folder, digits, views=64, predictor=predictor, commit_views=256)
    assert sum(asked) == 64 * (40 if harm == "before the commit" else 28)
    stored(tmp_path / "whole", digits, views=64, commit_views=1 << 20)
    assert contents(folder) == contents(tmp_path / "whole")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def resealed(entry: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        card = read_sealed_json(path)
        del card["source_digest"]
        card[entry] = value
        write_sealed_json(path, {**card, "source_digest": content_digest(card)})

    return change


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        ("outputs.npy", flip, "its digest is not the card's"),
        ("keys.npy", flip, "its digest is not the card's"),
        ("outputs.npy", lambda path: path.write_bytes(path.read_bytes()[:-4]), "its digest is not the card's"),
        ("outputs.npy", lambda path: path.unlink(), "is missing; restore it"),
        ("outputs.npy", lambda path: (path.unlink(), os.mkfifo(path)), "not as it was written"),
        ("card.json", flip, "card.json"),
        ("card.json", resealed("views", 4), "its digest is not the card's"),
        ("card.json", resealed("views", 0), "garbles an entry"),
        ("card.json", resealed("views", 1 << 60), "garbles an entry"),
        ("card.json", resealed("real", "many"), "garbles an entry"),
        ("card.json", resealed("fakes", {"rows": -1}), "garbles an entry"),
        ("card.json", resealed("files", []), "garbles an entry"),
        ("card.json", resealed("augmentation", ["twist"]), "twist"),
        ("card.json", resealed("kind", "classifier"), "not the card of stored outputs"),
        ("card.json", resealed("format_version", 2), "reads version 1"),
    ],
)
def test_damage_is_one_sentence(digits: RealData, tmp_path: Path, file: str, harm: Any, said: str) -> None:
    folder = stored(tmp_path / "o", digits)
    harm(folder / file)
    with pytest.raises(UserError, match=said) as refused:
        open_outputs(folder)
    assert "\n" not in str(refused.value)


def test_a_real_predictor_that_gives_no_numbers_is_refused(digits: RealData, tmp_path: Path) -> None:
    predictor = exact(digits)
    predictor.network.forward = lambda images: torch.full((len(images), 10), float("nan"))  # type: ignore
    with pytest.raises(UserError, match="no finite numbers"):
        stored(tmp_path / "o", digits, predictor=predictor)


def test_what_is_not_covered_is_counted(digits: RealData, fakes: FakeDataset, tmp_path: Path) -> None:
    opened = open_outputs(stored(tmp_path / "o", digits))
    other = load_real("digits", real_per_class=5)
    with pytest.raises(UserError, match=r"does not cover 10 of the 50 real training images; run score --views 3"):
        StoredTeacher(opened, Concatenation([other.train, other.train]))
    with pytest.raises(UserError, match=f"does not cover the {len(fakes)} fakes to train on: it holds no fakes"):
        StoredTeacher(opened, Concatenation([digits.train, fakes.view()]))
    short = open_outputs(stored(tmp_path / "s", digits, fakes))
    short = replace(short, outputs=short.outputs[:-1])  # a card that was made to say so
    with pytest.raises(UserError, match=f"does not cover the {len(fakes)} fakes"):
        StoredTeacher(short, fakes.view())
    larger = ArraySource(np.repeat(digits.train.pixels, 2, axis=3).repeat(2, axis=2), digits.train.labels)
    with pytest.raises(UserError, match="does not cover 40 of the 40"):
        StoredTeacher(opened, larger)
    with pytest.raises(UserError, match="no images to see"):
        ViewedImages(None, None)
