"""The phases of a life: create, update, rotation, erasure, delete; and what must be there after each."""

from typing import Any, Final

from redis.asyncio import Redis

from holdfast.errors import HoldfastError
from tests.chaos.life import (
    ADMIN,
    BACKEND,
    BINDING,
    ERASURE,
    ISSUED,
    RESOURCE,
    SECRET,
    Life,
    Phase,
    message,
)
from tests.harness.meta import revision_of
from tests.harness.operator_process import CRDS

BINDINGS: Final = (CRDS / "holdfast.dev_memorybindings.yaml").exists()
ERASURES: Final = (CRDS / "holdfast.dev_memoryerasures.yaml").exists()
"""Whether this version has such objects."""

_VERSION: Final = "holdfast.dev/v1alpha1"
_HOUR: Final = 3_600_000
_MESSAGES: Final = 12
_BEFORE, _AFTER = 20, 8
"""Messages a session may hold, before the edit and after it."""
_ROTATE: Final = "holdfast.dev/rotate-requested-at"
_ACCEPT: Final = "holdfast.dev/accept-server"
_FORMER: Final = "holdfast.dev/former-password-until"


def condition(body: dict[str, Any], of: str) -> tuple[str, str]:
    """Return status and reason of a condition; empty ones when it is not there."""
    for item in body.get("status", {}).get("conditions", ()):
        if item["type"] == of:
            return item["status"], item["reason"]
    return "", ""


def settled(body: dict[str, Any]) -> bool:
    """Whether an object is Ready and says so of its newest edit."""
    generation = body.get("metadata", {}).get("generation")
    return (
        condition(body, "Ready") == ("True", "Available")
        and body["status"].get("observedGeneration") == generation
    )


# Create


async def _create(life: Life) -> None:
    backend = {**life.place.spec, "authRef": {"name": SECRET.name}}
    resource = {
        "backendRef": {"name": BACKEND.name},
        "limits": {"maxMessages": _BEFORE},
        "retention": {"ttl": "24h"},
        "deletionPolicy": "Delete",
    }
    objects = [_object(BACKEND, backend), _object(RESOURCE, resource)]
    if BINDINGS:
        entry = {
            "name": RESOURCE.name,
            "memoryRef": {"name": RESOURCE.name},
            "access": "ReadWrite",
        }
        objects.append(_object(BINDING, {"serviceAccountName": "agent", "memories": [entry]}))
    login = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET.name, "labels": {"holdfast.dev/credentials": "backend"}},
        "stringData": {"username": "default", "password": ADMIN},
    }
    expected = life.expected
    expected.revision, expected.limit, expected.ttl = 1, _BEFORE, 24 * _HOUR
    await life.api.apply(life.namespace, login, *objects)


def _object(what: Any, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": _VERSION,
        "kind": what.kind,
        "metadata": {"name": what.name},
        "spec": spec,
    }


async def _in_force(life: Life) -> bool:
    if not settled(await life.get(BACKEND)):
        return False
    resource = await life.get(RESOURCE)
    if not settled(resource) or condition(resource, "PolicyApplied")[1] != "Applied":
        return False
    if not BINDINGS:
        return True
    # The server itself is asked, too: a restart takes its users along, and nobody's status says so.
    if not settled(await life.get(BINDING)) or not (login := await life.entries()):
        return False
    let_in = await life.let_in(login)
    if let_in is False and not life.forgetful:
        life.accuse("the binding is Ready, and the login in its Secret is refused")
    return bool(let_in)


async def _created(life: Life) -> list[str]:
    """Log in as the workload does, and make the sessions."""
    wrong = await _revision(life)
    if BINDINGS:
        life.logins = await life.entries()
        life.expected.shown.add(life.logins["password"])
    sessions = [f"{life.name}-{number}" for number in range(life.count)]
    try:
        async with life.client() as client:
            memory = client.memory(RESOURCE.name)
            for session in sessions:
                texts = [f"{life.name}:{number}" for number in range(_MESSAGES)]
                await memory.session(session).append_many([message(text) for text in texts])
                life.expected.acknowledged[session] = texts
    except HoldfastError as error:
        return [*wrong, f"the workload cannot write: {error}"]
    return wrong


# Update


async def _edit(life: Life) -> None:
    expected = life.expected
    expected.revision, expected.limit, expected.ttl = expected.revision + 1, _AFTER, 2 * _HOUR
    spec = {"limits": {"maxMessages": _AFTER}, "retention": {"ttl": "2h"}}
    await life.api.patch(life.namespace, RESOURCE, {"spec": spec})


async def _rolled_out(life: Life) -> bool:
    if not await _in_force(life):
        return False
    rollout = (await life.get(RESOURCE))["status"].get("rollout", {})
    return rollout.get("revision") == life.expected.revision


async def _updated(life: Life) -> list[str]:
    return [*await _revision(life), *await sessions_follow(life)]


async def _revision(life: Life) -> list[str]:
    resource, revision = await life.get(RESOURCE), life.expected.revision
    wrong: list[str] = []
    found = resource["status"].get("policyRevision")
    if found != revision:
        wrong.append(f"status.policyRevision is {found}, not {revision}")
    key = f"mem:{{{life.namespace}/{RESOURCE.name}}}:policy"
    async with await life.raw() as redis:
        stored: Any = await redis.hget(key, "revision")
    if int(stored or 0) != revision:
        wrong.append(f"the policy in Redis has revision {stored!r}, not {revision}")
    return wrong


async def sessions_follow(life: Life) -> list[str]:
    """Look at every session: its revision and expiry, and that it holds exactly what was acknowledged."""
    expected, wrong = life.expected, list[str]()
    async with await life.raw() as redis:
        states = await _states(redis, life)
    for revision, pttl in states.values():
        if expected.revision > 1 and revision != expected.revision:
            wrong.append(f"a session has revision {revision}, not {expected.revision}")
        if not expected.ttl / 2 < pttl <= expected.ttl:
            wrong.append(f"a session lives for {pttl} ms under a ttl of {expected.ttl} ms")
    async with life.client() as client:
        memory = client.memory(RESOURCE.name)
        for session, texts in expected.acknowledged.items():
            page = await memory.session(session).read_page(limit=1000)
            stored = [record.item["content"] for record in page.records]
            if stored != texts[-expected.limit :]:
                wrong.append(
                    f"a session holds {len(stored)} messages, not the last {expected.limit} of the "
                    f"{len(texts)} that were acknowledged"
                )
    return wrong[:5]


async def _states(redis: Redis, life: Life) -> dict[str, tuple[int, int]]:
    names = [name for name, texts in life.expected.acknowledged.items() if texts]
    async with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            base = f"mem:{{{life.namespace}/{RESOURCE.name}/{name}}}"
            pipeline.hget(f"{base}:meta", "s").pttl(f"{base}:log")
        replies: list[Any] = await pipeline.execute()
    pairs = zip(replies[::2], replies[1::2], strict=True)
    return {
        name: (0 if slow is None else revision_of(slow), int(pttl))
        for name, (slow, pttl) in zip(names, pairs, strict=True)
    }


# Rotation


async def _rotate(life: Life) -> None:
    life.former = dict(life.logins)
    annotations = {"annotations": {_ROTATE: "once"}}
    await life.api.patch(life.namespace, BINDING, {"metadata": annotations})


async def _rotated(life: Life) -> bool:
    binding = await life.get(BINDING)
    handled = binding["status"].get("rotation", {}).get("lastHandledRequest")
    return handled == "once" and settled(binding) and await _in_force(life)


async def _two_passwords(life: Life) -> list[str]:
    life.logins = await life.entries()
    life.expected.shown.add(life.logins["password"])
    wrong: list[str] = []
    if life.logins["password"] == life.former["password"]:
        wrong.append("the Secret has the old password still")
    for name, login in (("new", life.logins), ("old", life.former)):
        if not await life.let_in(login):
            wrong.append(f"the {name} password is refused during grace")
    return wrong + await sessions_follow(life)


async def _end_grace(life: Life) -> None:
    """Make the grace a thing of the past: nobody here waits for ten minutes."""
    annotations = {"annotations": {_FORMER: "2020-01-01T00:00:00Z"}}
    await life.api.patch(life.namespace, ISSUED, {"metadata": annotations})
    # What wakes the operator is an edit of its own objects.
    touched = {"annotations": {"tests/touched": "yes"}}
    await life.api.patch(life.namespace, BINDING, {"metadata": touched})


async def _issued(life: Life) -> bool:
    binding = await life.get(BINDING)
    return condition(binding, "CredentialsReady")[1] == "Issued" and await _in_force(life)


async def _one_password(life: Life) -> list[str]:
    wrong: list[str] = []
    if await life.let_in(life.former):
        wrong.append("the old password is taken after grace")
    if not await life.let_in(life.logins):
        wrong.append("the new password is refused after grace")
    return wrong


# Erasure


def _erased_session(life: Life) -> str:
    return f"{life.name}-{life.count - 1}"


async def _order(life: Life) -> None:
    spec = {"memoryRef": {"name": RESOURCE.name}, "session": _erased_session(life)}
    await life.api.apply(life.namespace, _object(ERASURE, spec))


async def _erased(life: Life) -> bool:
    order = await life.get(ERASURE)
    return condition(order, "Ready") == ("True", "Erased") and await _in_force(life)


async def _forgotten(life: Life) -> list[str]:
    texts = life.expected.acknowledged[_erased_session(life)]
    receipt, kept = (await life.get(ERASURE))["status"].get("receipt", {}), len(texts)
    wrong: list[str] = []
    told = (receipt.get("sessions"), receipt.get("messages"))
    if told != (1, min(kept, life.expected.limit)):
        wrong.append(f"the receipt says {told[0]} sessions and {told[1]} messages")
    texts.clear()
    return wrong + await sessions_follow(life)


# A server that comes back empty


async def _empty(life: Life) -> None:
    """Lose all data, and with them what was acknowledged."""
    async with await life.raw() as redis:
        await redis.flushall()
    for texts in life.expected.acknowledged.values():
        texts.clear()


async def _accepted(life: Life) -> bool:
    """Accept the empty server where the operator asks, as its owner would."""
    backend = await life.get(BACKEND)
    if condition(backend, "Ready")[1] == "ServerReplaced":
        [ready] = [one for one in backend["status"]["conditions"] if one["type"] == "Ready"]
        named = {"annotations": {_ACCEPT: ready["message"].split('"')[1]}}
        await life.api.patch(life.namespace, BACKEND, {"metadata": named})
        return False
    async with await life.raw() as redis:
        there = await redis.exists(f"mem:{{{life.namespace}/{RESOURCE.name}}}:policy")
    return bool(there) and await _in_force(life)


async def _served_again(life: Life) -> list[str]:
    life.expected.revision = (await life.get(RESOURCE))["status"]["policyRevision"]
    return await _created(life)


EMPTIED: Final = Phase("emptied", _empty, _accepted, _served_again)


# Delete


async def _delete(life: Life) -> None:
    for what in (ERASURE, BINDING, RESOURCE, BACKEND):
        known = {BINDING: BINDINGS, ERASURE: ERASURES}.get(what, True)
        if known:
            await life.api.delete(life.namespace, what)


async def _gone(life: Life) -> bool:
    for what in (RESOURCE, BACKEND, *((BINDING, ISSUED) if BINDINGS else ())):
        if await life.get(what):
            return False
    return True


async def _nothing_left(life: Life) -> list[str]:
    """Only tombstones and the mark of the owner may stay, for a while; and no user."""
    wrong: list[str] = []
    async with await life.raw() as redis:
        async for key in redis.scan_iter(f"mem:{{{life.namespace}/*", count=1000):
            end = key.rpartition(b":")[2].decode()
            if end not in {"meta", "owner"}:
                wrong.append(f"a key :{end} is left")
            elif not 0 < await redis.pttl(key) <= 25 * _HOUR:
                wrong.append(f"a key :{end} lives for ever")
        users: list[Any] = await redis.acl_users()
        if any(life.namespace in str(user) for user in users):
            wrong.append("a user of the binding is left")
    events = {event["reason"] for event in await life.api.all(life.namespace, "Event")}
    if "NothingDeleted" in events:
        wrong.append("an event says that nothing was deleted")
    return wrong[:5]


def all_phases() -> list[Phase]:
    """Return the phases of a whole life, those that this version knows."""
    phases = [
        Phase("create", _create, _in_force, _created),
        Phase("update", _edit, _rolled_out, _updated, writes=True),
    ]
    if BINDINGS:
        phases.append(Phase("rotation", _rotate, _rotated, _two_passwords, writes=True))
        phases.append(Phase("grace", _end_grace, _issued, _one_password))
    if ERASURES:
        phases.append(Phase("erasure", _order, _erased, _forgotten))
    return [*phases, Phase("delete", _delete, _gone, _nothing_left)]
