"""Simulated and real databases answer the same scripts with the same transcripts, line by line; a wrong simulation does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest

from nodoubt.nodes import sqlite_tables
from nodoubt.sim import server as simulated_server
from nodoubt.sim import sqlite as simulated_sqlite
from nodoubt.sim.locks import Place, Txn
from nodoubt.sim.mariadb import MariaDBServer
from nodoubt.sim.postgresql import PostgreSQLServer
from nodoubt.sim.run import SERVERS
from nodoubt.sim.seam import swapped
from nodoubt.sim.server import Answer, Backend, Server, Statements, Steps
from nodoubt.sim.sqlite import SimulatedSQLite
from nodoubt.sim.store import Store
from tests.fidelity.play import Play, side_by_side
from tests.fidelity.real import LABORATORIES, Laboratory, RealSide
from tests.fidelity.script import KINDS, Script, scripts
from tests.fidelity.simulated import SimulatedSide
from tests.fidelity.sqlite_real import RealSQLiteSide
from tests.fidelity.sqlite_simulated import SimulatedSQLiteSide

Transcript = Sequence[str]
PlayReal = Callable[[str, Script], Transcript]
SCRIPTS = [(kind, script) for kind in KINDS for script in scripts(kind)]


@pytest.fixture(scope="module")
def play_real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayReal]:
    """What the real databases answer, asked once for each script."""
    laboratories: dict[str, Laboratory] = {}
    answered: dict[tuple[str, Script], Transcript] = {}

    def play(kind: str, script: Script) -> Transcript:
        if (kind, script) not in answered:
            if kind == "sqlite":
                side = RealSQLiteSide(tmp_path_factory.mktemp("fidelity"))
                answered[kind, script] = Play(side).run(script)
                return answered[kind, script]
            if kind not in laboratories:
                server = request.getfixturevalue(kind)
                laboratories[kind] = LABORATORIES[kind](server, server.create_database("fidelity"))
            answered[kind, script] = Play(RealSide(laboratories[kind])).run(script)
        return answered[kind, script]

    yield play
    for laboratory in laboratories.values():
        laboratory.close()


def play_simulated(kind: str, script: Script) -> Transcript:
    if kind != "sqlite":
        return Play(SimulatedSide(kind)).run(script)
    # Played changesets are no real ones, as in the simulation.
    with swapped(sqlite_tables, "changed_tables", lambda changeset: {}):
        return Play(SimulatedSQLiteSide()).run(script)


@pytest.mark.parametrize(("kind", "script"), SCRIPTS, ids=[f"{kind}: {script.title}" for kind, script in SCRIPTS])
def test_the_transcripts_are_the_same(kind: str, script: Script, play_real: PlayReal) -> None:
    real, simulated = play_real(kind, script), play_simulated(kind, script)
    assert real == simulated, f"{kind}: {script.title}\n{side_by_side(real, simulated)}"


@pytest.mark.parametrize("kind", SERVERS)
def test_every_text_that_a_simulated_server_understands_is_in_a_script(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = set()
    understand = Server._understand

    def listen(self: Server, text: str) -> Statements:
        said.update(text.split(";"))
        return understand(self, text)

    monkeypatch.setattr(Server, "_understand", listen)
    for script in scripts(kind):
        play_simulated(kind, script)
    patterns = [pattern for known in SERVERS[kind].texts.values() for pattern, _ in known]
    assert [pattern.pattern for pattern in patterns if not any(map(pattern.fullmatch, said))] == []


def test_every_text_that_the_simulated_sqlite_understands_is_in_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    said = set()
    understand = simulated_sqlite._understand

    def listen(sql: str) -> Any:
        said.add(sql)
        return understand(sql)

    monkeypatch.setattr(simulated_sqlite, "_understand", listen)
    for script in scripts("sqlite"):
        play_simulated("sqlite", script)
    patterns = [pattern for pattern, _ in simulated_sqlite._TEXTS]
    assert [pattern.pattern for pattern in patterns if not any(map(pattern.fullmatch, said))] == []


def _prepares_what_failed(self: Any, b: Backend, name: str) -> Steps:
    b.failed = False
    yield from PostgreSQLServer.prepare(self, b, name)
    return "PREPARE TRANSACTION", ()


def _probes_nothing(self: Any, b: Backend, values: str, *until_s: str) -> Answer:
    return "", ()


def _detaches(self: Any, b: Backend, xid: str) -> Steps:
    answer = yield from MariaDBServer.xa_prepare(self, b, xid)
    self.store.prepared[xid].owner = None
    return answer


def _forces_decisions(self: Any, b: Backend, xid: str) -> Steps:
    self.logs = False
    return (yield from MariaDBServer.xa_one_phase(self, b, xid))


def _ends_the_branch(self: Any, b: Backend) -> Steps:
    b.branch = ""
    return (yield from MariaDBServer.commit(self, b))


_crash = Store.crash


def _forgets_locks(self: Store, random: Random) -> None:
    _crash(self, random)
    self._holders.clear()


def _sees_what_comes_later(self: SimulatedSQLite) -> None:
    return None


def _takes_no_snapshot(self: Any, b: Backend) -> Answer:
    return "SELECT 1", [(1,)]


def _is_quiet(self: Any, b: Backend) -> Answer:
    b.settings["note"] = len(self.store.log)
    return "SELECT 1", ()


def _keeps_nothing(self: Store, txn: Txn, table: str) -> dict[Place, str]:
    return {}


def _overtakes(self: Store, txn: Txn, place: Place) -> bool:
    return True


_vanish = SimulatedSQLite.vanish


def _commits_on_its_way_out(self: SimulatedSQLite) -> None:
    if self._txn is not None:
        self._database.store.apply(self._txn.writes)
    _vanish(self)


#: Of a simulation: who does what in a wrong way, and the script that notices it.
WRONG: Sequence[tuple[str, type, str, Callable[..., Any], str]] = (
    ("postgresql", PostgreSQLServer, "prepare", _prepares_what_failed, "COMMIT and PREPARE of a failed transaction"),
    ("postgresql", PostgreSQLServer, "_probe", _probes_nothing, "Two probes at once"),
    ("postgresql", Store, "crash", _forgets_locks, "The server dies while sessions wait"),
    ("postgresql", PostgreSQLServer, "first_query", _takes_no_snapshot, "A reader goes on to see"),
    ("postgresql", PostgreSQLServer, "glance", _is_quiet, "A glance tells who is at work"),
    ("postgresql", Store, "kept", _keeps_nothing, "Keys are kept by a prepared branch"),
    ("postgresql", Store, "_has_share", _overtakes, "A gate is closed by several"),
    ("mariadb", MariaDBServer, "xa_prepare", _detaches, "A prepared branch is attached to its session"),
    ("mariadb", MariaDBServer, "commit", _ends_the_branch, "The owner of an open branch does what only another"),
    ("mariadb", MariaDBServer, "_probe", _probes_nothing, "A duplicate decision: the recoverer is first"),
    ("mariadb", Store, "crash", _forgets_locks, "The server dies while sessions wait"),
    ("mariadb_log", MariaDBServer, "xa_one_phase", _forces_decisions, "A commit in one phase is prepared"),
    ("sqlite", SimulatedSQLite, "_reader", _sees_what_comes_later, "There is one writer at a time"),
    ("sqlite", SimulatedSQLite, "vanish", _commits_on_its_way_out, "A process is killed before it prepared"),
)


@pytest.mark.parametrize(
    ("kind", "owner", "name", "wrong", "title"), WRONG, ids=[f"{case[0]} {case[3].__name__}" for case in WRONG]
)
def test_a_wrong_simulation_is_noticed(
    kind: str,
    owner: Any,
    name: str,
    wrong: Callable[..., Any],
    title: str,
    play_real: PlayReal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (script,) = (script for script in scripts(kind) if script.title.startswith(title))
    if owner in SERVERS.values():
        # What a text means stands in the table of texts, and what was understood is kept.
        right = getattr(owner, name)
        texts = {
            word: [(pattern, wrong if call is right else call) for pattern, call in known]
            for word, known in owner.texts.items()
        }
        monkeypatch.setattr(owner, "texts", texts)
        monkeypatch.setattr(simulated_server, "_UNDERSTOOD", {})
    else:
        monkeypatch.setattr(owner, name, wrong)
    assert play_simulated(kind, script) != play_real(kind, script)
