"""Progress on stderr: a bar with time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from runtime.safe_files import terminal_text

_PLAIN_EVERY_SECONDS = 15.0
_shown: list[RichProgress] = []


class Progress:
    """Counts work.  `note` is a short text shown behind the bar, e.g. a loss."""

    def __init__(self, title: str, total: int, done: int, bar: RichProgress | None) -> None:
        self.title, self.total, self.done = title, total, done
        self._bar = bar
        self._task = bar.add_task(title, total=total, completed=done, note="") if bar else None
        self._start, self._first = time.monotonic(), done
        self._last_line = self._start

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more items are done."""
        self.update(self.done + count, note)

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` items are done (of `total`, where the total has changed)."""
        self.done = done
        self.total = self.total if total is None else total
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _PLAIN_EVERY_SECONDS:
            self._last_line = now
            rate = (done - self._first) / max(now - self._start, 1e-9)
            left = f"{(self.total - done) / rate:.0f} s left" if rate > 0 else "time left unknown"
            line = f"{self.title}: {done}/{self.total}, {left} {note}".rstrip()
            print(terminal_text(line, sys.stderr.encoding), file=sys.stderr, flush=True)


def say(message: str) -> None:
    """A line for people on stderr, silenced together with the bars."""
    if os.environ.get("RETORT_PROGRESS") != "off":
        print(terminal_text(message, sys.stderr.encoding), file=sys.stderr, flush=True)


@contextmanager
def silenced() -> Iterator[None]:
    """Inside the block neither bars nor `say` are shown, for work whose caller shows its own progress."""
    before = os.environ.get("RETORT_PROGRESS")
    os.environ["RETORT_PROGRESS"] = "off"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("RETORT_PROGRESS")
        else:
            os.environ["RETORT_PROGRESS"] = before


def note(message: str) -> None:
    """A line on stderr that decides what numbers mean, so that it is not silenced with the bars."""
    print(terminal_text(f"note: {message}", sys.stderr.encoding), file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a bar while the block runs.  RETORT_PROGRESS=off silences it."""
    if os.environ.get("RETORT_PROGRESS") == "off" or not sys.stderr.isatty():
        quiet = Progress(title, total, done, None)
        if os.environ.get("RETORT_PROGRESS") == "off":
            quiet._last_line = float("inf")
        yield quiet
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        _shown.append(bar)
        try:
            yield Progress(title, total, done, bar)
        finally:
            _shown.remove(bar)


def stop_bars() -> None:
    """For the end of a command by an error, whose traceback keeps a loop that shows a bar alive."""
    for bar in _shown:
        bar.stop()
