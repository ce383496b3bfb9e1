"""Every flag of every command: help, lists split at commas, numbers held to bounds, devices named."""

from __future__ import annotations

import importlib
import typing
from typing import Any, get_args, get_origin

import pytest

import cli
from commands.support.options import _without_none, resolve
from commands.support.table import COMMANDS
from runtime.errors import UserError


def options_of(command: str) -> Any:
    return importlib.import_module(f"commands.{COMMANDS[command][0]}").Options


def flags(wanted: Any) -> list[Any]:
    """(command, field, type) of every option whose type, or the type of whose parts, is wanted."""
    found = []
    for command in COMMANDS:
        for name, info in options_of(command).model_fields.items():
            kind = _without_none(info.annotation)
            if wanted(kind):
                found.append(pytest.param(command, info.alias or name, kind, id=f"{command} {name}"))
    return found


def is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple


def is_number(kind: Any) -> bool:
    part = _without_none(get_args(kind)[0]) if is_list(kind) else kind
    return part in (int, float)


def numbers_of(command: str) -> list[tuple[str, Any]]:
    fields = options_of(command).model_fields
    found = ((info.alias or name, _without_none(info.annotation)) for name, info in fields.items())
    return [(name, kind) for name, kind in found if is_number(kind)]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_flag_has_help(command: str) -> None:
    lacking = [name for name, info in options_of(command).model_fields.items() if not info.description]
    assert not lacking


LISTS = flags(is_list)
VALUES = {"milestones": "0.2,0.5", "betas": "0.5,0.9", "rhos": "0.5,1", "seeds": "0,7"}


def test_lists_and_numbers_were_found() -> None:
    assert {param.values[1] for param in LISTS} >= {"augmentation", "diffaugment", "rhos", "class_names", "milestones"}
    assert sum(len(numbers_of(command)) for command in COMMANDS) > 150


@pytest.mark.parametrize(("command", "name", "kind"), LISTS)
def test_a_list_is_split_at_commas(command: str, name: str, kind: Any) -> None:
    model = options_of(command)
    text = VALUES.get(name, "kernel_alignment=0.1, feature_l2=2" if "losses" in name else "translate, flip")
    found = getattr(resolve(model, None, {name: text}), name)
    assert found == tuple(type(one)(part.strip()) for one, part in zip(found, text.split(","), strict=True))
    if name not in ("betas", "rhos", "seeds", "networks"):
        assert getattr(resolve(model, None, {name: ""}), name) == ()


BAD = ["-1", "nan", "inf", "-inf", "1e400", "ten", "0x10", "1;2"]
HUGE = [str(10**18 * 10), str(10**30), "1e30"]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_numbers_out_of_bounds_are_refused_by_name(command: str) -> None:
    for name, kind in numbers_of(command):
        pair = name == "betas"
        whole = kind is int or (is_list(kind) and _without_none(get_args(kind)[0]) is int)
        for value in [*BAD, *(HUGE if whole else []), *([] if is_list(kind) else [" ", ""])]:
            with pytest.raises(UserError) as refused:
                resolve(options_of(command), None, {name: f"{value},{value}" if pair else value})
            told = str(refused.value)
            assert told.startswith("--" + name.replace("_", "-") + " "), told
            assert told.count("--") == 1, told
            assert "\n" not in told


MAY_BE_ZERO = {
    "adversarial_fresh_weight",
    "adversarial_weight",
    "attention_px",
    "beta1",
    "beta1_discriminator",
    "beta2",
    "betas",
    "checkpoint_seconds",
    "data_seed",
    "discriminator_fresh_weight",
    "discriminator_pair_weight",
    "dropout",
    "extractor_steps",
    "extractor_weight_decay",
    "fakes_at_least",
    "feature_weight",
    "fold",
    "games_from",
    "hard_weight",
    "holdout_fraction",
    "holdout_max",
    "judge_seed",
    "label_smoothing",
    "lr_decay_from",
    "lr_warm_up",
    "momentum",
    "penalty",
    "pixel_decay_until",
    "pixel_floor",
    "pixel_weight",
    "port",
    "r1_weight",
    "ratio_steps",
    "seed",
    "seeds",
    "soft_weight",
    "start_channels",
    "start_hidden",
    "student_steps",
    "teacher_steps",
    "truncation",
    "truncation_cutoff",
    "warmup_fraction",
    "weight_decay",
}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_zero_is_refused_where_it_means_nothing(command: str) -> None:
    model = options_of(command)
    for name, _ in numbers_of(command):
        given = {name: "0,0" if name == "betas" else "0"}
        own = {
            "workers": model.model_fields["workers"].default == 0,
            "ema_half_life_images": "augmentation" in model.model_fields,
        }
        if own.get(name, name in MAY_BE_ZERO):
            resolve(model, None, given)
            continue
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')} "):
            resolve(model, None, given)


@pytest.mark.parametrize("rhos", ["", " ", ",", "0.5,0", "1.1", "0.5;1"])
def test_a_grid_holds_shares(rhos: str) -> None:
    for command in ("search-rho", "demo"):
        with pytest.raises(UserError, match=r"^--rhos "):
            resolve(options_of(command), None, {"rhos": rhos})


def test_one_image_is_no_batch(capsys: Any, tmp_path: Any) -> None:
    told = set()
    for command in COMMANDS:
        for name in {"batch_size", "extractor_batch", "ratio_batch"} & set(options_of(command).model_fields):
            flag = "--" + name.replace("_", "-")
            assert cli.main([command, flag, "1", "--workspace", str(tmp_path / "w")]) == 2
            told.add(capsys.readouterr().err.replace(flag, "FLAG"))
    assert told == {"error: FLAG '1': it must be 2 or more (batch norm needs two images).\n"}
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "name",
    ["", " ", "gpu", "mps", "CUDA", "cpu:0", "cpu:7", "meta", "cuda:99", "cuda:-1", "cuda:x", "xla", "cuda:1e9", "0"],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str, capsys: Any, tmp_path: Any) -> None:
    for command in ("train-teacher", "sample", "status", "list"):
        for more in ([], ["--dry-run"]):
            assert cli.main([command, "--device", name, "--workspace", str(tmp_path / "w"), *more]) == 2
            told = capsys.readouterr().err
            assert told.startswith("error: --device ")
            assert told.count("\n") == 1
            assert "auto, cpu" in told
    assert not (tmp_path / "w").exists()


def test_the_weights_of_a_method_are_flags() -> None:
    from commands.support.classifier_flags import classifier_settings

    model = options_of("distill")
    options = resolve(model, None, {"temperature": "2", "soft_weight": "1", "hard_weight": "0"})
    settings = classifier_settings(options, "resnet8", "blkd")
    assert settings.distiller_weights == {"temperature": 2.0, "soft_weight": 1.0, "hard_weight": 0.0}
    with pytest.raises(UserError, match="--temperature, --hard-weight, --soft-weight: method none"):
        classifier_settings(options, "resnet8", "none")
    options = resolve(model, None, {"label_smoothing": "0.1"})
    assert classifier_settings(options, "resnet8", "none").distiller_weights == {"label_smoothing": 0.1}
    with pytest.raises(UserError, match="--label-smoothing: method blkd"):
        classifier_settings(options, "resnet8", "blkd")


def test_every_weight_of_every_method_is_a_flag() -> None:
    from classifiers.distillation import DISTILLERS, weight_names
    from commands.support.classifier_flags import MethodFlags

    assert {name for method in DISTILLERS for name in weight_names(method)} == set(MethodFlags.model_fields)
    methods = typing.get_args(options_of("distill").model_fields["method"].annotation)
    assert set(methods) == set(DISTILLERS)
