"""A command module as a click command: its flags, its help under headings, and how it is run.  No torch here.

A command module offers `Options` (a subclass of SharedOptions), `run(options) -> dict`, and where it wants them
`show(result) -> str` (text for people), `needs(options) -> dict` (disk and memory for --dry-run, and "refused" where it
is not there), `check(options)` (what can be refused before any file is looked at) and `POSITIONAL` (the option that
may be given without its flag).  `run` checks everything first, then calls `work_begins` (`artefact` does), where a dry
run ends.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from commands.support.flags import FlagsCommand
from commands.support.options import SharedOptions, plain
from commands.support.resolving import resolve
from runtime.errors import UserError
from runtime.os_errors import named
from runtime.ranks import is_main_process, launched_ranks
from runtime.safe_files import terminal_text

ENGINE_USERS = ("sample", "score", "repair", "search-rho", "evaluate")
RANK_USERS = ("train-teacher", "train-classifier", "train-student", "distill")  # share a training through torchrun


def build_command(name: str, line: str, module: types.ModuleType) -> click.Command:
    """The click command of a command module."""
    model: type[SharedOptions] = module.Options
    positional: str | None = getattr(module, "POSITIONAL", None)

    def callback(config: str | None, place: str | None = None, **given: Any) -> int:
        if positional and place is not None:
            given[positional] = place
        typed = {key.replace("__", "."): value for key, value in given.items() if value is not None}
        return execute(name, module, resolve(model, config, typed))

    return FlagsCommand(name, model, positional, callback=callback, help=module.__doc__, short_help=line)


def execute(name: str, module: types.ModuleType, options: SharedOptions) -> int:
    """Run (or dry-run) a command and print its result on stdout; under torchrun, once."""
    from commands.support.artefact_kinds import check_kinds

    if launched_ranks() > 1 and name not in RANK_USERS:
        raise UserError(f"torchrun is for {', '.join(RANK_USERS)}; run {name} without it.")
    _check_shared(name, options)
    if check := getattr(module, "check", None):
        check(options)
    check_kinds(options)
    if options.dry_run:
        plan = _dry_run(name, module, options)
        if is_main_process():
            _print(plan, options.json_, None)
        if refused := plan["needs"].get("refused"):
            raise UserError(str(refused))
        return 0
    result = module.run(options)
    if is_main_process():
        _print(result, options.json_, getattr(module, "show", None))
    return int(result.get("exit_code", 0))


def _check_shared(name: str, options: SharedOptions) -> None:
    """UserError where the options that all commands have cannot be met."""
    if options.ray_address is not None and options.engine != "ray":
        raise UserError(f"--ray-address {options.ray_address} is for --engine ray; give both or neither.")
    if options.engine != "local" and name not in ENGINE_USERS:
        raise UserError(f"--engine {options.engine} is for {', '.join(ENGINE_USERS)}; {name} runs here, leave it out.")
    if options.engine == "ray":
        from runtime.ray_engine import check_installed

        check_installed()
    if options.device != "auto":
        from runtime.devices import pick_device

        pick_device(options.device)


def _dry_run(name: str, module: types.ModuleType, options: SharedOptions) -> dict[str, Any]:
    """The run up to where its work would begin, then what it would work on and what that needs."""
    from commands.support.dry_run import WorkBegins
    from commands.support.workspace import check_inputs, describe_inputs

    end = WorkBegins("all")
    try:
        module.run(options)
    except WorkBegins as stop:
        end = stop
        check_inputs(options)
    plan: dict[str, Any] = {"command": name, "options": plain(options), "inputs": describe_inputs(options)}
    plan["checked"] = end.checked
    if end.folder is not None:
        plan |= {"folder": str(end.folder), "finished": end.finished}
    needs: Callable[[Any], dict[str, Any]] | None = getattr(module, "needs", None)
    resolved = options if end.folder is None else options.model_copy(update={"out": end.folder})
    plan["needs"] = end.needs or (needs(resolved) if needs and not end.finished else {})
    return plan


def _print(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], str] | None) -> None:
    if as_json:
        text = json.dumps(result, default=str)  # ASCII: escapes for all that is not
    else:
        text = terminal_text(_lines(result) if show is None else show(result), sys.stdout.encoding)
    with named(Path("standard output")):
        click.echo(text)


def _lines(result: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", _lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)
