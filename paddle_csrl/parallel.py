"""Several processes, one result: what `python -m paddle.distributed.launch` starts.

Each process has a rank from 0; the first one writes. With one process all of this does nothing.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddleseg.utils import utils

#: Between processes on CPUs: those of the first one to the others, by rank, or that of another one
#: to the first. Processes on GPUs have none; they talk by NCCL.
_connections: list[socket.socket] = []
#: Seconds, more than any process takes. With a limit, signals are handled while one waits.
_PATIENCE = 1e6


def start(device: str) -> None:
    """Choose the device and, once and first, connect the processes."""
    utils.set_device(device)
    if world_size() > 1:
        is_on_cpu = paddle.get_device() == "cpu"
        if is_on_cpu:
            os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        paddle.distributed.init_parallel_env()
        if is_on_cpu and not _connections:
            _connections.extend(_connect())


def world_size() -> int:
    return paddle.distributed.get_world_size()


def rank() -> int:
    return paddle.distributed.get_rank()


def is_first() -> bool:
    """Return whether this is the process that writes and reports."""
    return rank() == 0


def _connect() -> list[socket.socket]:
    """Connect every process to the first one.

    Sums do not go by Gloo. It waits for half a minute at most, which shares of unequal images or
    what the first process writes may well take, and its thread takes 2 ms of a core for a message,
    often of the one that its process computes on.
    """
    host = paddle.distributed.ParallelEnv().trainer_endpoints[0].rsplit(":", 1)[0]
    with contextlib.ExitStack() as opened:
        port = 0
        if is_first():
            server = opened.enter_context(socket.create_server((host, 0)))
            port = server.getsockname()[1]
        told = paddle.to_tensor(np.array([port, secrets.randbits(62)], np.int64))
        paddle.distributed.broadcast(told, 0)
        port, secret = map(int, told.numpy())
        if is_first():
            found = _accepted(server, secret)
        else:
            found = [socket.create_connection((host, port))]
            _send(found[0], np.array([rank(), secret], np.int64))
    for connection in found:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_PATIENCE)
    return found


def _accepted(server: socket.socket, secret: int) -> list[socket.socket]:
    """The connections of those who know the ``secret``, by rank."""
    found: dict[int, socket.socket] = {}
    server.settimeout(_PATIENCE)
    while len(found) < world_size() - 1:
        connection, _ = server.accept()
        connection.settimeout(10)
        with contextlib.suppress(OSError, ValueError):
            sender, told = _receive(connection, np.zeros(2, np.int64))
            if told == secret:
                found[sender] = connection
    return [found[sender] for sender in sorted(found)]


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _send(connection: socket.socket, array: np.ndarray) -> None:
    """Send an array behind the number of its bytes."""
    connection.sendall(_bytes_of(np.array(array.nbytes, np.int64)))
    connection.sendall(_bytes_of(array))


def _receive(connection: socket.socket, array: np.ndarray) -> np.ndarray:
    """Fill an array.

    Raises:
        OSError: the other side has ended.
        ValueError: it has sent what is no such array.
    """
    size = np.zeros([], np.int64)
    for part in (size, array):
        missing = _bytes_of(part)
        while missing:
            count = connection.recv_into(missing)
            if not count:
                raise ConnectionError("closed")
            missing = missing[count:]
        if size != array.nbytes:
            raise ValueError(f"{size} bytes from another process for {array.nbytes}: the processes "
                             f"do not do the same")
    return array


def _combined(array: np.ndarray, combine: Callable[..., Any] = np.add) -> np.ndarray:
    """Combine the processes' arrays, of one shape and dtype; the same on each of them.

    Raises:
        RuntimeError: another process has ended.
    """
    result = np.array(array, order="C")
    try:
        if is_first():
            other = np.empty_like(result)
            for connection in _connections:
                combine(result, _receive(connection, other), out=result)
        for connection in _connections:
            _send(connection, result)
        return result if is_first() else _receive(_connections[0], result)
    except OSError as error:
        raise RuntimeError("gloo: another process has ended") from error


def _sum(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors."""
    if _connections:
        return paddle.to_tensor(_combined(tensor.numpy()))
    result = tensor.clone()
    paddle.distributed.all_reduce(result)
    return result


def barrier() -> None:
    """Wait until every process is here, so that all see what the first one wrote."""
    if world_size() > 1:
        total(np.zeros(1, np.int64))  # Paddle's own barrier needs a GPU's place where there is one


def total(array: np.ndarray) -> np.ndarray:
    """Return the sum of the processes' arrays, of one shape and dtype, on each of them."""
    if world_size() == 1:
        return array
    return _combined(array) if _connections else _sum(paddle.to_tensor(array)).numpy()


def largest_at_once(number: int) -> int:
    """Return the largest of the processes' numbers, on each; they come at about the same time."""
    if world_size() == 1:
        return number
    numbers = np.array([number], np.int64)
    if _connections:
        return int(_combined(numbers, np.maximum)[0])
    tensor = paddle.to_tensor(numbers)
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
    used, values, *parts = _sum(flat).split([len(trained), len(terms), *(p.size for p in trained)])
    for parameter, part, count in zip(trained, parts, used.numpy()):
        if count:
            parameter.grad = part.reshape(parameter.shape)
    return [value.reshape(term.shape) for value, term in zip(values.unbind(), terms)]


class _Sum(PyLayer):
    """The sum over the processes, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _sum(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


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
