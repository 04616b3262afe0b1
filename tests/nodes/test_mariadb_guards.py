"""The guard rails on a user's connection to MariaDB, with each driver."""

from __future__ import annotations

from typing import Any

import pytest

from nodoubt.errors import GuardError
from nodoubt.nodes.contract import Ended, Said
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import TABLE, Side


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mariadb")


@pytest.mark.parametrize("cursor", ["Cursor", "DictCursor", "SSCursor", "SSDictCursor"])
def test_no_cursor_passes_the_guard(side: Side, url: str, cursor: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        rows = await side.sql(branch.connection, "SELECT %s AS a UNION SELECT 2", 1, cursor=cursor)
        assert rows == ([{"a": 1}, {"a": 2}] if "Dict" in cursor else [(1,), (2,)])
        with pytest.raises(GuardError, match="commits implicitly"):
            await side.sql(branch.connection, TABLE, cursor=cursor)
        assert isinstance(branch.misuse, GuardError)
        assert await branch.roll_back(prepared=False) is Ended.DONE
        with pytest.raises(GuardError):
            await side.sql(branch.connection, "SELECT 1", cursor=cursor)

    side.run(story())


REFUSED = [
    "COMMIT",
    "begin work",
    "START TRANSACTION",
    "ROLLBACK",
    "/* hidden */ XA END 'a'",
    "SET @x = 1, autocommit = 0",
    "SET SESSION autocommit=1",
    "LOCK TABLES item WRITE",
    "TRUNCATE item",
    "DROP TABLE item",
    "ALTER TABLE item ADD COLUMN w INT",
    "/*!50000 COMMIT */",
    "/*M! COMMIT */",
    "SELECT 1; DELETE FROM item",
    "SELECT RELEASE_ALL_LOCKS()",
    "FLUSH TABLES",
    "SET SESSION idle_transaction_timeout = 0",
    "SET @x = 1, @@session.`idle_write_transaction_timeout` = 0",
    "SET wait_timeout = 1000000",
]
ALLOWED = [
    'SELECT "see /*! hint */"',
    'SELECT "RELEASE_ALL_LOCKS()"',
    "SET SESSION lock_wait_timeout = 9",
    "SELECT @@wait_timeout",
    "SELECT 'SET wait_timeout = 1'",
]


@pytest.mark.parametrize("text", REFUSED)
def test_refused_statements(side: Side, url: str, text: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        with pytest.raises(GuardError):
            await side.sql(branch.connection, text)
        await branch.roll_back(prepared=False)

    side.run(story())


@pytest.mark.parametrize("text", ALLOWED)
def test_statements_that_only_look_like_forbidden_ones(side: Side, url: str, text: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        await side.sql(branch.connection, text)
        assert branch.misuse is None
        await branch.roll_back(prepared=False)

    side.run(story())


def test_a_method_that_was_kept_is_dead(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url, pool_size=1)
        first = await side.begin(node)
        cursor = first.connection.cursor
        await first.roll_back(prepared=False)
        second = await side.begin(node)
        with pytest.raises(GuardError, match="over"):
            await maybe(cursor())
        await second.roll_back(prepared=False)

    side.run(story())


@pytest.mark.parametrize("method", ["commit", "rollback", "begin", "autocommit", "close", "kill", "ping"])
def test_refused_methods(side: Side, url: str, method: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        with pytest.raises(GuardError, match=method):
            getattr(branch.connection, method)
        await branch.roll_back(prepared=False)

    side.run(story())


def test_leaked_cursor_is_dead_although_its_session_works_on(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url, pool_size=1)
        first = await side.begin(node)
        cursor = await opened(side, first.connection)
        await first.roll_back(prepared=False)
        second = await side.begin(node)
        with pytest.raises(GuardError, match="over"):
            await maybe(cursor.execute("SELECT 1"))
        assert second.misuse is None
        await second.roll_back(prepared=False)

    side.run(story())


async def opened(side: Side, connection: Any) -> Any:
    made = connection.cursor()
    return made if side.driver == "pymysql" else await made


async def maybe(result: Any) -> Any:
    return await result if hasattr(result, "__await__") else result


def test_unread_rows_do_not_hinder_the_end(side: Side, url: str) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        see("INSERT INTO item SELECT seq, seq FROM seq_1_to_20000")
        branch = await side.begin(node)
        import aiomysql
        import pymysql

        kind = pymysql.cursors.SSCursor if side.driver == "pymysql" else aiomysql.SSCursor
        made = branch.connection.cursor(kind)
        cursor = made if side.driver == "pymysql" else await made
        await maybe(cursor.execute("SELECT * FROM item ORDER BY id"))
        assert await maybe(cursor.fetchone()) == (1, 1)
        branch.fence(GuardError("over"))
        assert (await branch.prepare()).said is Said.YES
        assert await branch.commit() is Ended.DONE
        assert await maybe(cursor.fetchone()) is None

    side.run(story())


def test_read_only_branch_cannot_write(side: Side, url: str) -> None:
    async def story() -> None:
        node, see = await side.node(url, pool_size=1), side.outsider(url)
        see(TABLE)
        see("CREATE PROCEDURE end_it() COMMIT")
        see("CREATE PROCEDURE change_it() CREATE TABLE other (id INT)")
        branch = await side.begin(node, read_only=True)
        assert await side.sql(branch.connection, "SELECT * FROM item") == []
        assert (await branch.release()).said is Said.YES
        branch = await side.begin(node, read_only=True)
        with pytest.raises(Exception, match="READ ONLY"):
            await side.sql(branch.connection, "INSERT INTO item VALUES (1, 1)")
        await branch.roll_back(prepared=False)
        branch = await side.begin(node, read_only=True)
        with pytest.raises(Exception, match="READ ONLY"):
            await side.sql(branch.connection, "CALL change_it()")
        await branch.roll_back(prepared=False)
        branch = await side.begin(node, read_only=True)
        with pytest.raises(GuardError, match="ended the transaction"):
            await side.sql(branch.connection, "CALL end_it()")
        await branch.roll_back(prepared=False)
        # What it showed afterwards was of another moment.
        see("CREATE PROCEDURE begin_another() BEGIN COMMIT; START TRANSACTION; END")
        branch = await side.begin(node, read_only=True)
        await side.sql(branch.connection, "CALL begin_another()")
        answer = await branch.release()
        assert (answer.said, "nodoubt_transaction does not exist" in answer.reason) == (Said.NO, True)
        # A later writer of the same pool can write.
        writer = await side.begin(node)
        await side.sql(writer.connection, "INSERT INTO item VALUES (1, 1)")
        await writer.roll_back(prepared=False)

    side.run(story())


def test_block_may_use_another_database(side: Side, url: str, database: DatabaseFactory) -> None:
    async def story() -> None:
        other = database("mariadb")
        node = await side.node(url)
        branch = await side.begin(node)
        await side.sql(branch.connection, f"USE {other.rpartition('/')[2]}")
        assert (await branch.prepare()).said is Said.YES
        assert await branch.commit() is Ended.DONE

    side.run(story())
