"""Handlers of turns: asked for, renewed, given back; by a token, or bound to a connection."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import msgspec

from holdfast.problems import http_problem, problem_of
from holdfast.session import Session
from holdfast.store.refusals import lease_lost, turn_interrupted
from holdfast.turn import Turn
from holdfast.wire import EVENT_STREAM, TurnBody, TurnGrant, TurnState
from holdfast_sidecar.answers import NO_CONTENT, Answer, Stream, ok
from holdfast_sidecar.memories import Found
from holdfast_sidecar.requests import Request
from holdfast_sidecar.service import Service
from holdfast_sidecar.turns import Held

_BODY: Final = msgspec.json.Decoder(TurnBody)
_NOW: Final = "0s"
_BEAT: Final = b":\n\n"


async def acquire(service: Service, request: Request) -> Answer | Stream:
    """Wait for the turn."""
    body = await request.json(_BODY, TurnBody())
    found = await service.found(request)
    bound = EVENT_STREAM.encode() in request.headers.get(b"accept", b"")
    held = await service.turns.acquire(
        found.session,
        found.where,
        ask=lambda session: _ask(session, body),
        ttl=await _ttl(found, body),
        gone=request.gone,
        bound=bound,
    )
    if bound:
        return Stream(_events(service, request, held), EVENT_STREAM.encode())
    location = request.scope["raw_path"] + b"/" + held.token.encode()
    answer = ok(_grant(held))
    return answer._replace(status=201, headers=((b"location", location),))


async def renew(service: Service, request: Request) -> Answer:
    """Ask the store whether the turn is held, and lengthen it."""
    found = await service.found(request)
    with service.turns.using(request.text(2), found.where) as held:
        await held.turn.check()
    return ok(TurnState(held.turn.fence, held.ttl))


async def release(service: Service, request: Request) -> Answer:
    """Give the turn back."""
    found = await service.found(request)
    await service.turns.release(request.text(2), found.where)
    return NO_CONTENT


def _ask(session: Session, body: TurnBody) -> Turn:
    wait = timedelta(0) if body.wait == _NOW else body.wait
    return session.turn(wait=wait, ttl=body.ttl)


async def _ttl(found: Found, body: TurnBody) -> float:
    """Return the seconds for which a turn lives between renewals."""
    if body.ttl is None:
        return (await found.memory.policies.current()).terms.lease / 1000
    from holdfast.policy import Duration  # noqa: PLC0415 - loaded with the first policy anyway

    return Duration(body.ttl).milliseconds / 1000


def _grant(held: Held) -> TurnGrant:
    return TurnGrant(held.turn.fence, held.ttl, held.token)


async def _events(service: Service, request: Request, held: Held) -> AsyncIterator[bytes]:
    """Tell of the turn as long as it is held; it is given back when the client closes."""
    turn = held.turn
    watched = [
        asyncio.ensure_future(_lost(turn)),
        asyncio.ensure_future(request.gone()),
        asyncio.ensure_future(held.ended.wait()),
    ]
    try:
        yield _event("granted", _grant(held))
        while not any(one.done() for one in watched):
            done, _ = await asyncio.wait(
                watched,
                timeout=service.limits.heartbeat,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                yield _BEAT
        if turn.interrupted:
            yield _event("interrupted", problem_of(turn_interrupted()))
        elif turn.lost:
            yield _event("lost", problem_of(lease_lost()))
        elif service.turns.closing:
            yield _event(
                "lost", http_problem("ShuttingDown", "the sidecar ended, and the turn with it")
            )
    finally:
        for one in watched:
            one.cancel()
        await service.turns.release(held.token, held.where)


async def _lost(turn: Turn) -> None:
    await turn.lost


def _event(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
