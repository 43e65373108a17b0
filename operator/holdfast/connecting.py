"""Where a program begins: `connect` finds out where the memories are, and makes a client."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

from holdfast.arguments import require_text
from holdfast.client import Client
from holdfast.errors import ConfigurationError
from holdfast.policy import PolicySource
from holdfast.store import MemoryStore
from holdfast.store.addresses import OPTIONS
from holdfast.store.bindings import ROOT, Binding, find_binding
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.refusals import unreadable_address
from holdfast.summaries import as_summarizer
from holdfast.telemetry import Observer
from holdfast.tokens import TokenCounter
from holdfast.values import Durability

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

    from holdfast.summaries import SummarizerLike

_DEFAULT_PREFIX = "mem"
_SIDECAR = ("http", "http+unix")
_TOLD = ("begun", "ended", "counted", "measured")  # of an observer
_OPTIONS = ("namespace", "prefix", "replicas", "wait", *OPTIONS)


def connect(
    url: str | None = None,
    *,
    namespace: str | None = None,
    policy: PolicySource | None = None,
    client: "Redis | RedisCluster | None" = None,
    durability: Durability | None = None,
    counter: TokenCounter | None = None,
    summarizer: "SummarizerLike | None" = None,
    observers: Sequence[Observer] = (),
    holder: str | None = None,
) -> "Client":
    """Make a client. No I/O happens before the first call.

    Args:
        url: `redis://host:port/0?namespace=team-a&prefix=mem`, `redis+cluster://host:port,host:port`,
            `redis+sentinel://host:port,host:port/primary`, each with TLS as `rediss` instead of
            `redis` (options ca, cert, key, server-name), `unix:///path/of/socket`, `memory://` for a
            store in this process; or a sidecar's `http+unix:///path/of/socket` or
            `http://127.0.0.1:7070`, which alone decides: then only `observers` may be given besides.
            None takes the variable `HOLDFAST_URL`, or else the one binding
            under `SERVICE_BINDING_ROOT`, whose memories have their names there.
        namespace: of the memories; instead of the URL's, else `local`.
        policy: what holds where no operator wrote a policy: the path of a MemoryResource manifest, a
            mapping in its form, or a `Policy`.
        client: your own redis-py client, of a server, of a Cluster, or made by a `Sentinel`; it is
            never closed. For the last two, connections of our own are made with its settings.
        durability: how many replicas confirm appends, turns and erasures; instead of the URL's
            `replicas=1&wait=100ms`, else none is asked.
        counter: your own token counter, for all memories and whatever their policies say. It is asked
            on a thread of its own, 30 s for each message.
        summarizer: writes summaries, whatever the policies say: an object with `summarize`, or a
            function of a `SummaryRequest` that returns the text, `async` or not.
        observers: are told of calls, counts and levels, such as `holdfast.metrics.PrometheusObserver()`
            and `holdfast.tracing.OpenTelemetryObserver()`.
        holder: how turns name themselves to others; None is the host and the process.

    Raises:
        ConfigurationError: nothing says where to connect to, or it cannot be used.
        PolicyInvalid: the policy breaks a rule; names file, line, field and reason.
    """
    require_text(url=url, namespace=namespace, holder=holder)
    observers = _observers(observers)
    address = url or os.environ.get("HOLDFAST_URL") if client is None else url
    if address and address.partition(":")[0] in _SIDECAR:
        given = {
            "namespace": namespace,
            "policy": policy,
            "client": client,
            "durability": durability,
            "counter": counter,
            "summarizer": summarizer,
            "holder": holder,
        }
        return _sidecar(address, given, observers)
    if summarizer is not None:
        as_summarizer(summarizer)  # what is none is said now, and not by the first flush
    _require_durability(durability)
    binding = _binding(namespace) if not address and client is None else None
    options = _options(address) if address else {}
    return Client(
        _store(
            address,
            options,
            binding if client is None else client,
            durability=durability,
            observers=observers,
        ),
        binding=binding,
        namespace=namespace or options.get("namespace"),
        policy=policy,
        counter=counter,
        summarizer=summarizer,
        observers=observers,
        holder=holder,
    )


def _observers(given: object) -> tuple[Observer, ...]:
    """Return the observers.

    Raises:
        ConfigurationError: they are none, or not in a list.
    """
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"observers is a list of observers, not {type(given).__name__}")
    observers = tuple(cast("Iterable[object]", given))
    for one in observers:
        missing = [name for name in _TOLD if not callable(getattr(one, name, None))]
        if missing:
            raise ConfigurationError(
                f"an observer has the methods {', '.join(_TOLD)}, as holdfast.telemetry.Observer says; "
                f"{type(one).__name__} has no {missing[0]}"
            )
    return cast("tuple[Observer, ...]", observers)


def _require_durability(given: object) -> None:
    if given is not None and not isinstance(given, Durability):
        raise ConfigurationError(
            f"durability is a holdfast.Durability, such as Durability(replicas=1), not "
            f"{type(given).__name__}"
        )


def _sidecar(url: str, given: Mapping[str, object], observers: Sequence[Observer]) -> Client:
    """Return a client of a sidecar, which decides what a program decides elsewhere."""
    meant = [name for name, value in given.items() if value is not None]
    if meant:
        raise ConfigurationError(
            f"{meant[0]}= is not for a program that reaches its memories through a sidecar, which decides "
            "that for all of them: leave it out, and set it where the sidecar is started"
        )
    try:
        from holdfast.remote import RemoteClient  # noqa: PLC0415 - loads aiohttp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "aiohttp":
            raise
        raise ConfigurationError(
            "a sidecar is reached with another package: pip install 'holdfast[http]'"
        ) from None
    return RemoteClient(url, observers=observers)


def _binding(namespace: str | None) -> Binding:
    root = os.environ.get(ROOT)
    if not root:
        raise ConfigurationError(
            "nothing says where the memory is: give a url to connect(), such as "
            "'redis://localhost:6379' or 'memory://', set HOLDFAST_URL, or mount a binding. Tried: the "
            f"argument (not given), HOLDFAST_URL (not set), {ROOT} (not set)"
        )
    if namespace is not None:
        raise ConfigurationError(
            f"the memories of a binding have their namespace: leave it out, or give a url. Tried: {ROOT}"
        )
    return find_binding(root)


def _store(
    address: str | None,
    options: Mapping[str, str],
    client: "Redis | RedisCluster | Binding | None",
    *,
    durability: Durability | None,
    observers: Sequence[Observer],
) -> MemoryStore:
    if client is None and address is not None and urlsplit(address).scheme == "memory":
        return InMemoryStore()
    from holdfast.store.redis import RedisStore  # noqa: PLC0415 - loads the redis client

    prefix = options.get("prefix", _DEFAULT_PREFIX)
    confirmed = durability or _durability(options)
    if isinstance(client, Binding):
        return RedisStore.at(
            client.address,
            prefix=client.prefix,
            durability=confirmed or client.durability,
            observers=observers,
        )
    if client is not None:
        return RedisStore.from_client(
            client, prefix=prefix, durability=confirmed, observers=observers
        )
    assert address is not None
    return RedisStore.from_url(address, prefix=prefix, durability=confirmed, observers=observers)


def _options(url: str) -> dict[str, str]:
    try:
        address = urlsplit(url)
    except ValueError:
        raise unreadable_address() from None
    if "@" in address.query or address.fragment:
        raise unreadable_address()  # it cuts a password in two: show neither half
    parts = parse_qs(address.query, keep_blank_values=True)
    unknown = sorted(parts.keys() - set(_OPTIONS))
    if unknown:
        raise ConfigurationError(
            f"the url has the unknown option {unknown[0]!r}; there are {', '.join(_OPTIONS)}"
        )
    return {name: values[-1] for name, values in parts.items()}


def _durability(options: Mapping[str, str]) -> Durability | None:
    if "replicas" not in options:
        return None
    replicas = options["replicas"]
    return Durability(
        replicas=int(replicas) if replicas.isascii() and replicas.isdigit() else -1,
        timeout=options.get("wait", Durability().timeout),
    )
