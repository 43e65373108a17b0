"""The data methods of a session and of a turn, as calls of the sidecar."""

from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.arguments import require_privacy, require_whole
from holdfast.errors import ConfigurationError
from holdfast.formats import JSON
from holdfast.log import MessageLog
from holdfast.messages import encode_items, require_total
from holdfast.reading import require_page, require_read
from holdfast.remote.answers import Answer
from holdfast.remote.connections import MODEL
from holdfast.remote.place import RemotePlace
from holdfast.remote.transport import Request
from holdfast.telemetry import Call
from holdfast.upkeep import require_explained
from holdfast.values import (
    AppendResult,
    FlushResult,
    Health,
    HistoryEntry,
    Messages,
    Page,
    Privacy,
    Status,
    Summary,
)
from holdfast.wire import (
    AppendBody,
    CountsAnswer,
    ExplainAnswer,
    FlushBody,
    HistoryAnswer,
    PopAnswer,
    PrivacyBody,
    ReadAnswer,
    RemovedAnswer,
    ReplaceBody,
    SummariesAnswer,
)

_ENCODER = msgspec.json.Encoder()
_APPENDED = Answer(AppendResult)
_READ = Answer(ReadAnswer)
_PAGE = Answer(Page)
_POPPED = Answer(PopAnswer)
_REMOVED = Answer(RemovedAnswer)
_COUNTS = Answer(CountsAnswer)
_HEALTH = Answer(Health)
_FLUSHED = Answer(FlushResult)
_SUMMARIES = Answer(SummariesAnswer)
_HISTORY = Answer(HistoryAnswer)
_EXPLAINED = Answer(ExplainAnswer)


class RemoteLog(MessageLog):
    """Messages of one session, kept by a sidecar; see `MessageLog`.

    Each call is one request. Everything public of `MessageLog` is replaced: nothing that it does by itself
    is left, and none of its own state is there.
    """

    def __init__(self, place: RemotePlace) -> None:
        self._at = place

    async def append(
        self,
        message: JSON,
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Store one message; see `MessageLog.append`."""
        with self._at.naming(Call.APPEND):
            (encoded,) = _encoded([message], id=id, group=group)
            body = AppendBody(
                message=encoded,
                id=id,
                role=role,
                pin=pin,
                group=group,
                share=share,
                privacy=_privacy(privacy),
            )
            return await self._store("POST", body)

    async def append_many(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Store messages together or not at all; see `MessageLog.append_many`."""
        with self._at.naming(Call.APPEND_MANY):
            body = AppendBody(
                messages=_encoded(messages, id=id, group=group),
                id=id,
                role=role,
                pin=pin,
                group=group,
                share=share,
                privacy=_privacy(privacy),
            )
            return await self._store("POST", body)

    async def replace(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Remove all messages and store others in their place; see `MessageLog.replace`."""
        with self._at.naming(Call.REPLACE):
            body = ReplaceBody(
                messages=_encoded(messages, id=id),
                id=id,
                role=role,
                pin=pin,
                share=share,
                privacy=_privacy(privacy),
            )
            return await self._store("PUT", body)

    async def read(
        self, *, limit: int | None = None, max_tokens: int | None = None, after: int | None = None
    ) -> Messages:
        """Return messages as they were appended; see `MessageLog.read`."""
        require_read(limit, max_tokens, after)
        query = (("limit", limit), ("max_tokens", max_tokens), ("after", after))
        answer = _READ.read(await self._ask(Call.READ, "GET", "/messages", query))
        return Messages(answer.messages, stale=answer.stale)

    async def read_page(
        self, *, after: int | None = None, limit: int = 100, used: bool = True
    ) -> Page:
        """Return a part of exactly what is stored; see `MessageLog.read_page`."""
        require_page(after, limit)
        query = (("after", after), ("limit", limit), ("used", None if used else "false"))
        return _PAGE.read(await self._ask(Call.READ_PAGE, "GET", "/records", query))

    async def pop(self) -> Any | None:
        """Take the newest message out; see `MessageLog.pop`."""
        answer = _POPPED.read(await self._ask(Call.POP, "POST", "/pop", repeatable=False))
        return answer.message if answer.found else None

    async def clear(self, *, force: bool = False) -> int:
        """Remove all messages; see `MessageLog.clear`."""
        query = (("force", force),)
        answer = await self._ask(Call.CLEAR, "DELETE", "/messages", query, repeatable=False)
        return _REMOVED.read(answer).removed

    async def pin(self, seq: int, pinned: bool = True) -> None:
        """Never evict a message, or allow it again; see `MessageLog.pin`."""
        require_whole(seq=seq)
        await self._ask(Call.PIN, "PUT" if pinned else "DELETE", f"/records/{seq}/pin")

    async def length(self) -> int:
        """Return the number of messages."""
        return _COUNTS.read(await self._ask(Call.LENGTH, "GET", "/counts")).messages

    async def token_count(self) -> int:
        """Return the tokens of all messages, counted when they were appended."""
        return _COUNTS.read(await self._ask(Call.TOKEN_COUNT, "GET", "/counts")).tokens

    async def health(self) -> Health:
        """Return the state of the session; `in this process` in its description is the sidecar's."""
        return _HEALTH.read(await self._ask(Call.HEALTH, "GET"))

    async def status(self) -> Status:
        """Refuse: these counters are the store's own, which a sidecar does not show.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "status() shows the store's own counters, and a sidecar keeps those to itself: ask health()"
        )

    async def flush(self, strategy: str | None = None, *, dry_run: bool = False) -> FlushResult:
        """Take the session down to its target now; see `MessageLog.flush`."""
        body = _ENCODER.encode(FlushBody(strategy, dry_run))
        answer = await self._ask(
            Call.FLUSH, "POST", "/flush", body=body, repeatable=dry_run, silence=MODEL
        )
        return _FLUSHED.read(answer)

    async def summaries(self) -> list[Summary]:
        """Return the summaries that stand for what left; see `MessageLog.summaries`."""
        return _SUMMARIES.read(await self._ask(Call.SUMMARIES, "GET", "/summaries")).summaries

    async def history(self) -> list[HistoryEntry]:
        """Return what left the session; see `MessageLog.history`."""
        return _HISTORY.read(await self._ask(Call.HISTORY, "GET", "/history")).entries

    async def explain(self, *, id: str | None = None, seq: int | None = None) -> str:
        """Say in one sentence what became of a message; see `MessageLog.explain`."""
        require_explained(id, seq)
        query = (("id", id), ("seq", seq))
        return _EXPLAINED.read(await self._ask(Call.EXPLAIN, "GET", "/explain", query)).sentence

    async def _store(self, method: str, body: AppendBody | ReplaceBody) -> AppendResult:
        text = _ENCODER.encode(body)
        repeatable = body.id is not None
        request = await self._request(
            method, "/messages", body=text, repeatable=repeatable, stores=True
        )
        return _APPENDED.read(await self._make(request))

    async def _ask(
        self,
        call: Call,
        method: str,
        rest: str = "",
        query: Sequence[tuple[str, object]] = (),
        **parts: Any,
    ) -> bytes:
        """Make a call that observers are told of, and return the body of its answer."""
        with self._at.naming(call):
            return await self._make(await self._request(method, rest, query, **parts))

    async def _request(
        self, method: str, rest: str, query: Sequence[tuple[str, object]] = (), **parts: Any
    ) -> Request:
        """Return a call of the session; a turn adds its token."""
        return await self._at.request(method, rest, query, **parts)

    async def _make(self, request: Request) -> bytes:
        """Make a call; a turn learns from its errors."""
        return await self._at.call(request)


def _encoded(messages: Sequence[JSON], *, id: str | None, group: int | None = None) -> list[Any]:
    """Refuse what is no JSON value or no id, as the library does before anything is sent."""
    bodies = encode_items(messages, id=id, group=group)
    require_total(bodies)
    return list(map(msgspec.Raw, bodies))


def _privacy(privacy: Privacy | None) -> PrivacyBody | None:
    require_privacy(privacy)
    if privacy is None:
        return None
    return PrivacyBody(privacy.persist, privacy.level, privacy.sensitive, privacy.redacted)
