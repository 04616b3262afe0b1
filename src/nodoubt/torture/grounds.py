"""Where the torture takes place: servers of our own or named databases, each behind a proxy, and what can befall them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from nodoubt.errors import ConfigError
from nodoubt.testing.disks import SmallDisk, why_no_failing_sync, why_no_small_disk
from nodoubt.testing.proxy import Proxy
from nodoubt.testing.proxy_faults import Schedule, Statement
from nodoubt.testing.proxy_wire import WIRES
from nodoubt.testing.servers import MariaDBServer, MySQLServer, PostgreSQLServer, Server, ServerMissing
from nodoubt.torture.options import FILE, LOGGING, OF_SERVERS, Kind, Options

#: This part of the requests that PREPARE, decide, COMMIT and the like is struck by the network.
NETWORK_RATE = 0.004
#: Of those that open a gate or close it: each keeps all transactions waiting until the server ends the holder's session.
GATE_RATE = 0.0004
_OF_GATES = (Statement.CLOSE_GATE, Statement.OPEN_GATE, Statement.COMMIT)
#: More requests of one kind than a node gets in a second.
REQUESTS_PER_S = 500

_INNODB = {"innodb_buffer_pool_size": "64M"}
_LOG = {"server_id": "1", "sync_binlog": "1", "max_binlog_size": "16M", "loose_binlog_expire_logs_seconds": "60"}
#: Servers of our own, with settings by which their files fit on a small disk.
SERVERS: Mapping[str, tuple[type[Server], Mapping[str, str]]] = {
    "postgresql": (PostgreSQLServer, {"shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}),
    "mariadb": (MariaDBServer, {**_INNODB, "innodb_log_file_size": "16M"}),
    LOGGING: (MariaDBServer, {**_INNODB, "innodb_log_file_size": "16M", **_LOG, "log_bin": "log"}),
    # It has a binary log unless it is told otherwise.
    "mysql": (MySQLServer, {**_INNODB, "loose_innodb_redo_log_capacity": "16M", **_LOG}),
}


@dataclass(slots=True, kw_only=True)
class Grounds:
    """The nodes of a run."""

    #: Node -> the URL that leads to it directly.
    urls: Mapping[str, str]
    #: Node -> the proxy before it.
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    #: Node -> the server behind it, if it is ours, and its disk, if it is a small one.
    servers: Mapping[str, Server] = field(default_factory=dict)
    disks: Mapping[str, SmallDisk] = field(default_factory=dict)
    #: The kinds of faults that strike, and why the others do not.
    on: Sequence[Kind] = ()
    off: Mapping[Kind, str] = field(default_factory=dict)

    @property
    def worker_urls(self) -> dict[str, str]:
        """The URLs that workers use."""
        return {name: self.proxies[name].url if name in self.proxies else url for name, url in self.urls.items()}


def possible(options: Options) -> tuple[list[Kind], dict[Kind, str]]:
    """Which of all kinds can strike here, and why the others cannot."""
    off = {kind: "not asked for" for kind in Kind if kind not in options.faults}
    for kind in OF_SERVERS:
        if options.nodes or set(options.own) == {FILE}:
            off.setdefault(kind, "only servers that it started itself are struck")
    if Kind.DISK_FULL not in off and (why := why_no_small_disk()):
        off[Kind.DISK_FULL] = why
    if LOGGING in options.own:
        off.setdefault(Kind.SYNC_ERROR, "MariaDB rolls a prepared branch back when it cannot force its binary log")
    if Kind.SYNC_ERROR not in off and (why := why_no_failing_sync()):
        off[Kind.SYNC_ERROR] = why
    kinds = [url.partition(":")[0] for url in options.nodes.values()] or options.own
    if not any(kind in WIRES or kind in SERVERS for kind in kinds):
        off.setdefault(Kind.NETWORK, "none of the nodes is reached through a network")
    return [kind for kind in Kind if kind not in off], off


@contextlib.contextmanager
def ground(options: Options) -> Iterator[Grounds]:
    """The nodes that were named, or servers of our own that end with the block."""
    on, off = possible(options)
    with contextlib.ExitStack() as stack:
        named = Grounds(urls=options.nodes, on=on, off=off)
        grounds = named if options.nodes else _own(options.own, stack, on, off)
        if Kind.NETWORK in on:
            grounds.proxies = {
                name: stack.enter_context(Proxy(url, _schedule(options, number)))
                for number, (name, url) in enumerate(grounds.urls.items())
                if url.partition(":")[0] in WIRES
            }
        yield grounds


def _own(kinds: Sequence[str], stack: contextlib.ExitStack, on: list[Kind], off: dict[Kind, str]) -> Grounds:
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="nodoubt-torture-", ignore_cleanup_errors=True)))
    urls: dict[str, str] = {}
    servers: dict[str, Server] = {}
    disks: dict[str, SmallDisk] = {}
    for number, kind in enumerate(kinds, start=1):
        name = f"{kind}-{number}"
        if kind == FILE:
            urls[name] = f"sqlite:///{folder / name}.db"
            continue
        server, small = SERVERS[kind]
        if Kind.DISK_FULL in on:
            disks[name] = SmallDisk()
            stack.callback(disks[name].close)
        try:
            within = disks[name].folder if name in disks else None
            servers[name] = stack.enter_context(server.start(small, within=within))
        except ServerMissing as error:
            raise ConfigError(str(error), hint="install it, or name databases with --nodes") from error
        urls[name] = servers[name].url
    return Grounds(urls=urls, servers=servers, disks=disks, on=on, off=off)


def _schedule(options: Options, number: int) -> Schedule:
    """A node's own: the same seed gives each node the same faults in every run."""
    seed, requests = options.seed * 1000 + number, round(options.seconds * REQUESTS_PER_S)
    others = set(Statement) - set(_OF_GATES)
    drawn = [
        Schedule.drawn(seed, rate=rate / options.rarity, requests=requests, statements=sorted(statements))
        for rate, statements in ((NETWORK_RATE, others), (GATE_RATE, _OF_GATES))
    ]
    return Schedule(tuple(fault for schedule in drawn for fault in schedule.faults))
