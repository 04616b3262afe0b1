"""A simulated disk: what was forced outlives a power failure, the rest may not; whoever dies in a call changes nothing more."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from nodoubt.journal.files import Journal, NotWritten
from nodoubt.journal.record import Record
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.sim.loop import Died, ProcessLoop, Schedule
from nodoubt.sim.machine import Machine, SimulatedFiles
from nodoubt.sim.observer import Observer

SEEDS = 40
DATABASE = Path("/simulated/s.db")
RECORD = Record(
    branch=BranchId(domain="test", gid=new_gid(0, bytes(10)), branch=1, home="p"),
    pid=1,
    changeset=b"change" * 9,
    sequences={},
)


class Place:
    """A machine, and one process on it."""

    def __init__(self, seed: int) -> None:
        schedule = Schedule()
        self.machine = Machine(schedule, Observer(lambda: schedule.now, traced=False), Random(seed))
        self.loop = ProcessLoop(schedule, "p")
        self.machine.kill = lambda loop: loop.kill()
        self.journal = Journal(DATABASE, SimulatedFiles(self.machine, self.loop))

    def read_again(self) -> Record | None:
        """What a process finds that starts after a power failure."""
        self.machine.lose_power()
        again = ProcessLoop(self.machine.schedule, "again")
        return Journal(DATABASE, SimulatedFiles(self.machine, again)).read()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_promise_outlives_a_power_failure(seed: int) -> None:
    place = Place(seed)
    place.journal.write(RECORD)
    assert place.read_again() == RECORD


def test_what_was_not_forced_is_lost_torn_or_there() -> None:
    left = set()
    for seed in range(SEEDS):
        place = Place(seed)
        files = SimulatedFiles(place.machine, place.loop)
        descriptor = files.create(DATABASE, 0o600)
        rest = memoryview(b"abc")
        while rest:
            rest = rest[files.write(descriptor, rest) :]
        place.machine.lose_power()
        left.add(files.read(DATABASE, 9))
    assert left == {None, b"", b"a", b"ab", b"abc"}


def test_a_removal_comes_back_unless_it_was_forced() -> None:
    left = []
    for seed in range(SEEDS):
        place = Place(seed)
        place.journal.write(RECORD)
        place.journal.drop()
        left.append(place.read_again())
    assert RECORD in left
    assert None in left
    place = Place(0)
    place.journal.write(RECORD)
    place.journal.drop()
    place.journal.force()
    assert place.read_again() is None


def test_a_process_dies_at_each_call_and_leaves_a_whole_journal_or_none() -> None:
    found = []
    calls = 0
    while True:
        calls += 1
        place = Place(calls)
        place.machine.dies_in = calls
        try:
            place.journal.write(RECORD)
        except Died:
            assert place.loop.dead
            with pytest.raises(Died):
                place.journal.read()
            found.append(place.read_again())
        else:
            break
    assert calls > 5
    assert found[0] is None
    assert all(record in (None, RECORD) for record in found)


def test_errors_of_a_disk_are_those_of_the_system() -> None:
    place = Place(0)
    place.machine.disk.full = True
    with pytest.raises(NotWritten) as full:
        place.journal.write(RECORD)
    assert isinstance(full.value.__cause__, OSError)
    assert full.value.__cause__.errno == errno.ENOSPC
    place.machine.disk.full = False
    place.machine.disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        place.journal.force()
    place.journal.force()
