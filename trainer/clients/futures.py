"""Futures that blocking and async code both use, as the SDK's: `.result(timeout)`, `await future`, `.future()`."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

__all__ = ["APIFuture", "ClientFuture", "ServiceFuture", "completed", "joined", "mapped"]

T = TypeVar("T")
S = TypeVar("S")


class APIFuture(ABC, Generic[T]):
    """A result that may not be there yet."""

    @abstractmethod
    def future(self) -> Future[Any]:
        """The `concurrent.futures.Future` behind it; cancelling it takes a request that has not begun out of work."""

    @abstractmethod
    def _value(self, result: Any) -> T: ...

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result.

        Raises:
            TimeoutError: it is not there after `timeout` seconds; the request goes on.
            RequestFailedError: the request failed.
        """
        return self._value(self.future().result(timeout))

    async def result_async(self, timeout: float | None = None) -> T:
        """`result` without blocking the event loop. Cancelling the waiting task does not cancel the request."""
        return self._value(await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.future())), timeout))

    async def coroutine(self) -> T:
        """This future as a coroutine, for `asyncio.create_task`."""
        return await self

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()


class ServiceFuture(APIFuture[T]):
    """The result of one request."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def future(self) -> Future[T]:
        return self._future

    def _value(self, result: T) -> T:
        return result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._future!r}>"


class ClientFuture(APIFuture[Any]):
    """A client is the future of itself: usable at once (the first call waits), awaitable, `.result()` gives it.

    So both spellings of SDK code run: `client = service.create_…(…)` and `client = service.create_…(…).result()`.
    """

    def __init__(self, created: Future[Any]) -> None:
        self._created = created

    def future(self) -> Future[Any]:
        """Done when the client can work."""
        return self._created

    def _value(self, result: Any) -> Self:
        del result
        return self

    def result(self, timeout: float | None = None) -> Self:
        """This client, once it can work; raises what its creation ended with."""
        self._created.result(timeout)
        return self

    async def result_async(self, timeout: float | None = None) -> Self:
        """`result` without blocking the event loop."""
        await super().result_async(timeout)
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.result_async().__await__()


def completed(value: T) -> ServiceFuture[T]:
    """A future that is done."""
    future: Future[T] = Future()
    future.set_result(value)
    return ServiceFuture(future)


def mapped(source: Future[S], function: Callable[[S], T]) -> Future[T]:
    """`function` of the result, or the source's error."""
    target: Future[T] = Future()

    def settle(done: Future[S]) -> None:
        try:
            target.set_result(function(done.result()))
        except BaseException as error:
            target.set_exception(error)

    source.add_done_callback(settle)
    return target


def joined(first: Future[T], *others: Future[Any]) -> Future[T]:
    """The first's result once all are done, or the first error found among them."""
    target: Future[T] = Future()
    lock = threading.Lock()
    left = [first, *others]

    def settle(done: Future[Any]) -> None:
        with lock:
            left.remove(done)
            if left:
                return
        errors = [error for future in (first, *others) if (error := future.exception()) is not None]
        if errors:
            target.set_exception(errors[0])
        else:
            target.set_result(first.result())

    for future in (first, *others):
        future.add_done_callback(settle)
    return target
