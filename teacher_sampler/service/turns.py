"""Who computes next: so many requests at once, and a small one does not wait behind large ones.

A waiting request's turn comes by the images that were begun before it came, plus its own (start-time fair queueing):
small ones pass large ones, and a large one is passed by no more images than it asks for itself.  Where all places are
taken by requests that are many times larger, one small request at a time is computed beside them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_MUCH_LARGER = 16


class Turns:
    """`places` requests are at work at the same time, and one small one more beside large ones."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._begun = 0  # images
        self._at_work: list[int] = []  # sizes
        self._beside = False
        self._number = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[bool]]] = []

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Wait for the turn of a request for `size` images and hold its place while the block runs."""
        beside = await self._enter(size)
        try:
            yield
        finally:
            self._leave(size, beside)

    async def _enter(self, size: int) -> bool:
        self._number += 1
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._begun + size, self._number, size, place))
        self._admit()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the place was given in the same moment
                self._leave(size, place.result())
            raise

    def _leave(self, size: int, beside: bool) -> None:
        if beside:
            self._beside = False
        else:
            self._at_work.remove(size)
        self._admit()

    def _admit(self) -> None:
        """Give free places to those whose turn it is."""
        while self._waiting:
            _, _, size, place = self._waiting[0]
            if place.cancelled():
                heapq.heappop(self._waiting)
                continue
            beside = len(self._at_work) >= self.places
            if beside and (self._beside or size * _MUCH_LARGER > min(self._at_work)):
                return
            heapq.heappop(self._waiting)
            self._begun += size
            if beside:
                self._beside = True
            else:
                self._at_work.append(size)
            place.set_result(beside)
