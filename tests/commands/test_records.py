"""What an earlier version has begun or finished is found again: its record spells the options in its own way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cli
from commands.support.record import read_record, write_record

OLD = {  # a record of train-teacher before entries had settings of their own
    "architecture": "biggan", "width": 4, "discriminator_width": 4, "latent_dim": 64, "label_dim": 32,
    "attention_px": 0, "spectral_generator": True, "lr_g": 0.0005, "lr_d": 0.001, "stats_every_steps": 50,
}  # fmt: skip
NEW = ("generator", "discriminator", "lr", "lr_discriminator", "log_every_steps")


def test_a_finished_teacher_of_an_earlier_version_is_finished(tmp_path: Path, capsys: Any) -> None:
    sizes = "--steps 1 --batch-size 4 --width 4 --discriminator-width 4 --standing-batches 1 --real-per-class 2"
    words = ["train-teacher", *sizes.split(), "--workspace", str(tmp_path), "--json"]
    assert cli.main(words) == 0
    made = Path(json.loads(capsys.readouterr().out)["teacher"])
    content = read_record(made)["content"]
    content["options"] = {name: value for name, value in content["options"].items() if name not in NEW} | OLD
    old = shutil.move(made, made.with_name("0ld0ld00"))
    write_record(Path(old), content, {})
    before = (Path(old) / "card.json").stat().st_mtime_ns
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["teacher"] == str(old)
    assert (Path(old) / "card.json").stat().st_mtime_ns == before
    assert cli.main([*words, "--out", str(old)]) == 0
    assert cli.main([*words, "--out", str(old), "--lr-g", "0.1"]) == 2
    assert "lr: 0.0005 then, 0.1 now" in capsys.readouterr().err
