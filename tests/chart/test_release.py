"""Installing, upgrading and uninstalling for real: what comes, what stays, and what goes on."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import holdfast
from holdfast.embedded import reserve_port
from tests.chart.released import HOME, OBJECTS, Place, objects, previous_chart
from tests.harness.administrator import Refused
from tests.harness.control_plane import ControlPlane
from tests.harness.helm import CHART, HelmError
from tests.harness.servers import Server
from tests.harness.space import LOOKS
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio, pytest.mark.slow]

PROGRAMS = CHART / "files/test"
ASKING = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "asks", "labels": {"holdfast.dev/inject": "true"}},
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": "agent"}],
    },
}


@pytest.fixture
def place(chart_plane: ControlPlane) -> Iterator[Place]:
    """A tenant's namespace; whatever was released goes afterwards."""
    place = Place(chart_plane, chart_plane.namespace("tenant"))
    place.kubectl("create", "serviceaccount", "default")
    yield place
    for release in ("holdfast", "other"):
        for namespace in (HOME, "elsewhere"):
            place.helm.uninstall("--ignore-not-found", release=release, namespace=namespace)
    # The definitions stay, as those of a release of the usual name.
    owner = ("meta.helm.sh/release-name=holdfast", f"meta.helm.sh/release-namespace={HOME}")
    place.kubectl("annotate", "crd", "--all", "--overwrite", *owner)


@pytest.fixture
def port() -> Iterator[int]:
    with reserve_port(None) as port:
        yield port


@pytest_asyncio.fixture
async def redis(valkey_server: Server) -> AsyncIterator[Redis]:
    client = valkey_server.client()
    yield client
    await client.aclose()


async def append(server: Server, place: Place) -> None:
    """Say something in the memory; whoever may connect to the server may."""
    url = f"{server.url}?namespace={place.namespace}&prefix={place.namespace}"
    async with holdfast.connect(url) as client:
        await client.memory("support").session("s").append({"role": "user", "content": "hi"})


async def said(redis: Redis, place: Place) -> list[bytes]:
    """The records of the session, as they are in the server."""
    return await redis.lrange(f"{place.namespace}:{{{place.namespace}/support/s}}:log", 0, -1)


def create(place: Place, manifest: dict[str, Any]) -> str:
    """Ask whether an object would be created; return the refusal."""
    try:
        place.plane.administrator.create(place.namespace, manifest, dry_run=True)
    except Refused as error:
        return str(error)
    return ""


async def all_ready(place: Place) -> None:
    for what in OBJECTS:
        await until(lambda what=what: place.is_ready(what), f"{what} is Ready", every=LOOKS)


def values(place: Place, **more: Any) -> dict[str, Any]:
    return {"tenantNamespaces": [place.namespace], **more}


async def test_an_upgrade_keeps_objects_data_and_what_others_wrote(
    place: Place, valkey_server: Server, redis: Redis, tmp_path: Path
):
    """The operator goes on through it, and the webhook stays trusted."""
    previous = previous_chart(tmp_path, place.helm)
    place.helm.install(values(place), "--create-namespace", chart=previous)
    assert "Tokens" not in place.columns()
    assert place.exists("configmap/holdfast-gone", HOME)
    operator = place.operator(tmp_path / "operator")
    operator.start()
    try:
        place.plane.apply(objects(place.namespace, valkey_server.port))
        await all_ready(place)
        await append(valkey_server, place)
        await until(lambda: bool(place.authority()), "the webhook is trusted", every=LOOKS)
        authority, uids, records = place.authority(), place.uids(), await said(redis, place)
        assert len(records) == 1

        place.helm.upgrade(values(place, injection={"webhook": {"timeoutSeconds": 3}}))
        [webhook] = place.get("mutatingwebhookconfiguration/holdfast-injection")["webhooks"]
        assert webhook["timeoutSeconds"] == 3, "the upgrade changed it"
        assert place.authority() == authority, "and left what the operator wrote"
        assert "Tokens" in place.columns(), "definitions are upgraded"
        assert not place.exists("configmap/holdfast-gone", HOME)
        assert place.uids() == uids
        assert await said(redis, place) == records
        place.kubectl(
            "patch", "memres/support", "--type=merge", '--patch={"spec":{"description":"x"}}'
        )
        await until(
            lambda: place.get("memres/support")["status"]["observedGeneration"] == 2,
            "looked at",
            every=LOOKS,
        )
        assert place.is_ready("memres/support")
        assert "Traceback" not in operator.log, operator.tail()
        operator.terminate()
    finally:
        operator.stop()


async def test_uninstalling_leaves_objects_and_data_and_a_reinstallation_goes_on(
    place: Place, valkey_server: Server, redis: Redis, tmp_path: Path
):
    place.helm.install(values(place), "--create-namespace")
    operator = place.operator(tmp_path / "operator")
    operator.start()
    try:
        place.plane.apply(objects(place.namespace, valkey_server.port))
        await all_ready(place)
        await append(valkey_server, place)
        uids, records = place.uids(), await said(redis, place)
        operator.terminate()
        place.helm.uninstall()

        assert place.of_release() == [], "nothing else stays"
        assert place.uids() == uids
        assert await said(redis, place) == records
        assert place.exists("secret/agent-holdfast"), "agents go on"
        assert create(place, ASKING) == "", "and nobody's pods wait"
        # What is deleted meanwhile waits for an operator, and no longer.
        place.kubectl("delete", "membind/agent", "--wait=false")
        assert place.exists("membind/agent")

        operator.stop()
        place.helm.install(values(place))
        # The ServiceAccount is another one, and so are its tokens.
        operator = place.operator(tmp_path / "again")
        operator.start()
        await until(lambda: not place.exists("membind/agent"), "the binding goes", every=LOOKS)
        await until(
            lambda: place.is_ready("memres/support"), "the memory is Ready again", every=LOOKS
        )
        del uids["MemoryBinding/agent"]
        assert place.uids() == uids
        assert await said(redis, place) == records

        # Everything of ours goes in this order, with the operator there.
        place.kubectl("delete", "memres,membackend", "--all", "--timeout=60s")
        assert await said(redis, place) == records, "Retain keeps conversations until they expire"
        operator.terminate()
    finally:
        operator.stop()


async def test_another_release_has_to_take_the_definitions_over(place: Place):
    place.helm.install(values(place), "--create-namespace")
    place.helm.uninstall()
    place.plane.apply("{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}")
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        place.helm.install(values(place), release="other", namespace="elsewhere")
    place.helm.install(values(place), "--take-ownership", release="other", namespace="elsewhere")
    definition = place.get("crd/memoryresources.holdfast.dev")
    assert definition["metadata"]["annotations"]["meta.helm.sh/release-name"] == "other"
    place.helm.uninstall(release="other", namespace="elsewhere")
    # And back, for whoever comes after.
    place.helm.install(values(place), "--take-ownership")


async def test_only_pods_that_ask_are_held_up_by_a_webhook_that_is_away(place: Place):
    place.helm.install(values(place), "--create-namespace")
    asks = "inject.holdfast.dev"
    await until(lambda: asks in create(place, ASKING), "the webhook is asked", every=LOOKS)
    assert create(place, {**ASKING, "metadata": {"name": "does-not-ask"}}) == ""


async def test_what_the_notes_tell_people_to_apply_is_accepted(place: Place):
    place.helm.install(values(place), "--create-namespace")
    place.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
    told = place.helm.run("get", "notes", "holdfast", f"--namespace={HOME}")
    block = told.partition("<<EOF\n")[2].partition("\nEOF\n")[0]
    said = place.plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"), input=block
    )
    assert len(said.splitlines()) == 3


async def test_the_policies_confine_the_operator_of_a_release_by_another_name(place: Place):
    """With Secrets of the whole cluster: RBAC lets it write any, and the policy does not."""
    place.plane.apply("{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}")
    place.helm.install(
        {"rbac": {"secrets": "cluster"}},
        "--take-ownership",
        release="other",
        namespace="elsewhere",
    )

    def refusal(namespace: str, name: str, kind: str) -> str:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": kind,
            "stringData": {"tls.crt": "", "tls.key": ""},
        }
        account = "system:serviceaccount:elsewhere:other-holdfast-operator"
        try:
            place.plane.administrator.create(namespace, secret, dry_run=True, user=account)
        except Refused as error:
            return str(error)
        return ""

    certificate, writes_no = (
        "other-holdfast-webhook-certificate",
        "the operator writes no Secret but",
    )
    await until(
        lambda: writes_no in refusal(place.namespace, "any", "Opaque"), "in force", every=LOOKS
    )
    assert writes_no in refusal("elsewhere", "any", "kubernetes.io/tls")
    assert writes_no in refusal(place.namespace, certificate, "kubernetes.io/tls")
    assert refusal("elsewhere", certificate, "kubernetes.io/tls") == ""


async def test_the_programs_of_helm_test_do_what_they_say(
    place: Place, valkey_server: Server, tmp_path: Path, port: int
):
    """As the account of the test, with its rights and no others, under the admission policies."""
    settings = {"tryout": {"enabled": True}, "test": {"namespace": place.namespace}}
    place.helm.install(settings, "--create-namespace")
    hooks = [
        each
        for each in place.helm.template(settings)
        if "helm.sh/hook" in each["metadata"].get("annotations", {}) and each["kind"] != "Pod"
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": hooks})
    place.plane.apply(listed)
    account = place.plane.kubeconfig_for(HOME, "holdfast-test")
    operator = place.operator(tmp_path / "operator", f"--health-port={port}")
    operator.start()
    # What the chart gives the programs, but for addresses that are only there in a cluster.
    [pod] = [
        each
        for each in place.helm.template(settings)
        if each["metadata"]["name"] == "holdfast-test-prepare"
    ]
    given = [
        argument
        for argument in pod["spec"]["containers"][0]["args"]
        if not argument.startswith(("--endpoint", "prepare"))
    ]
    given += [f"--endpoint=127.0.0.1:{valkey_server.port}", f"--kubeconfig={account}"]
    try:
        assert "answers" in await ran("health", f"http://127.0.0.1:{port}/readyz")
        output = await ran("memory", "prepare", *given)
        assert "MemoryBackend holdfast-test is Ready" in output
        assert "MemoryBinding holdfast-test is Ready" in output
        assert place.exists("secret/holdfast-test-holdfast")
        assert "removed" in await ran("memory", "remove", *given)
        assert not place.exists("memres/holdfast-test")
        assert not place.exists("membackend/holdfast-test", HOME)
        operator.terminate()
    finally:
        operator.stop()
        place.plane.kubectl("delete", "--ignore-not-found", "-f", "-", input=listed)
    assert "does not answer" in await ran(
        "health", "--seconds=0", f"http://127.0.0.1:{port}/", ends=1
    )


async def ran(program: str, *arguments: str, ends: int = 0) -> str:
    """Run one of the programs in files/test; return what it printed."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(PROGRAMS / f"{program}.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout
