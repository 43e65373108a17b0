"""The way from any thread into an event loop: the loop has a thread of its own, and the caller waits."""

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SETTLING = 2.0  # seconds in which a call that was given up may tidy up; a turn takes at most one
_CLOSING = 30.0  # seconds that closing waits, a flush that ends included
_HEEDING = (
    1.0  # seconds after which a signal is noticed that came just before the wait for it began
)
_AT_ONCE = 100  # items that another thread takes before a coroutine goes on

_NOTHING_MORE = object()


class _Gone(RuntimeError):
    """The event loop is not there for this call (any more)."""


class Portal:
    """Runs coroutines on an event loop of its own, for callers in any thread.

    The loop's thread starts with the first call. It ends with `close`, with the end of the program, or
    when nothing refers to the portal any more. The thread itself does not refer to it.

    Args:
        end: the last coroutine to run; it releases what the others have opened.
    """

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._end = end
        self._closed = False
        self._thread: _LoopThread | None = None
        # A signal's handler may close the client while the same thread is in here.
        self._lock = threading.RLock()
        self._at_exit = partial(_close, weakref.ref(self))

    def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a coroutine function and wait for its end.

        Whatever a signal's handler raises meanwhile, such as `KeyboardInterrupt`, cancels the call and
        waits up to 2 s until it has tidied up.

        Raises:
            RuntimeError: an event loop runs in this thread; the client is closed; or it was in use
                already when this process was forked from its parent.
            BaseException: whatever the function raises, the same object.
        """
        return self._wait(_Call(partial(function, *args, **kwargs)))

    def direct(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that does not wait for anything, one thread at a time.

        Raises:
            RuntimeError: the client is closed, or belongs to the parent process.
        """
        with self._lock:
            self._require_usable()
            return function(*args, **kwargs)

    def enter(self, context: AbstractAsyncContextManager[Any]) -> None:
        """Enter an asynchronous context. If anything is raised, it is not entered, or left again."""
        self._wait(_Call(context.__aenter__, undo=partial(context.__aexit__, None, None, None)))

    def leave(
        self,
        context: AbstractAsyncContextManager[Any],
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave an asynchronous context; nothing is left to do where the loop is gone."""
        with suppress(_Gone):  # never hide the body's exception
            self.run(context.__aexit__, kind, error, trace)

    def iterate(
        self, function: Callable[P, AsyncIterator[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Generator[T]:
        """Give what an asynchronous iterator gives, one call for each item."""
        items = function(*args, **kwargs)

        async def following() -> Any:
            return await anext(items, _NOTHING_MORE)

        try:
            while (item := self.run(following)) is not _NOTHING_MORE:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                with suppress(_Gone):
                    self.run(items.aclose)

    def close(self) -> None:
        """Cancel what still runs, let `end` run, and end the thread. Again does nothing more.

        It may be called in any thread, also in one with an event loop, which it keeps waiting. In a
        process forked meanwhile it does nothing: all is the parent's.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None or thread.pid != os.getpid():
            return
        atexit.unregister(self._at_exit)
        thread.stop()
        thread.wait(_CLOSING)

    def _wait(self, call: "_Call[T]") -> T:
        _refuse_event_loop()
        try:
            self._submit(call)
            return _awaited(call.outcome)
        except BaseException as error:
            if not call.raised(error):
                self._give_up(call)
            raise
        finally:
            del call  # the error's traceback holds this frame, and the call the error

    def _submit(self, call: "_Call[Any]") -> None:
        with self._lock:
            self._require_usable()
            if self._thread is None:
                self._thread = _LoopThread(self._end)
                atexit.register(self._at_exit)
                forgotten = weakref.finalize(self, _forget, self._thread, self._at_exit)
                forgotten.atexit = False
            self._thread.submit(call)

    def _give_up(self, call: "_Call[Any]") -> None:
        """Cancel a call for which nobody waits any more."""
        with self._lock:
            if self._closed or self._thread is None or not call.submitted:
                return  # closing cancels all there is
            given_up = self._thread.give_up(call)
        wait([given_up], _SETTLING)

    def _require_usable(self) -> None:
        if self._closed:
            raise _Gone("the client is closed: call holdfast.sync.connect() again")
        if self._thread is not None and self._thread.pid != os.getpid():
            raise _Gone(
                "the client was in use before this process was forked and belongs to the parent: call "
                "holdfast.sync.connect() here as well"
            )


def feed(items: Iterable[T] | AsyncIterable[T]) -> Iterable[T] | AsyncIterable[T]:
    """Let another thread than the loop's take items, where that may block or be itself a call like this."""
    return (
        _taken(items) if isinstance(items, Iterable) and not isinstance(items, Sequence) else items
    )


async def _taken(items: Iterable[T]) -> AsyncGenerator[T]:
    rest = iter(items)
    while some := await asyncio.to_thread(lambda: list(islice(rest, _AT_ONCE))):
        for item in some:
            yield item


class _Call(Generic[T]):
    """One call on its way through the loop.

    Args:
        begin: makes its coroutine.
        undo: makes what undoes it, for a caller who gave it up when it had already succeeded.
    """

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, T]],
        undo: Callable[[], Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        self.outcome: Future[T] = Future()
        self.submitted = False
        self._begin = begin
        self._undo = undo
        self._task: asyncio.Task[T] | None = None

    def start(self) -> asyncio.Task[T]:
        """Begin, in the loop's thread; in the caller's context, as the loop has copied it."""
        self._task = asyncio.create_task(self._begin())
        self._task.add_done_callback(self._settle)
        return self._task

    def raised(self, error: BaseException) -> bool:
        """Whether an error is the call's own, and not of whoever waits for it."""
        return self.outcome.done() and self.outcome.exception() is error

    async def give_up(self) -> None:
        """Cancel it, and undo it if it has succeeded all the same."""
        if self._task is None:  # interrupted before it was on its way: calls start in order
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        succeeded = not self._task.cancelled() and self._task.exception() is None
        if succeeded and self._undo is not None:
            await self._undo()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(
                _Gone("the client was closed during this call: nobody knows whether it wrote")
            )
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


class _LoopThread:
    """An event loop in a daemon thread.

    Args:
        end: the last coroutine to run in it.
    """

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.pid = os.getpid()
        self._end = end
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="holdfast-sync", daemon=True)
        self._thread.start()

    def submit(self, call: _Call[Any]) -> None:
        """Begin a call soon."""
        # First: an interruption must not find it begun and nothing to give up.
        call.submitted = True
        try:
            self._loop.call_soon_threadsafe(self._begin, call)
        except RuntimeError:  # what ended the loop was raised by a call, such as SystemExit
            call.submitted = False
            raise _Gone("the client's event loop has ended: call holdfast.sync.connect()") from None

    def give_up(self, call: _Call[Any]) -> Future[None]:
        """Cancel a call soon; the result comes when it has tidied up."""
        return asyncio.run_coroutine_threadsafe(call.give_up(), self._loop)

    def stop(self) -> None:
        """End soon."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    def wait(self, seconds: float) -> None:
        """Wait for the end, and raise once what went wrong in it."""
        if threading.current_thread() is self._thread:
            return
        self._thread.join(seconds)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        # What tears a loop down was raised by a call, whose caller has it.
        with suppress(SystemExit, KeyboardInterrupt):
            self._loop.run_until_complete(self._live())
        self._wind_up()

    async def _live(self) -> None:
        await self._stopping.wait()
        if self._calls:
            for task in self._calls:
                task.cancel()
            await asyncio.wait(self._calls, timeout=_SETTLING)
        try:
            await self._end()
        except Exception as error:  # noqa: BLE001 - for whoever closes
            self._error = error

    def _begin(self, call: _Call[Any]) -> None:
        task = call.start()
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _wind_up(self) -> None:
        # Not `asyncio.Runner`: it waits for the threads of the loop's pool, which may hang.
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left, timeout=_SETTLING))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def _awaited(outcome: Future[T]) -> T:
    """Wait for an outcome as long as it takes, and let signals be handled meanwhile.

    A signal ends a wait for a lock only where it finds the thread waiting. One that arrives a moment
    before, or in another thread, is noted, and its handler runs when the wait has ended: so none is long.
    """
    try:
        while not outcome.done():
            with suppress(TimeoutError):
                outcome.exception(_HEEDING)
        return outcome.result()
    finally:
        del outcome  # as the call, which holds it


def _refuse_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "this call would block the event loop that runs in this thread: use holdfast.connect() and "
        "await the call, or make it in another thread, with asyncio.to_thread()"
    )


def _close(portal: "weakref.ref[Portal]") -> None:
    """Close a portal at the end of the program."""
    found = portal()
    if found is not None:
        found.close()


def _forget(thread: _LoopThread, at_exit: Callable[[], None]) -> None:
    """End the thread of a portal that is no more, without keeping whoever collects garbage waiting."""
    atexit.unregister(at_exit)
    if thread.pid == os.getpid():
        thread.stop()
