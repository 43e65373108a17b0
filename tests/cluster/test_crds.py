import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes
import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from holdfast.errors import PolicyInvalid
from holdfast.policy import Policy
from holdfast_operator.crds import DEFINITIONS
from holdfast_operator.resources import (
    BackendStatus,
    Condition,
    ConditionStatus,
    EffectiveLimits,
    MemoryBackend,
    MemoryResource,
    NamespaceUsage,
    ReadyReason,
    ResourceStatus,
    Rollout,
    ServerStatus,
    Sweep,
    Usage,
)
from tests.fixtures.cases import (
    MANIFESTS,
    ROOT,
    Case,
    Expected,
    case_name,
    invalid_cases,
    valid_cases,
)
from tests.harness.control_plane import ControlPlane

pytestmark = pytest.mark.cluster

API = "/apis/holdfast.dev/v1alpha1/namespaces"
KINDS = {definition.kind: definition.model for definition in DEFINITIONS}


class Server:
    """The API server as a client sees it that sends text and reads what comes back."""

    def __init__(self, plane: ControlPlane) -> None:
        self._api = kubernetes.config.new_client_from_config(str(plane.admin_kubeconfig))

    def send(
        self, method: str, path: str, text: str, *, dry_run: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Send a document, strictly validated, and return the status code and the answer."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        response = self._api.call_api(
            method,
            f"{self._api.configuration.host}{path}{query}",
            header_params={"Content-Type": "application/yaml", "Accept": "application/json"},
            body=text,
        )
        response.read()
        return response.status, json.loads(response.data)

    def close(self) -> None:
        self._api.rest_client.pool_manager.clear()


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> Iterator[Server]:
    control_plane.apply(ROOT / "crds")
    control_plane.kubectl(
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/memorybackends.holdfast.dev",
        "crd/memorybindings.holdfast.dev",
        "crd/memoryresources.holdfast.dev",
        "crd/memoryerasures.holdfast.dev",
    )
    client = Server(control_plane)
    yield client
    client.close()
    control_plane.administrator.clear()


def answer(server: Server, namespace: str, case: Case) -> tuple[int, dict[str, Any]]:
    """Let the API server judge a manifest, or the change from its first document to its second."""
    path = f"{API}/{namespace}/{case.kind.lower()}s"
    if len(case.texts) == 1:
        return server.send("POST", path, case.texts[0], dry_run=True)
    code, created = server.send("POST", path, case.texts[0])
    assert code == 201, created
    changed = case.documents[1]
    changed["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
    one = f"{path}/{changed['metadata']['name']}"
    return server.send("PUT", one, json.dumps(changed), dry_run=True)


def causes(answered: dict[str, Any]) -> list[Expected]:
    """Return the faults of an answer; of the remarks about rules not tried only the field is nil."""
    details = answered.get("details", {}).get("causes", [])
    return [
        Expected(cause["field"], cause["reason"], in_todays_words(cause["message"]))
        for cause in details
        if cause["field"] != "<nil>"
    ]


def in_todays_words(message: str) -> str:
    """Say what an older API server said as one of now does."""
    message = message.replace("map[string]interface {}", "")
    return re.sub(r"may not be longer than (\d+)", r"may not be more than \1 bytes", message)


@pytest.mark.parametrize("case", invalid_cases(), ids=case_name)
def test_a_fault_is_refused_as_expected(server: Server, namespace: str, case: Case) -> None:
    expected = case.expected
    code, answered = answer(server, namespace, case)
    if expected.message == "unknown field":
        assert code == 400
        assert f'strict decoding error: unknown field "{expected.path}"' in answered["message"]
    elif expected.message == "duplicate field":
        assert code == 400
        assert 'key "maxTokens" already set in map' in answered["message"]
    else:
        assert code == 422, answered
        found = causes(answered)
        assert {fault.path for fault in found} == {expected.path}
        assert any(
            fault.reason == expected.reason and expected.message in fault.message for fault in found
        ), found


@pytest.mark.parametrize("case", valid_cases(), ids=case_name)
def test_both_validators_fill_in_the_same_defaults(
    server: Server, namespace: str, case: Case
) -> None:
    code, stored = answer(server, namespace, case)
    assert code == 201, stored
    read = KINDS[case.kind].from_body(stored)
    given = KINDS[case.kind].from_body(case.documents[0])
    assert read.spec == given.spec
    dumped = given.spec.model_dump(mode="json", exclude_none=True)
    assert _without_empty(stored["spec"]) == _without_empty(dumped)
    if isinstance(read, MemoryResource) and isinstance(given, MemoryResource):
        assert read.spec.policy.document() == given.spec.policy.document()


def _without_empty(value: Any) -> Any:
    """Leave out empty lists and maps, and write sizes as text: a number of bytes is one too."""
    if isinstance(value, dict):
        members = {key: _without_empty(item) for key, item in value.items()}
        members = {key: item for key, item in members.items() if item not in ([], {})}
        if isinstance(members.get("maxMessageSize"), int):
            members["maxMessageSize"] = str(members["maxMessageSize"])
        return members
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value


def _object(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of the fields; a field is a list of values to choose from, or a strategy."""
    choices = {
        name: st.sampled_from(values) if isinstance(values, list) else values
        for name, values in fields.items()
    }
    return st.fixed_dictionaries({}, optional=choices)


DURATIONS = [
    "1s",
    "999ms",
    "3s",
    "2999ms",
    "24h",
    "1d",
    "25h",
    "61m",
    "3650d",
    "87601h",
    "1w",
    "0s",
]
SIZES = ["1Ki", 1024, 1023, "4Mi", 4_194_304, "4194305", "1M", "0", -1, "2000Ti", "1KB"]
PERCENTS = [0, 1, 50, 80, 99, 100, 101]
NUMBERS = [-1, 0, 1, 16, 100_000_000, 100_000_001]
QUOTA = _object(soft=[1, 5, 0], hard=[1, 4, 5])
PIECES = st.sampled_from(["{a}", "{b}", "{user_id}", ":", "-", "x", "{", "}", "A", "{1}"])
SECTIONS: dict[str, Any] = {
    "type": st.sampled_from(["TokenBased", "MessageCountBased", "Buffer"]),
    "model": _object(name=["m", ""], contextWindow=NUMBERS, tokenizer=["approximate", "x"]),
    "limits": _object(
        maxTokens=NUMBERS,
        maxMessages=[1, 1_000_000, 1_000_001],
        maxContextPercent=PERCENTS,
        maxMessageSize=SIZES,
        onFull=["Evict", "Refuse"],
    ),
    "tokenAllocation": _object(
        systemPercent=PERCENTS,
        shortTermPercent=PERCENTS,
        userDefined=st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["a", "b"]), "percent": st.sampled_from([1, 19, 20, 50])}
            ),
            max_size=3,
        ),
    ),
    "flushing": _object(
        strategy=["FIFO", "TimeBased", "HybridSummary", "Disabled"],
        thresholdPercent=PERCENTS,
        targetPercent=PERCENTS,
        maxAge=DURATIONS,
        summary=_object(
            maxTokens=NUMBERS,
            summarizer=_object(
                type=["Builtin", "OpenAICompatible"],
                openAICompatible=[{"url": "http://a/v1", "model": "m"}, {"url": "ftp://a"}],
            ),
        ),
    ),
    "eviction": _object(
        policy=["FIFO", "Priority"],
        priorityKeywords=[[], ["a"], ["a", "a"]],
        priorityBlocks=[[], [{"priority": 1}], [{"priority": 10}], [{"priority": 1}] * 2],
    ),
    "retention": _object(
        ttl=DURATIONS,
        afterClear=DURATIONS,
        afterFlush=DURATIONS,
        maxLifetime=DURATIONS,
        refreshOn=[[], ["Read"], ["Read", "Write"], ["Read", "Read"]],
    ),
    "locking": _object(leaseTTL=DURATIONS, waitTimeout=DURATIONS),
    "privacy": _object(redactPatterns=[[], ["a+"], ["(?=a)"], ["a{2000}"], ["\\pN"], ["a", "a"]]),
    "quotas": _object(
        sessions=QUOTA, tokens=QUOTA, bytes=_object(soft=SIZES, hard=["1Gi", "1G", 1000, "1000Ti"])
    ),
    "keyTemplate": st.lists(PIECES, max_size=6).map("".join),
}
# Few sections at a time: with all of them hardly any spec would be valid.
SPECS = st.lists(st.sampled_from(sorted(SECTIONS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: SECTIONS[name] for name in names})
)


@given(spec=SPECS)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_both_validators_agree_on_any_spec(server: Server, spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryResource",
        "metadata": {"name": "any"},
        "spec": {"backendRef": {"name": "shared"}, "retention": {"ttl": "1h"}, **spec},
    }
    path = f"{API}/default/memoryresources"
    code, answered = server.send("POST", path, json.dumps(body), dry_run=True)
    event(f"code {code}")
    refusal: PolicyInvalid | None = None
    try:
        MemoryResource.from_body(body)
    except PolicyInvalid as error:
        refusal = error
    if refusal is None:
        assert code == 201, answered
        stored, given_spec = (MemoryResource.from_body(it).spec.policy for it in (answered, body))
        assert stored.sha256() == given_spec.sha256()
        return
    assert code == 422, refusal
    assert any(
        (fault.path, fault.reason) == (refusal.path, refusal.reason)
        and refusal.message in fault.message
        for fault in causes(answered)
    ), (refusal, answered["details"])


@pytest.mark.usefixtures("server")
def test_a_minimal_memory_shows_its_defaults(control_plane: ControlPlane, namespace: str) -> None:
    path = MANIFESTS / "valid" / "minimal.yaml"
    flags = (f"--namespace={namespace}", "--server-side", "--validate=strict", "-f", str(path))
    assert "serverside-applied" in control_plane.kubectl("apply", *flags)
    first = json.loads(
        control_plane.kubectl("get", "memres", "support", f"--namespace={namespace}", "-o", "json")
    )
    spec = first["spec"]
    assert spec.pop("backendRef") == {"name": "shared", "namespace": "platform"}
    assert spec.pop("deletionPolicy") == "Retain"
    effective = Policy.from_document(spec).effective()
    assert effective.pop("type") == "TokenBased"
    assert spec == effective
    assert first["status"] == {
        "observedGeneration": 0,
        "conditions": [
            {
                "type": "Ready",
                "status": "Unknown",
                "reason": "Pending",
                "message": "Waiting for the operator",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }
        ],
    }


@pytest.mark.parametrize("case", valid_cases(), ids=case_name)
def test_applying_twice_changes_nothing(
    server: Server, control_plane: ControlPlane, namespace: str, case: Case
) -> None:
    name = case.documents[0]["metadata"]["name"]
    if name == "nulls" and control_plane.version().startswith("v1.30."):
        pytest.skip("API servers of then write what has nulls with every apply, though the same")
    path = f"{API}/{namespace}/{case.kind.lower()}s/{name}"
    versions: list[str] = []
    contents: list[dict[str, Any]] = []
    for _ in range(3):
        control_plane.apply(case.file, namespace=namespace)
        code, stored = server.send("GET", path, "")
        assert code == 200
        versions.append(stored["metadata"].pop("resourceVersion"))
        contents.append(stored)
    assert contents[0] == contents[1] == contents[2]
    # The default of a status is not stored with a new object; the second write stores it.
    assert versions[1] == versions[2]


def _condition() -> Condition:
    return Condition(
        type="Ready",
        status=ConditionStatus.TRUE,
        reason=ReadyReason.AVAILABLE.value,
        message="Everything is in place",
        last_transition_time="2031-05-06T07:08:09Z",
        observed_generation=1,
    )


def _set_status(plane: ControlPlane, namespace: str, what: str, status: BaseModel) -> None:
    patch = json.dumps({"status": status.model_dump(mode="json", exclude_none=True)})
    arguments = ("--subresource=status", "--type=merge", "--patch", patch)
    plane.kubectl("patch", what, f"--namespace={namespace}", *arguments)


def _rows(plane: ControlPlane, namespace: str, *what: str) -> list[list[str]]:
    table = plane.kubectl("get", *what, f"--namespace={namespace}")
    return [line.split() for line in table.splitlines()]


@pytest.mark.usefixtures("server")
def test_the_columns_of_a_memory(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(MANIFESTS / "valid" / "minimal.yaml", namespace=namespace)
    header, row = _rows(control_plane, namespace, "memres")
    assert header == [
        "NAME",
        "READY",
        "REASON",
        "BACKEND",
        "TYPE",
        "TTL",
        "SESSIONS",
        "TOKENS",
        "AGE",
    ]
    assert row[:5] == ["support", "Unknown", "Pending", "shared", "24h"]
    status = ResourceStatus(
        observed_generation=1,
        conditions=(_condition(),),
        type="TokenBased",  # pyright: ignore[reportArgumentType]
        policy_revision=4,
        effective=EffectiveLimits.model_validate(
            {"maxTokens": 12000, "maxMessageSize": "256Ki", "ttl": "24h", "maxLifetime": "30d"}
        ),
        key_prefix="mem:{team-a/support",
        usage=Usage(sessions=7, messages=70, tokens=7000, bytes=70000),
        rollout=Rollout(revision=4, done=7, total=7),
        last_sweep=Sweep(time="2031-05-06T07:08:09Z", repaired=1, orphans=2),
    )
    _set_status(control_plane, namespace, "memres/support", status)
    row = _rows(control_plane, namespace, "memres")[1]
    assert row[:8] == [
        "support",
        "True",
        "Available",
        "shared",
        "TokenBased",
        "24h",
        "7",
        "7000",
    ]
    stored = json.loads(
        control_plane.kubectl("get", "memres/support", f"--namespace={namespace}", "-o", "json")
    )
    assert MemoryResource.from_body(stored).status == status


@pytest.mark.usefixtures("server")
def test_the_columns_of_a_backend(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.apply(MANIFESTS / "valid" / "backend-minimal.yaml", namespace=namespace)
    status = BackendStatus(
        observed_generation=1,
        conditions=(_condition(),),
        server=ServerStatus(product="valkey", version="9.0.1", mode="standalone", instance="a1"),
        used_memory="12Mi",  # pyright: ignore[reportArgumentType]
        max_memory="1Gi",  # pyright: ignore[reportArgumentType]
        sessions=7,
        top_namespaces=(NamespaceUsage(namespace="team-a", sessions=7, bytes=70000),),
    )
    _set_status(control_plane, namespace, "membackend/shared", status)
    header, row = _rows(control_plane, namespace, "membackend")
    assert header == ["NAME", "READY", "REASON", "MODE", "VERSION", "SESSIONS", "AGE"]
    assert row[:6] == ["shared", "True", "Available", "Standalone", "9.0.1", "7"]
    stored = json.loads(
        control_plane.kubectl("get", "membackend/shared", f"--namespace={namespace}", "-o", "json")
    )
    assert MemoryBackend.from_body(stored).status == status
    assert any(row[0].endswith("/shared") for row in _rows(control_plane, namespace, "holdfast"))


@pytest.mark.usefixtures("server")
def test_two_appliers_keep_their_own_items(control_plane: ControlPlane, namespace: str) -> None:
    def apply(manager: str, spec: dict[str, Any]) -> None:
        document = {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "MemoryResource",
            "metadata": {"name": "ours"},
            "spec": spec,
        }
        who = (f"--field-manager={manager}", f"--namespace={namespace}")
        text = yaml.safe_dump(document)
        control_plane.kubectl("apply", "--server-side", *who, "-f", "-", input=text)

    def blocks() -> list[int]:
        where = ("memres/ours", f"--namespace={namespace}", "-o", "json")
        spec = json.loads(control_plane.kubectl("get", *where))["spec"]
        return sorted(block["priority"] for block in spec["eviction"]["priorityBlocks"])

    platform: dict[str, Any] = {
        "backendRef": {"name": "shared"},
        "retention": {"ttl": "1h"},
        "eviction": {"policy": "Priority", "priorityBlocks": [{"priority": 0}, {"priority": 1}]},
    }
    apply("platform", platform)
    apply("team", {"eviction": {"priorityBlocks": [{"priority": 2, "contentTypes": ["notes"]}]}})
    assert blocks() == [0, 1, 2]
    platform["eviction"]["priorityBlocks"].pop()
    apply("platform", platform)
    assert blocks() == [0, 2]


@pytest.mark.usefixtures("server")
def test_a_field_explains_its_bounds(control_plane: ControlPlane) -> None:
    text = " ".join(control_plane.kubectl("explain", "memres.spec.locking.leaseTTL").split())
    assert "Duration such as 30s; 3s to 1h; default 30s." in text
