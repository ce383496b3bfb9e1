"""The density ratio from nearest neighbours: its NumPy twin, its calibration, known faults, determinism."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from filters import FilterSettings, fit_filter, load_filter
from filters.density_ratio import penalised_softplus
from filters.nearest_ratio import NearestNeighbourRatio, Statistic
from filters.ratio_forms import SLOPES, calibrate
from image_data.labels import ClassLabels
from image_data.real import load_real
from image_data.sources import ArraySource
from interfaces import DensityRatio
from layers.pixels import quantise
from runtime.seeds import numbered_keys
from tests.support.noisy_teacher import NoisyTeacher

CPU = torch.device("cpu")
SMALL = FilterSettings(
    ratio="nearest-neighbours",
    extractor_steps=120,
    extractor_batch=32,
    extractor_width=8,
    feature_dim=64,
    fakes_per_real=2,
    fakes_at_least=1000,
    validate_every_steps=20,
)


@pytest.fixture(scope="module")
def digits() -> tuple[ArraySource, ClassLabels, NoisyTeacher]:
    """20 real digits a class, and a teacher over all others: one over few images would have them as clusters."""
    data, whole = load_real("digits", real_per_class=20), load_real("digits")
    known = {image.tobytes() for image in data.train.pixels}
    others = [
        source.subset(np.array([row for row, image in enumerate(source.pixels) if image.tobytes() not in known]))
        for source in (whole.train, whole.val)
    ]
    images = ArraySource(*(np.concatenate([getattr(part, name) for part in others]) for name in ("pixels", "labels")))
    return data.train, data.label_space, NoisyTeacher(images, data.label_space)


@pytest.fixture(scope="module")
def fitted(digits: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_filter(*digits, SMALL, tmp_path_factory.mktemp("filter") / "f", CPU, ("translate",))


def filled(kind: str, seed: int = 0) -> NearestNeighbourRatio:
    generator = torch.Generator().manual_seed(seed)
    network = NearestNeighbourRatio(5, kind, 3 if kind == "classes" else 1, 60, 150, 4)
    network.real.copy_(torch.randn(60, 5, generator=generator))
    network.fake.copy_(1.5 * torch.randn(150, 5, generator=generator))
    if kind == "classes":
        network.real_labels.copy_(torch.arange(60) % 3)
        network.fake_labels.copy_(torch.arange(150) % 3)
    else:
        network.real_labels.copy_(torch.rand(60, 1, generator=generator))
        network.fake_labels.copy_(torch.rand(150, 1, generator=generator))
    network.slope.fill_(2.5)
    network.offset.copy_(torch.linspace(-0.4, 0.3, len(network.offset)))
    return network


def twin(network: NearestNeighbourRatio, feature: np.ndarray, label: np.ndarray) -> float:
    """r = (n_fake k / n_real k) (rho_fake / rho_real)^b e^a, by sorting all distances of the label's images."""
    arrays = {name: value.double().numpy() for name, value in network.state_dict().items()}
    if network.label_kind == "classes":
        group = int(label)
        real, fake = (arrays[n][arrays[f"{n}_labels"] == group] for n in ("real", "fake"))
    else:
        group = 0
        apart = {n: np.abs(arrays[f"{n}_labels"][:, 0] - label[0]) for n in ("real", "fake")}
        radius = np.sort(apart["real"])[40 - 1]  # ten times the neighbours
        real, fake = (arrays[n][apart[n] <= radius] for n in ("real", "fake"))
    distances = [np.sort(np.sqrt(((rows - feature) ** 2).sum(axis=1)))[3] for rows in (real, fake)]
    count = len(fake) / len(real)
    return count * (distances[1] / distances[0]) ** 2.5 * np.exp(arrays["offset"][group])


@pytest.mark.parametrize("kind", ["classes", "continuous"])
def test_the_ratio_equals_its_numpy_twin(kind: str) -> None:
    network = filled(kind)
    features = torch.randn(25, 5, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(25) % 3 if kind == "classes" else torch.linspace(0.0, 1.0, 25)[:, None]
    found = network(features, labels)
    assert found.dtype == torch.float32
    slow = [twin(network, row, label) for row, label in zip(features.double().numpy(), labels.numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), slow, rtol=2e-5)
    pieces = [network(features[i : i + 4], labels[i : i + 4]) for i in range(0, 25, 4)]
    assert torch.equal(torch.cat(pieces), found)


def test_calibration_finds_the_exponent_of_known_densities() -> None:
    """log r = 3 s - log E[e^{3 s}] exactly: reals are fakes drawn again by r, so exponent 3 has the lowest loss."""
    random = np.random.default_rng(3)
    s = random.normal(0.0, 0.3, size=20_000)
    true = np.exp(3.0 * s) / np.exp(3.0 * s).mean()
    drawn = random.choice(len(s), size=20_000, p=true / true.sum())
    zeros, group = np.zeros(len(s)), np.arange(len(s)) % 2
    fake, real = Statistic(zeros, s, group), Statistic(zeros, s[drawn], group)
    slope, offsets, loss = calibrate(real, fake, 2, 0.1)
    assert slope == pytest.approx(3.0, rel=0.15)  # the grid's step is 12 %
    for value in (0, 1):
        assert np.exp(slope * s[group == value] + offsets[value]).mean() == pytest.approx(1.0)
    constant = float(penalised_softplus(torch.ones(10), torch.ones(10), 0.1))
    assert loss < constant
    assert SLOPES[0] == 0.0


def test_distances_that_say_nothing_end_as_the_constant_one() -> None:
    random = np.random.default_rng(0)
    zeros, group = np.zeros(3000), np.zeros(3000, dtype=np.int64)
    real, fake = (Statistic(zeros, random.normal(size=3000), group) for _ in range(2))
    slope, offsets, _ = calibrate(real, fake, 1, 0.1)
    assert slope < 0.1
    assert offsets[0] == pytest.approx(0.0, abs=0.02)


def test_the_ratio_of_two_gaussians_is_found() -> None:
    """Real N(0, 1), fakes N(0.8, 1) in two dimensions: log r = 0.32 - 0.8 x for each, the mean of a large sample."""
    random = np.random.default_rng(1)
    shift = np.array([0.8, 0.0])
    network = NearestNeighbourRatio(2, "classes", 1, 4000, 4000, 80)
    network.real.copy_(torch.from_numpy(random.normal(size=(4000, 2))))
    network.fake.copy_(torch.from_numpy(random.normal(size=(4000, 2)) + shift))
    label = torch.zeros(1500, dtype=torch.int64)
    real = network.statistic(torch.from_numpy(random.normal(size=(1500, 2))).float(), label)
    fake = network.statistic(torch.from_numpy(random.normal(size=(1500, 2)) + shift).float(), label)
    slope, offsets, _ = calibrate(real, fake, 1, 0.0)
    network.slope.fill_(slope)
    network.offset.copy_(torch.from_numpy(offsets))
    grid = torch.from_numpy(random.normal(size=(300, 2)) * 0.7 + shift / 2).float()
    found = np.log(network(grid, label[:300]).double().numpy())
    true = 0.32 - 0.8 * grid[:, 0].double().numpy()
    assert np.corrcoef(found, true)[0, 1] > 0.9
    assert np.abs(found - true).mean() < 0.2
    assert slope == pytest.approx(2.0, rel=0.3)  # the exponent is about the dimension where there are images enough


def test_wrong_labels_get_low_ratios_without_training(digits: tuple, fitted: Path) -> None:
    teacher, ratio = digits[2], load_filter(fitted, CPU)
    assert isinstance(ratio, DensityRatio)
    labels = np.repeat(np.arange(10), 30)
    keys = numbered_keys(labels)
    images, wrong = quantise(teacher.generate(None, labels, keys, 0)), teacher.is_wrong(keys)
    r = ratio(images, labels).numpy()
    assert r.dtype == np.float32
    assert r[~wrong].mean() > 1.5 * r[wrong].mean()
    card = ratio.card
    assert card["ratio"]["form"] == "nearest-neighbours"
    assert card["mean_ratio"]["held_out_fakes"] == pytest.approx(1.0, abs=0.02)
    assert not card["is_constant"]
    assert card["fitted"]["exponent"] > 0
    assert card["settings"]["agreement"] is False
    assert len(card["fitted"]["offsets"]) == 10


def test_the_same_call_gives_the_same_bytes(digits: tuple, fitted: Path, tmp_path: Path) -> None:
    again = fit_filter(*digits, SMALL, tmp_path / "f", CPU, ("translate",))
    for name in ("weights.safetensors", "card.json"):
        assert (again / name).read_bytes() == (fitted / name).read_bytes()


def test_continuous_labels(tmp_path: Path) -> None:
    data = load_real("rotated-digits", real_per_class=20)
    teacher = NoisyTeacher(data.val, data.label_space)
    settings = dataclasses.replace(SMALL, extractor_steps=200)
    folder = fit_filter(data.train, data.label_space, teacher, settings, tmp_path / "f", CPU, ("translate",))
    labels = np.linspace(-55.0, 55.0, 120)
    keys = numbered_keys(labels)
    images, wrong = quantise(teacher.generate(None, labels, keys, 0)), teacher.is_wrong(keys)
    ratio = load_filter(folder, CPU)
    r = ratio(images, labels).numpy()
    assert r[~wrong].mean() > 1.3 * r[wrong].mean()
    assert ratio.card["mean_ratio"]["held_out_fakes"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
@pytest.mark.xdist_group("workspace")
@pytest.mark.parametrize("form", ["nearest-neighbours", "per-class"])
def test_every_form_fits_and_samples_as_a_command(
    workspace, tmp_path: Path, capsys: pytest.CaptureFixture, form: str
) -> None:
    steps = "--ratio-steps 10 --out"
    fitted = workspace.json(capsys, "fit-filter", f"--ratio {form} {steps} {tmp_path / 'f'}")
    assert fitted["mean_ratio"]["held_out_fakes"] > 0
    sampled = workspace.json(
        capsys, "sample", f"--filter {tmp_path / 'f'} --nfake-per-class 20 --out {tmp_path / 'fakes'}"
    )
    assert sampled["images"] == 400
    assert 0 < sampled["acceptance_rate"] <= 1
    before = (tmp_path / "f" / "card.json").stat().st_mtime_ns
    assert workspace.type("fit-filter", f"--ratio {form} {steps} {tmp_path / 'f'}") == 0
    assert (tmp_path / "f" / "card.json").stat().st_mtime_ns == before
    assert workspace.type("fit-filter", f"--ratio conditional {steps} {tmp_path / 'f'}") == 2
