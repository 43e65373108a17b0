"""The webhook's certificate: made, renewed, and trusted at every moment by whoever asks."""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import DNSName, PolicyBuilder, Store, VerificationError
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_operator.renewal import Renewal
from holdfast_operator.services.certificates import (
    HANDLED,
    OURS,
    REQUESTED,
    CertificateDraft,
    CertificateService,
    CertificateTaken,
    Registration,
    service_hosts,
)
from holdfast_operator.services.issuing import SKEW, Unreadable, authorities_in, issue, read_pair
from holdfast_operator.services.ports import (
    ClusterConflict,
    ClusterForbidden,
    ClusterUnavailable,
    Secret,
)
from holdfast_operator.webhook import Webhook
from tests.harness.operator_world import ManualClock

HOSTS = service_hosts("holdfast-webhook", "holdfast-system")
NAME = "holdfast-webhook.holdfast-system.svc"
DAY = timedelta(days=1)
LIFETIME = 90 * DAY


@dataclass
class WorldStore:
    """The API server's part: a Secret and a registration, both with versions."""

    stored: Secret | None = None
    registered: Registration | None = field(
        default_factory=lambda: Registration("1", {"inject.holdfast.dev": b""})
    )
    writes: int = 0
    away: bool = False
    conflicts: int = 0
    log: list[str] = field(default_factory=list[str])

    async def secret(self) -> Secret | None:
        if self.away:
            raise ClusterUnavailable("the API server is away")
        return self.stored

    async def write(self, draft: CertificateDraft, version: str | None) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise ClusterConflict("somebody was faster")
        assert version == (self.stored.version if self.stored is not None else None)
        before = self.stored.annotations if self.stored is not None else {}
        self.writes += 1
        self.log.append("secret")
        self.stored = Secret(
            name="certificate",
            version=str(self.writes),
            labels=OURS,
            data=draft.data,
            annotations={**before, **draft.annotations},
            type="kubernetes.io/tls",
        )

    async def registration(self) -> Registration | None:
        return self.registered

    async def register(self, registration: Registration, bundle: bytes) -> None:
        assert registration == self.registered
        self.writes += 1
        self.log.append("registration")
        self.registered = registration._replace(
            version=str(self.writes), bundles=dict.fromkeys(registration.bundles, bundle)
        )

    @property
    def bundle(self) -> bytes:
        assert self.registered is not None
        [bundle] = self.registered.bundles.values()
        return bundle

    def ask(self, request: str) -> None:
        assert self.stored is not None
        notes = {**self.stored.annotations, REQUESTED: request}
        self.stored = replace(self.stored, annotations=notes, version=self.stored.version)


class World:
    """A service over such a store."""

    def __init__(self, *, lifetime: timedelta = LIFETIME) -> None:
        self.clock = ManualClock()
        self.store = WorldStore()
        self.service = CertificateService(self.store, self.clock, HOSTS, lifetime)

    async def at_rest(self) -> timedelta:
        """Reconcile until nothing changes, without any time passing."""
        while True:
            before = self.store.writes
            rest = await self.service.reconcile()
            if self.store.writes == before:
                return rest

    @property
    def data(self) -> Mapping[str, bytes]:
        assert self.store.stored is not None
        return self.store.stored.data

    def trusts(self, *, bundle: bytes | None = None, host: str = NAME) -> bool:
        return trusts(
            self.store.bundle if bundle is None else bundle, self.data["tls.crt"], self.clock, host
        )


def trusts(bundle: bytes, certificate: bytes, clock: ManualClock, host: str = NAME) -> bool:
    """Whether a client that trusts a bundle takes a certificate now, as TLS does."""
    authorities = authorities_in(bundle)
    if not authorities:
        return False
    verifier = (
        PolicyBuilder()
        .store(Store(authorities))
        .time(clock.now())
        .build_server_verifier(DNSName(host))
    )
    try:
        verifier.verify(x509.load_pem_x509_certificate(certificate), [])
    except VerificationError:
        return False
    return True


pytestmark = pytest.mark.asyncio


async def test_the_first_certificate_is_made_and_trusted_at_once():
    world = World()
    rest = await world.at_rest()
    assert world.store.log == ["secret", "registration"]
    assert set(world.data) == {"tls.crt", "tls.key", "ca.crt"}
    assert world.trusts()
    assert world.trusts(host=f"{NAME}.cluster.local")
    assert not world.trusts(host="holdfast-webhook.other.svc")
    assert rest == LIFETIME * 2 / 3
    assert b"PRIVATE KEY" not in world.data["ca.crt"], "the authority's key is forgotten"


async def test_at_rest_nothing_is_written():
    world = World()
    await world.at_rest()
    before = world.store.writes
    for _ in range(10):
        world.clock.advance(DAY.total_seconds())
        await world.service.reconcile()
    assert world.store.writes == before


async def test_it_is_renewed_at_two_thirds_of_its_life_in_two_steps():
    world = World()
    await world.at_rest()
    first = world.data["tls.crt"]
    world.clock.advance(LIFETIME.total_seconds() * 2 / 3 - 1)
    await world.at_rest()
    assert "next.crt" not in world.data
    world.clock.advance(1)
    rest = await world.at_rest()
    assert rest == timedelta(minutes=5)
    assert world.data["tls.crt"] == first, "the next one is not served yet"
    assert len(authorities_in(world.store.bundle)) == 2
    assert world.trusts()
    world.clock.advance(299)
    await world.at_rest()
    assert world.data["tls.crt"] == first
    world.clock.advance(1)
    await world.at_rest()
    assert world.data["tls.crt"] != first
    assert set(world.data) == {"tls.crt", "tls.key", "ca.crt"}
    assert world.trusts()
    # A replica may serve the first one as long as it lasts.
    assert trusts(world.store.bundle, first, world.clock)
    world.clock.advance(LIFETIME.total_seconds() / 3)
    await world.at_rest()
    assert len(authorities_in(world.store.bundle)) == 1
    assert world.trusts()


async def test_the_next_one_waits_until_its_authority_is_registered():
    world = World()
    await world.at_rest()
    world.clock.advance(LIFETIME.total_seconds() * 2 / 3)
    await world.at_rest()
    first = world.data["tls.crt"]
    assert world.store.registered is not None
    # Somebody puts the old bundle back, as a restore of a backup would.
    only = world.store.registered._replace(
        bundles={"inject.holdfast.dev": issue(HOSTS, world.clock.now(), DAY).authority}
    )
    world.store.registered = only
    world.clock.advance(3600)
    await world.service.reconcile()
    assert world.data["tls.crt"] == first
    assert world.trusts()
    await world.at_rest()
    assert world.data["tls.crt"] != first
    assert world.trusts()


async def test_a_bundle_that_somebody_changed_is_put_back():
    world = World()
    await world.at_rest()
    assert world.store.registered is not None
    world.store.registered = Registration("9", {"a": b"", "b": world.store.bundle})
    await world.service.reconcile()
    bundles = set(world.store.registered.bundles.values())
    assert len(bundles) == 1
    assert authorities_in(bundles.pop())


async def test_without_a_configuration_the_certificate_is_there_already():
    world = World()
    world.store.registered = None
    await world.at_rest()
    assert world.store.log == ["secret"]
    world.clock.advance(LIFETIME.total_seconds() * 2 / 3)
    await world.at_rest()
    world.clock.advance(300)
    await world.at_rest()
    assert set(world.data) == {"tls.crt", "tls.key", "ca.crt"}
    world.store.registered = Registration("1", {"inject.holdfast.dev": b""})
    await world.service.reconcile()
    assert world.trusts()


@pytest.mark.parametrize(
    "damage",
    [
        {"tls.crt": b""},
        {"tls.key": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"},
        {"tls.key": issue(HOSTS, ManualClock().now(), DAY).pair.key},
        {"ca.crt": b""},
        {"ca.crt": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
    ],
    ids=["no certificate", "no key", "another key", "no authority", "no bundle"],
)
async def test_what_cannot_be_used_is_made_anew_at_once(damage: dict[str, bytes]):
    world = World()
    await world.at_rest()
    assert world.store.stored is not None
    world.store.stored = replace(world.store.stored, data={**world.data, **damage})
    await world.at_rest()
    assert world.trusts()
    read_pair(world.data["tls.crt"], world.data["tls.key"])


async def test_a_deleted_secret_is_made_anew():
    world = World()
    await world.at_rest()
    old = world.data["tls.crt"]
    world.store.stored = None
    await world.at_rest()
    assert world.trusts()
    assert not trusts(world.store.bundle, old, world.clock), "whoever took it has nothing"


async def test_a_certificate_that_ended_is_replaced_without_waiting():
    world = World()
    await world.at_rest()
    world.clock.advance(LIFETIME.total_seconds() + 1)
    await world.at_rest()
    assert world.trusts()
    assert len(authorities_in(world.store.bundle)) == 1


async def test_an_address_is_in_the_certificate_when_the_configuration_has_one():
    world = World()
    await world.at_rest()
    assert world.store.registered is not None
    hosts = frozenset({"127.0.0.1", "webhook.example"})
    world.store.registered = world.store.registered._replace(hosts=hosts)
    await world.at_rest()
    assert world.trusts(host="webhook.example")
    assert hosts | HOSTS == read_pair(world.data["tls.crt"], world.data["tls.key"]).hosts


async def test_a_rotation_that_is_asked_for_happens_once():
    world = World()
    await world.at_rest()
    first = world.data["tls.crt"]
    world.store.ask("now")
    await world.at_rest()
    assert "next.crt" in world.data
    world.clock.advance(300)
    await world.at_rest()
    assert world.data["tls.crt"] != first
    assert world.store.stored is not None
    assert world.store.stored.annotations[HANDLED] == "now"
    second = world.data["tls.crt"]
    world.clock.advance(3600)
    await world.at_rest()
    assert world.data["tls.crt"] == second


async def test_a_bundle_does_not_grow_without_end():
    world = World()
    await world.at_rest()
    for number in range(20):
        world.store.ask(str(number))
        await world.at_rest()
        world.clock.advance(300)
        await world.at_rest()
        assert world.trusts()
    assert len(authorities_in(world.store.bundle)) <= 8


async def test_a_secret_of_somebody_else_is_left_alone():
    world = World()
    await world.at_rest()
    assert world.store.stored is not None
    for stranger in (
        replace(world.store.stored, type="Opaque"),
        replace(world.store.stored, labels={}),
    ):
        world.store.stored = stranger
        with pytest.raises(CertificateTaken, match="left as it is"):
            await world.service.reconcile()
        assert world.store.stored == stranger


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.floats(0.05, 12), st.floats(0, 0.1), st.floats(0, 15)), min_size=4, max_size=25
    ),
    asked=st.sets(st.integers(0, 24), max_size=4),
)
async def test_every_replica_is_trusted_by_every_api_server_at_every_moment(
    steps: list[tuple[float, float, float]], asked: set[int]
):
    """API servers lag by less than the settling time, kubelets by up to 15 days of 90."""
    world = World()
    await world.at_rest()
    history = [(world.clock.now(), world.store.bundle, world.data["tls.crt"])]

    def as_of(days: float, entry: int) -> bytes:
        when = world.clock.now() - timedelta(days=days)
        at = bisect.bisect_right([moment for moment, *_ in history], when) - 1
        return history[max(at, 0)][entry]

    for number, (pause, api, kubelet) in enumerate(steps):
        world.clock.advance(pause * DAY.total_seconds())
        if number in asked:
            world.store.ask(str(number))
        for _ in range(5):  # several looks in a settling time
            before = world.store.writes
            await world.service.reconcile()
            if world.store.writes != before:
                history.append((world.clock.now(), world.store.bundle, world.data["tls.crt"]))
            behind = min(api, 299 / 86400)
            assert trusts(as_of(behind, 1), as_of(kubelet, 2), world.clock)
            world.clock.advance(100)


async def test_what_fails_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture):
    world = World()
    webhook = Webhook("certificate", "holdfast-injection", "holdfast-webhook", 86400.0)
    pauses: list[float] = []

    class Enough(Exception):
        pass

    class Waiting(ManualClock):
        async def sleep(self, seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                world.store.away = False
                world.store.conflicts = 7
            if len(pauses) == 12:
                raise Enough

    renewal = Renewal(world.store, webhook, "holdfast-system", interval=60, clock=Waiting())
    world.store.away = True
    with caplog.at_level("INFO", "holdfast.operator"), pytest.raises(Enough):
        await renewal.keep()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "The webhook's certificate cannot be kept: the API server is away",
        "The webhook's certificate cannot be kept: somebody was faster",
        "The webhook's certificate can be kept again.",
    ]
    assert pauses[:3] == [5.0, 5.0, 5.0]
    assert pauses[3:7] == [0.1] * 4
    assert pauses[-1] == 60


async def test_a_pair_is_read_as_it_was_made():
    now = ManualClock().now()
    made = issue({"a.b.svc", "127.0.0.1", "::1"}, now, LIFETIME)
    assert read_pair(made.pair.certificate, made.pair.key) == made.pair
    assert made.pair.issued == now
    own = x509.load_pem_x509_certificate(made.pair.certificate)
    assert own.not_valid_before_utc == now - SKEW
    assert "PRIVATE" not in repr(made.pair)
    other = issue({"a.b.svc"}, now, LIFETIME)
    with pytest.raises(Unreadable):
        read_pair(made.pair.certificate, other.pair.key)
    with pytest.raises(Unreadable):
        read_pair(made.authority, made.pair.key)


async def test_who_waits_for_the_installation_waits_until_the_certificate_is_trusted():
    """A Secret that outlived its release lets the webhook serve before anybody registered it anew."""
    world = World()
    webhook = Webhook("certificate", "holdfast-injection", "holdfast-webhook", 86400.0)
    looks: list[bool] = []

    class Waiting(ManualClock):
        async def sleep(self, seconds: float) -> None:
            looks.append(world.store.away)
            if (
                len(looks) == 1
            ):  # no Secret yet; then the API server is away, and then a leader acts
                world.store.away = True
            elif len(looks) == 2:
                world.store.away = False
                await world.at_rest()

    renewal = Renewal(world.store, webhook, "holdfast-system", interval=60, clock=Waiting())
    await renewal.until_trusted()
    assert looks == [False, True]
    writes = world.store.writes
    # The release is taken away and comes back: its configuration knows nobody, the Secret is as it was.
    world.store.registered = Registration("9", {"inject.holdfast.dev": b""})
    assert not await world.service.is_trusted()
    await world.at_rest()
    assert world.trusts()
    assert await world.service.is_trusted()
    assert world.store.writes == writes + 1
    # Half of the webhooks is not enough, an authority beside others is.
    bundle = world.store.bundle
    world.store.registered = Registration("10", {"one": bundle, "other": b""})
    assert not await world.service.is_trusted()
    another = issue(HOSTS, world.clock.now(), LIFETIME).authority
    world.store.registered = Registration("11", {"one": bundle, "other": another + bundle})
    assert await world.service.is_trusted()
    world.store.registered = None
    assert await world.service.is_trusted(), "nobody asks it"


async def test_what_is_not_the_operators_to_see_to_is_not_waited_for():
    class Forbidding(WorldStore):
        async def registration(self) -> Registration | None:
            raise ClusterForbidden("no right to get it")

    webhook = Webhook("certificate", "holdfast-injection", "holdfast-webhook", 86400.0)
    await Renewal(Forbidding(), webhook, "holdfast-system", interval=60).until_trusted()
    taken = WorldStore(stored=Secret(name="certificate", version="1", type="kubernetes.io/tls"))
    await Renewal(taken, webhook, "holdfast-system", interval=60).until_trusted()
    assert taken.writes == 0
