"""Bad input through the command line: one sentence on stderr that names the culprit, exit code 2, nothing written."""

import pytest

import cli

pytestmark = pytest.mark.xdist_group("workspace")


def check_refused(capsys, words, *names):
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 2
    shown = capsys.readouterr()
    message = shown.err.strip().splitlines()[-1]
    for name in names:
        assert str(name) in message, message
    assert shown.out == ""
    return message


@pytest.mark.parametrize("rho", ["0", "1.5", "-0.1", "nan", "much"])
def test_rho_outside_its_range(rho, capsys, tmp_path):
    check_refused(capsys, ["distill", "--rho", rho, "--workspace", tmp_path / "w"], "--rho")
    assert not (tmp_path / "w").exists()


def test_all_mistakes_are_told_at_once(capsys, tmp_path):
    words = ["distill", "--rho", "2", "--steps", "many", "--workspace", tmp_path / "w", "--seed", "-1"]
    message = check_refused(capsys, words, "--rho", "--steps", "--seed")
    assert "error" in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("distill --method none --beside blkd", "the method none is a whole loss; leave --beside out"),
        ("distill --method blkd --beside.label-smoothing 0.1", "the method blkd is a whole loss"),
        ("distill --method feature-l2 --beside kernel-alignment", "--beside kernel_alignment leaves out the labels"),
        ("train-student --white-box-losses feature_l2=1", "--white-box-losses acts with --white-box only"),
        ("train-student --no-kernel-centred", "--kernel-centred acts with --white-box only"),
    ],
)
def test_no_flag_is_taken_and_ignored(workspace, capsys, tmp_path, words: str, told: str) -> None:
    check_refused(capsys, [*words.split(), "--workspace", workspace.folder, "--out", tmp_path / "o"], told)
    assert not (tmp_path / "o").exists()


def test_unknown_keys_and_broken_yaml(capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("nfake_per_clas: 3\n")
    check_refused(capsys, ["sample", "--config", config, "--workspace", tmp_path / "w"], "c.yaml", "nfake_per_clas")
    config.write_text("a: [1\n")
    check_refused(capsys, ["sample", "--config", config, "--workspace", tmp_path / "w"], "c.yaml")
    check_refused(capsys, ["sample", "--config", tmp_path / "no.yaml"], "no.yaml", "does not exist")
    assert not (tmp_path / "w").exists()


def test_a_yaml_cannot_run_code(capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path / 'pwned'}']\n")
    check_refused(capsys, ["sample", "--config", config, "--workspace", tmp_path / "w"], "c.yaml")
    assert not (tmp_path / "pwned").exists()


def test_flags_stand_above_the_config(workspace, capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("nfake_per_class: 7\nrho: 0.5\n")
    words = f"--config {config} --rho 1.0 --dry-run"
    shown = workspace.json(capsys, "sample", words, tiny=False)
    assert shown["options"]["nfake_per_class"] == 7
    assert shown["options"]["rho"] == 1.0


def test_missing_inputs_are_named_before_any_work(workspace, capsys, tmp_path):
    where = ["--workspace", tmp_path / "w", "--data", tmp_path]
    check_refused(capsys, ["train-teacher", *where], tmp_path)
    check_refused(
        capsys, ["sample", "--teacher", tmp_path / "none", "--workspace", tmp_path / "w"], "none", "--teacher"
    )
    check_refused(capsys, ["verify", tmp_path / "none"], "none")
    (tmp_path / "half").mkdir()
    check_refused(
        capsys, ["sample", "--teacher", tmp_path / "half", "--workspace", tmp_path / "w"], "half", "card.json"
    )
    check_refused(
        capsys, ["train-teacher", "--data", "no-such-dataset", "--workspace", tmp_path / "w"], "no-such-dataset"
    )
    check_refused(capsys, ["train-teacher", "--device", "abacus", "--workspace", tmp_path / "w"], "abacus")


def test_a_truncated_hdf5_is_refused(workspace, capsys, tmp_path):
    target = tmp_path / "fakes.h5"
    assert workspace.type("export-h5", f"--out {target}", tiny=False) == 0
    data = target.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    check_refused(capsys, ["train-classifier", "--data", target, "--workspace", tmp_path / "w"], "fakes.h5")


def test_a_foreign_folder_is_not_overwritten(workspace, capsys, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    folder = workspace.folder
    check_refused(
        capsys, ["sample", "--nfake-per-class", "5", "--workspace", folder, "--out", mine], "mine", "not empty"
    )
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


def test_a_flipped_byte_in_the_fakes_stops_training(workspace, capsys, tmp_path):
    import shutil

    copy = tmp_path / "fakes"
    shutil.copytree((workspace.folder / "fakes" / "latest").resolve(), copy)
    from image_data.fake.sealed import SHARD_LAYOUT, locate

    for shard in (copy / "shards").glob("*.h5"):
        place = locate(shard, SHARD_LAYOUT)["fake_images"]
        data = bytearray(shard.read_bytes())
        data[place.offset + 100] ^= 4
        shard.write_bytes(bytes(data))
    words = ["distill", "--fakes", copy, "--workspace", workspace.folder, "--rho", "1", "--steps", "30"]
    check_refused(capsys, words, "unit-")


def test_the_filter_of_another_dataset_is_refused(workspace, capsys, tmp_path):
    out = tmp_path / "rotated"
    words = ["distill", "--data", "rotated-digits", "--workspace", workspace.folder, "--rho", "1", "--out", out]
    check_refused(capsys, [*words, "--fakes", workspace.folder / "fakes" / "latest"], "--fakes", "labels")
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: yes", "--steps True: it must be a value, not true or false"),
        ("steps: 1:30", "1:30 is read in sixties"),
        ("steps: 0100", "0100 is read in sixties or eighths"),
        ("out: ''", "--out '': it is empty; give a path"),
    ],
)
def test_what_yaml_takes_for_something_else_is_refused(text, said, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["train-classifier", "--config", str(tmp_path / "c.yaml")]) == 2
    assert said in capsys.readouterr().err
