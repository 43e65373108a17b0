"""Agents that write all the time, a witness of what was acknowledged to them, and what must hold of it."""

import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.e2e import manifests
from tests.e2e.product import Product, Record
from tests.harness.node.cluster import Namespace
from tests.harness.waiting import wait

_FETCH = "import urllib.request as u; print(u.urlopen('http://localhost:8080').read().decode())"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An append that an agent was told of.

    Attributes:
        key: the message, and the key under which it was sent.
        seq: its place in the log.
        begun: when the agent sent it first, in seconds of the node's clock.
        end: when it was acknowledged.
        failures: what went wrong before that.
    """

    key: str
    seq: int
    begun: float
    end: float
    failures: list[str]


class Load:
    """Agents of one team, in one or more Deployments, that append to one session.

    Args:
        product: the installation.
        team: their namespace; it has the memory `support` and the binding `agent`.
        deployments: names, each with `replicas` pods.
        pause: seconds between the appends of one agent.
    """

    def __init__(
        self,
        product: Product,
        team: Namespace,
        *deployments: str,
        replicas: int = 2,
        pause: float = 0.1,
    ) -> None:
        self._product = product
        self._team = team
        self._deployments = deployments
        images = product.cluster.images
        team.apply(
            [
                manifests.deployment(
                    "witness", manifests.agent(images, "witness", account="agent")
                ),
                manifests.service("witness", 8080),
            ]
        )
        team.rolled_out("deploy/witness")
        writer = manifests.agent(images, "writer", account="agent", env={"PAUSE": str(pause)})
        for name in deployments:
            team.apply([manifests.deployment(name, writer, replicas=replicas, injected=True)])
        for name in deployments:
            team.rolled_out(f"deploy/{name}")

    def acknowledgements(self) -> list[Acknowledgement]:
        """Everything that was acknowledged so far."""
        told = json.loads(self._team.exec("deploy/witness", "python", "-c", _FETCH))
        return [Acknowledgement(**each) for each in told]

    def goes_on(self, *, more: int = 5, deadline: float = 300) -> None:
        """Wait until every pod that is there has had so many acknowledgements more."""
        before = len(self.acknowledgements())
        pods = {pod["metadata"]["name"] for pod in self.pods()}

        def all_wrote() -> bool:
            new = self.acknowledgements()[before:]
            counts = {pod: sum(each.key.startswith(f"{pod}.") for each in new) for pod in pods}
            return all(count >= more for count in counts.values())

        wait(all_wrote, f"every one of {sorted(pods)} writes", deadline=deadline)

    def failures(self) -> list[str]:
        """What went wrong so far, of appends that were acknowledged in the end."""
        return [text for each in self.acknowledgements() for text in each.failures]

    def pods(self) -> list[dict[str, Any]]:
        """The agents' pods."""
        return [pod for name in self._deployments for pod in self._team.pods(f"app={name}")]

    def kill_one(self) -> str:
        """Kill one agent's pod."""
        name = random.choice(self.pods())["metadata"]["name"]
        self._team.kill(name)
        return name

    def stop(self) -> None:
        """End all agents, in order."""
        for name in self._deployments:
            self._team.kubectl("scale", f"deploy/{name}", "--replicas=0")
        for name in self._deployments:
            self._team.kubectl(
                "wait", "--for=delete", "pod", f"--selector=app={name}", "--timeout=240s"
            )


def check_history(acknowledged: list[Acknowledgement], stored: list[Record]) -> None:
    """Every acknowledged append is stored once, where it was said to be, in the order of the calls."""
    places = [record.seq for record in stored]
    assert places == sorted(set(places)), "the log is not in order"
    contents = [record.item["content"] for record in stored]
    twice = [content for content, times in Counter(contents).items() if times > 1]
    assert not twice, f"stored more than once: {twice[:5]}"
    where = dict(zip(contents, places, strict=True))
    lost = [each.key for each in acknowledged if each.key not in where]
    assert not lost, f"{len(lost)} acknowledged appends are not stored: {lost[:5]}"
    moved = [each for each in acknowledged if where[each.key] != each.seq]
    assert not moved, f"stored elsewhere than acknowledged: {moved[:5]}"
    _check_order(acknowledged)
    unknown = set(contents) - {each.key for each in acknowledged}
    lives = {key.rpartition(".")[0] for key in unknown}
    assert len(unknown) == len(lives), "more than the last append of an agent was not acknowledged"


def _check_order(acknowledged: list[Acknowledgement]) -> None:
    """What had been acknowledged before a call began comes before it."""
    ends = sorted(acknowledged, key=lambda each: each.end)
    position, highest = 0, 0
    for call in sorted(acknowledged, key=lambda each: each.begun):
        while position < len(ends) and ends[position].end < call.begun:
            highest = max(highest, ends[position].seq)
            position += 1
        assert call.seq > highest, f"{call} comes after {highest}, which was acknowledged before it"
