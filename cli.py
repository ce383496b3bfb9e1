"""The command line: `python cli.py COMMAND --help`.  Sub-commands are imported when they are called."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from contextlib import suppress

from runtime import signals

if __name__ == "__main__":
    signals.end_at_once()  # until `main` begins

import click

from commands.support.table import COMMANDS
from runtime.errors import EXIT_BAD_INPUT, UserError
from runtime.ranks import error_report, is_main_process
from runtime.safe_files import printable

_LONGEST_ERROR = 4000  # characters


class _LazyGroup(click.Group):
    """A group whose sub-commands are known by name and imported on use, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command_line = importlib.import_module("commands.support.command_line")
        module_name, line = COMMANDS[cmd_name]
        return command_line.build_command(cmd_name, line, importlib.import_module(f"commands.{module_name}"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option("0.1.0", prog_name="retort")
def retort() -> None:
    """Retort: sample a teacher GAN, keep the fakes worth keeping, and distil light students from them.

    Every command works without options on embedded real digits.  The same command on an unfinished output
    continues it; on a finished one it says so.  Progress goes to stderr, results to stdout.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done, 2 bad input or a disk that refuses, 130 interrupted, 143 terminated, 141 nobody reads the output.
    With RETORT_TRACEBACK=1 an error of the operating system is raised with its traceback.
    """
    if arguments is None and threading.current_thread() is threading.main_thread():
        signals.end_in_order()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # here, where a full disk behind it is still a sentence
        return code
    except click.ClickException as error:
        with error_report() as speaker:
            if speaker is not None:
                error.show()
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, click.Abort) as error:
        _call_if_loaded("runtime.engines", "end_workers")
        _call_if_loaded("runtime.progress", "stop_bars")
        if is_main_process():
            with suppress(OSError):
                print("interrupted; the same command continues where this one stopped", file=sys.stderr, flush=True)
        return signals.TERMINATED if isinstance(error, signals.Terminated) else signals.INTERRUPTED
    except UserError as error:
        return _refused(str(error))
    except Exception as error:
        closed = _output_is_closed()
        if isinstance(error, BrokenPipeError) and closed:
            return 141
        return _refused(_of_the_system(error, "standard output" if closed else None))


def _run(arguments: list[str]) -> int:
    """As `retort.main`, which would catch closed pipes and Ctrl-C itself, and add lines."""
    try:
        with retort.make_context("retort", list(arguments)) as context:
            result = retort.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return int(result) if isinstance(result, int) else 0


def _call_if_loaded(module: str, function: str) -> None:
    if module in sys.modules:
        getattr(importlib.import_module(module), function)()


def _refused(sentence: str) -> int:
    _call_if_loaded("runtime.progress", "stop_bars")
    with error_report() as speaker, suppress(OSError):
        if speaker is not None:
            print(f"error: {speaker}{printable(sentence, _LONGEST_ERROR)}", file=sys.stderr, flush=True)
    return EXIT_BAD_INPUT


def _of_the_system(error: Exception, place: str | None) -> str:
    """The sentence of an error of the operating system; any other error is a defect, and is raised again."""
    from runtime.os_errors import sentence_of

    sentence = sentence_of(error, place)
    if sentence is None or os.environ.get("RETORT_TRACEBACK"):
        raise error
    return sentence


def _output_is_closed() -> bool:
    """Whether standard output takes nothing more: its reader has gone (`| head`), or the disk behind it is full.

    Then what it still holds is given up, also at exit.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


if __name__ == "__main__":
    _code = main()
    signals.end_at_once()  # while Python takes itself down
    sys.exit(_code)
