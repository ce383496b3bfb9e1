"""What is written of fakes: an export replaces no file, and folders are on the disk before the manifest lists them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from image_data.fake import FakeDataset, export_h5
from runtime.atomic import commit_new_file
from runtime.errors import UserError
from tests.support.store_runs import run
from tests.support.tiny_sampling import CLASSES, save_tiny_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_teacher(tmp_path_factory.mktemp("teacher"), CLASSES)


@pytest.fixture(scope="module")
def whole(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDataset:
    return run(teacher, tmp_path_factory.mktemp("fakes"), fakes=12)


class Meanwhile(FakeDataset):
    """A dataset whose reading lets something else happen first."""

    happens: Callable[[], None]

    def images(self, rows: np.ndarray) -> np.ndarray:
        self.happens()
        return super().images(rows)


def test_two_exports_to_one_file(whole: FakeDataset, tmp_path: Path) -> None:
    """The second is refused and harms nothing; what a killed one left goes."""
    fakes, out = Meanwhile(whole.path), tmp_path / "e.h5"
    (tmp_path / ".e.h5.killed.tmp").write_bytes(b"half")
    said = []

    def second() -> None:
        with pytest.raises(UserError, match="another process is exporting") as found:
            export_h5(whole.path, out)
        said.append(found)

    fakes.happens = second
    export_h5(fakes, out)  # type: ignore[arg-type]
    assert said
    with h5py.File(out) as file:
        assert np.array_equal(file["fake_images"][()], whole.images(np.arange(36)))
    assert list(tmp_path.iterdir()) == [out]


def test_an_export_replaces_no_file_that_came_meanwhile(whole: FakeDataset, tmp_path: Path) -> None:
    fakes, out = Meanwhile(whole.path), tmp_path / "e.h5"
    fakes.happens = lambda: print(out.write_text("of another program"))
    with pytest.raises(UserError, match=r"e\.h5 exists"):
        export_h5(fakes, out)  # type: ignore[arg-type]
    assert out.read_text() == "of another program"
    assert list(tmp_path.iterdir()) == [out]


def test_a_new_file_is_committed_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*names: Any) -> None:
        raise PermissionError("no links on this file system")

    monkeypatch.setattr(os, "link", refused)
    for name, there in (("a", False), ("b", True)):
        temporary, final = tmp_path / "t", tmp_path / name
        temporary.write_text("new")
        if there:
            final.write_text("old")
            with pytest.raises(FileExistsError):
                commit_new_file(temporary, final)
        else:
            commit_new_file(temporary, final)
        assert final.read_text() == ("old" if there else "new")


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files")
def test_new_folders_reach_the_disk_before_the_manifest(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "fakes"
    done: list[Path] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")))

    def noted_replace(source: Any, target: Any) -> None:
        replace(source, target)
        done.append(Path(target))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    fakes = run(teacher, out, fakes=2)
    first = done.index(out / "shards" / fakes.manifest.shards[0].name)
    assert out in done[:first]  # holds the name `shards`
    last = max(place for place, path in enumerate(done) if path.suffix == ".h5")
    before = done[last : done.index(out / "manifest.json")]
    for folder in (out, out / "shards", out / "scores", out / "scores" / ("p" * 64)):
        assert folder in before
