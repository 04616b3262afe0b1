"""SQLite as a full participant: each step of the contract, on real files, in both worlds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.journal.files import Files, Journal
from nodoubt.nodes.contract import Ended, Said
from nodoubt.nodes.registry import make_node
from nodoubt.nodes.sqlite import SQLiteNode, database_path
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.verdicts import HomeSays
from tests.nodes.sqlite_lab import ACCOUNTS, AMOUNT, TAKE, Lab


@pytest.fixture
def node(lab: Lab) -> SQLiteNode:
    return lab.node(schema=ACCOUNTS)


# Opening


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///rel/a.db", Path.cwd() / "rel/a.db"), ("sqlite:////abs/a%20b.db", Path("/abs/a b.db"))],
)
def test_urls(url: str, path: Path) -> None:
    assert database_path(url) == path


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/a", "sqlite:///a?b=c", "a"]
)
def test_urls_that_name_no_file(url: str) -> None:
    with pytest.raises(ConfigError, match="does not name a database file"):
        database_path(url)


def test_an_option_that_is_none_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="no option 'timeout'"):
        SQLiteNode("shop", "lab", lab.settings(options={"timeout": 1}), lab.world)


def test_two_names_of_one_file_share_its_journal(lab: Lab, node: SQLiteNode) -> None:
    (lab.folder / "other.db").symlink_to(node.path)
    assert database_path(f"sqlite:///{lab.folder / 'other.db'}") == node.path


def test_the_registry_knows_it(lab: Lab) -> None:
    assert make_node("shop", "lab", lab.settings(), lab.world, asynchronous=True).kind == "sqlite"


def test_only_install_creates_the_file(lab: Lab) -> None:
    node = lab.node("shop", opened=False)
    node.path.unlink()
    with pytest.raises(ConfigError, match="there is no file"):
        lab.run(node.open())
    assert not node.path.exists()
    assert [f.level for f in lab.run(node.inspect())] == ["error"]
    assert lab.run(node.install()) == "installed, schema 1"
    assert lab.run(node.install()) == "already installed, schema 1"
    assert lab.rows("PRAGMA journal_mode") == [("wal",)]


def test_ddl_does_what_install_does(lab: Lab, node: SQLiteNode) -> None:
    with lab.raw("by_hand") as raw:
        raw.execute(node.ddl()).fetchall()  # apsw goes on only as rows are fetched
    schema = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    assert lab.rows(schema, "by_hand") == [row for row in lab.rows(schema) if row[0] != "account"]


def test_a_swapped_file_is_refused(lab: Lab, node: SQLiteNode) -> None:
    stranger = SQLiteNode("stock", "lab", lab.settings(), lab.world)
    with pytest.raises(ConfigError, match="is node 'shop'"):
        lab.run(stranger.open())
    assert [f.check for f in lab.run(stranger.inspect()) if f.level == "error"] == ["identity"]


def test_a_file_in_another_mode_is_refused(lab: Lab) -> None:
    node = lab.node(opened=False)
    with lab.raw() as raw:
        raw.execute("PRAGMA journal_mode = delete")
    with pytest.raises(ConfigError, match="WAL"):
        lab.run(node.open())
    assert [f.check for f in lab.run(node.inspect()) if f.level == "error"] == ["durable"]


def test_a_file_that_is_no_database(lab: Lab) -> None:
    lab.path().write_bytes(b"no database, " * 500)
    node = SQLiteNode("shop", "lab", lab.settings(), lab.world)
    with pytest.raises(NodeUnavailable, match="not a database"):
        lab.run(node.open())
    assert [f.level for f in lab.run(node.inspect())] == ["error"]


def test_a_folder_that_takes_no_journal_is_refused(lab: Lab) -> None:
    class ReadOnly(Files):
        def create(self, path: Path, mode: int) -> int:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    node = lab.node(opened=False)
    node.journal = Journal(node.path, ReadOnly())
    with pytest.raises(ConfigError, match="Read-only file system"):
        lab.run(node.open())
    assert [f.check for f in lab.run(node.inspect()) if f.level == "error"] == ["privileges"]


def test_every_connection_commits_durably(node: SQLiteNode) -> None:
    session = node.sessions.new()
    assert session.command("PRAGMA synchronous") == [(2,)]
    session.close()


# The story of a branch


def test_prepare_and_commit(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(TAKE)
    assert lab.run(branch.prepare()).said is Said.YES
    assert lab.amount() == 100
    assert [b.id.text() for b in lab.run(node.prepared()).ours] == [name.text()]
    assert lab.run(branch.commit()) is Ended.DONE
    assert lab.amount() == 90
    assert lab.run(node.prepared()).ours == ()
    assert lab.run(node.applied([(name.gid, 1), (name.gid, 2)])) == {(name.gid, 1)}
    assert lab.run(node.finish(name, commit=True)) is Ended.APPLIED
    lab.run(node.drop_evidence([name.gid]))
    assert lab.run(node.finish(name, commit=True)) is Ended.ABSENT
    assert not node.journal.path.exists()


def test_prepare_and_roll_back(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node)
    branch.connection.execute(TAKE)
    assert lab.run(branch.prepare()).said is Said.YES
    assert lab.run(branch.roll_back(prepared=True)) is Ended.DONE
    assert lab.amount() == 100
    assert not node.journal.path.exists()
    assert lab.run(node.prepared()).ours == ()


def test_roll_back_without_prepare(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node)
    branch.connection.execute(TAKE)
    assert lab.run(branch.roll_back(prepared=False)) is Ended.DONE
    assert lab.amount() == 100


def test_home_decides(lab: Lab, node: SQLiteNode) -> None:
    name, alone = lab.id(0), lab.id(0)
    for each, participants in ((name, {1: "stock"}), (alone, {})):
        branch = lab.begin(node, each, home=True)
        branch.connection.execute(TAKE)
        assert lab.run(branch.decide(participants)).said is Said.YES
    assert lab.amount() == 80
    rows = lab.run(node.decisions([name.gid, alone.gid]))
    assert {gid: row.says for gid, row in rows.items()} == {
        name.gid: HomeSays.COMMITTED,
        alone.gid: HomeSays.COMPLETE,
    }
    (unfinished,) = lab.run(node.unfinished(10))
    assert unfinished.gid == name.gid
    assert unfinished.participants == {1: "stock"}
    lab.run(node.complete([name.gid]))
    assert lab.run(node.unfinished(10)) == []
    assert lab.run(node.purge("z", 3600, 10)) == 0
    assert lab.run(node.purge("z", -1, 1)) == 1
    assert lab.run(node.purge("z", -1, 10)) == 1


def test_home_may_change_the_schema_and_write_without_keys(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node, lab.id(0), home=True)
    branch.connection.execute("CREATE TABLE bare (x); INSERT INTO bare VALUES (1); ALTER TABLE bare ADD COLUMN y")
    assert lab.run(branch.decide({})).said is Said.YES
    assert lab.rows("SELECT * FROM bare") == [(1, None)]


def test_a_tombstone_stops_a_decision(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id(0)
    assert lab.run(node.probe([name.gid])) == {name.gid: HomeSays.FRESH}
    assert lab.run(node.probe([name.gid])) == {name.gid: HomeSays.ABORTED}
    branch = lab.begin(node, name, home=True)
    branch.connection.execute(TAKE)
    assert lab.run(branch.decide({1: "stock"})).said is Said.CONFLICT
    assert lab.amount() == 100
    assert lab.run(node.resolve(name.gid, commit=True, reason="wish")) is HomeSays.ABORTED
    other = lab.id().gid
    assert lab.run(node.resolve(other, commit=True, reason="it's true")) is HomeSays.COMMITTED
    assert lab.run(node.decisions([other]))[other].reason == "it's true"


def test_a_probe_does_not_wait_for_ever_and_reads_what_stands(lab: Lab, node: SQLiteNode) -> None:
    known, new = lab.id().gid, lab.id().gid
    lab.run(node.probe([known]))
    other = lab.node()
    branch = lab.begin(node, home=True)
    for prober in (node, other):
        answers = lab.run(prober.probe([known, new]))
        assert answers == {known: HomeSays.ABORTED, new: HomeSays.BUSY}
    lab.run(branch.roll_back(prepared=False))
    assert lab.run(other.probe([new])) == {new: HomeSays.FRESH}


def test_one_writer_at_a_time_and_readers_beside(lab: Lab, node: SQLiteNode) -> None:
    other = lab.node()
    branch = lab.begin(node)
    branch.connection.execute(TAKE)
    reader = lab.begin(node, read_only=True)
    assert reader.connection.execute(AMOUNT).fetchall() == [(100,)]
    with pytest.raises(NodeUnavailable, match="another transaction of this process") as caught:
        lab.begin(node)
    assert caught.value.retryable
    with pytest.raises(NodeUnavailable, match="locked by another process"):
        lab.begin(other)
    assert lab.run(branch.prepare()).said is Said.YES
    assert lab.run(other.finish(lab.id(), commit=True)) is Ended.OWED
    assert lab.run(branch.commit()) is Ended.DONE
    assert reader.connection.execute(AMOUNT).fetchall() == [(100,)]
    assert lab.run(reader.release()).said is Said.YES
    lab.run(lab.begin(other).roll_back(prepared=False))


def test_a_reader_cannot_write(lab: Lab, node: SQLiteNode) -> None:
    reader = lab.begin(node, read_only=True)
    with pytest.raises(Exception, match="readonly"):
        reader.connection.execute(TAKE)
    lab.run(reader.release())
    assert lab.amount() == 100


def test_what_recovery_finds_of_a_dead_owner(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(TAKE)
    assert lab.run(branch.prepare()).said is Said.YES
    (young,) = lab.run(node.prepared()).ours
    assert young.age_s < 60
    assert not young.ownerless
    branch.abandon()
    other = lab.node()
    (orphan,) = lab.run(other.prepared()).ours
    assert orphan.ownerless, "under the free lock its owner is known to be dead"
    assert lab.run(other.finish(lab.id(), commit=True)) is Ended.ABSENT
    assert lab.run(other.finish(name, commit=True)) is Ended.DONE
    assert lab.amount() == 90
    assert lab.run(other.finish(name, commit=True)) is Ended.APPLIED
    assert lab.run(branch.commit()) is Ended.APPLIED


def test_a_branch_in_doubt_stands_in_the_way_and_calls_for_help(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(TAKE)
    lab.run(branch.prepare())
    branch.abandon()
    calls: list[BranchId] = []

    def no_help(doubt: BranchId, gid: str) -> bool:
        calls.append(doubt)
        return True

    node.hurry = no_help
    with pytest.raises(NodeUnavailable, match=f"the branch of {name.gid} must be settled first") as caught:
        lab.begin(node)
    assert caught.value.retryable
    assert [call.gid for call in calls] == [name.gid], "help is called for once"

    def help_comes(doubt: BranchId, gid: str) -> bool:
        Journal(node.path).drop()
        return True

    node.hurry = help_comes
    lab.run(lab.begin(node).roll_back(prepared=False))


def test_who_may_not_wait_for_a_branch_in_doubt_gives_up_at_once(lab: Lab) -> None:
    node = lab.node(schema=ACCOUNTS, lock_timeout_s=3600.0)
    branch = lab.begin(node)
    lab.run(branch.prepare())
    branch.abandon()
    node.hurry = lambda doubt, gid: False
    with pytest.raises(NodeUnavailable, match="must be settled first") as caught:
        lab.begin(node)
    assert caught.value.retryable
    assert "do the whole transaction again" in caught.value.hint


def test_writers_of_home_duties_do_not_wait_for_a_branch_in_doubt(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node)
    lab.run(branch.prepare())
    branch.abandon()
    gid = lab.id().gid
    assert lab.run(node.probe([gid])) == {gid: HomeSays.FRESH}
    lab.run(node.complete([gid]))


def test_a_damaged_journal_is_kept_and_reported(lab: Lab, node: SQLiteNode) -> None:
    node.journal.path.write_bytes(b"nodoubt\nbut torn")
    other = lab.node()
    for step in (lambda: lab.begin(other), lambda: lab.run(other.prepared())):
        with pytest.raises(NodeUnavailable, match=r"shop\.db-nodoubt is damaged") as caught:
            step()
        assert not caught.value.retryable
        assert "move the file away" in caught.value.hint
    assert lab.run(other.finish(lab.id(), commit=False)) is Ended.OWED
    with pytest.raises(NodeUnavailable, match="damaged"):
        lab.run(other.drop_evidence([lab.id().gid]))
    gid = lab.id().gid
    assert lab.run(other.probe([gid])) == {gid: HomeSays.FRESH}
    assert [f.check for f in lab.run(other.inspect()) if f.level == "error"] == ["prepared"]
    assert node.journal.path.read_bytes() == b"nodoubt\nbut torn"


def test_branches_of_another_domain_are_counted(lab: Lab, node: SQLiteNode) -> None:
    lab.run(lab.begin(node).prepare())
    node.domain = "other"
    listing = lab.run(node.prepared())
    assert (listing.ours, listing.foreign) == ((), 1)
