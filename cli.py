"""The command line: `python cli.py COMMAND --help`.  Sub-commands are imported when they are called."""

from __future__ import annotations

import importlib
import sys

import click

from commands.table import COMMANDS
from runtime.errors import EXIT_BAD_INPUT, UserError
from runtime.ranks import error_report, is_main_process


class _LazyGroup(click.Group):
    """A group whose sub-commands are known by name and imported on use, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        options = importlib.import_module("commands.options")
        module_name, line = COMMANDS[cmd_name]
        return options.build_command(cmd_name, line, importlib.import_module(f"commands.{module_name}"))

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
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    try:
        result = retort.main(args=arguments, prog_name="retort", standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except click.ClickException as error:
        with error_report() as speaker:
            if speaker is not None:
                error.show()
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        if is_main_process():
            print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    except UserError as error:
        with error_report() as speaker:
            if speaker is not None:
                print(f"error: {speaker}{error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
