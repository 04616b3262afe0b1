"""Simulated and real databases answer the same scripts with the same transcripts, line by line; a wrong simulation does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from nodoubt.sim import server as simulated_server
from nodoubt.sim.mariadb import MariaDBServer
from nodoubt.sim.postgresql import PostgreSQLServer
from nodoubt.sim.server import Answer, Backend, Server, Statements, Steps
from nodoubt.sim.store import Store
from tests.fidelity.play import Play, side_by_side
from tests.fidelity.real import LABORATORIES, Laboratory, RealSide
from tests.fidelity.script import SERVERS, Script, scripts
from tests.fidelity.simulated import SimulatedSide

Transcript = Sequence[str]
SCRIPTS = [(kind, script) for kind in SERVERS for script in scripts(kind)]


@pytest.fixture(scope="module")
def play_real(request: pytest.FixtureRequest) -> Iterator[Callable[[str, Script], Transcript]]:
    """What the real databases answer, asked once for each script."""
    laboratories: dict[str, Laboratory] = {}
    answered: dict[tuple[str, Script], Transcript] = {}

    def play(kind: str, script: Script) -> Transcript:
        if kind not in laboratories:
            server = request.getfixturevalue(kind)
            laboratories[kind] = LABORATORIES[kind](server, server.create_database("fidelity"))
        if (kind, script) not in answered:
            answered[kind, script] = Play(RealSide(laboratories[kind])).run(script)
        return answered[kind, script]

    yield play
    for laboratory in laboratories.values():
        laboratory.close()


def play_simulated(kind: str, script: Script) -> Transcript:
    return Play(SimulatedSide(kind)).run(script)


@pytest.mark.parametrize(("kind", "script"), SCRIPTS, ids=[f"{kind}: {script.title}" for kind, script in SCRIPTS])
def test_the_transcripts_are_the_same(
    kind: str, script: Script, play_real: Callable[[str, Script], Transcript]
) -> None:
    real, simulated = play_real(kind, script), play_simulated(kind, script)
    assert real == simulated, f"{kind}: {script.title}\n{side_by_side(real, simulated)}"


@pytest.mark.parametrize("server", [PostgreSQLServer, MariaDBServer])
def test_every_text_that_a_simulated_server_understands_is_in_a_script(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = set()
    understand = Server._understand

    def listen(self: Server, text: str) -> Statements:
        said.update(text.split(";"))
        return understand(self, text)

    monkeypatch.setattr(Server, "_understand", listen)
    for script in scripts(server.kind):
        play_simulated(server.kind, script)
    patterns = [pattern for known in server.texts.values() for pattern, _ in known]
    assert [pattern.pattern for pattern in patterns if not any(map(pattern.fullmatch, said))] == []


def _prepares_what_failed(self: Any, b: Backend, name: str) -> Steps:
    b.failed = False
    yield from PostgreSQLServer._prepare(self, b, name)
    return "PREPARE TRANSACTION", ()


def _asks_nobody(self: Any, b: Backend, values: str) -> Answer:
    return "INSERT 0 0", ()


def _detaches(self: Any, b: Backend, xid: str) -> Steps:
    answer = yield from MariaDBServer.xa_prepare(self, b, xid)
    self.store.prepared[xid].owner = None
    return answer


def _ends_the_branch(self: Any, b: Backend) -> Steps:
    b.branch = ""
    return (yield from MariaDBServer.commit(self, b))


def _counts_once(self: Any, b: Backend, values: str) -> Steps:
    yield from MariaDBServer._probe(self, b, values)
    return "1", ()


#: What a simulated server does in the place of what, and the script that notices it.
WRONG: Sequence[tuple[type[Server], Callable[..., Any], Callable[..., Any], str]] = (
    (PostgreSQLServer, PostgreSQLServer._prepare, _prepares_what_failed, "COMMIT and PREPARE of a failed transaction"),
    (PostgreSQLServer, PostgreSQLServer._probe, _asks_nobody, "Two probes at once"),
    (MariaDBServer, MariaDBServer.xa_prepare, _detaches, "A prepared branch is attached to its session"),
    (MariaDBServer, MariaDBServer.commit, _ends_the_branch, "The owner of an open branch does what only another"),
    (MariaDBServer, MariaDBServer._probe, _counts_once, "A duplicate decision: the recoverer is first"),
)


@pytest.mark.parametrize(("server", "right", "wrong", "title"), WRONG, ids=lambda part: getattr(part, "__name__", ""))
def test_a_server_that_is_simulated_wrongly_is_noticed(
    server: type[Server],
    right: Callable[..., Any],
    wrong: Callable[..., Any],
    title: str,
    play_real: Callable[[str, Script], Transcript],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {
        word: [(pattern, wrong if call is right else call) for pattern, call in known]
        for word, known in server.texts.items()
    }
    assert texts != server.texts
    monkeypatch.setattr(server, "texts", texts)
    monkeypatch.setattr(simulated_server, "_UNDERSTOOD", {})
    _assert_noticed(server.kind, title, play_real)


@pytest.mark.parametrize("kind", SERVERS)
def test_locks_that_a_restart_forgets_are_noticed(
    kind: str, play_real: Callable[[str, Script], Transcript], monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = Store.crash

    def forget(self: Store, random: Any) -> None:
        crash(self, random)
        self._holders.clear()

    monkeypatch.setattr(Store, "crash", forget)
    _assert_noticed(kind, "The server dies while sessions wait", play_real)


def _assert_noticed(kind: str, title: str, play_real: Callable[[str, Script], Transcript]) -> None:
    (script,) = (script for script in scripts(kind) if script.title.startswith(title))
    assert play_simulated(kind, script) != play_real(kind, script)
