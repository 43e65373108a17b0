"""What injection makes of a pod: one function, without any I/O."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_operator.services import entries
from holdfast_sidecar.options import options
from holdfast_webhook import sidecar
from holdfast_webhook.injection import MESHES, Patch, Refusal, inject
from holdfast_webhook.pods import Pod
from holdfast_webhook.reviews import NoReview, Verdict, answer
from holdfast_webhook.settings import Settings, SettingsUnusable, read_settings
from holdfast_webhook.wishes import ANNOTATIONS
from tests.harness.json_patch import applied
from tests.harness.pods import container, pod
from tests.harness.random_pods import pods
from tests.harness.refused_pods import PORT, REFUSALS

SETTINGS = Settings(image="registry.example/holdfast:1")
URL = {"name": "HOLDFAST_URL", "value": "http+unix:///var/run/holdfast/api.sock"}
SOCKET = {"name": "holdfast-socket", "mountPath": "/var/run/holdfast", "readOnly": True}


def decide(body: dict[str, Any], settings: Settings = SETTINGS) -> Patch | Refusal:
    return inject(Pod.read(body), "team", settings)


def injected(body: dict[str, Any], settings: Settings = SETTINGS) -> dict[str, Any]:
    decision = decide(body, settings)
    assert isinstance(decision, Patch), decision
    assert decision.operations
    return applied(body, decision.operations)


def ours(body: dict[str, Any]) -> dict[str, Any]:
    [found] = [each for each in body["spec"]["initContainers"] if each["name"] == "holdfast"]
    return found


def refused(body: dict[str, Any]) -> str:
    decision = decide(body)
    assert isinstance(decision, Refusal), decision
    return decision.sentence


def test_a_plain_pod_gets_the_sidecar_and_its_container_the_socket():
    result = injected(pod())
    found = ours(result)
    assert result["spec"]["containers"] == [
        container("agent", image="registry.example/agent", env=[URL], volumeMounts=[SOCKET])
    ]
    assert found["image"] == "registry.example/holdfast:1"
    assert found["restartPolicy"] == "Always"
    assert found["command"] == ["holdfast-sidecar"]
    assert found["args"] == [
        "--unix=/var/run/holdfast/api.sock",
        "--http=127.0.0.1:7070",
        "--status=0.0.0.0:7071",
        "--drain=20s",
    ]
    for probe in ("startupProbe", "livenessProbe"):
        assert found[probe]["httpGet"] == {"path": "/healthz", "port": 7071}
    assert "readinessProbe" not in found
    assert found["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for what in ("requests", "limits"):
        assert set(found["resources"][what]) == {"cpu", "memory"}
    fields = {each["name"]: each.get("valueFrom") for each in found["env"]}
    for name, path in (("NAMESPACE", "namespace"), ("NAME", "name"), ("UID", "uid")):
        field = {"apiVersion": "v1", "fieldPath": f"metadata.{path}"}
        assert fields[f"HOLDFAST_POD_{name}"] == {"fieldRef": field}
    assert {"name": "SERVICE_BINDING_ROOT", "value": "/bindings"} in found["env"]
    assert result["metadata"]["annotations"] == {
        "holdfast.dev/injected": "support-agent",
        **dict.fromkeys(MESHES, "7071"),
    }
    assert result["metadata"]["labels"] == pod()["metadata"]["labels"]


def test_the_secret_is_mounted_in_the_sidecar_alone_and_whole():
    result = injected(pod(containers=[container("agent"), container("other")]))
    [volume] = [each for each in result["spec"]["volumes"] if "secret" in each]
    assert volume["secret"] == {"secretName": "support-agent-holdfast", "defaultMode": 0o444}
    assert {"name": volume["name"], "mountPath": "/bindings/support-agent", "readOnly": True} in (
        ours(result)["volumeMounts"]
    )
    text = json.dumps(result["spec"]["containers"])
    assert volume["name"] not in text
    assert "subPath" not in json.dumps(result)
    assert "secretKeyRef" not in json.dumps(result)
    assert "secretRef" not in json.dumps(result)


def test_the_secret_has_the_name_that_the_operator_gives_it():
    for binding in ("a", "support-agent", "a.b-c"):
        assert sidecar.secret_name(binding) == entries.secret_name(binding)


def test_the_variable_of_the_library_is_the_one_that_is_set():
    from holdfast.summaries import key

    body = pod({"holdfast.dev/summarizer-key": "models/openai"})
    result = injected(body)
    variables = {each["name"]: each.get("value") for each in ours(result)["env"]}
    assert variables[key.KEY_FILE] == "/summarizer/key"
    [volume] = [each for each in result["spec"]["volumes"] if each["name"].endswith("summarizer")]
    assert volume["secret"]["secretName"] == "models"
    assert volume["secret"]["items"] == [{"key": "openai", "path": "key"}]
    assert "summarizer" not in json.dumps(result["spec"]["containers"])


def test_a_pod_without_the_label_is_left_alone():
    for body in (pod(labelled=False), pod({"holdfast.dev/binding": "!"}, labelled=False)):
        assert decide(body) == Patch()
    off = pod()
    off["metadata"]["labels"]["holdfast.dev/inject"] = "false"
    assert decide(off) == Patch()


def test_the_mirror_of_a_static_pod_is_left_alone():
    assert decide(pod({"kubernetes.io/config.mirror": "f00"})) == Patch()


def test_an_injected_pod_is_left_alone():
    once = injected(pod({"holdfast.dev/position": "first"}, initContainers=[container("setup")]))
    assert decide(once) == Patch()
    # Another webhook may have put a proxy in front meanwhile.
    once["spec"]["initContainers"].insert(0, container("proxy", restartPolicy="Always"))
    assert decide(once) == Patch()


def test_saying_that_it_was_injected_does_not_help():
    assert ours(injected(pod({"holdfast.dev/injected": "yes"})))


def test_a_pod_with_a_generated_name_is_injected():
    body = pod()
    del body["metadata"]["name"]
    body["metadata"]["generateName"] = "agent-7d4b9-"
    assert ours(injected(body))


def test_the_binding_is_the_one_that_is_named():
    result = injected(pod({"holdfast.dev/binding": "shared.reader"}))
    assert result["metadata"]["annotations"]["holdfast.dev/injected"] == "shared.reader"
    assert {"secretName": "shared.reader-holdfast", "defaultMode": 292} in [
        each.get("secret") for each in result["spec"]["volumes"]
    ]


def test_memories_only_narrow():
    for annotations in ({"memory": "notes"}, {"memories": "notes"}, {"memories": "notes, support"}):
        names = {f"holdfast.dev/{name}": value for name, value in annotations.items()}
        said = next(iter(annotations.values())).replace(" ", "")
        assert f"--memories={said}" in ours(injected(pod(names)))["args"]


def test_only_named_containers_get_the_socket():
    body = pod(
        {"holdfast.dev/containers": "agent,proxy"},
        containers=[container("agent"), container("other")],
        initContainers=[container("proxy", restartPolicy="Always"), container("setup")],
    )
    result = injected(body)
    by_name = {
        each["name"]: each
        for each in (*result["spec"]["containers"], *result["spec"]["initContainers"])
    }
    assert SOCKET in by_name["agent"]["volumeMounts"]
    assert SOCKET in by_name["proxy"]["volumeMounts"]
    assert by_name["other"] == container("other")
    assert by_name["setup"] == container("setup")


def test_the_sidecar_comes_last_so_that_a_mesh_comes_before_it():
    body = pod(initContainers=[container("proxy", restartPolicy="Always"), container("setup")])
    result = injected(body)
    assert [each["name"] for each in result["spec"]["initContainers"]] == [
        "proxy",
        "setup",
        "holdfast",
    ]
    assert result["spec"]["initContainers"][:2] == body["spec"]["initContainers"]


def test_first_gives_init_containers_the_memory_too():
    body = pod(
        {"holdfast.dev/position": "first"},
        initContainers=[container("proxy", restartPolicy="Always"), container("setup", env=[])],
    )
    found = injected(body)["spec"]["initContainers"]
    assert [each["name"] for each in found] == ["holdfast", "proxy", "setup"]
    assert found[1] == body["spec"]["initContainers"][0]
    assert found[2] == container("setup", env=[URL], volumeMounts=[SOCKET])


def test_a_containers_own_url_wins():
    own = {"name": "HOLDFAST_URL", "value": "http://127.0.0.1:7070"}
    body = pod(containers=[container("agent", env=[own, {"name": "A", "value": "b"}])])
    decision = decide(body)
    assert isinstance(decision, Patch)
    result = applied(body, decision.operations)
    assert result["spec"]["containers"][0]["env"] == [own, {"name": "A", "value": "b"}]
    assert decision.warnings == ("the container agent sets HOLDFAST_URL itself, and keeps it",)


def test_who_runs_as_default_is_told_which_binding_that_is():
    body = pod()
    del body["spec"]["serviceAccountName"]
    decision = decide(body)
    assert isinstance(decision, Patch)
    assert decision.binding == "default"
    assert "the MemoryBinding team/default" in decision.warnings[0]
    named = decide(pod({"holdfast.dev/binding": "default"}, serviceAccountName="default"))
    assert isinstance(named, Patch)
    assert named.warnings == ()


def test_a_mesh_is_told_to_leave_the_probes_alone():
    istio, linkerd = MESHES
    annotations = {istio: "9090, 8080", linkerd: "7071"}
    found = injected(pod(annotations))["metadata"]["annotations"]
    assert found[istio] == "9090,8080,7071"
    assert found[linkerd] == "7071"
    moved = injected(pod({"holdfast.dev/status-port": "17071"}))["metadata"]["annotations"]
    assert moved[istio] == "17071"


def test_the_hosts_network_is_refused_unless_the_socket_is_all():
    assert 'annotate the pod with holdfast.dev/listen: "unix"' in refused(pod(hostNetwork=True))
    body = pod({"holdfast.dev/listen": "unix"}, hostNetwork=True)
    assert "--http=" in ours(injected(body))["args"]
    assert decide(pod(hostNetwork=False))


def test_the_drain_ends_before_the_pod_is_killed():
    for grace, drain in ((None, 20), (30, 20), (22, 20), (10, 8), (1, 1), (0, 1)):
        body = pod() if grace is None else pod(terminationGracePeriodSeconds=grace)
        assert f"--drain={drain}s" in ours(injected(body))["args"]


def test_the_sidecar_takes_the_longest_drain_that_an_installation_may_ask_for():
    settings = SETTINGS.model_copy(update={"drain": "9999s"})
    arguments = ours(injected(pod(terminationGracePeriodSeconds=20_000), settings))["args"]
    assert "--drain=9999s" in arguments
    assert options(arguments, {"SERVICE_BINDING_ROOT": "/bindings"}).drain == 9999


def test_pull_secrets_are_added_once():
    settings = read_settings(
        "{image: a, imagePullSecrets: [{name: one}, {name: two}, {name: one}], statusHost: '[::]'}"
    )
    body = pod(imagePullSecrets=[{"name": "own"}, {"name": "two"}])
    assert injected(body, settings)["spec"]["imagePullSecrets"] == [
        {"name": "own"},
        {"name": "two"},
        {"name": "one"},
    ]
    result = injected(pod(), settings)
    assert result["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert "--status=[::]:7071" in ours(result)["args"]
    assert "imagePullSecrets" not in injected(pod())["spec"]


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_never_work_is_refused_with_what_to_write(case: str):
    body, words = REFUSALS[case]
    sentence = refused(body)
    assert words in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 500


@pytest.mark.parametrize(
    "body",
    [
        pod(
            {"holdfast.dev/listen": "unix"},
            containers=[container("a", ports=[{"containerPort": 7070}])],
        ),
        pod(containers=[container("a", ports=[{"containerPort": 7071, "protocol": "UDP"}])]),
        pod({"holdfast.dev/status-port": "7072"}, containers=[container("a", **PORT)]),
        pod(os={"name": "linux"}),
        pod(nodeSelector={"kubernetes.io/os": "linux", "pool": "windows"}),
    ],
    ids=["another listener", "another protocol", "another port", "linux", "linux nodes"],
)
def test_what_works_is_not_refused(body: dict[str, Any]):
    assert ours(injected(body))


@given(pods())
def test_any_pod_is_injected_once_or_refused(body: dict[str, Any]):
    decision = decide(body)
    if isinstance(decision, Refusal):
        return
    result = applied(body, decision.operations)
    assert decide(result) == Patch()
    found = ours(result)
    before = body["spec"].get("initContainers") or []
    names = [each["name"] for each in result["spec"]["initContainers"]]
    first = body["metadata"].get("annotations", {}).get("holdfast.dev/position") == "first"
    assert names == (
        ["holdfast", *(each["name"] for each in before)]
        if first
        else [*(each["name"] for each in before), "holdfast"]
    )
    # Nothing that was there is lost or moved.
    for kind in ("containers", "initContainers"):
        for old in body["spec"].get(kind) or []:
            [new] = [each for each in result["spec"][kind] if each["name"] == old["name"]]
            for entry in ("env", "volumeMounts"):
                kept = old.get(entry) or []
                assert (new.get(entry) or [])[: len(kept)] == kept
            assert {**new, "env": 0, "volumeMounts": 0} == {**old, "env": 0, "volumeMounts": 0}
    secrets = [
        each["name"] for each in result["spec"]["volumes"] if each["name"] == "holdfast-binding"
    ]
    assert secrets == ["holdfast-binding"]
    for each in (*result["spec"]["containers"], *result["spec"]["initContainers"]):
        mounted = [mount["name"] for mount in each.get("volumeMounts") or []]
        assert ("holdfast-binding" in mounted) == (each is found)
        urls = [item["name"] for item in each.get("env") or [] if item["name"] == "HOLDFAST_URL"]
        assert len(urls) <= 1
        assert urls or each is found or "holdfast-socket" not in mounted


# --- the API server's protocol


def review(body: object, **request: Any) -> bytes:
    question = {
        "uid": "u-1",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "team",
        "object": body,
        **request,
    }
    whole = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": question}
    return json.dumps(whole).encode()


def test_an_answer_is_a_patch_for_the_same_question():
    found = answer(review(pod()), SETTINGS)
    body = json.loads(found.body)
    assert (body["apiVersion"], body["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = body["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == (
        "u-1",
        True,
        "JSONPatch",
    )
    patch = json.loads(base64.b64decode(response["patch"]))
    assert applied(pod(), patch) == injected(pod())
    assert found.verdict is Verdict.INJECTED
    assert found.subject == "team/agent"


def test_a_dry_run_gets_the_same_answer():
    assert answer(review(pod(), dryRun=True), SETTINGS) == answer(review(pod()), SETTINGS)


def test_a_refusal_carries_its_sentence():
    found = answer(review(pod(hostNetwork=True)), SETTINGS)
    response = json.loads(found.body)["response"]
    assert response["allowed"] is False
    assert response["status"]["message"] == found.sentence != ""
    assert response["status"]["code"] == 422
    assert "patch" not in response


def test_warnings_are_passed_on():
    body = pod(serviceAccountName="default")
    assert json.loads(answer(review(body), SETTINGS).body)["response"]["warnings"]


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "UPDATE"},
        {"subResource": "ephemeralcontainers"},
        {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
    ],
    ids=["an update", "a subresource", "another kind"],
)
def test_other_questions_are_answered_with_yes(request_: dict[str, Any]):
    found = answer(review({"spec": "anything"}, **request_), SETTINGS)
    assert json.loads(found.body)["response"] == {"uid": "u-1", "allowed": True}
    assert found.verdict is Verdict.UNCHANGED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        review(None),
        review({"spec": {"containers": "all"}}),
        review(pod()).replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
        review({"metadata": {"labels": {"a": 1}}, "spec": {}}),
    ],
    ids=["nothing", "empty", "list", "bytes", "deep", "null", "no list", "version", "labels"],
)
def test_what_is_no_question_is_said_so(body: bytes):
    with pytest.raises(NoReview):
        answer(body, SETTINGS)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes):
    with pytest.raises(NoReview):
        answer(body, SETTINGS)


# --- settings


def test_settings_are_checked_field_by_field():
    full = read_settings(
        """
        image: registry.example/holdfast@sha256:0
        imagePullPolicy: Always
        imagePullSecrets: [{name: registry}]
        resources:
          requests: {cpu: 100m, memory: 128Mi}
          limits: {memory: 1.5Gi}
        drain: 45s
        statusHost: "[::]"
        """
    )
    found = ours(injected(pod(), full))
    assert found["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"memory": "1.5Gi"},
    }
    assert found["imagePullPolicy"] == "Always"
    for text, field in (
        ("{}", "image"),
        ("[]", "the whole"),
        ("", "the whole"),
        ("image: a b", "image"),
        ("{image: a, imagePullPolicy: Sometimes}", "imagePullPolicy"),
        ("{image: a, imagePullSecrets: [a]}", "imagePullSecrets.0"),
        ("{image: a, resources: {limits: {cpu: a lot}}}", "resources.limits.cpu"),
        ("{image: a, drain: 1}", "drain"),
        ("{image: a, statusHost: localhost}", "statusHost"),
        ("{image: a, images: b}", "images"),
        ("{image: ", "no YAML"),
    ):
        with pytest.raises(SettingsUnusable) as raised:
            read_settings(text)
        assert field in str(raised.value), text


def test_every_annotation_is_in_the_documents():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/injection.md").read_text(encoding="utf-8")
    for name in ANNOTATIONS:
        assert f"`{name}`" in text, name


def test_an_operation_is_json():
    decision = decide(pod())
    assert isinstance(decision, Patch)
    assert msgspec.json.decode(msgspec.json.encode(decision.operations))
