"""What a worker process runs: take a task, do it, answer, until the parent closes the connection or is gone."""

from __future__ import annotations

import os
import pickle
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from renderers import InternalError

__all__ = ["Answer", "answer_to", "serve"]

_SECONDS_BETWEEN_LOOKS = 0.25


class Answer(NamedTuple):
    """A task's result, or the error it raised."""

    result: Any
    error: Exception | None


def serve(descriptor: int) -> None:
    """Answer the tasks that come through a connected socket."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        answer = answer_to(task)
        try:
            connection.send(answer)
        except OSError:  # the parent is gone
            return


def answer_to(task: Any) -> Answer:
    """Do a task; an error becomes part of the answer."""
    try:
        return Answer(task(), None)
    except Exception as error:
        return Answer(None, _sendable(error))


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, also in the middle of a task: files appear whole or not at all."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _sendable(error: Exception) -> Exception:
    """The error as it is where it survives the way, else its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 our own bytes
    except Exception:
        return InternalError(f"{type(error).__name__}: {error}")
    return error
