"""The benchmarks at their smallest: rows, sound ratios, the same work on both sides, refusals.  No speed is judged."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from benchmarks.end_to_end import Work, bare_passes, sized_plan
from benchmarks.untrained import CASES, TINY, noise_dataset
from benchmarks.verifying import compare as compare_verifying
from image_data.fake import open_fakes, verify_fakes
from layers.pixels import quantise
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
from teacher_sampler.sampling.settings import SamplerSettings
from teacher_sampler.sampling.units import fixed_numerics

ROOT = Path(__file__).resolve().parents[2]
SAMPLING_ROWS = {"networks", "fakes", "candidates", "accepted", "threads", "accepted images/s", "ratio"}


def _sound(table: dict) -> None:
    for name, value in table.items():
        if "ratio" in name or "/" in name:
            assert isinstance(value, float), name
            assert math.isfinite(value), name
            assert value > 0, name


def _benchmark(capsys: pytest.CaptureFixture, *words: str) -> dict:
    capsys.readouterr()
    code = cli.main(["benchmark", *words, "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


def _script(name: str, folder: Path) -> dict:
    words = [sys.executable, f"benchmarks/{name}.py", "--small", "--json", "--workspace", str(folder / "w")]
    done = subprocess.run(
        [*words, "--out", str(folder)], cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(folder.iterdir()) == []
    return json.loads(done.stdout)["tables"]


def test_sampling_prints_its_ratios_for_untrained_networks(tmp_path):
    tables = _script("sampling", tmp_path)
    assert list(tables) == ["demo"]
    table = tables["demo"]
    assert set(table) >= SAMPLING_ROWS
    assert table["accepted"] >= table["fakes"] == 200
    _sound(table)


@pytest.mark.slow
def test_reading_prints_its_ratios(tmp_path):
    (table,) = _script("reading", tmp_path).values()
    for end in ("", ", model"):
        assert {f"reader{end} / {side}{end}" for side in ("tensor", "h5py", "ImageFolder")} <= set(table)
    _sound(table)


@pytest.mark.slow
@pytest.mark.xdist_group("workspace")
def test_sampling_takes_the_networks_of_the_workspace(workspace, capsys):
    found = workspace.json(capsys, "benchmark", "sampling --small --count 100", tiny=False)["tables"]["these networks"]
    assert found["networks"].startswith("biggan, filter ")
    assert "none" not in found["networks"]
    assert set(found) >= SAMPLING_ROWS
    assert found["fakes"] == 100
    _sound(found)
    words = "sampling --small --count 20 --filter none --predictor none"
    bare = workspace.json(capsys, "benchmark", words, tiny=False)["tables"]["these networks"]
    assert bare["networks"].endswith("filter none, predictor none")
    assert bare["candidates"] == bare["accepted"]


def test_verify_prints_its_speeds_and_refuses_a_damaged_dataset(tmp_path, capsys):
    folder = noise_dataset(tmp_path / "f", 100, 3, 16)
    words = ["verify", "--small", "--fakes", str(folder)]
    (table,) = _benchmark(capsys, *words)["tables"].values()
    assert {"verify, MB/s", "read, cold, MB/s", "hashes, MB/s", "verify / bound"} <= set(table)
    _sound(table)
    assert verify_fakes(folder) == []
    assert cli.main(["benchmark", *words]) == 0
    assert "verify / bound" in capsys.readouterr().out
    shard = next((folder / "shards").glob("*.h5"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(UserError, match=f"{shard.name} does not match"):
        compare_verifying(folder, 1)


@pytest.mark.slow
def test_distilling_compares_stored_outputs_with_a_running_teacher(capsys, tmp_path):
    tables = _benchmark(capsys, "distilling", "--small", "--out", str(tmp_path))["tables"]
    assert list(tables) == ["cost", "error"]
    assert 3.5 < tables["cost"]["teacher / student"] < 4.5
    for table in tables.values():
        _sound({name: value for name, value in table.items() if "%" not in name})
    assert {"labels alone, %", "running teacher, %", "1 view as it is, %", "16 views, %"} <= set(tables["error"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_memory_is_that_of_fresh_processes(capsys, tmp_path):
    words = ["sampling", "--memory", "--small", "--count", "800", "--out", str(tmp_path)]
    table = _benchmark(capsys, *words)["tables"]["memory"]
    few, many = (table[f"peak memory at {count} fakes, MiB"] for count in (500, 800))
    assert 100 < few < 2000
    assert table["growth"] == pytest.approx(many / few - 1)
    assert list(tmp_path.iterdir()) == []


def test_the_bare_passes_do_the_very_work_of_the_run(tmp_path):
    """Every block of the run, its ratios to the last bit, and every accepted image."""
    parts, folder = TINY(), tmp_path / "f"
    settings = SamplerSettings(block_size=64, pilot_candidates=96, unit_candidates=64)
    sample(lambda: parts, TINY.plan(300), settings, folder, LocalEngine(1))
    work = Work.of(folder, parts)
    fakes = open_fakes(folder)
    drawn = np.concatenate([unit.r for unit in fakes.ledger()])
    assert work.candidates == len(drawn) + 10 * 96
    assert len(work.accepted) == sum(entry.rows for entry in fakes.manifest.shards)
    with fixed_numerics(SamplerSettings()):
        ratios = [
            parts.density_ratio(quantise(parts.teacher.generate(latents, labels, keys, 0)), labels).numpy()
            for latents, labels, keys in work.blocks[: len(drawn) // 64]
        ]
    assert np.array_equal(np.concatenate(ratios), drawn)
    assert 0.1 < fakes.manifest.content["per_label"] * 10 / len(drawn) < 0.7  # about one in three is accepted
    assert (bare_passes(parts, work, settings) > 0).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_untrained_pipelines_reject_some_and_are_the_same_each_time(case):
    labels = np.arange(10)
    keys = np.stack([labels, labels], axis=1)
    found = []
    for parts in (case(), case()):
        images = quantise(parts.teacher.generate(parts.teacher.latents(keys, 0), labels, keys, 0))
        found.append((images, parts.density_ratio(images, labels), parts.predictor(images)))
    assert images.shape == (10, case.channels, case.resolution_px, case.resolution_px)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert float(found[0][1].std()) > 0.2


def test_the_size_of_a_run_follows_from_the_networks_speed():
    parts = TINY()
    plan, settings = sized_plan(parts, np.arange(10), SamplerSettings(), None, seconds=0.2)
    longer, _ = sized_plan(parts, np.arange(10), SamplerSettings(), None, seconds=20.0)
    assert 1 <= plan.per_label < longer.per_label
    assert 1 <= (settings.pilot_candidates or 0) <= 1000
    with pytest.raises(UserError, match="--count 9 is less than one fake of each of the 10 labels"):
        sized_plan(parts, np.arange(10), SamplerSettings(), 9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("everything", "--what 'everything'"),
        ("--memory", "--memory is for `benchmark sampling`, and this measures networks"),
        ("reading --filter f", "--filter is for `benchmark sampling`, and this measures reading"),
        ("sampling --student s", "--student is for `benchmark`, and this measures sampling"),
        ("sampling --filter f", "--filter goes with a teacher"),
        ("sampling --teacher missing", "--teacher missing does not exist"),
        ("sampling --memory --count 100", "--count 100 is no more than the 20000 fakes"),
        ("sampling --memory --predictor p", "--memory measures built-in networks"),
        ("sampling --count 3", "--count '3'"),
        ("verify --fakes f --count 20", "--count is for a dataset of noise"),
        ("verify --fakes missing", "missing"),
        ("reading --out missing", "--out missing is no folder"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(words, said, tmp_path, capsys):
    assert cli.main(["benchmark", *words.split(), "--workspace", str(tmp_path / "w")]) == 2
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_signals_at_random_moments_lose_nothing():
    words = [sys.executable, "benchmarks/faults_kills.py", "--small"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    assert len(rows) == 3
    for row in rows.values():
        assert sum(row["signals"].values()) >= 1
        assert row["otherwise"] == row["failures"] == []
        assert row["tracebacks"] == row["orphans"] == 0


@pytest.mark.slow
def test_training_compares_the_trainer_with_a_plain_loop(capsys, tmp_path):
    tables = _benchmark(capsys, "training", "--small", "--out", str(tmp_path))["tables"]
    assert set(tables) == {"none", "blkd", "sp"}
    assert all(0 < table["ours / plain"] < 100 for table in tables.values())
    assert not list(tmp_path.iterdir())
