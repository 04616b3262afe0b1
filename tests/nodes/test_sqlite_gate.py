"""SQLite's gate and terms beyond the conformance suite: who holds the lock, who calls for help, and what a death leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from nodoubt.errors import NodeUnavailable
from nodoubt.journal.files import Journal
from nodoubt.nodes.contract import Isolation, Said, Terms
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.protocol.ids import BranchId
from tests.nodes.sqlite_lab import ACCOUNTS, AMOUNT, TAKE, Lab

SERIALIZABLE = Terms(isolation=Isolation.SERIALIZABLE)
#: Longer than any wait in the laboratory, which has 0.3 s.
WAIT_S = 5.0


@pytest.fixture
def node(lab: Lab) -> SQLiteNode:
    return lab.node(schema=ACCOUNTS)


def test_a_gate_is_the_write_lock(lab: Lab, node: SQLiteNode) -> None:
    gate = lab.run(node.close_gate(WAIT_S))
    with lab.raw() as stranger, pytest.raises(apsw.BusyError):
        stranger.execute("BEGIN IMMEDIATE")
    lab.run(gate.reopen())
    with lab.raw() as stranger:
        stranger.execute("BEGIN IMMEDIATE")


def test_a_gate_opens_with_the_death_of_its_process(lab: Lab, node: SQLiteNode) -> None:
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("sqlite_child.py")), "gate", str(lab.folder), "shop"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "closed\n"
        with pytest.raises(NodeUnavailable, match="locked by another process") as caught:
            lab.begin(node)
        assert caught.value.retryable
        child.kill()
    lab.run(lab.begin(node).roll_back(prepared=False))


def test_a_branch_in_doubt_keeps_the_gate_open_and_calls_for_help(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node)
    lab.run(branch.prepare())
    branch.abandon()
    calls: list[str] = []

    def no_help(doubt: BranchId, gid: str) -> bool:
        calls.append(gid)
        return True

    node.hurry = no_help
    with pytest.raises(NodeUnavailable, match="must be settled first") as caught:
        lab.run(node.close_gate(0.05))
    assert caught.value.retryable
    assert calls == [""], "no transaction waits, so none has locks that settling may need"

    def help_comes(doubt: BranchId, gid: str) -> bool:
        Journal(node.path).drop()
        return True

    node.hurry = help_comes
    lab.run(lab.run(node.close_gate(WAIT_S)).reopen())


def test_a_gate_is_opened_once(lab: Lab, node: SQLiteNode) -> None:
    gate = lab.run(node.close_gate(WAIT_S))
    lab.run(gate.reopen())
    for step in (gate.reopen(), gate.committed([lab.id().gid])):
        with pytest.raises(NodeUnavailable):
            lab.run(step)


def test_a_closed_node_has_no_gate(lab: Lab, node: SQLiteNode) -> None:
    lab.run(node.close())
    with pytest.raises(NodeUnavailable, match="is closed") as caught:
        lab.run(node.close_gate(WAIT_S))
    assert not caught.value.retryable


def test_a_serializable_reader_holds_the_lock_and_writes_nothing(lab: Lab, node: SQLiteNode) -> None:
    reader = lab.run(node.begin(lab.id(), read_only=True, is_home=False, terms=SERIALIZABLE))
    assert reader.connection.execute(AMOUNT).fetchall() == [(100,)]
    with lab.raw() as stranger, pytest.raises(apsw.BusyError):
        stranger.execute("BEGIN IMMEDIATE")
    assert lab.run(reader.release()).said is Said.YES
    reader = lab.run(node.begin(lab.id(), read_only=True, is_home=False, terms=SERIALIZABLE))
    with pytest.raises(apsw.ReadOnlyError):
        reader.connection.execute(TAKE)
    assert lab.run(reader.release()).said is Said.NO
    assert lab.amount() == 100


def test_a_reader_begins_to_see_with_its_first_look_or_when_it_is_told(lab: Lab, node: SQLiteNode) -> None:
    seen = []
    for isolation in (Isolation.ATOMIC, Isolation.SNAPSHOT):
        terms = Terms(isolation=isolation)
        reader = lab.run(node.begin(lab.id(), read_only=True, is_home=False, terms=terms))
        if isolation is Isolation.SNAPSHOT:
            lab.run(reader.take_snapshot())
        writer = lab.begin(node, home=True)
        writer.connection.execute(TAKE)
        assert lab.run(writer.decide({})).said is Said.YES
        seen += reader.connection.execute(AMOUNT).fetchall()
        lab.run(reader.release())
    assert seen == [(90,), (90,)], "the second one's snapshot is from before 80"


def test_the_wait_for_the_lock_is_bounded_by_the_shorter_limit(lab: Lab, node: SQLiteNode) -> None:
    holder = lab.begin(node)
    for node_s, terms_s in ((3600.0, 0.01), (0.01, 3600.0), (0.01, 0.0)):
        other = lab.node(acquire_timeout_s=node_s)
        terms = Terms(isolation=Isolation.SNAPSHOT, lock_wait_s=terms_s)
        with pytest.raises(NodeUnavailable, match=r"for longer than 0\.01 s"):
            lab.run(other.begin(lab.id(), read_only=False, is_home=False, terms=terms))
    lab.run(holder.roll_back(prepared=False))
