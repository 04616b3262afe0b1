"""MySQL for the tests of this folder, which ``make newest`` names one by one: the programs are not everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodoubt.testing.servers import MySQLServer


@pytest.fixture(scope="session")
def mysql() -> Iterator[MySQLServer]:
    """The MySQL server of this run. It has a binary log, as every one that is not told otherwise."""
    with MySQLServer.start() as server:
        yield server
