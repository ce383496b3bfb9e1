"""Nearest neighbours, distance sets (memorisation and near-duplicates), and scores that are made anew after damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import select
from filters.nearest_scores import Reference, group_distances, real_duplicates, score_nearest
from filters.neighbours import nearest
from image_data.fake import describe_fakes, open_fakes, verify_fakes
from image_data.fake.distances import Distances, distance_sets, nearest_finding, read_distances
from image_data.fake.manifest import score_path
from image_data.fake.sealed import DISTANCE_LAYOUT, locate
from image_data.sources import ArraySource
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.upkeep.scoring import score
from tests.support.tiny_sampling import (
    CLASSES,
    TinyParts,
    class_error,
    class_plan,
    file_bytes,
    make_predictor,
    save_tiny_teacher,
    tiny_settings,
)


def slow_nearest(queries: np.ndarray, references: np.ndarray, count: int) -> tuple[list, list]:
    distances, rows = [], []
    for query in queries.astype(np.float64):
        apart = [float(np.sqrt(((query - row) ** 2).sum())) for row in references.astype(np.float64)]
        order = sorted(range(len(apart)), key=lambda row: (apart[row], row))[:count]
        distances.append([apart[row] for row in order])
        rows.append(order)
    return distances, rows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_neighbours_equal_brute_force(queries: int, references: int, width: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    asked = random.normal(size=(queries, width)).astype(np.float32)
    stored = random.normal(size=(references, width)).astype(np.float32)
    distances, rows = nearest(asked, stored, count)
    slow_distances, slow_rows = slow_nearest(asked, stored, count)
    known = min(count, references)
    np.testing.assert_allclose(distances[:, :known], slow_distances, rtol=1e-12)
    np.testing.assert_array_equal(rows[:, :known], slow_rows)
    assert np.isinf(distances[:, known:]).all()
    assert (rows[:, known:] == -1).all()


def test_a_neighbour_does_not_depend_on_its_batch_and_is_never_itself() -> None:
    random = np.random.default_rng(0)
    points = (5.0 + random.normal(size=(300, 32))).astype(np.float32)
    points[200] = points[10]
    whole = nearest(points, points, 2, np.arange(300))
    pieces = [nearest(points[i : i + 7], points, 2, np.arange(i, min(i + 7, 300))) for i in range(0, 300, 7)]
    np.testing.assert_array_equal(np.concatenate([piece[0] for piece in pieces]), whole[0])
    np.testing.assert_array_equal(np.concatenate([piece[1] for piece in pieces]), whole[1])
    assert (whole[1] != np.arange(300)[:, None]).all()
    assert (whole[0][[10, 200], 0] == 0).all()  # a copy has distance 0 exactly, in spite of float32 sums
    assert whole[1][10, 0] == 200
    near = points + np.float32(1e-3) * random.normal(size=points.shape).astype(np.float32)
    exact = np.sqrt(((near.astype(np.float64) - points) ** 2).sum(axis=1))
    np.testing.assert_allclose(nearest(near, points, 1)[0][:, 0], exact, rtol=1e-12)


def make_finding(fakes: np.ndarray, labels: np.ndarray, train: np.ndarray, fresh: np.ndarray, real: np.ndarray) -> dict:
    """Shares of some features, by the parts that the dataset's finding is made of."""
    to_train = nearest(fresh, train, 1)[0][:, 0]
    between = real_duplicates(fresh, real, "classes")
    calibration = {
        "training_quantile": float(np.quantile(to_train, 0.01)),
        "duplicate_quantile": float(np.quantile(between, 0.01)),
    }
    counts = {int(value): int((real == value).sum()) for value in np.unique(real)}
    columns = group_distances(fakes, labels, Reference(train, counts, calibration))
    found = Distances(name="x", calibration=calibration, **columns)
    sparse = columns["sparse_distance"] / calibration["duplicate_quantile"]
    return {
        "memorised": float((found.memorisation < 1).mean()),
        "duplicates": float((found.duplicate < 1).mean()),
        "sparse": float((sparse[~np.isnan(sparse)] < 1).mean()),
        "compared": int((~np.isnan(sparse)).sum()),
    }


def test_shares_are_nominal_for_fresh_images_and_large_for_copies() -> None:
    random = np.random.default_rng(2)
    draw = lambda count: random.normal(size=(count, 6)).astype(np.float32)  # noqa: E731
    train, fresh = draw(2000), draw(2000)
    real, labels = np.arange(2000) % 2, np.repeat([0, 1], 4000)
    honest = make_finding(draw(8000), labels, train, fresh, real)
    assert 0.003 < honest["memorised"] < 0.03
    assert 0.003 < honest["sparse"] < 0.03
    assert honest["compared"] == 2000
    assert honest["duplicates"] > 2 * honest["sparse"]  # more fakes lie nearer together: not a fault
    copies = train[random.integers(2000, size=8000)] + 0.02 * draw(8000)
    assert make_finding(copies, labels, train, fresh, real)["memorised"] > 0.9
    few = draw(40)[random.integers(40, size=8000)] + 0.01 * draw(8000)
    collapsed = make_finding(few, labels, train, fresh, real)
    assert collapsed["sparse"] > 0.9
    assert collapsed["memorised"] < 0.3


def pixels(images: torch.Tensor) -> torch.Tensor:
    """phi: the image itself, in 1/64."""
    return images.float().flatten(1) / 64.0


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fakes")
    teacher = save_tiny_teacher(folder / "teacher", CLASSES)
    sample(TinyParts(teacher), class_plan(60), tiny_settings(), folder / "out", LocalEngine(1))
    return folder


@pytest.fixture
def made(sampled: Path, tmp_path: Path) -> Path:
    shutil.copytree(sampled / "out", tmp_path / "o")
    return tmp_path / "o"


def real_images(folder: Path) -> tuple[ArraySource, ArraySource]:
    """Training images: 30 of the fakes (learnt by heart) and noise; held-out ones: noise of the same kind."""
    fakes = open_fakes(folder)
    random = np.random.default_rng(1)
    rows = random.permutation(len(fakes))[:30]
    noise = random.integers(0, 256, size=(160, *fakes.image_shape), dtype=np.uint8)
    learnt = np.concatenate([fakes.images(rows), noise[:60]])
    labels = np.arange(100) % 3
    return ArraySource(learnt, np.r_[fakes.labels[rows], np.arange(60) % 3]), ArraySource(noise[60:], labels)


def test_a_distance_set_is_stored_and_read(made: Path) -> None:
    train, held = real_images(made)
    before = open_fakes(made)
    name = score_nearest(made, pixels, train, held, "classes", "c" * 64)
    fakes = open_fakes(made)
    assert fakes.digest == before.digest
    assert fakes.score_sets() == before.score_sets()
    assert distance_sets(fakes) == [name]
    assert verify_fakes(made) == []
    found = read_distances(fakes)
    phi = pixels(torch.from_numpy(fakes.images(np.arange(len(fakes))))).numpy().astype(np.float64)
    reals = pixels(torch.from_numpy(train.pixels)).numpy().astype(np.float64)
    apart = np.sqrt(((phi[:, None] - reals[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(found.training_distance, apart.min(axis=1), rtol=1e-6)
    between = np.sqrt(((phi[:, None] - phi[None]) ** 2).sum(axis=2))
    between[fakes.labels[:, None] != fakes.labels[None]] = np.inf
    np.fill_diagonal(between, np.inf)
    np.testing.assert_allclose(found.duplicate_distance, between.min(axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(between, found.duplicate_row[:, None], 1)[:, 0], between.min(axis=1))
    report = nearest_finding(fakes)
    assert report is not None
    assert report == json.loads(json.dumps(describe_fakes(made)["nearest"], allow_nan=False))
    assert report["memorised_share"] >= 30 / len(fakes)
    assert [pair[2] for pair in report["nearest_pairs"][:16]] == [0.0] * 16
    row, real, _ = report["nearest_pairs"][0]
    np.testing.assert_array_equal(fakes.images(np.array([row]))[0], train.pixels[real])
    assert len(report["by_label"]) == 3
    kept = select(fakes, keep="memorisation_distance > 0.001 and duplicate_distance rank >= 0.1")
    assert not set(kept.rows) & set(np.flatnonzero(found.training_distance == 0))
    copy = pixels(torch.from_numpy(fakes.images(kept.rows))).numpy()
    assert nearest(copy, reals.astype(np.float32), 1)[0].min() > 0


def test_a_damaged_or_stopped_distance_set_is_made_anew(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held = real_images(made)
    name = score_nearest(made, pixels, train, held, "classes", "c" * 64)
    whole = file_bytes(made)
    manifest = (made / "manifest.json").read_bytes()
    calls = []
    spy = lambda images: calls.append(1) or pixels(images)  # noqa: E731
    assert score_nearest(made, spy, train, held, "classes", "c" * 64) == name
    assert calls == []  # nothing to do
    shards = [entry.name for entry in open_fakes(made).manifest.shards]
    for harm in (b"", None):
        path = score_path(made, name, shards[1])
        data = bytearray(path.read_bytes())
        data[locate(path, DISTANCE_LAYOUT)["training_distance"].offset] ^= 1
        path.write_bytes(data) if harm is None else path.unlink()
        assert any(shards[1] in problem for problem in verify_fakes(made))
        with pytest.raises(UserError, match=shards[1]):
            read_distances(open_fakes(made))
        score_nearest(made, pixels, train, held, "classes", "c" * 64)
        assert verify_fakes(made) == []
        assert file_bytes(made) == whole
        assert (made / "manifest.json").read_bytes() == manifest
    shutil.rmtree(made / "scores" / name)  # another set of features: the old set goes
    other = score_nearest(made, pixels, train, held, "classes", "d" * 64)
    assert other != name
    assert distance_sets(open_fakes(made)) == [other]
    assert verify_fakes(made) == []


def test_an_extended_dataset_asks_for_new_distances(sampled: Path, made: Path) -> None:
    train, held = real_images(made)
    old = score_nearest(made, pixels, train, held, "classes", "c" * 64)
    sample(TinyParts(sampled / "teacher"), class_plan(90), tiny_settings(), made, LocalEngine(1), extend=True)
    fakes = open_fakes(made)
    assert distance_sets(fakes) == []
    assert describe_fakes(made)["nearest"] is None
    with pytest.raises(UserError, match="score --nearest"):
        select(fakes, keep="duplicate_distance > 1")
    new = score_nearest(made, pixels, train, held, "classes", "c" * 64)
    assert new != old
    assert not (made / "scores" / old).exists()
    assert verify_fakes(made) == []
    assert len(read_distances(open_fakes(made)).training_distance) == 270


def test_predictor_scores_are_renewed_after_damage(made: Path) -> None:
    make, engine, digest = PredictorMaker(), LocalEngine(1), "q" * 64
    score(made, make, class_error, digest, engine)
    whole, manifest = file_bytes(made), (made / "manifest.json").read_bytes()
    name = open_fakes(made).manifest.shards[0].name
    for harm in ("flip", "remove", "shorten"):
        path = score_path(made, digest, name)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        if harm == "remove":
            path.unlink()
        else:
            path.write_bytes(data if harm == "flip" else data[:-9])
        assert any(name in problem for problem in verify_fakes(made)), harm
        score(made, make, class_error, digest, engine)
        assert verify_fakes(made) == []
        assert file_bytes(made) == whole
        assert (made / "manifest.json").read_bytes() == manifest


class PredictorMaker:
    """A picklable maker of another predictor than the sampling run's."""

    def __call__(self) -> object:
        return make_predictor(3, seed=8)


def test_continuous_real_images_are_compared_with_those_of_near_labels() -> None:
    random = np.random.default_rng(5)
    features, labels = random.normal(size=(40, 3)).astype(np.float32), random.uniform(-1, 1, 40)
    found = real_duplicates(features, labels, "continuous")
    for row in range(40):
        near = sorted(
            (other for other in range(40) if other != row), key=lambda other: abs(labels[other] - labels[row])
        )
        slow = min(float(np.linalg.norm(features[row].astype(float) - features[other])) for other in near[:10])
        assert found[row] == pytest.approx(slow)


def test_without_real_images_nothing_is_compared(made: Path) -> None:
    train, held = real_images(made)
    with pytest.raises(UserError, match="1 held-out"):
        score_nearest(made, pixels, train, held.subset(np.array([0])), "classes", "c" * 64)
    assert verify_fakes(made) == []


@pytest.mark.xdist_group("workspace")
def test_score_nearest_inspect_and_keep_as_commands(workspace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fakes = tmp_path / "fakes"
    shutil.copytree((workspace.folder / "fakes" / "latest").resolve(), fakes)
    scored = workspace.json(capsys, "score", f"--fakes {fakes} --nearest")
    assert 0.0 <= scored["nearest"]["memorised_share"] <= 1.0
    assert scored["nearest"]["calibration"]["held_out"] > 100
    shown = workspace.json(capsys, "inspect", f"--fakes {fakes}")
    assert shown["nearest"] == scored["nearest"]
    assert workspace.type("verify", f"--fakes {fakes}") == 0
    import cli

    capsys.readouterr()
    assert cli.main(["inspect", str(fakes), "--json", "--keep", "not label >= 2 and error rank < 0.5"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert kept["by_label"] == [{"label": 0, "images": 40}, {"label": 1, "images": 40}]
    assert (kept["images"], kept["of"]) == (80, 800)
    target = tmp_path / "kept.h5"
    words = ["export-h5", "--fakes", str(fakes), "--out", str(target), "--workspace", str(workspace.folder)]
    assert cli.main([*words, "--keep", "memorisation_distance rank >= 0.25 and label < 5"]) == 0
    import h5py

    with h5py.File(target) as file:
        assert len(file["fake_labels"]) == 5 * 80 * 3 // 4
        assert int(file["fake_labels"][()].max()) == 4
    capsys.readouterr()
    assert cli.main([*words[:4], str(tmp_path / "x.h5"), *words[5:], "--keep", "label <"]) == 2
    assert "position 8" in capsys.readouterr().err
    assert not (tmp_path / "x.h5").exists()
