"""The commands on a SQLite file: what differs from a server is the node's, not theirs."""

from __future__ import annotations

from pathlib import Path

import apsw

from nodoubt.protocol.ids import new_gid
from tests.cli.conftest import Run, write_config

GID = new_gid(0, bytes(10))


def test_a_file_is_installed_inspected_and_a_damaged_decision_in_it_replaced(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "till.db"
    write_config({"till": f"sqlite:///{path}"})
    assert run("doctor").code == 1
    assert run("init").code == 0
    assert run("doctor").code == 0
    assert run("settle").code == 0
    connection = apsw.Connection(str(path))
    connection.execute("INSERT INTO nodoubt_decision (gid, decision) VALUES (?, 'garbage')", (GID,))
    connection.close()
    assert run("settle").code == 1
    assert "decision 'garbage'" in run("tx", "show", GID).out
    assert run("tx", "resolve", GID, "--commit", "--reason", "a bad script", "--yes").code == 0
    printed = run("tx", "show", GID)
    assert "resolved by a person: a bad script" in printed.out
    assert "decision 'garbage'" in printed.out
    assert run("settle").code == 0
    assert run("tx", "show", GID).code == 0
