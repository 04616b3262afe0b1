"""A branch that MariaDB loses sight of: who finishes it while its session ends is told that it was done, and it was not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Branch, Ended, Said
from nodoubt.nodes.mariadb_attached import TOKEN_LENGTH
from nodoubt.nodes.sql import SqlNode
from nodoubt.protocol.ids import BRANCHES_MAX, BranchId
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import TABLE, Outsider, Side

NOTA, LOCK_WAIT = 1397, 1205
#: End a branch's session and finish the branch, again and again until the server says that it did.
AT_ONCE = """BEGIN NOT ATOMIC DECLARE ended BOOL DEFAULT FALSE; KILL {owner}; WHILE NOT ended DO
BEGIN DECLARE CONTINUE HANDLER FOR 1397 SET ended = FALSE; SET ended = TRUE; {finish}; END; END WHILE; END"""
#: One try in six meets the moment, or in forty on a busy machine.
TRIES_MAX = 2000

COMMIT = pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mariadb")


@pytest.fixture
def node(side: Side, url: str) -> SqlNode:
    node = side.run(side.node(url))
    side.outsider(url)(TABLE)
    return node


def hide(side: Side, node: SqlNode, url: str, *, commit: bool) -> tuple[BranchId, int]:
    """Finish branches from outside at the moment at which their sessions end, until one is hidden: its id, and its row's."""
    settler = side.outsider(url)

    async def prepared(row: int) -> tuple[Branch, BranchId]:
        branch = await side.begin(node)
        await side.sql(branch.connection, f"INSERT INTO item VALUES ({row}, 1)")
        assert (await branch.prepare()).said is Said.YES
        (listed,) = (await node.prepared()).ours
        return branch, listed.id

    for row in range(TRIES_MAX):
        branch, found = side.run(prepared(row))
        ((owner,),) = settler(f"SELECT IS_USED_LOCK('nodoubt:{found.session[:TOKEN_LENGTH]}')")
        settler(AT_ONCE.format(owner=owner, finish=node.dialect.finish(found, commit=commit)))
        branch.hand_over()
        if settler.error(f"SELECT 1 FROM item WHERE id = {row} FOR UPDATE NOWAIT") == LOCK_WAIT:
            return found, row
    raise AssertionError(f"the server finished {TRIES_MAX} branches as it said")


def test_doctor_and_who_asks_for_evidence_are_told(side: Side, node: SqlNode, url: str) -> None:
    found, _ = hide(side, node, url, commit=True)
    with pytest.raises(NodeUnavailable, match=f"holds a branch of {found.gid} and does not list it") as told:
        side.run(node.applied([(found.gid, 1)]))
    assert "restart the database server" in told.value.hint
    (finding,) = [finding for finding in side.run(node.inspect()) if finding.check == "hidden"]
    assert finding.text == f"prepared, with locks, and not listed: {found.gid}"
    assert side.run(node.finish(found, commit=True)) is Ended.DONE
    assert "hidden" not in {finding.check for finding in side.run(node.inspect())}


def test_of_all_branches_one_text_asks(side: Side, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tx show`` does not know which numbers there are; a round trip for each was longer than anybody waits."""
    node, holder = side.run(side.node(url)), side.outsider(url)
    gid, hidden, texts = side.id().gid, node.dialect.hidden, list[str]()

    def counted(gid: str, branches: Sequence[int]) -> str:
        texts.append(hidden(gid, branches))
        return texts[-1]

    monkeypatch.setattr(node.dialect, "hidden", counted)
    pairs = [(gid, branch) for branch in range(BRANCHES_MAX)]
    assert side.run(node.applied(pairs)) == set()
    assert len(texts) == 1
    holder("START TRANSACTION")
    holder(f"INSERT INTO nodoubt_branch VALUES ('{gid}', 70)")
    with pytest.raises(NodeUnavailable, match=f"holds a branch of {gid} and does not list it"):
        side.run(node.applied(pairs))
    assert len(texts) == 2
    holder("ROLLBACK")


def is_ended(see: Outsider, row: int, *, commit: bool) -> bool:
    """Whether a row is there, or is not, and nobody holds it."""
    return see(f"SELECT id FROM item WHERE id = {row} FOR UPDATE NOWAIT") == (((row,),) if commit else ())


@COMMIT
def test_the_server_says_that_it_finished_a_branch_and_holds_it(
    side: Side, node: SqlNode, url: str, commit: bool
) -> None:
    (found, row), see = hide(side, node, url, commit=commit), side.outsider(url)
    finish = node.dialect.finish(found, commit=commit)
    assert see.error(finish) == NOTA
    assert side.run(node.prepared()).ours == ()
    assert see.error(node.dialect.hidden(found.gid, [found.branch]).rpartition(";")[2]) == LOCK_WAIT

    revealer = Outsider(url)
    for text in node.dialect.reveal(found).split(";"):
        revealer(text)
    revealer.close()
    while see.error(finish) == NOTA:
        pass
    assert is_ended(see, row, commit=commit)
    assert see.error(node.dialect.hidden(found.gid, [found.branch]).rpartition(";")[2]) == 0


@COMMIT
def test_a_node_finishes_a_hidden_branch(
    side: Side, node: SqlNode, url: str, commit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found, row = hide(side, node, url, commit=commit)
    assert side.run(node.finish(found, commit=commit)) is Ended.DONE
    assert f"lost sight of {found.text()}" in caplog.text
    assert is_ended(side.outsider(url), row, commit=commit)
    assert side.run(node.applied([(found.gid, 1)])) == ({(found.gid, 1)} if commit else set())
    assert side.run(node.prepared()).ours == ()
