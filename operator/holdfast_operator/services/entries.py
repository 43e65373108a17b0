"""What a binding's Secret holds: the entries of servicebinding.io, and ours. Pure functions."""

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from holdfast import _version
from holdfast.keys import memory_prefix
from holdfast.values import MemoryAddress
from holdfast_operator.backend import BackendMode, TLSMode
from holdfast_operator.resources import MemoryBackend, MemoryBinding
from holdfast_operator.services.objects import namespace_of
from holdfast_operator.services.ports import Credentials

SECRET_TYPE: Final = "servicebinding.io/holdfast"  # noqa: S105 - a type of Secret


@dataclass(frozen=True, slots=True)
class Trust:
    """What a client needs beside the login of its own. Shows in no representation.

    Attributes:
        ca: certificates that alone are trusted, PEM; empty for those of the system.
        sentinel: login to the Sentinels.
    """

    ca: bytes = b""
    sentinel: Credentials | None = None

    def __repr__(self) -> str:
        """Return a text without what is inside."""
        return "Trust(...)"


def secret_name(binding: str) -> str:
    """Return the name of a binding's Secret."""
    return f"{binding}-holdfast"


def entries(
    binding: MemoryBinding, backend: MemoryBackend, login: Credentials, trust: Trust
) -> dict[str, bytes]:
    """Return all entries of a binding's Secret.

    Args:
        binding: whose Secret it is.
        backend: of its memories.
        login: user name and password of the workload.
        trust: what else it needs.
    """
    spec = backend.spec
    host, _, port = spec.endpoints[0].rpartition(":")
    texts = {
        "type": "holdfast",
        "provider": _provider(backend),
        "mode": spec.mode.value.lower(),
        "endpoints": ",".join(spec.endpoints),
        "host": host.strip("[]"),
        "port": port,
        "database": str(spec.database),
        "username": login.username,
        "password": login.password,
        "uri": _uri(backend, login),
        "memories": _memories(binding, spec.key_prefix),
        "client-id": f"{namespace_of(binding.metadata)}/{binding.metadata.name}",
        "scripts-version": _version.__version__,
    }
    if spec.tls.mode is TLSMode.ENABLED and spec.tls.server_name is not None:
        texts["server-name"] = spec.tls.server_name
    if spec.mode is BackendMode.SENTINEL and spec.sentinel is not None:
        texts["master-name"] = spec.sentinel.master_name
        if trust.sentinel is not None:
            texts["sentinel-username"], texts["sentinel-password"] = trust.sentinel
    if spec.durability.replicas:
        texts["replicas"] = str(spec.durability.replicas)
        texts["wait"] = spec.durability.timeout.text
    found = {name: text.encode() for name, text in texts.items() if text}
    return found | ({"ca.crt": trust.ca} if trust.ca else {})


def _provider(backend: MemoryBackend) -> str:
    server = backend.status.server
    return (server.product if server is not None else None) or "redis"


def _uri(backend: MemoryBackend, login: Credentials) -> str:
    """Return an address of the first endpoint, for consumers that know no other entry."""
    spec = backend.spec
    scheme = "rediss" if spec.tls.mode is TLSMode.ENABLED else "redis"
    user, password = (quote(part, safe="") for part in login)
    who = f"{user}:{password}@" if password else ""
    return f"{scheme}://{who}{spec.endpoints[0]}/{spec.database}"


def _memories(binding: MemoryBinding, key_prefix: str) -> str:
    """Return the memories as the library reads them. A prefix says namespace and key prefix."""
    home = namespace_of(binding.metadata)
    found = [
        {
            "name": memory.name,
            "prefix": memory_prefix(
                MemoryAddress(home, memory.memory_ref.name), key_prefix
            ).removesuffix("}"),
            "access": memory.access.value,
            "fields": {field.name: field.value for field in memory.fields},
        }
        for memory in binding.spec.memories
    ]
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))
