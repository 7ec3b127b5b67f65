"""The listwise relation loss, Eqs. 7 and 8 of CSRL, without its |S|! terms.

Shape letters: U unseen classes, S seen classes, K sampled orders. A set of seen classes is the
integer whose bit k says whether class k belongs to it.
"""

import functools
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.losses import functional
from paddle_csrl.registry import register
from paddle_csrl.utils import device

METHODS = ("auto", "exact", "sampled")
#: Most seen classes for which "auto" is exact: 1 MiB and a few milliseconds an unseen class.
MAX_AUTO_EXACT = 17
#: Most seen classes for which "exact" is accepted: 8 MiB an unseen class.
MAX_EXACT = 20
#: Most numbers of sampled orders held at once, some ten times; with more, unseen classes are taken
#: in blocks that are computed again for the gradient instead of being kept.
ORDERS_BLOCK_SIZE = 2**20
#: Where gaps of scores are cut off before exp, which overflows in float64 from 710 on.
_MOST_GAP = 700.0


@register(manager.LOSSES)
class ListwiseRelationLoss(nn.Layer):
    """KL divergence of the Plackett-Luce distributions over orders of the seen classes.

    mean_i KL(P(. | semantic_i / gamma) || P(. | generated_i / gamma)), P over all S! orders
    (CSRL, Eqs. 7, 8). With the scores a = semantic_i / gamma and x = generated_i / gamma, and
    P_a(R) the probability under a that R is what remains unranked at stage S - |R|, it is

        sum_R P_a(R) KL(softmax_R(a) || softmax_R(x))
            = const + sum_R P_a(R) logsumexp_R(x) - sum_k x_k

    "exact" sums over all 2^S sets: P_a is tabulated once and kept until the semantic side
    changes. "sampled" averages the left-hand side over the sets met by random orders drawn
    from P_a, anew at every call by Paddle's random state; it is unbiased. Both are computed in
    float64, are never negative, and do not change when a constant is added to a row.

    Args:
        gamma (float): temperature, > 0.
        method (str): "exact" (S <= 20), "sampled", or "auto": exact for S <= 17.
        num_samples (int): orders K a row of the sampled method, >= 1.
        ignore_index (int): unused; PaddleSeg injects it.

    Shape: generated [U, S] and semantic [U, S], floating, S >= 1 -> scalar >= 0. U = 0 gives a
    differentiable 0. ``semantic`` is a constant: it gets no gradient. On a GPU the exact method
    does not read one that is the same tensor as at the last call, which would wait for the
    device.

    Raises:
        UserError: an argument is out of its range, the shapes do not fit, the method is "exact"
            with more than 20 seen classes, or ``semantic`` is not finite.
    """

    consumes = "relations"

    def __init__(self, gamma: float = 0.1, method: str = "auto", num_samples: int = 64,
                 ignore_index: int = 255):
        super().__init__()
        if method not in METHODS:
            raise UserError(f"ListwiseRelationLoss: method must be one of {', '.join(METHODS)}, "
                            f"got {method!r}")
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise UserError("ListwiseRelationLoss: num_samples must be an integer >= 1, "
                            f"got {num_samples!r}")
        self.gamma = functional.check_positive(gamma, "ListwiseRelationLoss: gamma")
        self.method = method
        self.num_samples = num_samples
        self._table: _SetTable | None = None
        self._tabulated_of: Tensor | None = None

    @functional.in_full_precision
    def forward(self, generated: Tensor, semantic: Tensor) -> Tensor:
        functional.check_relations(generated, semantic, "ListwiseRelationLoss")
        unseen, seen = generated.shape
        if self.method == "exact" and seen > MAX_EXACT:
            raise UserError(f"ListwiseRelationLoss: method 'exact' takes at most {MAX_EXACT} seen "
                            f"classes, got {seen}; use 'sampled' or 'auto'")
        if unseen == 0:
            return functional.differentiable_zero(generated)
        if seen == 1:  # there is one order
            return (generated * 0).sum()
        target = semantic.detach().astype("float64") / self.gamma
        scores = generated.astype("float64") / self.gamma
        exact = self.method == "exact" or (self.method == "auto" and seen <= MAX_AUTO_EXACT)
        divergence = (_exact_divergence(scores, self._tabulated(semantic, target)) if exact
                      else _sampled_divergence(scores, target, self.num_samples))
        return divergence.mean().astype(generated.dtype)

    def _tabulated(self, semantic: Tensor, target: Tensor) -> "_SetTable":
        """The table of ``target``, made of ``semantic``; only the last one is kept."""
        if self._table and semantic is self._tabulated_of and not device.is_on_host(semantic):
            return self._table
        values = target.numpy()
        if self._table is None or not np.array_equal(self._table.scores, values):
            self._table = _tabulate(values)
        self._tabulated_of = semantic
        return self._table


class _SetTable(NamedTuple):
    """P_a over the sets, split into the classes of the low and of the high bits.

    Rows count the non-empty sets of the high classes, columns those of the low ones.
    """

    scores: np.ndarray  # a, [U, S]
    high: Tensor  # P_a of a high part with an empty low part, [U, rows]
    low: Tensor  # P_a of a low part, whatever the high part, [U, columns]
    both: Tensor  # P_a of both parts together, [U, rows, columns]
    constant: Tensor  # sum_R P_a(R) logsumexp_R(a) - sum_k a_k, [U]


def _tabulate(scores: np.ndarray) -> _SetTable:
    if not np.isfinite(scores).all():
        raise UserError(f"ListwiseRelationLoss: semantic relations must be finite, got {scores}")
    unseen, seen = scores.shape
    logsumexp = _subset_logsumexp(scores)
    probability = _remaining_probability(scores, logsumexp)
    constant = (probability[1:] * logsumexp[1:]).sum(axis=0) - scores.sum(axis=1)
    parts = probability.T.reshape(unseen, 2**(seen - seen // 2), 2**(seen // 2))
    tensors = (parts[:, 1:, 0], parts[:, :, 1:].sum(axis=1), parts[:, 1:, 1:], constant)
    return _SetTable(scores, *(paddle.to_tensor(np.ascontiguousarray(t)) for t in tensors))


def _subset_logsumexp(scores: np.ndarray) -> np.ndarray:
    """logsumexp of every set of classes, [2^S, U]; -inf for the empty one."""
    table = np.full((1, len(scores)), -np.inf)
    for score in scores.T:
        table = np.concatenate([table, np.logaddexp(table, score)])
    return table


def _remaining_probability(scores: np.ndarray, logsumexp: np.ndarray) -> np.ndarray:
    """P_a(R) of every set R, [2^S, U]: each set hands its own on to the sets one class smaller."""
    seen = scores.shape[1]
    probability = np.zeros_like(logsumexp)
    probability[-1] = 1
    for sets in _sets_by_size(seen)[:1:-1]:
        for k in range(seen):
            holders = sets[sets >> k & 1 == 1]
            chosen = np.exp(scores[:, k] - logsumexp[holders])
            probability[holders ^ 1 << k] += probability[holders] * chosen
    return probability


def _sets_by_size(seen: int) -> list[np.ndarray]:
    sizes = np.zeros(1, np.int64)
    for _ in range(seen):
        sizes = np.concatenate([sizes, sizes + 1])
    return np.split(np.argsort(sizes, kind="stable"), np.cumsum(np.bincount(sizes))[:-1])


def _exact_divergence(scores: Tensor, table: _SetTable) -> Tensor:
    """KL of each row, [U]; the gradient is written out, for it shares nearly 2^S values a row.

    The logsumexp of a union of h and l is logaddexp(h, l) = l + log(1 + exp(g)) - g of g = l - h,
    also where g is cut off far above 0. Its slope along h is 1 / (1 + exp(g)).
    """
    middle = scores.shape[1] // 2
    with paddle.no_grad():
        low, of_low = _nonempty_logsumexp(scores[:, :middle])
        high, of_high = _nonempty_logsumexp(scores[:, middle:])
        gaps = low.unsqueeze(1).expand_as(table.both) - high.unsqueeze(2).expand_as(table.both)
        sums = gaps.clip_(max=_MOST_GAP).exp().scale_(1.0, 1.0)
        slopes = table.both / sums
        both = table.both * sums.log().subtract_(gaps)
        # Sums by products, which are faster with Paddle on CPU.
        rows, columns = (paddle.ones([1, size], both.dtype) for size in both.shape[1:])
        expected = (paddle.matmul(paddle.matmul(rows, both), columns, transpose_y=True).flatten()
                    + (table.high * high).sum(axis=1) + (table.low * low).sum(axis=1))
        to_low = table.low.unsqueeze(1) - paddle.matmul(rows, slopes)
        to_high = table.high.unsqueeze(1) + paddle.matmul(columns, slopes, transpose_y=True)
        gradient = paddle.concat([paddle.matmul(to_low, of_low), paddle.matmul(to_high, of_high)],
                                 axis=2).squeeze(1) - 1
        divergence = expected - scores.sum(axis=1) - table.constant
    # Rounding alone can take a divergence of zero below zero.
    return functional.attach_gradient(divergence, scores, gradient).clip(min=0)


def _nonempty_logsumexp(scores: Tensor) -> tuple[Tensor, Tensor]:
    """logsumexp of every non-empty set of the n columns, [U, 2^n - 1], and its gradient.

    The gradient, [U, 2^n - 1, n], is the softmax over each set.
    """
    outside = paddle.to_tensor(_outside(scores.shape[1]), place=scores.place)
    members = scores.unsqueeze(1) + outside
    values = paddle.logsumexp(members, axis=2)
    return values, (members - values.unsqueeze(2)).exp()


@functools.cache
def _outside(columns: int) -> np.ndarray:
    """0 for the members of each non-empty set of columns, -inf for the others, [2^n - 1, n]."""
    member = np.arange(1, 2**columns)[:, None] >> np.arange(columns) & 1 == 1
    return np.where(member, 0.0, -np.inf)


def _sampled_divergence(scores: Tensor, target: Tensor, num_samples: int) -> Tensor:
    """Unbiased estimate of each row's KL, [U]."""
    unseen, seen = scores.shape
    size = max(1, ORDERS_BLOCK_SIZE // (num_samples * seen))
    if unseen <= size:
        return _divergence_over_orders(scores, target, num_samples)
    return paddle.concat([
        recompute(_divergence_over_orders, scores[start:start + size],
                  target[start:start + size], num_samples) for start in range(0, unseen, size)])


def _divergence_over_orders(scores: Tensor, target: Tensor, num_samples: int) -> Tensor:
    """As ``_sampled_divergence``, of all rows at once.

    Scores plus Gumbel noise, sorted downwards, are a Plackett-Luce order; sorted upwards, the
    first j are what remains unranked before the j-th last stage.
    """
    unseen, seen = scores.shape
    uniform = paddle.rand([unseen, num_samples, seen], dtype=scores.dtype)
    noisy = target.unsqueeze(1) - paddle.log(-paddle.log(uniform))
    order = paddle.argsort(noisy, axis=2).reshape([unseen, -1])
    a, x = (paddle.index_sample(s, order).reshape([unseen, num_samples, seen])
            for s in (target, scores))
    with paddle.no_grad():
        remaining_a, remaining_x = paddle.logcumsumexp(a, axis=2), paddle.logcumsumexp(x, axis=2)
        # Mean of a - x under softmax_R(a), as logsumexp of a plus the log of a gap made >= 1.
        gap = a - x
        shift = 1 - gap.min(axis=2, keepdim=True)
        shifted = paddle.logcumsumexp(a + (gap + shift).log(), axis=2)
        mean_gap = (shifted - remaining_a).exp() - shift
        divergence = (mean_gap - remaining_a + remaining_x).clip(min=0).sum(axis=2).mean(axis=1)
        gradient = (_sum_of_shares(x, remaining_x) - _sum_of_shares(a, remaining_a)) / num_samples
    return functional.attach_gradient(divergence, x, gradient)


def _sum_of_shares(ordered: Tensor, remaining: Tensor) -> Tensor:
    """Sum of each element's softmax over all the sets that it is in, [U, K, S]."""
    sums = paddle.logcumsumexp(-remaining.flip(2), axis=2).flip(2)
    return (ordered + sums).exp()
