"""Backends as services see them: references, risks, replaced servers, and guard rails for their tenants."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import AccessDenied, ConfigurationError, StoreUnavailable, UnknownKeys
from holdfast.policy import Policy
from holdfast.store.addresses import Login, Mode
from holdfast_operator.services.clamping import Bounds, clamped, fair_share
from holdfast_operator.services.ports import ConfigMap, Secret
from tests.harness.certificates import CertificateAuthority
from tests.harness.operator_world import OFFERED, World, condition, ready


@pytest.fixture
def world() -> World:
    return World()


def message(body: Any, of: str = "Ready") -> str:
    found = condition(body, of)
    assert found is not None
    return found["message"]


# What a spec refers to


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.mark.asyncio
async def test_sentinel_credentials_and_all_endpoints_reach_the_connection(world: World):
    backend = world.add_backend(
        mode="Sentinel",
        endpoints=["a:26379", "[::1]:26380"],
        sentinel={"masterName": "main", "authRef": {"name": "watcher"}},
        database=3,
        authRef={"name": "login"},
    )
    world.add_secret("login", password="primary")
    await world.look(backend)
    assert ready(backend) == ("False", "SecretMissing")
    assert "Secret watcher" in message(backend)
    world.add_secret("watcher", username="w", password="sentinel")
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    [address] = world.server.addresses
    assert (address.mode, address.primary, address.database) == (Mode.SENTINEL, "main", 3)
    assert address.nodes == (("a", 26379), ("::1", 26380))
    assert address.login == Login(None, "primary")
    assert address.sentinel_login == Login("w", "sentinel")


@pytest.mark.asyncio
async def test_an_authority_from_a_config_map_needs_no_label_and_one_from_a_secret_does(
    world: World, authority: CertificateAuthority
):
    pem = authority.certificate.read_text()
    ref = {"kind": "ConfigMap", "name": "ca"}
    backend = world.add_backend(tls={"mode": "Enabled", "caRef": ref, "serverName": "redis.x"})
    await world.look(backend)
    assert ready(backend) == ("False", "SecretMissing")
    assert "ConfigMap ca" in message(backend)
    for data in ({}, {"ca.crt": ""}, {"ca.crt": "no certificate"}, {"other": pem}):
        world.config_maps["platform", "ca"] = ConfigMap("ca", "1", data)
        await world.look(backend)
        assert ready(backend) == ("False", "SecretInvalid")
    world.config_maps["platform", "ca"] = ConfigMap("ca", "2", {"ca.crt": pem})
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    [address] = world.server.addresses
    assert address.tls is not None
    assert (address.tls.authority, address.tls.server_name) == (pem, "redis.x")

    world.edit(backend, tls={"mode": "Enabled", "caRef": {"name": "ca", "key": "root.pem"}})
    world.secrets["platform", "ca"] = Secret("ca", "1", {}, {"root.pem": pem.encode()})
    await world.look(backend)
    assert ready(backend) == ("False", "SecretNotOffered")
    world.secrets["platform", "ca"] = Secret("ca", "2", OFFERED, {"root.pem": pem.encode()})
    await world.look(backend)
    assert ready(backend) == ("True", "Available")


@pytest.mark.asyncio
async def test_of_an_authority_only_certificates_are_taken(
    world: World, authority: CertificateAuthority
):
    """They are handed on to every workload that is bound, and a key may stand in the same file."""
    pem = authority.certificate.read_text()
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    backend = world.add_backend(tls={"mode": "Enabled", "caRef": {"name": "ca", "key": "all.pem"}})
    world.secrets["platform", "ca"] = Secret(
        "ca", "1", OFFERED, {"all.pem": f"{key}note\n{pem}{key}{pem}".encode()}
    )
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    [address] = world.server.addresses
    assert address.tls is not None
    assert address.tls.authority == pem * 2
    world.secrets["platform", "ca"] = Secret("ca", "2", OFFERED, {"all.pem": key.encode()})
    await world.look(backend)
    assert ready(backend) == ("False", "SecretInvalid")


@pytest.mark.asyncio
async def test_a_client_certificate_has_both_parts_and_is_picked_up_anew(world: World):
    backend = world.add_backend(tls={"mode": "Enabled", "clientCertRef": {"name": "pair"}})
    for version, data, reason in (
        ("1", {"tls.crt": b"x"}, "SecretInvalid"),
        ("2", {"tls.crt": b"broken", "tls.key": b"broken"}, "SecretInvalid"),
    ):
        world.secrets["platform", "pair"] = Secret("pair", version, OFFERED, data)
        await world.look(backend)
        assert ready(backend) == ("False", reason)
    for version in ("3", "4"):
        data = {"tls.crt": b"c" + version.encode(), "tls.key": b"k"}
        world.secrets["platform", "pair"] = Secret("pair", version, OFFERED, data)
        await world.look(backend)
        assert ready(backend) == ("True", "Available")
    pairs = [address.tls.pair for address in world.server.addresses if address.tls is not None]
    assert pairs == [b"c3\nk", b"c4\nk"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spec", "fault", "reason", "word"),
    [
        ({}, StoreUnavailable("TLS"), "TLSFailed", "tls.caRef"),
        ({}, UnknownKeys("text"), "WrongKeyType", "{!backend}"),
        ({"mode": "Cluster"}, ConfigurationError("x"), "InvalidSpec", "no node of a Cluster"),
        (
            {"mode": "Sentinel", "sentinel": {"masterName": "m"}},
            ConfigurationError("x"),
            "InvalidSpec",
            "no Sentinel",
        ),
    ],
)
async def test_what_stands_in_the_way_is_named(
    world: World, spec: dict[str, Any], fault: Any, reason: str, word: str
):
    backend = world.add_backend(**spec)
    world.server.fault = fault
    await world.look(backend)
    assert ready(backend) == ("False", reason)
    assert word in message(backend)
    world.server.fault = None
    await world.look(backend)
    assert ready(backend) == ("True", "Available")


@pytest.mark.parametrize(
    ("entries", "hinted"),
    [
        ({"password": "right"}, False),
        ({"password": "right\n"}, True),
        ({"password": "right", "username": "ops\r\n"}, True),
    ],
)
@pytest.mark.asyncio
async def test_a_refused_login_that_ends_in_a_line_break_is_told_of_it(
    world: World, entries: dict[str, str], hinted: bool
):
    """It is in no `kubectl get` to be seen, and `echo` writes one."""
    world.add_secret("login", **entries)
    backend = world.add_backend(authRef={"name": "login"})
    world.server.fault = AccessDenied("wrong password")
    await world.look(backend)
    assert ready(backend) == ("False", "AuthenticationFailed")
    assert ("line break" in message(backend)) is hinted
    assert "right" not in message(backend)


@pytest.mark.asyncio
async def test_a_backend_that_waits_for_its_memories_follows_its_secret(world: World):
    world.add_secret("login", password="first")
    backend, resource = world.add_backend(authRef={"name": "login"}), world.add_resource()
    await world.look(backend)
    await world.settle(resource)
    world.delete(backend)
    await world.look(backend)
    assert ready(backend) == ("False", "InUse")
    world.clock.advance(60)
    world.add_secret("login", password="second")
    loaded = world.server.calls.count("load_scripts")
    await world.look(backend)
    assert world.server.addresses[-1].login.password == "second"
    assert world.server.calls.count("load_scripts") == loaded + 1
    # Without a Secret what is open is used on: the memories have to get away.
    del world.secrets["platform", "login"]
    await world.look(backend)
    assert world.connections.is_open(backend["metadata"]["uid"])
    world.delete(resource)
    await world.settle(resource)
    await world.look(backend)
    assert ("MemoryBackend", "platform", "shared") not in world.objects


@pytest.mark.asyncio
async def test_a_sentinel_in_place_of_a_server_is_told_apart(world: World):
    backend = world.add_backend()
    world.server.info = world.server.info._replace(mode="sentinel")
    await world.look(backend)
    assert ready(backend) == ("False", "InvalidSpec")
    assert "spec.sentinel.masterName" in message(backend)


@pytest.mark.asyncio
async def test_what_a_managed_service_denies_is_unknown_and_no_error(world: World):
    backend = world.add_backend()
    world.server.info = world.server.info._replace(
        product="", version="", mode="", used_memory=0, eviction_policy="", manages_users=False
    )
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert backend["status"]["server"] == {"instance": world.server.name}
    assert condition(backend, "AtRisk") is None
    assert "ACL SETUSER" in message(backend)
    world.edit(backend, access={"mode": "ProvidedCredentials"})
    await world.look(backend)
    assert "ACL SETUSER" not in message(backend)


# Risks


@pytest.mark.asyncio
async def test_risks_are_said_once_and_go_with_their_cause(world: World):
    backend = world.add_backend()
    fine = world.server.info._replace(max_memory=2**30)
    world.server.info = fine._replace(most_full=91, persists=False)
    outcome = await world.look(backend)
    assert ready(backend) == ("True", "Available")
    found = condition(backend, "AtRisk")
    assert found is not None
    assert (found["status"], found["reason"]) == ("True", "MemoryPressure")
    assert "appendonly" in found["message"]
    assert [event.reason for event in outcome.events] == ["Available", "MemoryPressure"]
    # Around the bound nothing flaps, and no figure in the message moves.
    for percent in (99, 89, 86):
        world.server.info = fine._replace(most_full=percent, persists=False)
        assert (await world.look(backend)).status is None
    world.server.info = fine._replace(most_full=84)
    await world.look(backend)
    assert condition(backend, "AtRisk") is None
    world.server.info = fine._replace(most_full=89)
    assert (await world.look(backend)).status is None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"eviction_policy": "allkeys-lru"}, "EvictionEnabled"),
        ({"persists": False}, "PersistenceOff"),
        ({"min_replicas": 0}, "ReplicasNotRequired"),
        ({"servers": 6, "silent": 1}, "ServerSilent"),
        ({"default_open": True}, "DefaultUserOpen"),
        ({"default_open": True, "persists": False}, "PersistenceOff"),
        ({"default_open": None}, None),
        ({"min_replicas": 1}, None),
        ({"persists": None, "min_replicas": None}, None),
        ({"replicas": 1}, "ReplicasMissing"),
        ({"replicas": 2}, None),
        ({"replicas": None}, None),
    ],
)
async def test_each_risk_has_its_reason(world: World, change: dict[str, Any], reason: str | None):
    backend = world.add_backend(mode="Cluster", durability={"replicas": 2})
    world.server.info = world.server.info._replace(max_memory=2**30, **change)
    await world.look(backend)
    found = condition(backend, "AtRisk")
    assert (found and found["reason"]) == reason


@pytest.mark.asyncio
async def test_who_shares_one_user_is_not_told_that_users_keep_nobody_out(world: World):
    backend = world.add_backend(access={"mode": "Shared", "acknowledgeNoIsolation": True})
    world.server.info = world.server.info._replace(default_open=True)
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert condition(backend, "AtRisk") is None


@pytest.mark.asyncio
async def test_one_server_needs_no_replicas(world: World):
    backend = world.add_backend()
    world.server.info = world.server.info._replace(min_replicas=0)
    await world.look(backend)
    assert condition(backend, "AtRisk") is None


@pytest.mark.asyncio
async def test_a_cluster_is_full_when_its_last_server_is(world: World):
    backend = world.add_backend(mode="Cluster")
    fine = world.server.info._replace(max_memory=2**30)
    world.server.info = fine._replace(most_full=100, least_full=50)
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    world.server.info = fine._replace(most_full=101, least_full=100)
    await world.look(backend)
    assert ready(backend) == ("False", "ServerFull")


# A server that was replaced


@pytest.mark.asyncio
async def test_a_server_that_came_back_empty_is_not_filled_before_somebody_accepts_it(
    world: World,
):
    backend, memory = world.add_backend(), world.add_resource()
    await world.look(backend)
    await world.settle(memory)
    before = world.server.name
    world.server.empty()
    world.server.calls.clear()
    # The memory is the first to notice: it stays as it is, and has the backend looked at.
    outcome = await world.look(memory)
    assert outcome.suspect == ("platform", "shared")
    assert ready(memory) == ("True", "Available")
    await world.look(backend)
    assert ready(backend) == ("False", "ServerReplaced")
    assert condition(backend, "Stalled") is not None
    assert condition(backend, "BackendReachable")["status"] == "True"
    await world.look(memory)
    assert ready(memory) == ("False", "BackendNotReady")
    assert not {"claim", "put_policy", "mark"} & set(world.server.calls)
    assert world.server.memories == {}

    named = message(backend).split('"')[1]
    assert named != before
    world.annotate(backend, accept_server="something else")
    await world.look(backend)
    assert ready(backend) == ("False", "ServerReplaced")
    world.restart()
    await world.look(backend)
    assert message(backend).split('"')[1] == named, "the same at every look"
    world.annotate(backend, accept_server=named)
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert backend["status"]["server"]["instance"] == world.server.name == named
    await world.settle(memory)
    assert ready(memory) == ("True", "Available")
    # The annotation that is left there accepts nothing else.
    world.server.empty()
    await world.look(backend)
    assert ready(backend) == ("False", "ServerReplaced")


@pytest.mark.asyncio
async def test_another_server_is_accepted_by_its_own_name(world: World):
    backend = world.add_backend()
    await world.look(backend)
    world.server.name = "0123456789abcdef"
    await world.look(backend)
    assert ready(backend) == ("False", "ServerReplaced")
    assert '"0123456789abcdef"' in message(backend)
    world.annotate(backend, accept_server="0123456789abcdef")
    await world.look(backend)
    assert ready(backend) == ("True", "Available")
    assert world.server.name == "0123456789abcdef"


@pytest.mark.asyncio
async def test_two_backends_on_one_server_know_the_same_data(world: World):
    one, two = world.add_backend("one"), world.add_backend("two")
    for backend in (one, two):
        await world.look(backend)
        assert ready(backend) == ("True", "Available")
    assert one["status"]["server"]["instance"] == two["status"]["server"]["instance"]
    world.server.empty()
    for backend in (one, two):
        await world.look(backend)
        assert ready(backend) == ("False", "ServerReplaced")
    world.annotate(one, accept_server=message(one).split('"')[1])
    stale = message(two).split('"')[1]
    await world.look(one)
    world.annotate(two, accept_server=stale)
    await world.look(two)
    assert ready(two) == ("False", "ServerReplaced"), "what was accepted is not what is there"
    world.annotate(two, accept_server=message(two).split('"')[1])
    await world.look(two)
    assert ready(two) == ("True", "Available")
    assert world.server.name == one["status"]["server"]["instance"]


@pytest.mark.asyncio
async def test_a_backend_made_again_takes_the_server_as_it_is(world: World):
    await world.look(world.add_backend())
    before = world.server.name
    again = world.add_backend()
    await world.look(again)
    assert ready(again) == ("True", "Available")
    assert world.server.name == before


# Guard rails


@pytest.mark.asyncio
async def test_the_stricter_holds_and_an_edit_of_the_backend_reaches_every_memory(world: World):
    backend = world.add_backend(tenants={"maxTTL": "1h", "maxMessageSize": "64Ki"})
    memory = world.add_resource()
    modest = world.add_resource(
        "modest", retention={"ttl": "10m"}, limits={"maxMessageSize": "8Ki"}
    )
    await world.look(backend)
    for body in (memory, modest):
        await world.settle(body)
    applied = condition(memory, "PolicyApplied")
    assert applied is not None
    assert (applied["status"], applied["reason"]) == ("True", "ClampedByBackend")
    assert "retention.ttl 1h, limits.maxMessageSize 64Ki" in applied["message"]
    assert memory["status"]["effective"]["ttl"] == "1h"
    assert memory["status"]["effective"]["maxMessageSize"] == "64Ki"
    assert memory["status"]["policyRevision"] == 1
    assert condition(modest, "PolicyApplied")["reason"] == "Applied"
    assert modest["status"]["effective"]["ttl"] == "10m"

    world.edit(backend, tenants={"maxTTL": "2h"})
    await world.look(backend)
    await world.settle(memory)
    assert memory["status"]["policyRevision"] == 2
    assert memory["status"]["rollout"]["revision"] == 2
    assert (
        memory["status"]["effective"] | {"ttl": "2h", "maxMessageSize": "256Ki"}
        == (memory["status"]["effective"])
    )
    del backend["spec"]["tenants"]
    world.edit(backend)
    await world.look(backend)
    await world.settle(memory)
    assert memory["status"]["effective"]["ttl"] == "24h"
    assert condition(memory, "PolicyApplied")["reason"] == "Applied"
    await world.settle(modest)
    assert modest["status"]["policyRevision"] == 1


@pytest.mark.asyncio
async def test_a_field_edited_within_the_bound_changes_what_is_said_and_no_revision(world: World):
    backend = world.add_backend(tenants={"maxTTL": "1h"})
    memory = world.add_resource(retention={"ttl": "24h", "maxLifetime": "30d"})
    await world.look(backend)
    await world.settle(memory)
    assert "retention.maxLifetime 1h" in message(memory, "PolicyApplied")
    world.edit(memory, retention={"ttl": "12h", "maxLifetime": "1h"} | {"ttl": "1h"})
    await world.settle(memory)
    assert memory["status"]["policyRevision"] == 1
    assert condition(memory, "PolicyApplied")["reason"] == "Applied"


@pytest.mark.asyncio
async def test_a_required_quota_that_is_missing_is_named(world: World):
    backend = world.add_backend(tenants={"requireQuotas": ["Bytes", "Sessions"]})
    memory = world.add_resource(quotas={"sessions": {"soft": 5}, "bytes": {"hard": "1Gi"}})
    await world.look(backend)
    await world.look(memory)
    assert ready(memory) == ("False", "InvalidSpec")
    assert "spec.quotas.sessions.hard" in message(memory)
    assert "bytes" not in message(memory)
    assert world.server.memories == {}
    world.edit(memory, quotas={"sessions": {"hard": 5}, "bytes": {"hard": "1Gi"}})
    await world.settle(memory)
    assert ready(memory) == ("True", "Available")


@pytest.mark.asyncio
async def test_the_newest_memories_of_a_namespace_are_refused(world: World):
    backend = world.add_backend(tenants={"perNamespace": {"resources": 2}})
    await world.look(backend)
    bodies = [world.add_resource(name) for name in ("c", "a", "b")]
    for at, body in enumerate(bodies):
        body["metadata"]["creationTimestamp"] = f"2020-01-01T00:00:0{at}Z"
    for body in bodies[:2]:
        await world.settle(body)
        assert ready(body) == ("True", "Available")
    refused = bodies[2]
    outcome = await world.look(refused)
    assert ready(refused) == ("False", "TooManyResources")
    assert condition(refused, "Stalled") is not None
    assert outcome.again is not None, "nothing rings when another one goes"
    world.delete(bodies[0])
    await world.settle(refused)
    assert ready(refused) == ("True", "Available")


@pytest.mark.asyncio
async def test_what_a_namespace_may_take_is_divided_among_its_memories(world: World):
    share = {"sessions": 100, "bytes": "1Mi"}
    backend = world.add_backend(tenants={"perNamespace": share})
    await world.look(backend)
    large = world.add_resource("large", quotas={"sessions": {"soft": 90}})
    small = world.add_resource("small", quotas={"sessions": {"hard": 10}})
    for body in (large, small):
        await world.settle(body)
    assert large["status"]["effective"]["maxSessions"] == 90
    assert large["status"]["effective"]["maxBytes"] == str(2**19)
    assert small["status"]["effective"]["maxSessions"] == 10
    assert condition(large, "PolicyApplied")["reason"] == "ClampedByBackend"
    third = world.add_resource("third")
    for body in (large, third):
        await world.settle(body)
        assert body["status"]["effective"]["maxSessions"] == 45
    assert large["status"]["policyRevision"] == 2


wishes = st.lists(st.none() | st.integers(1, 200), min_size=1, max_size=8)


@given(total=st.integers(8, 1000), wanted=wishes)
def test_shares_never_exceed_the_total_or_the_wish_and_waste_nothing(
    total: int, wanted: list[int | None]
):
    parts = [fair_share(total, wanted, at) for at in range(len(wanted))]
    assert sum(parts) <= total
    for part, wish in zip(parts, wanted, strict=True):
        assert 1 <= part <= (wish if wish is not None else total)
    hungry = [at for at, wish in enumerate(wanted) if wish is None or parts[at] < wish]
    assert not hungry or total - sum(parts) < len(hungry)
    assert len({parts[at] for at in hungry}) <= 1


durations = st.sampled_from(["30s", "1h", "24h", "30d"])


@given(ttl=durations, bound=durations, clear=st.none() | durations, size=st.sampled_from([1, 64]))
def test_a_clamped_policy_is_one_that_can_be_read(
    ttl: str, bound: str, clear: str | None, size: int
):
    retention = {"ttl": ttl, "maxLifetime": "365d"} | ({"afterClear": clear} if clear else {})
    policy = Policy.from_document({"retention": retention, "limits": {"maxMessageSize": "128Ki"}})
    strict = Policy.from_document(
        {"retention": {"ttl": bound}, "limits": {"maxMessageSize": f"{size}Ki"}}
    )
    bounds = Bounds(strict.retention.ttl, strict.limits.max_message_size, 7, 7)
    holds = clamped(policy, bounds)
    again = Policy.from_document(holds.policy.document())
    assert again.sha256() == holds.policy.sha256()
    most = strict.retention.ttl.milliseconds
    assert again.retention.ttl.milliseconds == min(policy.retention.ttl.milliseconds, most)
    assert clamped(holds.policy, bounds).fields == {}
    assert set(holds.fields) >= {"retention.maxLifetime", "limits.maxMessageSize"}


@pytest.mark.asyncio
async def test_a_server_that_was_restarted_is_noticed_once(world: World):
    def runs(*names: str) -> None:
        world.server.info = world.server.info._replace(runs=frozenset(names))

    runs("one", "two")
    backend = world.add_backend()
    assert not (await world.look(backend)).restarted
    runs("one")  # one that is away has nothing that could be looked at
    assert not (await world.look(backend)).restarted
    runs("one", "three")
    assert (await world.look(backend)).restarted
    assert not (await world.look(backend)).restarted
