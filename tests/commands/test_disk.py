"""Full disks, missing rights, folders in the way and gone: one sentence each, and nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import cli
from exporters.torch_export import export_student
from runtime.atomic import commit_folder, guarded, write_bytes
from runtime.digests import file_sha256
from runtime.engines import LocalEngine
from runtime.errors import UserError
from runtime.os_errors import named, sentence_of
from student_trainer import load_student
from tests.conftest import Workspace
from tests.student_trainer.test_training import SMALL, train
from training.checkpoints import CheckpointFolder

ROOT = Path(__file__).resolve().parents[2]
SMALL_BYTES = 12_000  # less than the largest file of each command below
MADE_BY = {  # command: options, and the file by which it is known to be done
    "train-classifier": ("", "card.json"),
    "distill": ("", "result.json"),
    "export-h5": ("", ""),
    "export-fakes": ("", "README.md"),
    "report": ("", ""),
    "inspect": ("--plots", ""),
}
SLOW = {"train-teacher": ("", "card.json"), "fit-filter": ("", "card.json"), "sample": ("", "manifest.json"),
        "evaluate": ("--judge-steps 5", "result.json")}  # fmt: skip
pytestmark = pytest.mark.xdist_group("workspace")


@contextmanager
def small_files_only() -> Iterator[None]:
    """No file of this process may grow beyond SMALL_BYTES: what a full disk is to a program, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(workspace: Workspace, capsys: pytest.CaptureFixture, command: str, text: str) -> str:
    capsys.readouterr()
    assert workspace.type(command, text) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    return said[said.index("error: ") :]


def _full_disk(workspace: Workspace, capsys: pytest.CaptureFixture, command: str, place: Path) -> None:
    text, seal = {**MADE_BY, **SLOW}[command]
    suffix = {"export-h5": ".h5", "report": ".html"}.get(command, "")
    out = place / f"out{suffix}"
    text = f"{text} {out}" if command == "inspect" else f"--out {out} {text}"
    with small_files_only():
        said = refused(workspace, capsys, command, text)
    assert str(place) in said
    assert "ulimit -f" in said or "make room" in said
    assert not seal or not (out / seal).exists()
    assert not list(place.rglob(".*.tmp"))
    assert workspace.type(command, text) == 0


@pytest.mark.parametrize("command", sorted(MADE_BY))
def test_a_full_disk_is_a_sentence(
    workspace: Workspace, capsys: pytest.CaptureFixture, tmp_path: Path, command: str
) -> None:
    _full_disk(workspace, capsys, command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(SLOW))
def test_a_full_disk_is_a_sentence_in_longer_commands(
    workspace: Workspace, capsys: pytest.CaptureFixture, tmp_path: Path, command: str
) -> None:
    _full_disk(workspace, capsys, command, tmp_path)


def test_an_export_on_a_full_disk_ends_in_peace(tmp_path: Path) -> None:
    """torch's archive writer would end the process."""
    student = load_student(train(tmp_path / "student", replace(SMALL, steps=1)), torch.device("cpu"))
    with small_files_only(), pytest.raises(OSError, match=r"student\.pt2") as caught:
        export_student(student, tmp_path / "student.pt2")
    assert caught.value.errno == errno.EFBIG
    assert not (tmp_path / "student.pt2").exists()
    assert export_student(student, tmp_path / "student.pt2").path.is_file()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EMFILE])
def test_what_the_system_refuses_is_one_sentence(number: int) -> None:
    said = sentence_of(OSError(number, os.strerror(number), "some/where"))
    assert said is not None
    assert said.startswith(f"some/where: {os.strerror(number)}; ")
    assert said.count(".") <= 2


def test_errors_of_libraries_bear_the_systems_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="weights") as caught, named(tmp_path / "weights"):
        raise SafetensorError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }')
    assert caught.value.errno == errno.ENOSPC
    assert sentence_of(OSError("Unable to flush (errno = 28, error message = '...')")) is not None
    for defect in (ValueError("28"), KeyError("x"), OSError("no number"), RuntimeError("os error 28")):
        assert sentence_of(defect) is None


def test_a_workspace_or_out_that_is_a_file(workspace: Workspace, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for command in ("distill", "report", "status"):
        assert cli.main([command, "--workspace", f"{tmp_path}/file"]) == 2
        assert "it is a file; give a folder" in capsys.readouterr().err
    assert cli.main(["status", "--workspace", f"{tmp_path}/file/below"]) == 2
    assert f"leads through {tmp_path}/file, which is a file" in capsys.readouterr().err
    said = refused(workspace, capsys, "train-classifier", f"--out {tmp_path}/file/below")
    assert "a file stands where a folder is needed" in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("shell", "code"), [("list > /dev/full", 2), pytest.param("list | head -c 1", 141, marks=pytest.mark.slow)]
)
def test_standard_output_that_takes_nothing(shell: str, code: int) -> None:
    command, pipe, rest = shell.partition(" ")
    script = f'"{sys.executable}" cli.py {command} {pipe}{rest}; echo "${{PIPESTATUS[0]}}" >&2'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    assert int(said[-1]) in (code, 0 if code == 141 else code)  # a short list may be in the pipe before head has gone
    assert "Traceback" not in done.stderr
    assert len(said) == (2 if code == 2 else 1)
    assert code != 2 or said[0].startswith("error: standard output: No space left on device; ")


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [folder, *folder.rglob("*")]}


def test_a_finished_folder_needs_no_write(workspace: Workspace, tmp_path: Path) -> None:
    """So that it may lie on a read-only mount."""
    before = _state(workspace.folder)
    for command in ("train-teacher", "train-classifier", "fit-filter", "sample"):
        assert workspace.type(command) == 0
    for command in ("inspect", "verify", "status", "score"):  # the sampler's own scores are those of this predictor
        assert workspace.type(command) == 0
    assert workspace.type("report", f"--out {tmp_path}/page.html") == 0
    assert _state(workspace.folder) == before


def test_a_report_replaces_reports_only(workspace: Workspace, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    card = (workspace.folder / "teacher" / "latest" / "card.json").resolve()
    digest = file_sha256(card)
    assert "is no report" in refused(workspace, capsys, "report", f"--out {card}")
    assert file_sha256(card) == digest
    assert "is a folder" in refused(workspace, capsys, "report", f"--out {tmp_path}")
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere")
    assert "no regular file" in refused(workspace, capsys, "report", f"--out {tmp_path}/dangling.html")
    page = tmp_path / "page.html"
    assert workspace.type("report", f"--out {page}") == 0
    assert workspace.type("report", f"--out {page}") == 0  # its own page
    page.write_text(page.read_text().replace("Retort report", "My report", 1))
    assert "was changed since it was written" in refused(workspace, capsys, "report", f"--out {page}")


def test_plots_replace_plots_only(workspace: Workspace, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert workspace.type("inspect", f"--plots {tmp_path}") == 0
    assert workspace.type("inspect", f"--plots {tmp_path}") == 0
    drawn = sorted(tmp_path.glob("*.png"))
    drawn[0].write_bytes(b"\x89PNG of another program")
    assert "was not drawn by this program" in refused(workspace, capsys, "inspect", f"--plots {tmp_path}")
    assert drawn[0].read_bytes() == b"\x89PNG of another program"


def test_a_folder_that_goes_under_a_run_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with guarded(out):
        write_bytes(out / "deep" / "file", b"1")
        out.rename(tmp_path / "moved")
        for write in (
            lambda: write_bytes(out / "deep" / "file", b"2"),
            lambda: commit_folder(out / "checkpoints" / "step", lambda folder: None),
        ):
            with pytest.raises(UserError, match="was removed or replaced while this command worked in it"):
                write()
        assert not out.exists()
        out.mkdir()  # another folder of this name is not the one
        with pytest.raises(UserError, match="was removed or replaced"):
            write_bytes(out / "file", b"2")
    write_bytes(out / "file", b"3")


def test_checkpoints_that_go_under_a_run_are_an_error(tmp_path: Path) -> None:
    """A folder with the newest checkpoint alone would hide that older ones are gone."""
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    assert checkpoints.load_latest() is None
    checkpoints.save(1, {"x": torch.zeros(2)}, {})
    shutil.rmtree(checkpoints.folder)
    with pytest.raises(UserError, match="checkpoints was removed while this command worked in it"):
        checkpoints.save(2, {"x": torch.zeros(2)}, {})
    assert not checkpoints.folder.exists()


def _write_below(out: Path) -> str:
    try:
        write_bytes(out / "shards" / "file", b"1")
    except UserError as error:
        return str(error)
    return ""


def test_workers_guard_what_their_parent_guards(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with guarded(out):
        engine = LocalEngine(2)
        try:
            assert list(engine.map(_write_below, [out])) == [""]
            shutil.rmtree(out)
            assert "was removed or replaced" in next(iter(engine.map(_write_below, [out])))
        finally:
            engine.close()
    assert not out.exists()


def test_what_killed_commands_left_beside_a_file_goes_with_the_next(workspace: Workspace, tmp_path: Path) -> None:
    left = [tmp_path / f".page.html.{number}.tmp" for number in range(2)]
    other = tmp_path / ".page.html2.1.tmp"
    for path in (*left, other):
        path.write_text("half")
    assert workspace.type("report", f"--out {tmp_path}/page.html") == 0
    assert not any(path.exists() for path in left)
    assert other.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_signals_end_all_processes_quietly(workspace: Workspace, tmp_path: Path, number: int, code: int) -> None:
    """To the whole process group, as a terminal sends Ctrl-C; workers say nothing, and none is left."""
    out, said = tmp_path / "out", tmp_path / "stderr"
    words = f"sample --filter none --predictor none --nfake-per-class 4000 --block-size 16 --workers 2 --out {out}"
    command = [sys.executable, "cli.py", *words.split(), "--workspace", str(workspace.folder)]
    with open(said, "w") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stream, stdout=stream, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("shards/*.h5")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, said.read_text()
    os.killpg(process.pid, number)
    assert process.wait(100) == code
    assert said.read_text().strip() == "interrupted; the same command continues where this one stopped"
    while time.monotonic() < deadline and _group_is_alive(process.pid):
        time.sleep(0.05)
    assert not _group_is_alive(process.pid)


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


DROPPED = """
import os, signal, sys, time, weakref
sys.path.insert(0, {root!r})
from runtime import signals

class Cleared:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0)

signals.end_in_order()
try:
    Cleared()
    time.sleep(60)
except signals.Terminated:
    sys.exit(143)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_objects_are_cleared_away_is_not_lost(number: int, code: int) -> None:
    words = [sys.executable, "-c", DROPPED.format(root=str(ROOT), number=int(number))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Although the first is still putting things in order."""
    script = tmp_path / "script.py"
    lines = (
        "import sys, time",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from runtime import signals",
        "signals.end_in_order()",
        "try:",
        "    print('begun', flush=True)",
        "    time.sleep(60)",
        "finally:",
        "    print('in order', flush=True)",
        "    time.sleep(60)",
    )
    script.write_text("\n".join(lines))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in (b"begun\n", b"in order\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        assert process.wait(50) == 130
        assert process.stderr.read() == b""


def test_a_link_that_a_killed_command_left_is_cleared_away(tmp_path: Path) -> None:
    from commands.support.workspace import _point_latest

    (tmp_path / "teacher" / "abcd").mkdir(parents=True)
    (tmp_path / "teacher" / ".latest.1.tmp").symlink_to("gone")
    _point_latest(tmp_path / "teacher" / "abcd")
    assert sorted(path.name for path in (tmp_path / "teacher").iterdir()) == ["abcd", "latest"]
    assert os.readlink(tmp_path / "teacher" / "latest") == "abcd"
