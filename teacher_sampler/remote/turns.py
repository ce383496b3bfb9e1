"""Who computes next: so many requests at once, and a small one does not wait behind large ones.

The smallest waiting request is next.  One that others, which came later, have passed by as many images as it asks for
itself goes before all of them, so that none waits for ever.  Where all places are taken by requests that are many
times larger, one small request at a time is computed beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_MUCH_LARGER = 16


@dataclass(eq=False)
class _Waiting:
    size: int
    place: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    passed: int = 0  # images of later requests that were begun before this one
    beside: bool = False  # in the extra place

    @property
    def rank(self) -> int:
        return 0 if self.passed >= self.size else self.size


class Turns:
    """`places` requests are at work at the same time, and one small one more beside large ones."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._at_work: list[int] = []  # sizes
        self._beside = False
        self._waiting: list[_Waiting] = []  # in the order of their coming

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Wait for the turn of a request for `size` images and hold its place while the block runs."""
        beside = await self._enter(size)
        try:
            yield
        finally:
            self._leave(size, beside)

    async def _enter(self, size: int) -> bool:
        new = _Waiting(size)
        self._waiting.append(new)
        self._admit()
        try:
            await new.place
            return new.beside
        except asyncio.CancelledError:
            if new in self._waiting:
                self._waiting.remove(new)
            else:  # the place was given in the same moment
                self._leave(size, new.beside)
            raise

    def _leave(self, size: int, beside: bool) -> None:
        if beside:
            self._beside = False
        else:
            self._at_work.remove(size)
        self._admit()

    def _admit(self) -> None:
        """Give free places to those whose turn it is."""
        while self._waiting and len(self._at_work) < self.places:
            chosen = min(self._waiting, key=lambda waiting: waiting.rank)  # of equals the one that came first
            self._begin(chosen, beside=False)
            self._at_work.append(chosen.size)
        if self._waiting and not self._beside:
            small = min(self._waiting, key=lambda waiting: waiting.size)
            if small.size * _MUCH_LARGER <= min(self._at_work):
                self._beside = True
                self._begin(small, beside=True)

    def _begin(self, chosen: _Waiting, beside: bool) -> None:
        number = self._waiting.index(chosen)
        for earlier in self._waiting[:number]:
            earlier.passed += 0 if beside else chosen.size
        del self._waiting[number]
        chosen.beside = beside
        if not chosen.place.done():  # cancelled otherwise: its task, when it runs, gives the place back
            chosen.place.set_result(None)
