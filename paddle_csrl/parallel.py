"""Several processes, one result: what `python -m paddle.distributed.launch` starts.

Each process has a rank from 0; the first one writes. With one process all of this does nothing.
"""

import contextlib
import itertools
import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.base import core
from paddleseg.utils import utils

_meetings = itertools.count()
_AT_ONCE = socket.IPPROTO_TCP, socket.TCP_NODELAY


def start(device: str) -> None:
    """Choose the device and, once and first, connect the processes: NCCL on GPUs, Gloo on CPUs."""
    utils.set_device(device)
    if world_size() > 1:
        if paddle.get_device() == "cpu":
            os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        paddle.distributed.init_parallel_env()


def world_size() -> int:
    return paddle.distributed.get_world_size()


def rank() -> int:
    return paddle.distributed.get_rank()


def is_first() -> bool:
    """Return whether this is the process that writes and reports."""
    return rank() == 0


@contextlib.contextmanager
def _asking_at_once() -> Iterator[None]:
    """Have requests to Paddle's store take less than a millisecond within, and 40 before and after.

    Upstream cause: the store writes a request in parts to a socket without TCP_NODELAY, where the
    second part waits until the other side acknowledges the first, which it puts off. Elsewhere it
    has to stay so: Paddle connects the processes of a group twice under the same keys, and only a
    slow store keeps a process from reading what the first time has left there. Nothing tells which
    socket it is.
    """
    with contextlib.ExitStack() as opened:
        slow = []
        for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ():
            with contextlib.suppress(OSError):  # the listing itself, sockets of other kinds
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    blocks = os.get_blocking(int(name))
                    same = opened.enter_context(socket.socket(fileno=os.dup(int(name))))
                    os.set_blocking(int(name), blocks)  # for socket.setdefaulttimeout changes it
                    if not same.getsockopt(*_AT_ONCE):
                        slow.append(same)
        for same in slow:
            same.setsockopt(*_AT_ONCE, 1)
        try:
            yield
        finally:
            for same in slow:
                same.setsockopt(*_AT_ONCE, 0)


def _meet() -> None:
    """Wait until every process is here, for however long.

    Gloo gives up after half a minute, which shares of unequal images or what the first process
    writes may well take. Paddle cannot tell it otherwise; NCCL waits for half an hour.

    Raises:
        RuntimeError: the first process has ended.
    """
    if os.environ.get("PADDLE_DISTRI_BACKEND") != "gloo":
        return
    key, pause = f"paddle_csrl/{next(_meetings)}", 0.001
    try:
        store = core.create_or_get_global_tcp_store()
        with _asking_at_once():
            store.add(key, 1)
            while store.add(key, 0) < world_size():
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
    except Exception as error:  # whatever the store raises without its server
        raise RuntimeError("gloo: the first process has ended") from error


def barrier() -> None:
    """Wait until every process is here, so that all see what the first one wrote."""
    if world_size() > 1:
        total(np.zeros(1, np.int64))  # Paddle's own barrier needs a GPU's place where there is one


def total(array: np.ndarray) -> np.ndarray:
    """Return the sum of the processes' arrays, of one shape and dtype, on each of them."""
    if world_size() == 1:
        return array
    _meet()
    tensor = paddle.to_tensor(array)
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy()


def largest_at_once(number: int) -> int:
    """Return the largest of the processes' numbers, on each; they come at about the same time."""
    if world_size() == 1:
        return number
    tensor = paddle.to_tensor(np.array([number], np.int64))
    paddle.distributed.all_reduce(tensor, op=paddle.distributed.ReduceOp.MAX)
    return int(tensor)


def collect_everywhere(number: int) -> np.ndarray:
    """Return each process's number, int64 [R]."""
    numbers = np.zeros(world_size(), np.int64)
    numbers[rank()] = number
    return total(numbers)


def collect(array: np.ndarray) -> list[np.ndarray]:
    """Return all processes' arrays [K_r, ...] on the first one, on others their own alone."""
    lengths = collect_everywhere(len(array))
    if not is_first():
        if len(array):
            paddle.distributed.send(paddle.to_tensor(array), 0)
        return [array]
    arrays = [array]
    for sender in np.flatnonzero(lengths[1:]) + 1:
        received = paddle.to_tensor(
            np.zeros([int(lengths[sender]), *array.shape[1:]], array.dtype))
        paddle.distributed.recv(received, int(sender))
        arrays.append(received.numpy())
    return arrays


def collect_texts(texts: dict[str, str]) -> dict[str, str]:
    """Return all processes' texts by their keys on the first one, on others their own alone."""
    if world_size() == 1:
        return texts
    parts = collect(np.frombuffer(json.dumps(texts).encode(), np.uint8))
    return {key: text for part in parts for key, text in json.loads(part.tobytes()).items()}


def from_first(array: np.ndarray) -> np.ndarray:
    """Return the first process's array [K_0, ...] on each; others may differ from it in K."""
    if world_size() == 1:
        return array
    length = int(collect_everywhere(len(array))[0])
    tensor = paddle.to_tensor(array if is_first() else np.empty(
        (length, *array.shape[1:]), array.dtype))
    if length:
        paddle.distributed.broadcast(tensor, 0)
    return tensor.numpy()


def add_up(parameters: Iterable[Tensor], terms: Sequence[Tensor]) -> list[Tensor]:
    """Replace the gradients by their sums over the processes and return those of scalar ``terms``.

    All in one message, for which processes come at about the same time. A parameter that no
    process has a gradient of stays without one.
    """
    trained = [parameter for parameter in parameters if not parameter.stop_gradient]
    used = paddle.to_tensor([float(p.grad is not None) for p in trained])
    flat = paddle.concat([used, *(term.detach().astype(used.dtype).flatten() for term in terms),
                          *((paddle.zeros_like(p) if p.grad is None else p.grad).flatten()
                            for p in trained)])
    paddle.distributed.all_reduce(flat)
    used, values, *parts = flat.split([len(trained), len(terms), *(p.size for p in trained)])
    for parameter, part, count in zip(trained, parts, used.numpy()):
        if count:
            parameter.grad = part.reshape(parameter.shape)
    return [value.reshape(term.shape) for value, term in zip(values.unbind(), terms)]


class _Sum(PyLayer):
    """The sum over the processes, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        result = local.clone()
        paddle.distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        paddle.distributed.all_reduce(gradient)
        return gradient


class Share:
    """This process's share of ``count`` classes C, or other things: every R-th one.

    What is trained is the sum over the processes of what each computes from its share, ``rows``
    int64 [K]. A process without one holds row 0, which counts nowhere, for Paddle cannot
    differentiate empty tensors.
    """

    def __init__(self, count: int, rank: int = 0, ranks: int = 1):
        self.count, self.rank, self.ranks = count, rank, ranks
        self.is_empty = rank >= count
        self.slice = slice(0, 1) if self.is_empty else slice(rank, count, ranks)
        self.rows = np.arange(count)[self.slice]

    @classmethod
    def of_this_process(cls, count: int) -> "Share":
        return cls(count, rank(), world_size())

    @classmethod
    def last(cls, count: int, start: int) -> "Share":
        """Return what begins at ``start``, where the others are not wanted of anybody."""
        share = cls(count)
        share.slice = slice(start, count)
        share.rows = np.arange(count)[share.slice]
        return share

    def like(self, count: int) -> "Share":
        """Return this process's share of ``count`` other things, among the same processes."""
        return Share(count, self.rank, self.ranks)

    def take(self, whole: Tensor) -> Tensor:
        """Cut the share [K, ...] out of [C, ...]."""
        if len(self.rows) == self.count:
            return whole
        return whole.gather(paddle.to_tensor(self.rows))

    def complete(self, local: Tensor) -> Tensor:
        """Put the shares [K, ...] of all processes together, [C, ...] on each; differentiable."""
        if self.ranks == 1:
            return local
        if self.is_empty:
            local = local * 0
        whole = paddle.zeros([self.count, *local.shape[1:]], local.dtype)
        return _Sum.apply(paddle.scatter_nd_add(
            whole, paddle.to_tensor(self.rows[:, None]), local))

    def before(self, stop: int) -> np.ndarray:
        """Return the rows of the share below ``stop``, which come first, int64; [-1] for none."""
        rows = self.rows[self.rows < stop]
        return np.array([-1]) if self.is_empty or not len(rows) else rows
