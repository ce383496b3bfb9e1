"""Registries and settings: an entry has its own, and refuses what it does not have or cannot use, by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from runtime.bounds import Channels, ShareBelowOne
from runtime.errors import UserError
from runtime.registry import Choice, Registry
from runtime.settings import UnfitSettings, setting, settings_of


@dataclass(frozen=True)
class ToySettings:
    width: Channels = setting(8, "Channels of the last block.", "channels")
    mode: Literal["soft", "hard"] = setting("soft", "How it acts.")
    shares: tuple[ShareBelowOne, ...] = setting((), "Shares of the steps.", "of the steps")


def toys() -> Registry[Any]:
    registry: Registry[Any] = Registry("toy network")

    @registry.register("toy", settings=ToySettings)
    def toy(channels: int, width: int, mode: str, shares: tuple[float, ...]) -> Any:
        return channels, width, mode, shares

    @registry.register("plain")
    def plain(channels: int) -> int:
        return channels

    registry.register("old", only="loaded, not trained here")(lambda: None)
    return registry


def test_a_choice_builds_its_entry_with_its_settings() -> None:
    registry = toys()
    choice = registry.choose("toy", {"width": "4", "shares": "0.5, 0.25"})
    assert choice.to_json() == {"name": "toy", "width": 4, "mode": "soft", "shares": (0.5, 0.25)}
    assert registry.build(choice, channels=3) == (3, 4, "soft", (0.5, 0.25))
    assert registry.build(registry.choose("plain"), 3) == 3
    later = registry.choose("toy", {"mode": "hard"}, base=choice)
    assert (later.settings.width, later.settings.mode) == (4, "hard")
    assert registry.choose("plain", base=choice) == Choice("plain", registry.settings("plain")())


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("toy", {"width": 0}, "toy network toy: width is 0; it must be 1 or more."),
        ("toy", {"width": "x"}, "toy network toy: width is 'x'; input should be a valid integer"),
        ("toy", {"shares": "1"}, "toy network toy: shares is '1'; it must be below 1."),
        ("toy", {"mode": "loud"}, "input should be 'soft' or 'hard'."),
        ("toy", {"depth": 2}, "toy network toy has no setting depth; it has width, mode, shares."),
        ("plain", {"width": 2}, "toy network plain has no setting width; it has none."),
        ("old", {}, "toy network old is only loaded, not trained here; give plain or toy."),
        ("new", {}, "toy network 'new' is unknown; known are old, plain, toy."),
    ],
)
def test_what_does_not_fit_is_refused_by_the_entry(name: str, given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        toys().choose(name, given)
    assert told in str(refused.value)


def test_all_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(UnfitSettings) as refused:
        toys().choose("toy", {"width": 0, "depth": 1, "mode": "loud"})
    assert [problem.name for problem in refused.value.problems] == ["width", "depth", "mode"]


def test_fields_say_their_help_and_unit() -> None:
    width = settings_of(ToySettings)[0]
    assert (width.name, width.default) == ("width", 8)
    assert (width.help, width.unit) == ("Channels of the last block.", "channels")


def test_a_declared_entry_is_imported_when_it_is_used(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "toy_declared.py").write_text(
        "from tests.runtime.test_registry import DECLARED, ToySettings\n"
        "DECLARED.register('late', settings=ToySettings)(lambda **settings: settings)\n"
    )
    assert list(DECLARED) == ["early", "late"]
    assert DECLARED.settings("early") is ToySettings
    assert "toy_declared" not in sys.modules
    assert DECLARED.settings("late") is ToySettings
    assert DECLARED.build(DECLARED.choose("late", {"width": 3}))["width"] == 3
    with pytest.raises(ValueError, match="does not register"):
        DECLARED.get("early")


DECLARED: Registry[Any] = Registry("declared toy")
DECLARED.declare("late", "toy_declared")
DECLARED.declare("early", "toy_declared", ToySettings)


def test_a_family_stands_for_many_names() -> None:
    registry = toys()
    registry.register("timm:NAME", settings=ToySettings)(lambda name, **given: (name, given["width"]))
    assert "timm:NAME" not in list(registry)
    assert "timm:some_net" in registry
    assert registry.build(registry.choose("timm:some_net", {"width": 2})) == ("some_net", 2)


def test_a_name_is_registered_once() -> None:
    registry = toys()
    with pytest.raises(ValueError, match="twice"):
        registry.register("toy", settings=ToySettings)(print)
