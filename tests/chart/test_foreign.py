"""What the chart renders for the Prometheus operator and for cert-manager is what those understand.

Their definitions are not on the API servers of the tests. What describes their objects here is made from
their Go types: TypeScript refuses fields that do not exist, which an API server would drop without a word,
and a validator refuses values that their definitions refuse.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.chart.rendered import Object
from tests.chart.test_accepted import ELSEWHERE
from tests.harness.helm import Helm
from tests.harness.parts import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODELS: Final = Path(__file__).parent / "models"
OLDEST_NODE: Final = 20
PACKAGES: Final = {
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator",
    "cert-manager.io/v1": "@kubernetes-models/cert-manager",
}
LABELLED: Final = {"enabled": True, "labels": {"release": "prometheus"}}
SETS: Final[list[dict[str, Any]]] = [
    {
        "monitoring": {
            "serviceMonitor": {**LABELLED, "interval": "15s"},
            "podMonitor": {**LABELLED, "interval": "90s"},
            "prometheusRule": {**LABELLED, "runbookPrefix": "https://runbooks.example/"},
        },
        "injection": {"webhook": {"certificates": {"mode": "certManager"}}},
    },
    {
        "monitoring": {
            part: {"enabled": True} for part in ("serviceMonitor", "podMonitor", "prometheusRule")
        },
        "injection": {
            "webhook": {
                "certificates": {
                    "mode": "certManager",
                    "certManager": {
                        "issuerRef": {
                            "name": "ours",
                            "kind": "ClusterIssuer",
                            "group": "cert-manager.io",
                        },
                        "duration": "720h",
                    },
                }
            }
        },
    },
]
WRONG: Final[list[tuple[str, str, Object]]] = [
    ("monitoring.coreos.com/v1", "ServiceMonitor", {"selector": {}, "endpoints": [{"prt": "x"}]}),
    ("monitoring.coreos.com/v1", "PodMonitor", {"podMetricsEndpoints": []}),
    (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        {"groups": [{"name": "a", "rules": [{"alert": "A", "expr": "1", "for_": "1m"}]}]},
    ),
    (
        "cert-manager.io/v1",
        "Certificate",
        {"secretName": "a", "issuerRef": {"name": "a"}, "usages": ["serving"]},
    ),
]
"""Each has one mistake."""
BAD_INTERVAL: Final = {"selector": {}, "endpoints": [{"port": "status", "interval": "15"}]}


def program(objects: Sequence[Object]) -> str:
    """Each object as a literal of its type, on one line, and a call that validates it."""
    lines = [
        "function tell(fault: unknown) { console.log(String(fault)); }",
        "declare const console: { log(line: string): void };",
    ]
    for kind in sorted({(each["apiVersion"], each["kind"]) for each in objects}):
        path = f"{PACKAGES[kind[0]]}/{kind[0]}/{kind[1]}"
        lines.append(f"import {{ {kind[1]}, type I{kind[1]} }} from {json.dumps(path)};")
    for at, each in enumerate(objects):
        kind = each["kind"]
        lines.append(f"const o{at}: I{kind} = {json.dumps(each)};")
        lines.append(f"try {{ new {kind}(o{at}).validate(); }} catch (fault) {{ tell(fault); }}")
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages in it."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing("npm", "apt-get install npm")
    version = _run("node", "--version", cwd=MODELS).stdout
    if int(version.strip().removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        missing(f"Node {OLDEST_NODE}", "https://nodejs.org")
    folder = tmp_path_factory.mktemp("models") / "models"
    shutil.copytree(MODELS, folder, ignore=shutil.ignore_patterns("node_modules"))
    done = _run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=500
    )


def _rendered(helm: Helm) -> list[Object]:
    objects = [each for values in SETS for each in helm.template(values)]
    return [each for each in objects if each["kind"] in ELSEWHERE]


def test_objects_of_others_are_as_their_owners_define_them(helm: Helm, folder: Path):
    good = _rendered(helm)
    assert {each["kind"] for each in good} == ELSEWHERE
    wrong = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": "wrong"}, "spec": spec}
        for version, kind, spec in WRONG
    ]
    late = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "late"},
        "spec": BAD_INTERVAL,
    }
    (folder / "good.ts").write_text(program(good), encoding="utf-8")
    (folder / "wrong.ts").write_text(program(wrong), encoding="utf-8")
    (folder / "late.ts").write_text(program([late]), encoding="utf-8")

    compiled = _run("node_modules/.bin/tsc", "--project", ".", cwd=folder)
    faults = re.findall(r"^(\w+)\.ts\((\d+),", compiled.stdout, flags=re.MULTILINE)
    lines = (folder / "wrong.ts").read_text(encoding="utf-8").splitlines()
    literals = [at for at, line in enumerate(lines, 1) if re.match(r"const o\d", line)]
    assert [(file, int(line)) for file, line in faults] == [("wrong", at) for at in literals], (
        compiled.stdout
    )
    checked = _run("node", "good.js", cwd=folder)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    assert "interval must match pattern" in _run("node", "late.js", cwd=folder).stdout
