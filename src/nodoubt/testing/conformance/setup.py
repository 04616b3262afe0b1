"""Clauses about opening: the right database, installed once, and no other."""

from __future__ import annotations

from nodoubt.errors import ConfigError, NodoubtError
from nodoubt.nodes.contract import Node
from nodoubt.testing.conformance.harness import Harness, bare_clause, check, equal, raises


class SetupClauses:
    """A swapped or forgotten database is refused when it is opened."""

    @bare_clause
    async def test_a_database_without_our_tables_is_refused(self, h: Harness) -> None:
        """Nothing was installed: refused, with a hint."""
        await _refused(h.node(), "open an empty database")

    @bare_clause
    async def test_another_node_is_refused(self, h: Harness) -> None:
        """The database says that it is another node, or of another domain: neither opened nor installed over."""
        await h.node().install()
        for stranger in (h.node("there"), h.node(domain="stranger")):
            await _refused(stranger, "open somebody else's database")
            await raises(ConfigError, stranger.install(), "install over somebody else's database")
        await h.opened()

    @bare_clause
    async def test_installing_twice_is_harmless(self, h: Harness) -> None:
        """The second time says that nothing was to do, and decisions stay."""
        check(await h.node().install(), "install says nothing of what it did")
        node = await h.opened()
        gid = h.gid()
        before = dict(await node.probe([gid]))
        check(await h.node().install(), "install says nothing of what it did")
        check(before != dict(await (await h.opened()).probe([gid])), "the tombstone is gone after a second install")

    @bare_clause
    async def test_the_printed_statements_install(self, h: Harness) -> None:
        """``ddl()`` is all that install does: run by hand, the node opens, works, and finds nothing more to install."""
        node = h.node()
        await h.run_ddl(node.ddl())
        opened = await h.opened()
        await h.make_table()
        await (await h.prepare(opened, h.id())).commit()
        equal(await h.read(opened), "value", "the committed row")
        check(await node.install(), "install says nothing of what it did")
        await h.opened()

    @bare_clause
    async def test_the_doctor_looks_at_everything(self, h: Harness) -> None:
        """Inspecting never raises, neither before nor after install, and its findings are of the known levels."""
        for _ in range(2):
            for finding in await h.node().inspect():
                check(finding.level in ("ok", "warning", "error"), f"a level of its own: {finding}")
                check(finding.check and finding.text, f"an empty finding: {finding}")
            await h.node().install()

    @bare_clause
    async def test_a_node_says_what_it_is(self, h: Harness) -> None:
        """Name, kind and capabilities are told, and kept by opening. What is sound is found so as often as it is asked."""
        await h.node().install()
        declared = h.node().capabilities
        node = await h.opened()
        equal(node.name, "here", "the name")
        check(node.kind, "no kind")
        equal(node.capabilities, declared, "the capabilities")
        await node.check_durable()
        equal(node.home_refusal, "", "why nobody may write, on a sound server that is asked again")


async def _refused(node: Node, what: str) -> None:
    error = await raises(ConfigError, node.open(), what)
    check(isinstance(error, NodoubtError) and error.hint, f"{what}: no hint in {error}")
