"""Values and names that are legal and seldom: what is rendered of them is what was meant."""

from collections.abc import Iterator
from typing import Any

import pytest

from holdfast_webhook.settings import read_settings
from tests.chart.rendered import Object, Rendered
from tests.chart.test_templates import EVERYTHING, OPERATOR, WEBHOOK
from tests.harness.helm import Helm, HelmError


def texts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in an object that the API server takes for a text, by where it is."""
    if isinstance(value, dict):
        for key, each in value.items():
            whole = f"{path}.{key}"
            strings = path.endswith(("abels", "annotations", "electorTerms", ".selector", ".data"))
            named = key in {
                *("name", "namespace", "image", "serviceAccountName", "secretName"),
                *("priorityClassName",),
            }
            if not isinstance(each, (dict, list)) and (strings or named):
                yield whole, each
            yield from texts(each, whole)
    elif isinstance(value, list):
        for each in value:
            if not isinstance(each, (dict, list)) and path.endswith(("args", "resourceNames")):
                yield path, each
            yield from texts(each, path)


@pytest.mark.parametrize("word", ["123", "true", "null", "1e3", "0x1f"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_text(helm: Helm, word: str):
    """Each is a legal name of a namespace, a Secret, a ServiceAccount, a label; the release has one too."""
    values = {
        **EVERYTHING,
        "nameOverride": word,
        "fullnameOverride": "memory",
        "commonLabels": {"team": word},
        "clusterID": f"{word}:",
        "tryout": {"enabled": True, "existingSecret": word, "image": word},
        "operator": {
            "priorityClassName": word,
            "serviceAccount": {"create": False, "name": word},
        },
        "injection": {
            "webhook": {
                "certificates": {"mode": "given", "existingSecret": word, "caBundle": "QUJD"}
            }
        },
        "test": {"namespace": word},
        "tenantNamespaces": [word],
    }
    rendered = helm.template(values, release=word, namespace=word)
    wrong = [
        (each["kind"], where, found)
        for each in rendered
        if each["kind"] != "CustomResourceDefinition"
        for where, found in texts(each)
        if not isinstance(found, str)
    ]
    assert not wrong
    labels = [each["metadata"]["labels"] for each in rendered]
    assert {each["app.kubernetes.io/instance"] for each in labels} == {word}
    settings = Rendered(rendered).of("ConfigMap")[f"{word}/memory-webhook"]["data"]
    assert read_settings(settings["injection.yaml"]).image == "holdfast:0.1.0"


@pytest.mark.parametrize("mode", ["webhook", "policy"])
def test_a_quantity_may_be_a_number(helm: Helm, mode: str):
    """In a file of values: 268435456 bytes are a float there, and were written as 2.68435456e+08."""
    resources = {
        "requests": {"cpu": 0.25, "memory": 134217728},
        "limits": {"cpu": 1, "memory": 268435456},
    }
    values = {"injection": {"mode": mode, "sidecar": {"resources": resources}}}
    rendered = Rendered(helm.template(values, "--kube-version=1.36.3"))
    expected = {
        "requests": {"cpu": "0.25", "memory": "134217728"},
        "limits": {"cpu": "1", "memory": "268435456"},
    }
    if mode == "webhook":
        data = rendered.one("ConfigMap", WEBHOOK)["data"]["injection.yaml"]
        assert read_settings(data).resources.model_dump() == expected
    else:
        data = rendered.one("ConfigMap", "holdfast-injection")["data"]
        assert {
            kind: {name: data[f"{kind}.{name}"] for name in of} for kind, of in expected.items()
        } == expected


def test_a_spread_that_selects_pods_itself_is_left_as_it_is(helm: Helm):
    spread: Object = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    chosen = {**spread, "labelSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
    every = {**spread, "labelSelector": {}}
    values = {"operator": {"topologySpreadConstraints": [chosen, every, spread]}}
    rendered = Rendered(helm.template(values))
    own = rendered.one("Deployment", OPERATOR)["spec"]["selector"]
    found = rendered.pod(OPERATOR)["topologySpreadConstraints"]
    assert found == [chosen, every, {**spread, "labelSelector": own}]


def test_a_release_with_a_dot_in_its_name_is_told_to_call_its_objects_otherwise(helm: Helm):
    """Helm allows it, and no API server takes a Service of such a name: half of it was installed."""
    with pytest.raises(HelmError, match="write another name in fullnameOverride"):
        helm.template(release="memory.v1")
    rendered = Rendered(helm.template({"fullnameOverride": "memory-v1"}, release="memory.v1"))
    labels = rendered.one("Service", "memory-v1-operator")["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "memory.v1"


def test_ports_of_a_webhook_that_is_not_there_do_not_matter(helm: Helm):
    assert helm.template({"injection": {"mode": "none", "webhook": {"port": 8081}}})
