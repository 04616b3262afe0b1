"""Certificates for servers of our own, and URLs that insist on them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from nodoubt.testing.processes import account


@dataclass(frozen=True)
class Authority:
    """Issues certificates for 127.0.0.1."""

    folder: Path
    own: trustme.CA

    @property
    def file(self) -> Path:
        """Its own certificate, which its clients trust."""
        return self.folder / "authority.pem"

    def issue(self, reader: str) -> tuple[Path, Path]:
        """A new certificate and its key, for a server that runs as this account, or as we do."""
        issued, owner = self.own.issue_cert("127.0.0.1"), account(reader)
        certificate, key = self.folder / f"{reader}.pem", self.folder / f"{reader}-key.pem"
        issued.cert_chain_pems[0].write_to_path(certificate)
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        shutil.chown(key, owner.pw_uid, owner.pw_gid)
        return certificate, key

    def insist(self, url: str) -> str:
        """The URL of a node whose driver verifies the server."""
        option = "sslmode=verify-full&sslrootcert" if url.startswith("postgresql") else "ssl_ca"
        return f"{url}?{option}={self.file}"


@contextmanager
def authority() -> Iterator[Authority]:
    """An authority, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="nodoubt-tls-") as name:
        made = Authority(Path(name), trustme.CA())
        # The servers run as others.
        made.folder.chmod(0o755)
        made.own.cert_pem.write_to_path(made.file)
        yield made
