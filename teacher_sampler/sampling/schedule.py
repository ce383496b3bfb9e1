"""Which units to make: for each label group in the order of k, until every label of the group has enough.

With one worker no unit is surplus.  With more, units are started ahead of the results by expectation; those that
turn out to be surplus are removed at the end, so that the dataset is the same.  A teacher may have a fixed number of
candidates of a label: running out of them is like reaching the cap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from runtime.errors import UserError
from runtime.progress import progress
from teacher_sampler.sampling.pilot import Pilot
from teacher_sampler.sampling.plan import RunContent, Unit, too_few
from teacher_sampler.sampling.units import UnitResult

_DOUBT = 2.0  # standard deviations by which units under way may fall short of expectation


class Schedule:
    """Keeps count of what is accepted, under way and still needed; `results` holds every committed unit."""

    def __init__(self, content: RunContent, per_label: int, cap: int, pilot: Pilot) -> None:
        self.content, self.per_label, self.cap, self.pilot = content, per_label, cap, pilot
        self.wanted = content.wanted(per_label)
        self.results: dict[Unit, UnitResult] = {}
        self._accepted = [np.zeros(self._size(group), dtype=np.int64) for group in range(content.groups)]
        self._started = [0] * content.groups
        self._under_way = [0] * content.groups
        self._drawn = [np.zeros_like(accepted) for accepted in self._accepted]  # candidates of finished units
        self._pending = [np.zeros_like(accepted) for accepted in self._accepted]  # candidates of units under way
        self._done = 0  # fakes that count: of no label more than are wanted
        self._check_cap()

    def run(self, make: Callable[[Iterable[Unit]], Iterator[UnitResult]], workers: int) -> None:
        """Make units until every label has enough.  Raises UserError naming a label that starves."""
        total = int(self.wanted.sum())
        with progress("sampling", total) as bar:
            while self._done < total:
                for result in make(self._wanted(ahead=workers > 1)):
                    self._record(result)
                    bar.update(self._done, f"{len(self.results)} units")

    def _wanted(self, ahead: bool) -> Iterator[Unit]:
        """The next units, decided one by one with all results that are in."""
        added = True
        while added:
            added = False
            for group in range(self.content.groups):
                while self._falls_short(group, ahead):
                    if self._reached_cap(group):
                        break
                    unit = Unit(group, self._started[group])
                    self._started[group] += 1
                    self._under_way[group] += 1
                    self._pending[group] += self._counts(unit)
                    added = True
                    yield unit

    def _record(self, result: UnitResult) -> None:
        group, counts = result.unit.group, self._counts(result.unit)
        self.results[result.unit] = result
        self._done -= self._counted(group)
        self._accepted[group] += result.accepted
        self._done += self._counted(group)
        self._under_way[group] -= 1
        self._pending[group] -= counts
        self._drawn[group] += counts

    def _falls_short(self, group: int, ahead: bool) -> bool:
        """Whether some label of the group is expected to miss its number with the units that are under way."""
        under_way = self._under_way[group]
        if not under_way or not ahead:
            return not under_way and bool((self._accepted[group] < self._wanted_of(group)).any())
        rate, pending = self._rates(group), self._pending[group]
        expected = pending * rate - _DOUBT * np.sqrt(pending * rate * (1.0 - rate))
        more = self._counts(Unit(group, self._started[group])) > 0  # a further unit is of no use to the other labels
        return bool((more & (self._accepted[group] + expected < self._wanted_of(group))).any())

    def _rates(self, group: int) -> np.ndarray:
        """Acceptance of each label: the pilot's and the finished units' together."""
        pilot = self.pilot.rates[self.content.group_rows(group)]
        weight = int(self.content.settings.pilot_candidates or 1)
        return (pilot * weight + self._accepted[group]) / (weight + self._drawn[group])

    def _reached_cap(self, group: int) -> bool:
        """Whether the group may draw no more; UserError once its last units are in and still fall short."""
        accepted, under_way = self._accepted[group], self._under_way[group]
        run_out = (self._counts(Unit(group, self._started[group])) == 0) & (accepted < self._wanted_of(group))
        if run_out.any() and not under_way:
            place = int(run_out.argmax())
            self._run_out(group, place, f"{accepted[place]} were accepted")
        if self._started[group] * self.content.unit_candidates < self.cap:
            return False
        if not under_way:
            worst = int(accepted.argmin())
            drawn = self._drawn[group][worst]
            self._starve(group, worst, f"{accepted[worst]} of {drawn} candidates were accepted")
        return True

    def _check_cap(self) -> None:
        """Say at once what the pilot already tells."""
        span = self.content.unit_candidates
        most = -(-self.cap // span) * span  # units are drawn whole
        limit = np.full(len(self.content.labels), most, dtype=np.int64)
        if self.content.available is not None:
            limit = np.minimum(limit, np.asarray(self.content.available, dtype=np.int64))
        hopeless = (limit < self.wanted) | (self.pilot.rates * limit < 0.5 * self.wanted)
        if hopeless.any():
            row = int(np.flatnonzero(hopeless)[0])
            group, worst = divmod(row, self.content.group_size)
            rate = self.pilot.rates[row]
            if limit[row] < most:
                self._run_out(group, worst, f"about {rate * limit[row]:.0f} are expected to be accepted")
            self._starve(group, worst, f"the pilot expects {rate:.4%} of candidates to be accepted")

    def _starve(self, group: int, label: int, accepted: str) -> None:
        name = self.content.label_name(group * self.content.group_size + label)
        raise UserError(
            f"label {name} starves: {accepted}, {self.per_label} fakes are wanted and {self.cap} candidates allowed; "
            f"raise the cap of candidates, ask for fewer, or improve the teacher or the filter."
        )

    def _run_out(self, group: int, label: int, accepted: str) -> None:
        row = group * self.content.group_size + label
        available = self.content.available
        if available is None:
            raise ValueError("no label of an endless teacher runs out")
        raise too_few(self.content.label_name(row), available[row], self.per_label, f", of which {accepted}")

    def _counts(self, unit: Unit) -> np.ndarray:
        return self.content.candidate_counts(unit.group, unit.index)

    def _counted(self, group: int) -> int:
        return int(np.minimum(self._accepted[group], self._wanted_of(group)).sum())

    def _wanted_of(self, group: int) -> np.ndarray:
        return self.wanted[self.content.group_rows(group)]

    def _size(self, group: int) -> int:
        rows = self.content.group_rows(group)
        return rows.stop - rows.start
