"""What decides, put together: which service sees to which kind of object, and who shares what with whom."""

import secrets as randomness
from datetime import timedelta
from functools import partial
from typing import Final

from holdfast_operator.handlers.keeper import Services
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.bindings import BindingService
from holdfast_operator.services.deletions import DeletionService
from holdfast_operator.services.erasures import ErasureService
from holdfast_operator.services.observing import Observer
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import (
    Cluster,
    Connections,
    Leadership,
    Secrets,
    SystemClock,
)
from holdfast_operator.services.resources import ResourceService
from holdfast_operator.services.surveys import Surveys
from holdfast_operator.services.targets import Targets
from holdfast_operator.services.users import SweptBackends, Users
from holdfast_operator.services.walks import Walks
from holdfast_operator.storage.mirror import Kind

_PASSWORD: Final = 32
"""Random bytes of a password."""


def compose(
    cluster: Cluster,
    secrets: Secrets,
    connections: Connections,
    *,
    leader: Leadership,
    observer: Observer,
    give_up: timedelta,
) -> dict[Kind, Services]:
    """Put the services together.

    All walks on a server share one pace, and all who change users ask the same leadership.

    Args:
        cluster: what is in the cluster.
        secrets: writes those of bindings.
        connections: to the servers.
        leader: whether this process may act, and its epoch.
        observer: told what happens.
        give_up: how long a namespace that is being deleted waits for a server that does not answer.
    """
    clock = SystemClock()
    paces = Paces(clock)
    walks, surveys = Walks.on(clock, paces, observer), Surveys(cluster, clock, paces, observer)
    backends = BackendService(cluster, connections, clock, surveys, observer)
    targets = Targets(cluster, backends, epoch=leader.epoch)
    resources = ResourceService(targets, walks, clock, observer)
    deletions = DeletionService(targets, walks, clock, observer, give_up=give_up)
    erasures = ErasureService(targets, cluster, clock, paces)
    users = Users(cluster, backends, leader)
    swept = SweptBackends(backends, users, cluster, clock)
    bindings = BindingService(
        cluster,
        secrets,
        backends,
        clock,
        users=users,
        make_password=partial(randomness.token_urlsafe, _PASSWORD),
        observer=observer,
    )
    return {
        Kind.BACKEND: Services(swept.reconcile, swept.finalize),
        Kind.RESOURCE: Services(resources.reconcile, deletions.finalize),
        Kind.BINDING: Services(bindings.reconcile, bindings.finalize),
        Kind.ERASURE: Services(erasures.reconcile, erasures.finalize),
    }
