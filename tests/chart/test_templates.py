"""What the chart renders for which values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import holdfast
from holdfast_operator.crds import DEFINITIONS
from tests.chart.rendered import Object, Rendered
from tests.harness.helm import CHART, Helm, HelmError

OPERATOR, WEBHOOK = "holdfast-operator", "holdfast-webhook"
KINDS = {f"memory{kind}.holdfast.dev" for kind in ("backends", "bindings", "erasures", "resources")}
POLICIES = {"holdfast-binding-secrets", "holdfast-may-bind", "holdfast-operator-secrets"}
EVERYTHING = {
    "tenantNamespaces": ["team-a", "team-b"],
    "backendNamespaces": ["platform"],
    "tryout": {"enabled": True, "existingSecret": "valkey"},
    "monitoring": {
        part: {"enabled": True}
        for part in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")
    },
    "networkPolicy": {"enabled": True, "backends": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    "commonLabels": {"team": "platform"},
    "commonAnnotations": {"owner": "platform"},
}


@pytest.fixture(scope="module")
def render(helm: Helm) -> Callable[..., Rendered]:
    def rendered(values: dict[str, Any] | None = None, *arguments: str, **named: Any) -> Rendered:
        return Rendered(helm.template(values, *arguments, **named))

    return rendered


@pytest.fixture(scope="module")
def default(render: Callable[..., Rendered]) -> Rendered:
    return render()


@pytest.fixture(scope="module")
def everything(render: Callable[..., Rendered]) -> Rendered:
    return render(EVERYTHING)


# --- by default


def test_by_default_there_is_what_a_team_needs_and_nothing_more(default: Rendered):
    assert default.names("CustomResourceDefinition") == KINDS
    assert default.names("Deployment") == {OPERATOR, WEBHOOK}
    assert default.names("PodDisruptionBudget") == {OPERATOR, WEBHOOK}
    assert default.names("Service") == {OPERATOR, WEBHOOK}
    assert default.names("ValidatingAdmissionPolicy") == POLICIES
    assert default.names("MutatingWebhookConfiguration") == {"holdfast-injection"}
    assert default.names("ConfigMap") == {WEBHOOK, "holdfast-test"}
    for kind in ("NetworkPolicy", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Secret"):
        assert not default.names(kind), kind
    # Secrets are nobody's business until namespaces are named.
    for role in (*default.of("Role").values(), *default.of("ClusterRole").values()):
        if role["metadata"]["name"] != "holdfast-operator-certificates":
            assert "secrets" not in str(role["rules"]), role["metadata"]["name"]


def test_the_operator_is_two_of_which_one_acts(default: Rendered):
    spec = default.one("Deployment", OPERATOR)["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
    }
    container = default.container(OPERATOR)
    assert container["image"] == "holdfast:0.1.0"
    assert container["command"] == ["holdfast-operator"]
    assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "status"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "status"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "status"}
    names = {entry["name"]: entry["valueFrom"]["fieldRef"] for entry in container["env"]}
    assert names == {
        "POD_NAME": {"fieldPath": "metadata.name"},
        "POD_NAMESPACE": {"fieldPath": "metadata.namespace"},
        "POD_SERVICE_ACCOUNT": {"fieldPath": "spec.serviceAccountName"},
    }
    assert default.pod(OPERATOR)["serviceAccountName"] == OPERATOR
    assert default.pod(OPERATOR)["automountServiceAccountToken"] is True
    assert default.one("PodDisruptionBudget", OPERATOR)["spec"]["maxUnavailable"] == 1


def test_the_operator_takes_the_arguments_that_it_is_given(render: Callable[..., Rendered]):
    """By its own parser: an option that the operator does not know ends it."""
    from holdfast_operator.__main__ import options

    values = {
        "clusterID": "east-1",
        "operator": {
            "interval": 30,
            "abandonAfter": 60,
            "leaderElection": {"leaseDuration": 30, "renewDeadline": 20, "retryPeriod": 5},
            "healthPort": 9000,
        },
    }
    found = options(render(values).container(OPERATOR)["args"], {})
    assert (found.cluster_id, found.interval, found.abandon_after) == ("east-1", 30, 60)
    assert (found.json_logs, found.election, found.health_port) == (True, True, 9000)
    assert (found.times.lease, found.times.deadline, found.times.retry) == (30, 20, 5)
    some = render({"watchNamespaces": ["team-a", "team-b"]}).container(OPERATOR)["args"]
    assert options(some, {}).namespaces == ("team-a", "team-b")


def test_the_webhook_is_nobody_and_is_always_there(default: Rendered):
    pod = default.pod(WEBHOOK)
    assert pod["automountServiceAccountToken"] is False
    bound = [
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for each in default.of(kind).values()
        for subject in each["subjects"]
    ]
    assert WEBHOOK not in bound
    spec = default.one("Deployment", WEBHOOK)["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    [term] = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selector = term["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selector == spec["selector"]["matchLabels"]


def test_the_webhook_takes_the_arguments_that_it_is_given(render: Callable[..., Rendered]):
    from holdfast_webhook.__main__ import options

    values = {"port": 10443, "statusPort": 10081, "logFormat": "text"}
    rendered = render({"injection": {"webhook": values}})
    container = rendered.container(WEBHOOK)
    assert container["command"] == ["holdfast-webhook"]
    assert container["args"] == [
        "--listen=:10443",
        "--status=:10081",
        "--certificates=/certificates",
        "--settings=/etc/holdfast/injection.yaml",
        "--log-format=text",
    ]
    options(container["args"], {})
    assert [port["containerPort"] for port in container["ports"]] == [10443, 10081]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/certificates", "/etc/holdfast"} <= mounted


def test_only_pods_that_asked_can_be_held_up(default: Rendered, render: Callable[..., Rendered]):
    [webhook] = default.one("MutatingWebhookConfiguration", "holdfast-injection")["webhooks"]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["objectSelector"] == {"matchLabels": {"holdfast.dev/inject": "true"}}
    [expression] = webhook["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["kube-system", "holdfast-system"]
    values = {"injection": {"excludedNamespaces": ["mesh"], "webhook": {"timeoutSeconds": 3}}}
    rendered = render(values)
    [webhook] = rendered.one("MutatingWebhookConfiguration", "holdfast-injection")["webhooks"]
    [expression] = webhook["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["kube-system", "holdfast-system", "mesh"]
    assert webhook["timeoutSeconds"] == 3


def test_the_webhook_takes_the_settings_that_it_is_given(render: Callable[..., Rendered]):
    from holdfast_webhook.settings import read_settings

    values = {
        "image": {"repository": "registry.example/holdfast", "tag": "1.2.3"},
        "injection": {
            "sidecar": {
                "imagePullSecrets": [{"name": "login"}],
                "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
                "drain": "5s",
            }
        },
    }
    text = render(values).one("ConfigMap", WEBHOOK)["data"]["injection.yaml"]
    settings = read_settings(text)
    assert settings.image == "registry.example/holdfast:1.2.3"
    assert [secret.name for secret in settings.image_pull_secrets] == ["login"]
    assert settings.resources.limits == {"cpu": "2", "memory": "1Gi"}
    assert settings.resources.requests == {"cpu": "50m", "memory": "96Mi"}
    assert settings.drain == "5s"


# --- names, images, extras


def test_every_name_follows_the_release(render: Callable[..., Rendered]):
    """Names of the plain files are placeholders; none of them is left."""
    operator = "memory-holdfast-operator"
    fixed = {("Deployment", operator), ("Role", f"{operator}-leader")}
    rendered = render(EVERYTHING, release="memory", namespace="agents")
    for each in rendered:
        if each["kind"] == "ConfigMap" or each["metadata"]["name"] in KINDS:
            continue
        name = each["metadata"]["name"]
        assert name.startswith("memory-holdfast"), name
        text = yaml.safe_dump(each)
        assert "holdfast-system" not in text, name
        left = text.replace("memory-holdfast-operator", "").count("holdfast-operator")
        # The program, and the lease, of which there is one in a namespace.
        assert left == ((each["kind"], name) in fixed), (each["kind"], name)
    policy = rendered.one("ValidatingAdmissionPolicy", "memory-holdfast-operator-secrets")
    [condition] = policy["spec"]["matchConditions"]
    assert "'system:serviceaccount:agents:memory-holdfast-operator'" in condition["expression"]
    assert "'agents'" in str(policy["spec"]["validations"])


def test_a_long_release_name_leaves_room_for_suffixes(render: Callable[..., Rendered]):
    rendered = render(release="a" * 53)
    longest = max(len(each["metadata"]["name"]) for each in rendered)
    assert longest <= 63


@pytest.mark.parametrize(
    ("image", "sidecar", "expected", "injected"),
    [
        ({}, {}, "holdfast:0.1.0", "holdfast:0.1.0"),
        ({"repository": "r/h", "tag": "2"}, {}, "r/h:2", "r/h:2"),
        ({"digest": f"sha256:{'a' * 64}"}, {}, *[f"holdfast@sha256:{'a' * 64}"] * 2),
        ({"tag": "2"}, {"repository": "mirror/h"}, "holdfast:2", "mirror/h:2"),
        (
            {"digest": f"sha256:{'a' * 64}"},
            {"tag": "3"},
            f"holdfast@sha256:{'a' * 64}",
            "holdfast:3",
        ),
    ],
)
def test_images(
    render: Callable[..., Rendered], image: Object, sidecar: Object, expected: str, injected: str
):
    rendered = render({"image": image, "injection": {"sidecar": {"image": sidecar}}})
    assert rendered.container(OPERATOR)["image"] == rendered.container(WEBHOOK)["image"] == expected
    settings = yaml.safe_load(rendered.one("ConfigMap", WEBHOOK)["data"]["injection.yaml"])
    assert settings["image"] == injected


def test_every_object_carries_the_labels_and_annotations_that_were_asked_for(everything: Rendered):
    for each in everything:
        metadata, what = each["metadata"], f"{each['kind']} {each['metadata']['name']}"
        assert metadata["labels"]["team"] == "platform", what
        assert metadata["labels"]["app.kubernetes.io/name"] == "holdfast", what
        assert metadata["labels"]["app.kubernetes.io/instance"] == "holdfast", what
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm", what
        assert metadata["annotations"]["owner"] == "platform", what
    for name in (OPERATOR, WEBHOOK):
        spec = everything.one("Deployment", name)["spec"]
        assert "team" not in spec["selector"]["matchLabels"], "a selector can never be changed"


def test_every_pod_is_restricted(everything: Rendered):
    """By the Pod Security Standard `restricted`, and more: a read-only root, a number for a user."""
    names = dict(everything.pods())
    assert len(names) == 7
    for name, pod in names.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == 65532, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            of = container["securityContext"]
            assert of["allowPrivilegeEscalation"] is False, name
            assert of["readOnlyRootFilesystem"] is True, name
            assert of["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= set(container["resources"]), name
            assert "memory" in container["resources"]["limits"], name


def test_no_credential_is_a_value_or_in_a_manifest(everything: Rendered):
    assert not everything.names("Secret")
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)

    def keys(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [*value, *(key for each in value.values() for key in keys(each))]
        return []

    assert not [key for key in keys(values) if "password" in key.lower() or "token" in key.lower()]


PLACEMENT = {
    "podLabels": {"tier": "system"},
    "podAnnotations": {"note": "kept"},
    "priorityClassName": "important",
    "nodeSelector": {"pool": "infra"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "terminationGracePeriodSeconds": 7,
    "resources": {"limits": {"memory": "1Gi"}},
}


def test_pods_go_where_they_are_sent(render: Callable[..., Rendered]):
    values = {
        "operator": PLACEMENT,
        "injection": {"webhook": PLACEMENT},
        "imagePullSecrets": [{"name": "login"}],
    }
    rendered = render(values)
    for name in (OPERATOR, WEBHOOK):
        template = rendered.one("Deployment", name)["spec"]["template"]
        selector = rendered.one("Deployment", name)["spec"]["selector"]["matchLabels"]
        assert template["metadata"]["labels"]["tier"] == "system"
        assert selector.items() <= template["metadata"]["labels"].items()
        assert template["metadata"]["annotations"] == {"note": "kept"}
        pod = template["spec"]
        assert pod["priorityClassName"] == "important"
        assert pod["nodeSelector"] == {"pool": "infra"}
        assert pod["affinity"] == {"nodeAffinity": {}}
        assert pod["tolerations"] == PLACEMENT["tolerations"]
        [spread] = pod["topologySpreadConstraints"]
        assert spread["labelSelector"] == {"matchLabels": selector}
        assert pod["imagePullSecrets"] == [{"name": "login"}]
        assert pod["terminationGracePeriodSeconds"] == 7
        assert pod["containers"][0]["resources"]["limits"]["memory"] == "1Gi"


def test_a_single_replica_has_no_disruption_budget(render: Callable[..., Rendered]):
    one = render({"operator": {"replicas": 1}, "injection": {"webhook": {"replicas": 1}}})
    assert not one.names("PodDisruptionBudget"), "a node could never be drained"
    off = render({"operator": {"podDisruptionBudget": {"enabled": False}}})
    assert off.names("PodDisruptionBudget") == {WEBHOOK}


# --- rights


def rules(objects: list[Object] | Rendered) -> dict[tuple[str, str, str], Any]:
    """Roles and bindings, with what counts in them."""
    found: dict[tuple[str, str, str], Any] = {}
    for each in objects:
        if each["kind"] in {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}:
            metadata = each["metadata"]
            key = (each["kind"], metadata.get("namespace", ""), metadata["name"])
            kept = {"aggregate-to", "servicebinding.io"}
            labels = {
                name: value
                for name, value in metadata["labels"].items()
                if any(part in name for part in kept)
            }
            found[key] = (each.get("rules"), each.get("roleRef"), each.get("subjects"), labels)
    return found


def plain(name: str, namespace: str = "") -> dict[tuple[str, str, str], Any]:
    """The same of a plain file, as tests and people apply it."""
    path = CHART / f"files/rbac/{name}.yaml"
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for each in documents:
        if namespace and each["kind"].startswith("Role"):
            each["metadata"].setdefault("namespace", namespace)
    return rules(documents)


def without_tests(objects: Rendered) -> list[Object]:
    return [
        each for each in objects if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    ]


def people() -> dict[tuple[str, str, str], Any]:
    """What people get: owners of backends by name alone."""
    [(key, (granted, *_))] = plain("backend-users").items()
    return plain("users") | {key: (granted, None, None, {})}


def test_the_rights_are_those_that_the_operator_is_tested_with(render: Callable[..., Rendered]):
    values = {"tenantNamespaces": ["team-a", "team-b"], "backendNamespaces": ["platform"]}
    expected = people()
    for name in ("discovery", "leader", "operator", "certificates"):
        expected |= plain(name)
    for namespace in ("team-a", "team-b"):
        expected |= plain("binding-secrets", namespace)
    expected |= plain("backend-secrets", "platform")
    assert rules(without_tests(render(values))) == expected


def test_rights_in_some_namespaces(render: Callable[..., Rendered]):
    values = {"watchNamespaces": ["team-a", "team-b"], "tenantNamespaces": ["team-a"]}
    expected = people() | plain("discovery") | plain("leader")
    for namespace in ("team-a", "team-b"):
        expected |= plain("namespaced", namespace)
    expected |= plain("binding-secrets", "team-a")
    rendered = render(values)
    assert rules(without_tests(rendered)) == expected
    for kind in ("MutatingWebhookConfiguration", "ValidatingAdmissionPolicy"):
        assert not rendered.names(kind), "it would be the whole cluster's"
    assert rendered.names("Deployment") == {OPERATOR}


def test_secrets_of_the_whole_cluster(render: Callable[..., Rendered]):
    rendered = render({"rbac": {"secrets": "cluster"}})
    expected = people() | plain("cluster-secrets")
    for name in ("discovery", "leader", "operator", "certificates"):
        expected |= plain(name)
    assert rules(without_tests(rendered)) == expected
    assert "holdfast-operator-secrets" in rendered.names("ValidatingAdmissionPolicy")
    for role in rendered.of("ClusterRole").values():
        for rule in role["rules"]:
            if "secrets" in rule["resources"]:
                assert not {"list", "watch"} & set(rule["verbs"]), "never all of them at once"


def test_roles_of_people(render: Callable[..., Rendered]):
    values = {"rbac": {"aggregate": {"users": False, "backends": True}}}
    roles = render(values).of("ClusterRole")
    aggregated = {
        name
        for name, role in roles.items()
        if any("aggregate-to" in label for label in role["metadata"]["labels"])
    }
    assert aggregated == {"holdfast-backend-edit"}
    assert {"holdfast-edit", "holdfast-view", "holdfast-eraser"} < set(roles), "to be bound by name"
    nothing = render({"rbac": {"create": False}})
    assert not rules(without_tests(nothing))


def test_a_service_account_of_ones_own(render: Callable[..., Rendered]):
    values = {"operator": {"serviceAccount": {"create": False, "name": "theirs"}}}
    rendered = render(values)
    assert "theirs" not in rendered.names("ServiceAccount")
    assert rendered.pod(OPERATOR)["serviceAccountName"] == "theirs"
    for each in rendered.of("ClusterRoleBinding").values():
        assert each["subjects"][0]["name"] == "theirs"
    policy = rendered.one("ValidatingAdmissionPolicy", "holdfast-operator-secrets")
    assert ":holdfast-system:theirs'" in policy["spec"]["matchConditions"][0]["expression"]


# --- definitions, admission, injection


def test_definitions_are_the_generated_ones_and_are_kept(default: Rendered):
    for name, definition in default.of("CustomResourceDefinition").items():
        [plural, _, _] = name.partition(".")
        path = CHART.parents[1] / f"crds/holdfast.dev_{plural}.yaml"
        generated = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert definition["spec"] == generated["spec"], name
        assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definitions_may_come_from_elsewhere(render: Callable[..., Rendered]):
    assert not render({"crds": {"install": False}}).names("CustomResourceDefinition")
    noted = render({"crds": {"annotations": {"helm.sh/resource-policy": "delete", "a": "b"}}})
    for definition in noted.of("CustomResourceDefinition").values():
        expected = {"helm.sh/resource-policy": "keep", "a": "b"}
        assert definition["metadata"]["annotations"] == expected


def test_admission_policies_can_be_left_out(render: Callable[..., Rendered]):
    rendered = render({"admission": {"policies": False}})
    assert not rendered.names("ValidatingAdmissionPolicy")
    assert not rendered.names("ValidatingAdmissionPolicyBinding")


def certificates(**given: Any) -> Object:
    return {"injection": {"webhook": {"certificates": given}}}


def test_certificates_by_the_operator(default: Rendered):
    assert (
        "--webhook-certificate-secret=holdfast-webhook-certificate"
        in default.container(OPERATOR)["args"]
    )
    [webhook] = default.one("MutatingWebhookConfiguration", "holdfast-injection")["webhooks"]
    assert "caBundle" not in webhook["clientConfig"], "it is the operator's to write"
    [volume] = [each for each in default.pod(WEBHOOK)["volumes"] if each["name"] == "certificates"]
    assert volume["secret"] == {"secretName": "holdfast-webhook-certificate"}


def test_certificates_by_cert_manager(render: Callable[..., Rendered]):
    rendered = render(certificates(mode="certManager"))
    configuration = rendered.one("MutatingWebhookConfiguration", "holdfast-injection")
    annotations = configuration["metadata"]["annotations"]
    assert annotations == {"cert-manager.io/inject-ca-from": f"holdfast-system/{WEBHOOK}"}
    assert "caBundle" not in configuration["webhooks"][0]["clientConfig"]
    certificate = rendered.one("Certificate", WEBHOOK)["spec"]
    assert certificate["secretName"] == "holdfast-webhook-certificate"
    assert f"{WEBHOOK}.holdfast-system.svc" in certificate["dnsNames"]
    assert certificate["issuerRef"] == {"name": WEBHOOK, "kind": "Issuer"}
    assert rendered.names("Issuer") == {WEBHOOK}
    assert "holdfast-operator-certificates" not in rendered.names("Role")
    assert not [each for each in rendered.container(OPERATOR)["args"] if "webhook" in each]
    issuer = {"name": "corporate", "kind": "ClusterIssuer"}
    own = render(certificates(mode="certManager", certManager={"issuerRef": issuer}))
    assert not own.names("Issuer")
    assert own.one("Certificate", WEBHOOK)["spec"]["issuerRef"] == issuer


def test_certificates_that_are_given(render: Callable[..., Rendered]):
    rendered = render(certificates(mode="given", existingSecret="own", caBundle="QUJD"))
    [webhook] = rendered.one("MutatingWebhookConfiguration", "holdfast-injection")["webhooks"]
    assert webhook["clientConfig"]["caBundle"] == "QUJD"
    [volume] = [each for each in rendered.pod(WEBHOOK)["volumes"] if each["name"] == "certificates"]
    assert volume["secret"] == {"secretName": "own"}
    assert not [each for each in rendered.container(OPERATOR)["args"] if "webhook" in each]


POLICY = {"injection": {"mode": "policy"}}
NEW = "--kube-version=1.36.0"


def test_injection_by_a_policy_needs_no_server(render: Callable[..., Rendered]):
    values = {
        "image": {"repository": "registry.example/holdfast"},
        "injection": {
            "mode": "policy",
            "excludedNamespaces": ["mesh"],
            "sidecar": {
                "drain": "5s",
                "imagePullSecrets": [{"name": "a"}, {"name": "b"}],
                "resources": {"limits": {"cpu": 2}},
            },
        },
    }
    rendered = render(values, NEW, release="memory", namespace="agents")
    assert {key.partition("/")[2] for key in rendered.of("Deployment")} == {
        "memory-holdfast-operator"
    }
    assert not rendered.names("MutatingWebhookConfiguration")
    assert not [each for each in rendered if each["kind"] == "Role" and "certificate" in str(each)]
    policy = rendered.one("MutatingAdmissionPolicy", "memory-holdfast-injection")
    binding = rendered.one("MutatingAdmissionPolicyBinding", "memory-holdfast-injection")["spec"]
    assert binding["policyName"] == "memory-holdfast-injection"
    assert binding["paramRef"] == {
        "name": "memory-holdfast-injection",
        "namespace": "agents",
        "parameterNotFoundAction": "Deny",
    }
    selector = policy["spec"]["matchConstraints"]["namespaceSelector"]
    assert selector["matchExpressions"][0]["values"] == ["kube-system", "agents", "mesh"]
    settings = rendered.one("ConfigMap", "agents/memory-holdfast-injection")["data"]
    # Exactly the settings that the policy was written for.
    plain = yaml.safe_load((CHART / "files/injection/settings.yaml").read_text(encoding="utf-8"))
    assert set(settings) == set(plain["data"])
    assert settings == plain["data"] | {
        "image": "registry.example/holdfast:0.1.0",
        "imagePullSecrets": "a,b",
        "limits.cpu": "2",
        "drain": "5",
    }


def test_by_default_the_policy_injects_what_the_webhook_does(
    helm: Helm, render: Callable[..., Rendered], default: Rendered
):
    by_policy = render(POLICY, NEW).one("ConfigMap", "holdfast-injection")["data"]
    plain = yaml.safe_load((CHART / "files/injection/settings.yaml").read_text(encoding="utf-8"))
    assert by_policy == plain["data"]
    by_webhook = yaml.safe_load(default.one("ConfigMap", WEBHOOK)["data"]["injection.yaml"])
    resources = {
        f"{kind}.{name}": quantity
        for kind, quantities in by_webhook.pop("resources").items()
        for name, quantity in quantities.items()
    }
    assert resources.items() <= by_policy.items()
    assert by_webhook == {
        "image": by_policy["image"],
        "imagePullPolicy": by_policy["imagePullPolicy"],
        "imagePullSecrets": [],
        "drain": f"{by_policy['drain']}s",
        "statusHost": by_policy["statusHost"],
    }


def test_the_policy_knows_two_resources_and_needs_both(helm: Helm):
    for limits in ({"cpu": None}, {"ephemeral-storage": "1Gi"}):
        values = {"injection": {"mode": "policy", "sidecar": {"resources": {"limits": limits}}}}
        with pytest.raises(HelmError, match="write both and no others"):
            helm.template(values, NEW)


def test_without_injection_there_is_no_webhook(render: Callable[..., Rendered]):
    rendered = render({"injection": {"mode": "none"}})
    assert not rendered.names("MutatingWebhookConfiguration")
    assert rendered.names("Deployment") == {OPERATOR}
    assert not [name for name in rendered.names("ServiceAccount") if "webhook" in name]
    assert not [each for each in rendered.container(OPERATOR)["args"] if "webhook" in each]


# --- monitoring, network, trying out


def test_monitors_find_what_they_are_for(everything: Rendered):
    monitor = everything.one("ServiceMonitor", "holdfast")["spec"]
    assert monitor["endpoints"] == [{"port": "status", "path": "/metrics", "honorLabels": True}]
    [expression] = monitor["selector"]["matchExpressions"]
    for name in (OPERATOR, WEBHOOK):
        service = everything.one("Service", name)
        labels = service["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert labels[expression["key"]] in expression["values"]
        assert "status" in [port["name"] for port in service["spec"]["ports"]]
        ports = {port["name"] for port in everything.container(name)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        template = everything.one("Deployment", name)["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    pods = everything.one("PodMonitor", "holdfast-sidecars")["spec"]
    assert pods["namespaceSelector"] == {"any": True}
    assert pods["selector"] == {"matchLabels": {"holdfast.dev/inject": "true"}}
    assert pods["podMetricsEndpoints"] == [{"port": "holdfast-status", "path": "/metrics"}]


def test_monitoring_is_labelled_as_it_is_selected(render: Callable[..., Rendered]):
    on = {"enabled": True, "labels": {"release": "prometheus"}}
    values = {
        "monitoring": {
            "serviceMonitor": {**on, "interval": "15s"},
            "podMonitor": {**on, "interval": "30s"},
            "prometheusRule": {**on, "runbookPrefix": "https://runbooks.example/"},
            "dashboard": {"enabled": True, "annotations": {"folder": "Agents"}},
        }
    }
    rendered = render(values)
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
        [each] = rendered.of(kind).values()
        assert each["metadata"]["labels"]["release"] == "prometheus"
    monitor = rendered.one("ServiceMonitor", "holdfast")["spec"]
    assert monitor["endpoints"][0]["interval"] == "15s"
    for group in rendered.one("PrometheusRule", "holdfast")["spec"]["groups"]:
        for rule in group["rules"]:
            prefix, _, path = rule["annotations"]["runbook_url"].partition("docs/")
            assert prefix == "https://runbooks.example/"
            assert (CHART.parents[1] / "docs" / path).exists()
    board = rendered.one("ConfigMap", "holdfast-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["metadata"]["annotations"] == {"folder": "Agents"}
    text = (CHART / "files/monitoring/dashboard.json").read_text(encoding="utf-8")
    assert yaml.safe_load(board["data"]["holdfast-operator.json"]) == yaml.safe_load(text)


def test_who_may_scrape_is_limited_and_the_test_of_the_release_is_let_through(
    render: Callable[..., Rendered],
):
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    }
    network = {"enabled": True, "backends": [{"podSelector": {}}], "metricsFrom": [prometheus]}
    rendered = render({"networkPolicy": network})
    labels = rendered.one("Pod", "holdfast-test-health")["metadata"]["labels"]
    for name in (OPERATOR, WEBHOOK):
        ingress = rendered.one("NetworkPolicy", name)["spec"]["ingress"]
        [status] = [each for each in ingress if each["ports"][0]["port"] == "status"]
        scraper, test = status["from"]
        assert scraper == prometheus
        assert test["podSelector"]["matchLabels"].items() <= labels.items()


def test_network_policies_let_through_what_is_needed(everything: Rendered):
    operator = everything.one("NetworkPolicy", OPERATOR)["spec"]
    dns, api, servers, tryout = operator["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    assert "to" not in api, "the API server is no pod"
    assert servers["to"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert [port["port"] for port in servers["ports"]] == [6379]
    [peer] = tryout["to"]
    template = everything.one("Deployment", "holdfast-tryout")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    webhook = everything.one("NetworkPolicy", WEBHOOK)["spec"]
    assert webhook["egress"] == [], "it looks nothing up"
    assert webhook["ingress"][0] == {"ports": [{"port": "webhook", "protocol": "TCP"}]}
    for name in (OPERATOR, WEBHOOK):
        spec = everything.one("NetworkPolicy", name)["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        deployment = everything.one("Deployment", name)["spec"]
        assert spec["podSelector"] == deployment["selector"]


def test_the_server_for_trying_out_is_off_and_keeps_nothing(
    default: Rendered, everything: Rendered, render: Callable[..., Rendered]
):
    assert "holdfast-tryout" not in default.names("Deployment")
    container = everything.container("holdfast-tryout")
    assert "--requirepass" in container["args"]
    [entry] = container["env"]
    assert entry["valueFrom"]["secretKeyRef"] == {"name": "valkey", "key": "password"}
    assert not everything.names("PersistentVolumeClaim")
    open_one = render({"tryout": {"enabled": True}}).container("holdfast-tryout")
    assert "--requirepass" not in open_one["args"]
    assert "env" not in open_one


# --- helm test


def steps(rendered: Rendered) -> list[str]:
    """The pods of the test, in the order in which they run."""
    pods = rendered.of("Pod").values()
    ordered = sorted(
        pods, key=lambda pod: int(pod["metadata"]["annotations"]["helm.sh/hook-weight"])
    )
    return [pod["metadata"]["name"].removeprefix("holdfast-test-") for pod in ordered]


def test_without_a_backend_the_test_asks_for_the_health(
    default: Rendered, render: Callable[..., Rendered]
):
    assert steps(default) == ["health"]
    [container] = default.one("Pod", "holdfast-test-health")["spec"]["containers"]
    urls = [argument for argument in container["args"] if argument.startswith("http")]
    for url, name in zip(urls, (OPERATOR, WEBHOOK), strict=True):
        host, port = url.removeprefix("http://").removesuffix("/readyz").split(":")
        assert host == f"{name}.holdfast-system.svc"
        ports = default.one("Service", name)["spec"]["ports"]
        assert int(port) in [each["port"] for each in ports if each["targetPort"] == "status"]
    not_served = {"watchNamespaces": ["team"], "tryout": {"enabled": True}}
    assert steps(render(not_served)) == ["health"], "the operator would never look at its memory"


ALL_STEPS = ["health", "prepare", "sidecar", "remove"]


def test_in_the_own_namespace_the_sidecar_of_the_test_is_written_out(everything: Rendered):
    assert steps(everything) == ALL_STEPS
    pod = everything.one("Pod", "holdfast-test-sidecar")
    assert "holdfast.dev/inject" not in pod["metadata"]["labels"]
    [sidecar] = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["holdfast-binding"]["secret"] == {"secretName": "holdfast-test-holdfast"}
    [test] = pod["spec"]["containers"]
    assert "holdfast-binding" not in [mount["name"] for mount in test["volumeMounts"]]
    # It is a tenant: the operator may make its Secret.
    assert {"holdfast-test", "holdfast-test-secrets"} <= everything.names("Role")


def test_elsewhere_the_sidecar_of_the_test_is_injected(render: Callable[..., Rendered]):
    values = {
        "tenantNamespaces": ["team"],
        "test": {"namespace": "team", "backendRef": {"name": "shared", "namespace": "platform"}},
    }
    rendered = render(values)
    pods = rendered.of("Pod")
    assert set(pods) == {
        *(f"holdfast-test-{step}" for step in ("health", "prepare", "remove")),
        "team/holdfast-test-sidecar",
    }
    metadata = pods["team/holdfast-test-sidecar"]["metadata"]
    assert metadata["labels"]["holdfast.dev/inject"] == "true"
    assert metadata["annotations"]["holdfast.dev/binding"] == "holdfast-test"
    assert "initContainers" not in pods["team/holdfast-test-sidecar"]["spec"]
    [container] = pods["holdfast-test-prepare"]["spec"]["containers"]
    assert "--backend=platform/shared" in container["args"]
    assert not [each for each in container["args"] if each.startswith("--endpoint")]
    roles = {key for key in rendered.names("Role") if "test" in key}
    assert roles == {"team/holdfast-test"}, "it is a tenant already"
    for binding in ("team/holdfast-test",):
        [subject] = rendered.one("RoleBinding", binding)["subjects"]
        assert subject["namespace"] == "holdfast-system"


# --- contradictions


CONTRADICTIONS: list[tuple[Object, str]] = [
    ({"rbac": {"secrets": "cluster"}, "tenantNamespaces": ["a"]}, "leave tenantNamespaces"),
    ({"rbac": {"secrets": "cluster"}, "backendNamespaces": ["a"]}, "leave tenantNamespaces"),
    ({"rbac": {"secrets": "cluster"}, "watchNamespaces": ["a"]}, "serves every namespace"),
    ({"rbac": {"secrets": "cluster"}, "admission": {"policies": False}}, "confine it to those"),
    ({"watchNamespaces": ["a"], "tenantNamespaces": ["b"]}, "the namespace b is in"),
    ({"watchNamespaces": ["a"], "backendNamespaces": ["b"]}, "the namespace b is in"),
    ({"operator": {"leaderElection": {"renewDeadline": 12}}}, "retryPeriod < renewDeadline"),
    ({"operator": {"leaderElection": {"retryPeriod": 8}}}, "retryPeriod < renewDeadline"),
    ({"operator": {"serviceAccount": {"create": False}}}, "needs the name of a ServiceAccount"),
    (certificates(mode="given"), "needs the Secret in existingSecret"),
    (certificates(mode="given", existingSecret="a"), "needs the Secret in existingSecret"),
    (certificates(existingSecret="a"), "are for mode: given, and the mode is operator"),
    (certificates(mode="certManager", caBundle="QUJD"), "and the mode is certManager"),
    ({"networkPolicy": {"enabled": True}}, "say in networkPolicy.backends"),
    ({"tryout": {"existingSecret": "a"}}, "in spec.authRef"),
    ({"injection": {"webhook": {"port": 8081}}}, "are both 8081"),
]


@pytest.mark.parametrize(
    ("values", "sentence"), CONTRADICTIONS, ids=[said for _, said in CONTRADICTIONS]
)
def test_contradictions_are_refused_with_a_sentence(helm: Helm, values: Object, sentence: str):
    with pytest.raises(HelmError) as refused:
        helm.template(values)
    assert sentence in refused.value.stderr


def test_an_older_cluster_is_refused(helm: Helm):
    with pytest.raises(HelmError, match=r"requires kubeVersion: >=1\.30"):
        helm.template(None, "--kube-version=1.29.9")
    assert helm.template(None, "--kube-version=1.30.0")
    with pytest.raises(HelmError, match=r"needs Kubernetes 1\.36 or newer, and this is v1\.35\.2"):
        helm.template({"injection": {"mode": "policy"}}, "--kube-version=1.35.2")


def test_the_chart_says_which_version_it_installs_and_what_it_brings():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == holdfast.__version__
    annotations = chart["annotations"]
    listed = {each["name"] for each in yaml.safe_load(annotations["artifacthub.io/crds"])}
    assert listed == KINDS
    models = {definition.kind: definition.model for definition in DEFINITIONS}
    for example in yaml.safe_load(annotations["artifacthub.io/crdsExamples"]):
        models[example["kind"]].model_validate(example)


def test_the_chart_is_linted_and_packaged(helm: Helm, tmp_path: Path):
    helm.run("lint", "--strict", str(CHART))
    archive = helm.package(tmp_path)
    assert archive.name == "holdfast-0.1.0.tgz"
    packed = Rendered(helm.template(None, chart=archive))
    assert packed.objects == helm.template()
    # A release is kept in a Secret, of at most 1 MiB.
    assert archive.stat().st_size < 200_000
