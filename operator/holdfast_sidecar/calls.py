"""Handlers: each reads a request, makes one call of the library, and answers with what came back."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET

from holdfast.errors import AmbiguousWrite, ConfigurationError
from holdfast.log import MessageLog
from holdfast.values import AppendResult, FlushResult
from holdfast.wire import (
    REPEATED_HEADER,
    AppendBody,
    CountsAnswer,
    ExplainAnswer,
    FlushBody,
    HistoryAnswer,
    PopAnswer,
    ReadAnswer,
    RemovedAnswer,
    ReplaceBody,
    SummariesAnswer,
)
from holdfast_sidecar.answers import NO_CONTENT, Answer, Refusal, ok
from holdfast_sidecar.memories import read_labels
from holdfast_sidecar.requests import Request
from holdfast_sidecar.service import Service

_APPEND: Final = msgspec.json.Decoder(AppendBody)
_REPLACE: Final = msgspec.json.Decoder(ReplaceBody)
_DOCUMENT: Final = Path(__file__).with_name("openapi.json")
_REPEATED: Final = REPEATED_HEADER.lower().encode()
_FLUSH: Final = msgspec.json.Decoder(FlushBody)


async def memories(service: Service, request: Request) -> Answer:  # noqa: ARG001 - a handler's
    """Say what is served."""
    return ok(await service.memories.describe())


async def append(service: Service, request: Request) -> Answer:
    """Append one message or several."""
    body = await request.json(_APPEND)
    options = _options(request, body)
    await _require_ids(service, request, options)
    if body.group is not None:
        options["group"] = body.group
    messages = _messages(body)

    async def call(log: MessageLog) -> AppendResult:
        if body.messages is UNSET:
            return await log.append(messages[0], **options)
        return await log.append_many(messages, **options)

    return ok(await service.under(request, call))


async def replace(service: Service, request: Request) -> Answer:
    """Put messages in the place of all."""
    body = await request.json(_REPLACE)
    options, messages = _options(request, body), _messages(body)
    await _require_ids(service, request, options)
    return ok(await service.under(request, lambda log: log.replace(messages, **options)))


async def read(service: Service, request: Request) -> Answer:
    """Read messages."""
    query = request.query
    limit, tokens, after = query.get("limit"), query.get("max_tokens"), query.get("after")
    if limit is not None and tokens is not None:
        raise Refusal("RequestInvalid", "give limit or max_tokens, not both")
    found = await service.under(
        request, lambda log: log.read(limit=limit, max_tokens=tokens, after=after)
    )
    return ok(ReadAnswer(found, found.stale))


async def clear(service: Service, request: Request) -> Answer:
    """Remove all messages."""
    force = request.query.get("force", False)
    return ok(RemovedAnswer(await service.under(request, lambda log: log.clear(force=force))))


async def pop(service: Service, request: Request) -> Answer:
    """Take the newest message out."""
    message = await service.under(request, lambda log: log.pop())
    return ok(PopAnswer(message, message is not None))


async def records(service: Service, request: Request) -> Answer:
    """Read a page of what is stored."""
    after, limit = request.query.get("after"), request.query.get("limit", 100)
    used = request.query.get("used", True)
    return ok(
        await service.under(request, lambda log: log.read_page(after=after, limit=limit, used=used))
    )


async def pin(service: Service, request: Request, *, pinned: bool = True) -> Answer:
    """Never evict a message, or allow it again."""
    seq = request.number(2)
    await service.under(request, lambda log: log.pin(seq, pinned))
    return NO_CONTENT


unpin = partial(pin, pinned=False)


async def counts(service: Service, request: Request) -> Answer:
    """Count messages and tokens, both of one moment."""
    status = await service.under(request, lambda log: log.status())
    return ok(CountsAnswer(status.messages, status.tokens))


async def health(service: Service, request: Request) -> Answer:
    """Say the state of a session."""
    return ok(await service.under(request, lambda log: log.health()))


async def flush(service: Service, request: Request) -> Answer:
    """Flush a session now."""
    body = await request.json(_FLUSH, FlushBody())

    async def call(log: MessageLog) -> FlushResult:
        return await log.flush(strategy=body.strategy, dry_run=body.dry_run)

    return ok(await service.under(request, call))


async def summaries(service: Service, request: Request) -> Answer:
    """Read the summaries."""
    return ok(SummariesAnswer(await service.under(request, lambda log: log.summaries())))


async def history(service: Service, request: Request) -> Answer:
    """Read what left."""
    return ok(HistoryAnswer(await service.under(request, lambda log: log.history())))


async def explain(service: Service, request: Request) -> Answer:
    """Say what became of a message."""
    chosen = {name: request.query[name] for name in ("id", "seq") if name in request.query}
    if len(chosen) != 1:
        raise Refusal("RequestInvalid", "give id or seq in the query, one of them")
    return ok(ExplainAnswer(await service.under(request, lambda log: log.explain(**chosen))))


async def erase(service: Service, request: Request) -> Answer:
    """Erase a session."""
    session = await service.session(request)
    return ok(await session.erase(force=request.query.get("force", False)))


async def erase_labelled(service: Service, request: Request) -> Answer:
    """Erase the sessions that carry labels."""
    memory = service.memories.memory(request.text(0))
    labels = read_labels(request.query.get("label", ()))
    if labels is None:
        raise ConfigurationError(
            "name at least one label of the sessions to erase: ?label=name:value"
        )
    query = request.query
    return ok(
        await memory.erase(
            labels=labels, dry_run=query.get("dry_run", False), force=query.get("force", False)
        )
    )


async def document(service: Service, request: Request) -> Answer:  # noqa: ARG001 - a handler's
    """Give the OpenAPI document."""
    return Answer(200, _DOCUMENT.read_bytes())


async def _require_ids(service: Service, request: Request, options: Mapping[str, Any]) -> None:
    """Refuse what is sent again where no id tells it from a second call.

    Raises:
        AmbiguousWrite: the memory remembers no ids.
    """
    if _REPEATED not in request.headers or "id" not in options:
        return
    memory = (await service.found(request)).memory
    if not (await memory.policies.current()).terms.max_ids:
        raise AmbiguousWrite(
            "the first answer to this call was lost, and the memory remembers no ids "
            "(idempotency.maxRememberedIDs is 0): it may or may not have been carried out"
        )


def _messages(body: ReplaceBody) -> list[Any]:
    if (body.message is UNSET) == (body.messages is UNSET):
        raise Refusal("RequestInvalid", "give message or messages in the body, one of them")
    return [body.message] if body.messages is UNSET else body.messages


def _options(request: Request, body: ReplaceBody) -> dict[str, Any]:
    """Return the options that both appends and replacing have."""
    key = request.record_id
    if key is not None and body.id not in (None, key):
        raise Refusal("RequestInvalid", "Idempotency-Key and the body's id are not the same")
    given = {"id": key or body.id, "role": body.role, "share": body.share, "pin": body.pin or None}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if body.privacy is not None:
        options["privacy"] = body.privacy.privacy()
    return options
