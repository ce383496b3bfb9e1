"""SIGINT and SIGTERM: the first ends a command in order, so that nothing half-written stays; a second one at once.

What a process was started to ignore (nohup, a background job) it goes on ignoring.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

BOTH = (signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 0.01
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a cluster sends it before it kills; ends a command the way Ctrl-C does."""


def end_in_order() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM raises Terminated, once."""
    sys.unraisablehook = _raise_again
    _handle(_raise)


def end_at_once() -> None:
    """From now on both end the process without a word: there is nothing to put in order, or it was asked twice."""
    _handle(_leave)


def _handle(handler: signal._HANDLER) -> None:
    for number in BOTH:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    end_at_once()
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _raise_again(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised while it clears objects away, with a traceback; there it is raised a moment later.

    By a timer of the system: a thread could wait for a lock that is held just here.
    """
    if not isinstance(lost.exc_value, KeyboardInterrupt) or not hasattr(signal, "setitimer"):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
    signal.signal(signal.SIGALRM, lambda _, frame: _raise(number, frame))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
