"""The commands one after another on real digits at tiny sizes, through the command line."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import cli

pytestmark = pytest.mark.xdist_group("workspace")


def test_sample_made_what_was_asked(workspace, capsys):
    found = workspace.json(capsys, "inspect", tiny=False)
    assert found["images"] == 800  # ceil(40 / 0.5) of each of ten classes
    assert found["per_label"] == 80
    assert found["latents"] is True
    assert len(found["scores"]) == 1
    assert 0 < found["acceptance_rate"] <= 1
    assert len(found["by_label"]) == 10


def test_verify_finds_nothing_then_a_flipped_byte_and_repair_mends_it(workspace, capsys, tmp_path):
    copy = tmp_path / "fakes"
    shutil.copytree((workspace.folder / "fakes" / "latest").resolve(), copy)
    assert workspace.type("verify", str(copy), tiny=False) == 0
    shard = sorted((copy / "shards").glob("*.h5"))[0]
    before = shard.read_bytes()
    data = bytearray(before)
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert workspace.type("verify", str(copy), tiny=False) == 2
    assert shard.name in capsys.readouterr().out
    elsewhere = ["--workspace", str(tmp_path / "elsewhere")]
    assert cli.main(["repair", str(copy), *elsewhere]) == 2  # and trains no other teacher
    assert "the teacher that" in (said := capsys.readouterr().err)
    assert "give --teacher DIR" in said
    assert not (tmp_path / "elsewhere").exists()
    assert (
        cli.main(["repair", str(workspace.folder / "fakes" / "latest"), *elsewhere]) == 0
    )  # its own workspace has all
    assert workspace.type("repair", str(copy), tiny=False) == 0
    assert shard.read_bytes() == before
    assert workspace.type("verify", str(copy), tiny=False) == 0


def test_the_same_command_says_that_it_is_finished_and_other_options_are_refused(workspace, capsys, tmp_path):
    out = tmp_path / "fakes"
    first = workspace.json(capsys, "sample", f"--out {out}")
    again = workspace.json(capsys, "sample", f"--out {out}")
    assert first["digest"] == again["digest"]
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*.h5"))
    assert workspace.type("sample", f"--out {out} --seed 5") == 2
    assert "seed" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*.h5")) == before


@pytest.mark.slow
def test_two_workers_give_the_same_content(workspace, capsys, tmp_path):
    one = workspace.json(capsys, "sample", f"--out {tmp_path / 'one'}")
    two = workspace.json(capsys, "sample", f"--out {tmp_path / 'two'} --workers 2")
    assert one["digest"] == two["digest"]


def test_no_filter_and_no_predictor_need_no_real_images(workspace, capsys, tmp_path):
    found = workspace.json(capsys, "sample", f"--out {tmp_path / 'f'} --filter none --predictor none --rho 1")
    assert found["images"] == 400
    assert found["scores"] == {}
    assert found["acceptance_rate"] == 1.0


def test_score_adds_a_second_set(workspace, capsys, tmp_path):
    copy = tmp_path / "fakes"
    shutil.copytree((workspace.folder / "fakes" / "latest").resolve(), copy)
    other = tmp_path / "predictor"
    assert workspace.type("train-classifier", f"--out {other} --seed 3") == 0
    digest = workspace.json(capsys, "inspect", str(copy), tiny=False)["digest"]
    found = workspace.json(capsys, "score", f"{copy} --predictor {other}", tiny=False)
    assert len(found["scores"]) == 2
    after = workspace.json(capsys, "inspect", str(copy), tiny=False)
    assert after["digest"] == digest
    assert workspace.type("verify", str(copy), tiny=False) == 0


def test_export_h5_is_read_back_by_the_real_data_loader(workspace, capsys, tmp_path):
    from image_data.real import load_real

    target = tmp_path / "fakes.h5"
    found = workspace.json(capsys, "export-h5", f"--out {target} --rho 0.5 --nfake-per-class 20", tiny=False)
    assert found["images"] == 200
    data = load_real(str(target))
    assert data.label_space.width == 10
    assert workspace.type("export-h5", f"--out {target}", tiny=False) == 2
    assert "exists" in capsys.readouterr().err


def test_export_fakes_says_the_licence_and_the_disk_that_it_needs(workspace, capsys, tmp_path, monkeypatch):
    text = f"--to webdataset --out {tmp_path / 'e'} --rho 0.5"
    needs = workspace.json(capsys, "export-fakes", f"{text} --dry-run", tiny=False)["needs"]
    found = workspace.json(capsys, "export-fakes", text, tiny=False)
    assert found["images"] == 400
    assert found["bytes"] / 1e6 == pytest.approx(needs["disk_mb"], rel=0.1)
    assert "| licence | as the training data |" in (tmp_path / "e" / "README.md").read_text()
    own = f"--out {tmp_path / 'own'} --licence CC0"
    assert workspace.type("export-fakes", own, tiny=False) == 0
    assert "| licence | CC0 |" in (tmp_path / "own" / "README.md").read_text()
    monkeypatch.setattr("runtime.free_space.free_disk_bytes", lambda path: 1_000_000)
    capsys.readouterr()
    assert workspace.type("export-fakes", f"--out {tmp_path / 'full'} --dry-run", tiny=False) == 2
    assert "needs about 3 MB, and its disk has 1 MB free" in capsys.readouterr().err


def test_train_student_then_export_evaluate_benchmark_and_report(workspace, capsys, tmp_path):
    made = workspace.json(capsys, "train-student", "--white-box")
    assert set(made["cost"]) == {"teacher", "student"}
    assert made["cost"]["student"]["parameters"] > 0
    exported = workspace.json(capsys, "export", f"--out {tmp_path / 's.pt2'}", tiny=False)
    assert exported["largest_difference"] < 1e-4
    rows = workspace.json(capsys, "evaluate", "--images-per-class 20 --judge-steps 30", tiny=False)["rows"]
    assert list(rows) == ["teacher", "accepted", "accepted, rho 0.9", "student"]
    assert all(row["metric"] == "FD-judge" and row["images"]["fake"] == 200 for row in rows.values())
    assert workspace.type("benchmark", tiny=False) == 0
    shown = workspace.json(capsys, "report", f"--out {tmp_path / 'r.html'}", tiny=False)
    assert shown["bytes"] > 50_000
    page = (tmp_path / "r.html").read_text()
    assert "Student generator" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_distill_every_way_and_the_test_images_are_opened_once(workspace, capsys):
    shown = {}
    for train_on, method in (("real", "none"), ("real", "blkd"), ("mixed", "blkd"), ("fakes", "none")):
        options = f"--train-on {train_on} --method {method} --rho 0.5 --nfake-per-class 20"
        shown[train_on, method] = workspace.json(capsys, "distill", options)
    few = workspace.json(capsys, "distill", "--real-per-class 10 --real-share 0.5 --rho 0.5 --nfake-per-class 20")
    assert few["protocol"]["images"] == 2 * 100 + 200
    assert {found["steps"] for found in shown.values()} == {30}
    assert shown["mixed", "blkd"]["protocol"]["images"] == 1200
    assert shown["fakes", "none"]["protocol"]["images"] == 200
    assert all(found["test"]["images"] == 497 for found in shown.values())


def test_search_rho_writes_what_distill_reads(workspace, capsys):
    found = workspace.json(capsys, "search-rho", "--nfake-per-class 20")
    assert found["rho"] in (0.5, 1.0)
    assert workspace.type("distill", f"--config {found['config']} --nfake-per-class 20") == 0
    result = workspace.json(capsys, "distill", f"--config {found['config']} --nfake-per-class 20")
    assert result["protocol"]["rho"] == found["rho"]


def test_status_and_list_and_dry_run(workspace, capsys):
    rows = workspace.json(capsys, "status", tiny=False)["artefacts"]
    assert {"teacher", "filter", "predictor", "fakes"} <= set(rows)
    assert all(row["state"] == "finished" for row in rows["teacher"])
    names = workspace.json(capsys, "list", tiny=False)
    assert "biggan" in json.dumps(names)
    before = sorted(workspace.folder.rglob("*"))
    plan = workspace.json(capsys, "sample", "--dry-run --nfake-per-class 1000")
    assert plan["needs"]["fakes"] == 20_000
    assert sorted(workspace.folder.rglob("*")) == before


def test_a_missing_prerequisite_of_the_embedded_default_is_made(tmp_path, capsys, monkeypatch):
    from commands.support import workspace as graph

    asked = []
    monkeypatch.setattr(graph, "call", lambda command, **given: asked.append((command, given["workspace"])))
    assert cli.main(["sample", "--workspace", str(tmp_path / "new")]) == 2  # the recorder made nothing
    assert asked[0][0] == "train-teacher"
    assert cli.main(["fit-filter", "--workspace", str(tmp_path / "new"), "--data", str(tmp_path)]) == 2


def test_white_box_needs_the_insides_of_the_right_teacher(workspace, capsys, tmp_path):
    other = tmp_path / "other"
    first = (workspace.folder / "teacher" / "latest").resolve()
    made = cli.main(["import-teacher", "--arch", "retort", "--checkpoint", str(first), "--truncation", "0.5",
                     "--out", str(other)])  # fmt: skip
    assert made == 0
    capsys.readouterr()
    assert workspace.type("train-student", f"--white-box --teacher {other} --out {tmp_path / 's'}") == 2
    assert "another teacher" in capsys.readouterr().err
    images = tmp_path / "images"
    for kind in "0123456789":
        (images / kind).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(np.full((16, 16), 20 * int(kind) + index, dtype=np.uint8)).save(
                images / kind / f"{index}.png"
            )
    box = tmp_path / "box"
    assert cli.main(["import-teacher", "--arch", "images", "--checkpoint", str(images), "--out", str(box)]) == 0
    capsys.readouterr()
    assert workspace.type("train-student", f"--white-box --teacher {box} --out {tmp_path / 's'}") == 2
    assert "black box (images)" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_label_map_goes_into_the_manifest_and_repair_knows_it(workspace, capsys, tmp_path):
    teacher = (workspace.folder / "teacher" / "latest").resolve()
    (tmp_path / "map.yaml").write_text("classes: {even: [0, 2, 4], seven: ['7']}\n")
    out = tmp_path / "f"
    asked = f"--teacher {teacher} --label-map {tmp_path / 'map.yaml'} --image-size 20 --image-channels 3"
    words = f"{asked} --filter none --predictor none --rho 1 --out {out}"
    found = workspace.json(capsys, "sample", words)
    assert found["images"] == 80
    content = json.loads((out / "manifest.json").read_text())["content"]
    assert content["teacher"]["adaptation"]["label_map"] == {"names": ["even", "seven"], "sources": [[0, 2, 4], [7]]}
    assert content["image_shape"] == [3, 20, 20]
    shard = next((out / "shards").glob("*.h5"))
    before = shard.read_bytes()
    shard.unlink()
    assert workspace.type("repair", str(out), tiny=False) == 0
    assert shard.read_bytes() == before
    assert workspace.type("sample", f"{words} --filter {workspace.folder / 'filter' / 'latest'}") == 2
    assert "--image-size" in capsys.readouterr().err


def test_a_large_dataset_takes_every_core_whatever_the_threads_of_a_process(monkeypatch):
    from commands.sample import Options, _processes
    from image_data.labels import ClassLabels
    from teacher_sampler.sampling.plan import LabelPlan

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("runtime.devices.usable_cores", lambda: 6)
    space, options = ClassLabels(("a", "b")), Options(device="cpu")
    assert _processes(options, LabelPlan.classes(space, 10_000)) == 6
    assert _processes(options, LabelPlan.classes(space, 9_999)) == 1
    assert _processes(Options(device="cpu", workers=3), LabelPlan.classes(space, 10_000)) == 3
