"""Shared by the losses: precision, checks, and the functions that make relations.

Shape letters: U unseen classes, S seen classes, D feature dimensions.
"""

import functools
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_csrl.errors import UserError


def in_full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run ``forward`` outside mixed precision, its floating tensors in float32 at least.

    Where any of them is float64, all of them are computed in float64.
    """

    def is_float(value: Any) -> bool:
        return isinstance(value, Tensor) and value.is_floating_point()

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        floats = [value for value in (*args, *kwargs.values()) if is_float(value)]
        double = any(value.dtype == paddle.float64 for value in floats)
        dtype = paddle.float64 if double else paddle.float32

        def raised(value: Any) -> Any:  # what needs no cast stays the same tensor
            return value.astype(dtype) if is_float(value) and value.dtype != dtype else value

        with paddle.amp.auto_cast(enable=False):
            return forward(*map(raised, args), **{k: raised(v) for k, v in kwargs.items()})

    return wrapped


def check_positive(value: Any, place: str) -> float:
    """Return ``value`` as a float; UserError unless it is a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, Real) \
            or not 0 < float(value) < np.inf:
        raise UserError(f"{place} must be a finite number > 0, got {value!r}; in YAML write "
                        "small numbers with a point, such as 1.0e-3")
    return float(value)


def check_relations(generated: Tensor, semantic: Tensor, place: str) -> None:
    """UserError unless both are [U, S] of one shape with S >= 1."""
    shapes = list(generated.shape), list(semantic.shape)
    if shapes[0] != shapes[1] or generated.ndim != 2 or generated.shape[1] < 1:
        raise UserError(f"{place} takes two relations of one shape [unseen, seen] with at least "
                        f"one seen class, got {shapes[0]} and {shapes[1]}")


def check_prototypes(generated: Tensor, real: Tensor, place: str) -> None:
    """UserError unless the prototypes are [U, D] and [S, D] with S >= 1."""
    if (generated.ndim, real.ndim) != (2, 2) or generated.shape[1] != real.shape[1] \
            or real.shape[0] < 1:
        raise UserError(f"{place} takes generated [U, D] and real [S, D] prototypes with S >= 1, "
                        f"got {list(generated.shape)} and {list(real.shape)}")


def differentiable_zero(empty: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Zeros whose ``backward`` works, such as the loss of an ``empty`` tensor.

    They stand apart from the graph of ``empty``, which has no gradient to receive: Paddle 2.6
    cannot reduce an empty tensor and crashes on the way back through one.
    """
    zero = paddle.zeros(list(shape), dtype=empty.dtype)
    zero.stop_gradient = empty.stop_gradient
    return zero


def attach_gradient(value: Tensor, tensor: Tensor, gradient: Tensor) -> Tensor:
    """``value`` [C] with the known ``gradient`` of each ``value[c]`` to ``tensor[c]``."""
    return _WithGradient.apply(value, tensor, gradient)


class _WithGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, value: Tensor, tensor: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor,  # type: ignore[override]  # Paddle's are *args
                 ) -> tuple[None, Tensor, None]:
        gradient, = ctx.saved_tensor()
        outer = outer.reshape([-1] + [1] * (gradient.ndim - 1))
        return None, gradient * outer.expand_as(gradient), None


def log_softmax(scores: Tensor) -> Tensor:
    """Log-softmax over the last axis of floating scores [..., S], however far apart they are.

    Paddle's own cuts its values, though not its gradient, off at 64 below the largest score on
    the CPU. Whatever it does not cut is the same here to the last bit.
    """
    cut = F.log_softmax(scores)
    whole = scores - scores.max(axis=-1, keepdim=True) + cut.max(axis=-1, keepdim=True)
    return cut + (whole - cut).detach()


def directions(vectors: Tensor, origins: Tensor) -> Tensor:
    """Unit vectors along the last axis, for ``vectors`` that are ``origins`` less some mean.

    A vector within the rounding of ``origins`` has no direction: zeros, with gradient 0.
    """
    squared = (vectors * vectors).sum(axis=-1, keepdim=True)
    rounding = 8 * float(paddle.finfo(vectors.dtype).eps)
    origins = origins.detach()
    floor = rounding**2 * (origins * origins).sum(axis=-1, keepdim=True)
    real = squared > floor
    inverse = paddle.where(real, squared, paddle.ones_like(squared)).rsqrt()
    return vectors * (inverse * real.astype(vectors.dtype))


def prototype_relations(generated_prototypes: Tensor, real_prototypes: Tensor) -> Tensor:
    """Cosines between prototypes, centred on the mean of the real ones.

    A vector that lies on the centre (so the only real prototype, where there is one) has no
    direction: its cosines are 0, with gradient 0.

    Args:
        generated_prototypes (Tensor): [U, D], prototypes of the unseen classes.
        real_prototypes (Tensor): [S, D], prototypes of the seen classes, S >= 1.

    Returns:
        Tensor: [U, S] in [-1, 1].

    Raises:
        UserError: the shapes do not fit.
    """
    check_prototypes(generated_prototypes, real_prototypes, "prototype_relations")
    if generated_prototypes.shape[0] == 0:
        return differentiable_zero(generated_prototypes, [0, real_prototypes.shape[0]])
    centre = real_prototypes.mean(axis=0)
    generated = directions(generated_prototypes - centre, generated_prototypes)
    real = directions(real_prototypes - centre, real_prototypes)
    return paddle.matmul(generated, real, transpose_y=True)


def standardize_rows(relations: Tensor) -> Tensor:
    """Z-score of each row (population deviation); a constant row becomes zeros, gradient 0.

    A row counts as constant where it varies no more than its values are rounded, and so does
    a row of one.

    Args:
        relations (Tensor): [U, S], floating.

    Returns:
        Tensor: [U, S], each row of mean 0 and of variance 1 or 0.
    """
    if relations.shape[0] == 0:
        return relations
    centred = relations - relations.mean(axis=-1, keepdim=True)
    return relations.shape[-1]**0.5 * directions(centred, relations)
