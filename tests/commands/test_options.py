"""Every flag of every command: help, lists split at commas, numbers held to bounds, devices named."""

from __future__ import annotations

import importlib
from typing import Any, get_args, get_origin

import pytest

import cli
from commands.support.headings import OTHER, arranged
from commands.support.options import plain
from commands.support.resolving import aliases_of, registries_of, resolve
from commands.support.table import COMMANDS
from runtime.errors import UserError
from runtime.registry import Choice
from runtime.settings import settings_of, without_none


def options_of(command: str) -> Any:
    return importlib.import_module(f"commands.{COMMANDS[command][0]}").Options


def flags(wanted: Any) -> list[Any]:
    """(command, field, type) of every option whose type, or the type of whose parts, is wanted."""
    found = []
    for command in COMMANDS:
        for name, info in options_of(command).model_fields.items():
            kind = without_none(info.annotation)
            if wanted(kind):
                found.append(pytest.param(command, info.alias or name, kind, id=f"{command} {name}"))
    return found


def is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[0] is not Choice


def is_number(kind: Any) -> bool:
    part = without_none(get_args(kind)[0]) if is_list(kind) else kind
    return part in (int, float)


def numbers_of(command: str) -> list[tuple[str, Any]]:
    """Those of chosen entries, too, as `generator.width`."""
    model = options_of(command)
    found = [(info.alias or name, without_none(info.annotation)) for name, info in model.model_fields.items()]
    for option in registries_of(model):
        default = model.model_fields[option].default
        chosen = default[0] if isinstance(default, tuple) else default
        found += [(f"{option}.{one.name}", without_none(one.kind)) for one in settings_of(type(chosen.settings))]
    return [(name, kind) for name, kind in found if is_number(kind)]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_flag_has_help_and_a_heading(command: str) -> None:
    """Those of every entry, too.  A new flag is named in commands/support/headings.py."""
    model = options_of(command)
    assert [name for name, info in model.model_fields.items() if not info.description] == []
    assert arranged([info.alias or name for name, info in model.model_fields.items()]).get(OTHER) is None
    for option, registry in registries_of(model).items():
        for name in registry:
            assert [f"{option} {name} {one.name}" for one in settings_of(registry.settings(name)) if not one.help] == []


@pytest.mark.parametrize("command", list(COMMANDS))
def test_an_alias_stands_for_something(command: str) -> None:
    model = options_of(command)
    for alias, targets in aliases_of(model).items():
        assert alias not in model.model_fields
        for target in targets:
            option, _, setting = target.partition(".")
            assert option in model.model_fields
            if setting:
                registry = registries_of(model)[option]
                assert any(setting in [one.name for one in settings_of(registry.settings(name))] for name in registry)


LISTS = flags(is_list)
VALUES = {"milestones": "0.2,0.5", "betas": "0.5,0.9", "rhos": "0.5,1", "seeds": "0,7", "learning_rates": "0.01,0.1"}


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
        whole = kind is int or (is_list(kind) and without_none(get_args(kind)[0]) is int)
        for value in [*BAD, *(HUGE if whole else []), *([] if is_list(kind) else [" ", ""])]:
            with pytest.raises(UserError) as refused:
                resolve(options_of(command), None, {name: f"{value},{value}" if pair else value})
            told = str(refused.value)
            assert told.startswith("--" + name.replace("_", "-") + " "), told
            assert told.count("--") == 1, told
            assert "\n" not in told


MAY_BE_ZERO = {
    "adversarial_from",
    "adversarial_unpaired_weight",
    "adversarial_weight",
    "attention_px",
    "beta1",
    "beta1_discriminator",
    "beta2",
    "betas",
    "data_seed",
    "discriminator_pair_weight",
    "discriminator_unpaired_weight",
    "dropout",
    "extractor_steps",
    "extractor_weight_decay",
    "fakes_at_least",
    "feature_weight",
    "fold",
    "hard_weight",
    "holdout_fraction",
    "holdout_max",
    "judge_seed",
    "label_smoothing",
    "lr_decay_from",
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
    "slope",
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
            "checkpoint_every_seconds": command == "train-student",
        }
        if own.get(name, name.rpartition(".")[2] in MAY_BE_ZERO):
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


@pytest.mark.parametrize(
    ("command", "ways"),
    [
        ("train-student", [
            {"base_width": "4", "discriminator_width": "4", "log_every": "7"},
            {"generator.base_width": 4, "discriminator.width": "4", "log_every_steps": 7},
            {"generator": {"name": "tinygan", "base-width": 4}, "discriminator": {"width": 4}, "log_every": 7},
            {"network": "tinygan", "generator.base_width": "4", "discriminator.width": 4, "log_every_steps": "7"},
        ]),
        ("train-teacher", [
            {"architecture": "biggan-deep", "width": "4", "attention_px": 8, "lr_d": 1, "spectral_generator": "off"},
            {"generator": {"name": "biggan-deep", "width": 4, "attention_px": 8, "spectral_normed": False},
             "discriminator.attention_px": 8, "lr_discriminator": "1"},
        ]),
        ("train-classifier", [
            {"network": "vgg8", "width": 0.5},
            {"network": "vgg8", "network.width": "0.5"},
            {"network": {"name": "vgg8", "width": 0.5}},
        ]),
        ("distill", [
            {"temperature": "2", "soft_weight": 1},
            {"method": "blkd", "method.temperature": 2, "method.soft_weight": "1"},
            {"method": {"temperature": 2, "soft_weight": 1}},
        ]),
        ("search-rho", [
            {"networks": "vgg8,resnet8", "width": 0.5},
            {"networks": ["vgg8", "resnet8"], "networks.width": 0.5},
            {"networks": {"name": "vgg8, resnet8", "width": 0.5}},
        ]),
    ],
)  # fmt: skip
def test_an_alias_and_the_nested_form_are_the_same(command: str, ways: list[dict[str, Any]]) -> None:
    found = [plain(resolve(options_of(command), None, way)) for way in ways]
    assert all(one == found[0] for one in found)
    assert found[0] != plain(options_of(command)())


@pytest.mark.parametrize(
    ("command", "given", "told"),
    [
        ("train-student", {"base_width": "0"}, "--base-width '0': it must be 1 or more."),
        ("train-student", {"generator.base_width": "x"}, "--generator.base-width 'x': input should be a valid integer"),
        ("train-student", {"generator.depth": "1"},
         "--generator.depth: student generator tinygan has no setting depth; it has base_width, max_width,"),
        ("train-student", {"generator": "best"}, "--generator: student generator 'best' is unknown; known are tiny"),
        ("search-rho", {"networks": ""}, "--networks: it must hold one name or more"),
        ("train-student", {"generator": 5}, "--generator: 5 is no name of an entry."),
        ("train-student", {"generator.width.x": 5}, "--generator.width.x: student generator tinygan has no setting"),
        ("train-teacher", {"architecture": "ccgan"}, "--architecture: teacher architecture ccgan is only loaded"),
        ("train-teacher", {"generator.depth": 3}, "teacher architecture biggan has no setting depth; it has width,"),
        ("train-classifier", {"network": "timm:x", "width": 2}, "--width 2: it must be 1 (a timm network has its"),
        ("train-classifier", {"network.depth": 2}, "student network vgg8_quarter has no setting depth; it has width."),
        ("distill", {"method": "none", "temperature": 2}, "--temperature: method none has no setting temperature;"),
        ("distill", {"label_smoothing": "0.1"}, "--label-smoothing: method blkd has no setting label_smoothing;"),
        ("distill", {"method.temperature": "0"}, "--method.temperature '0': it must be 0.01 or more."),
        ("train-student", {"base_width": 4, "generator.base_width": 5},
         "--base-width and --generator.base-width are the same option; give one of them."),
        ("train-teacher", {"lr_g": "0"}, "--lr-g '0': it must be above 0."),
    ],
)  # fmt: skip
def test_what_an_entry_does_not_have_is_refused_by_it(command: str, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(options_of(command), None, given)
    assert told in str(refused.value)


def test_flags_stand_over_yaml_setting_by_setting(tmp_path: Any) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("generator: {name: biggan-deep, width: 4, depth: 3}\nlr_g: 0.1\nattention_px: 8\n")
    options = resolve(options_of("train-teacher"), str(recipe), {"generator.depth": "1", "lr": "0.2"})
    chosen = options.generator
    assert (chosen.name, chosen.settings.width, chosen.settings.depth, chosen.settings.attention_px) == (
        "biggan-deep", 4, 1, 8
    )  # fmt: skip
    assert options.lr == 0.2
    recipe.write_text("generator: {name: biggan, depth: 3}\n")
    with pytest.raises(UserError, match=r"--generator\.depth: teacher architecture biggan has no setting depth.*reci"):
        resolve(options_of("train-teacher"), str(recipe), {})


def test_distill_trains_the_network_that_a_search_chose(tmp_path: Any) -> None:
    from classifiers.rho_choice import choose, write_choice
    from classifiers.rho_search import Cell, CellResult

    choice = choose([CellResult(Cell(1.0, "vgg8", 0), (0.1,), (), {})])
    write_choice(choice, tmp_path / "choice.yaml", {"name": "vgg8", "width": 0.5})
    options = resolve(options_of("distill"), str(tmp_path / "choice.yaml"), {})
    assert (options.rho, options.network.to_json()) == (1.0, {"name": "vgg8", "width": 0.5})


def test_a_discriminator_keeps_the_default_of_its_command() -> None:
    """D of a student leaks below 0; another width leaves that as it is."""
    student = resolve(options_of("train-student"), None, {"discriminator.width": 4})
    teacher = resolve(options_of("train-teacher"), None, {"discriminator.width": 4})
    assert (student.discriminator.settings.slope, teacher.discriminator.settings.slope) == (0.2, 0.0)


def shown(capsys: Any, *words: str) -> str:
    assert cli.main(list(words)) == 0
    return str(capsys.readouterr().out)


def test_help_shows_the_settings_of_the_entry_that_is_named(capsys: Any) -> None:
    assert "--generator.depth" not in shown(capsys, "train-teacher", "--help")
    deep = shown(capsys, "train-teacher", "--generator", "biggan-deep", "--help")
    assert "Generator (biggan-deep):" in deep
    assert "--generator.depth N" in deep
    assert deep == shown(capsys, "train-teacher", "--architecture=biggan-deep", "--help")
    assert "--stats-every-steps" not in deep


def test_settings_and_aliases_are_typed_as_flags(capsys: Any, tmp_path: Any) -> None:
    import json

    plans = [
        json.loads(shown(capsys, "train-teacher", *words.split(), "--workspace", str(tmp_path), "--dry-run", "--json"))
        for words in (
            "--generator biggan --generator.width 4 --generator.spectral-normed off --log-every-steps 3",
            "--architecture=biggan --width=4 --no-spectral-generator --stats-every-steps=3",
        )
    ]
    assert plans[0]["options"] == plans[1]["options"]
    assert plans[0]["folder"] == plans[1]["folder"]
    assert plans[0]["options"]["generator"]["spectral_normed"] is False
    assert cli.main(["train-teacher", "--generator.depth", "2"]) == 2
    assert "biggan has no setting depth" in capsys.readouterr().err
