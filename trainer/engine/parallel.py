"""The processes that train together: one leader (rank 0), and others that do as they are told.

Two channels. Requests, results and verdicts go point to point over gloo on the host, where a wait has a limit and a
closed connection is noticed at once, so that whoever is missing can be named. Gradients (and sharded weights) go over
the device's own collectives: NCCL on CUDA, gloo on the CPU.

A process belongs to at most one group: `World.current()`, which is a world of one where nothing was joined.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from renderers import DatumloomError, OptionError

from .messages import Message

__all__ = ["LostRankError", "RankError", "World"]

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "DATUMLOOM_RANK_TIMEOUT"
_TIMEOUT = 600.0
# A follower waits for its next task as long as the leader lives; a dead leader closes the connection.
_PATIENCE = timedelta(days=365)
# How long the leader asks around after a failure.
_MOMENT = timedelta(seconds=5)
_TIMED_OUT = "imed out"  # gloo's words for a wait that was too long


class RankError(DatumloomError):
    """A rank could not do its share; the request is undone on all of them, and the group goes on."""


class LostRankError(RankError):
    """A rank is gone or does not answer: the group has ended."""


class World:
    """A group of processes, or this one alone.

    Attributes:
        rank: of this process; 0 leads.
        size: how many there are.
        lock: held by whoever talks to the others; one task at a time.
        lost: why the group has ended, or None.
    """

    _joined: World | None = None

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        *,
        control: Any = None,
        store: Any = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self.rank = rank
        self.size = size
        self.lock = threading.RLock()
        self.lost: str | None = None
        self._numbers = itertools.count()
        self._local_rank = local_rank
        self._control = control
        self._store = store
        self._timeout = timedelta(seconds=timeout)

    @classmethod
    def current(cls) -> World:
        """The group that this process has joined; a world of one otherwise."""
        return cls._joined or cls()

    @classmethod
    def join(cls, environment: Mapping[str, str] | None = None) -> World:
        """The group that torchrun's variables describe; use as a context, which leaves it.

        Args:
            environment: RANK, WORLD_SIZE, LOCAL_RANK, and where to meet; the process's own by default.
                `DATUMLOOM_RANK_TIMEOUT` is how many seconds the leader waits for a rank's answer, 600 by default.

        Raises:
            OptionError: a variable is no number, or there are fewer CUDA devices than processes.
        """
        environment = os.environ if environment is None else environment
        if cls._joined is not None:
            raise OptionError("group: expected a process that is in none; it has joined one")
        rank, size = _integer(environment, "RANK", 0), _integer(environment, "WORLD_SIZE", 1)
        local_rank = _integer(environment, "LOCAL_RANK", 0)
        timeout = _integer(environment, TIMEOUT_VARIABLE, int(_TIMEOUT))
        if timeout < 1:
            raise OptionError(f"{TIMEOUT_VARIABLE}: expected at least 1 second; got {timeout}")
        cuda = torch.cuda.is_available()
        if cuda and local_rank >= torch.cuda.device_count():
            raise OptionError(
                f"LOCAL_RANK: expected at most one process per CUDA device, of which there are "
                f"{torch.cuda.device_count()}; got {local_rank}"
            )
        if cuda:
            torch.cuda.set_device(local_rank)
        limit = timedelta(seconds=timeout)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        store = _meet(environment, rank, size, limit)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        control = dist.new_group(backend="gloo", timeout=limit)
        cls._joined = cls(rank, size, local_rank, control=control, store=store, timeout=timeout)
        logger.info("rank %d of %d", rank, size)
        return cls._joined

    def device(self, asked: str) -> torch.device:
        """This rank's device of a kind.

        Raises:
            OptionError: a device with an index in a group, where each rank has its own.
        """
        if self.size == 1:
            return torch.device(asked)
        if asked not in ("cpu", "cuda"):
            raise OptionError(f"device: expected cpu or cuda, as every process of a group takes its own; got {asked!r}")
        return torch.device("cuda", self._local_rank) if asked == "cuda" else torch.device("cpu")

    def next_number(self) -> int:
        """Counts the leader's engines."""
        return next(self._numbers)

    # ---- host channel

    def tell(self, message: Message) -> None:
        """From the leader to everyone else."""
        assert self.rank == 0
        payload = message.encode()
        for rank in range(1, self.size):
            self._send(payload, rank)

    def hear(self) -> Message:
        """What the leader tells, however long it takes."""
        return self._receive(0, _PATIENCE)

    def agree(self, report: Message | None = None, error: BaseException | None = None) -> list[Message]:
        """Every rank says how its share went; then all go on, or all raise.

        Args:
            report: what the leader wants to know.
            error: why this rank's share failed.

        Returns:
            Every rank's report in rank order on the leader, only one's own elsewhere.

        Raises:
            RankError: some rank failed; named. The leader's own error is raised as it is.
            LostRankError: some rank does not answer.
        """
        own = report or Message()
        told = own if error is None else Message({"error": f"{type(error).__name__}: {error}"})
        reports = [own]
        if self.rank == 0:
            reports += [self._receive(rank, self._timeout) for rank in range(1, self.size)]
            heard = [told, *reports[1:]]
            faults = [f"rank {r}: {m.header['error']}" for r, m in enumerate(heard) if "error" in m.header]
            self.tell(Message({"faults": faults}))
        else:
            self._send(told.encode(), 0)
            faults = cast("list[str]", self._receive(0, _PATIENCE).header["faults"])
        if error is not None and self.rank == 0:
            raise error
        if faults:
            raise RankError("; ".join(faults)) from error
        return reports

    def _send(self, payload: np.ndarray[Any, Any], rank: int) -> None:
        self._check()
        try:
            for tensor in (torch.tensor([len(payload)]), torch.frombuffer(bytearray(payload), dtype=torch.uint8)):
                cast("Any", dist.isend(tensor, rank, group=self._control)).wait(self._timeout)
        except RuntimeError as error:
            raise self.lose(f"rank {rank}: it takes no message: {_first_line(error)}") from error

    def _receive(self, rank: int, patience: timedelta) -> Message:
        self._check()
        try:
            return self._read(rank, patience)
        except RuntimeError as error:
            raise self.lose(f"rank {rank}: no answer: {_first_line(error)}") from error

    def _read(self, rank: int, patience: timedelta) -> Message:
        length = torch.empty(1, dtype=torch.int64)
        cast("Any", dist.irecv(length, rank, group=self._control)).wait(patience)
        payload = torch.empty(int(length), dtype=torch.uint8)
        cast("Any", dist.irecv(payload, rank, group=self._control)).wait(self._timeout)
        return Message.decode(payload.numpy())

    def _check(self) -> None:
        if self.lost is not None:
            raise LostRankError(f"the group has ended: {self.lost}")

    def lose(self, why: str) -> LostRankError:
        """End the group: nothing can be trusted to be equal any more. Gives the error to raise."""
        if self.lost is None:
            self.lost = why
            logger.error("%s", why)
            self._leave()
        return LostRankError(self.lost)

    def blame(self, error: BaseException) -> LostRankError:
        """End the group after a collective call failed half-way, naming who was missing; gives the error to raise."""
        own = f"rank {self.rank}: {type(error).__name__}: {_first_line(error)}"
        if self.lost is not None:
            return LostRankError(self.lost)
        if self.rank != 0:
            with contextlib.suppress(RuntimeError):  # the leader, who may keep the store, is gone
                self._store.set(_fault_key(self.rank), own)
            return self.lose(own)
        causes = [
            self._store.get(_fault_key(rank)).decode()
            for rank in range(1, self.size)
            if self._store.check([_fault_key(rank)])
        ]
        # Victims of a rank that went without a word have left words themselves: it comes first.
        return self.lose("; ".join([*self._gone(), *causes]) or own)

    def _gone(self) -> list[str]:
        """Who has closed the connection, leaving no word in the store."""
        gone: list[str] = []
        for rank in range(1, self.size):
            try:
                if not self._store.check([_fault_key(rank)]):
                    self._read(rank, _MOMENT)
            except RuntimeError as silence:
                if _TIMED_OUT not in str(silence):  # one that still waits for this rank is not to blame
                    gone.append(f"rank {rank}: gone: {_first_line(silence)}")
        return gone

    # ---- device channel

    def device_group(self) -> Any:
        """The process group of the device's collectives."""
        return dist.group.WORLD

    def all_reduce(self, flat: Tensor) -> None:
        """Sum a float32 vector over the ranks, in place, in the order of ranks.

        Each rank adds up one slice of all, then everyone collects the slices: what a ring moves, with one order of
        addition, so that equal inputs give equal bits on every rank and in every run.

        Raises:
            LostRankError: some rank is not there.
        """
        if self.size == 1:
            return
        self.agree()  # a collective call cannot name who is missing
        part = -(-flat.numel() // self.size)
        padded = torch.nn.functional.pad(flat, (0, part * self.size - flat.numel()))
        received = torch.empty_like(padded)
        try:
            dist.all_to_all_single(received, padded)
            first, *others = received.split(part)
            for other in others:
                first.add_(other)
            dist.all_gather(list(padded.split(part)), first.clone())
        except RuntimeError as error:
            raise self.blame(error) from error
        flat.copy_(padded[: flat.numel()])

    # ---- leaving

    def close(self) -> None:
        """The leader dismisses the others; everyone leaves."""
        World._joined = None if World._joined is self else World._joined
        if self.size == 1 or self.lost is not None:
            return
        # Somebody still at work (an interrupted request) is cut off instead.
        if self.lock.acquire(timeout=1.0):
            try:
                if self.rank == 0:
                    self.tell(Message({"op": "stop"}))
            except LostRankError as error:
                logger.warning("%s", error)
            finally:
                self.lock.release()
        self.lost = self.lost or "it was closed"
        self._leave()

    def _leave(self) -> None:
        self._control = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise OptionError(f"{name}: expected a whole number; got {text!r}")
    return int(text)


def _meet(environment: Mapping[str, str], rank: int, size: int, limit: timedelta) -> Any:
    """The store where ranks find each other; torchrun keeps it itself, or rank 0 does."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in environment:
            raise OptionError(f"{name}: expected it beside WORLD_SIZE, as torchrun sets it; got none")
    kept = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    port = _integer(environment, "MASTER_PORT", 0)
    stores: Any = dist
    store = stores.TCPStore(environment["MASTER_ADDR"], port, size, rank == 0 and not kept, limit)
    return stores.PrefixStore(f"datumloom/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _fault_key(rank: int) -> str:
    return f"fault/{rank}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
