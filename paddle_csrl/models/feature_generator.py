"""Shared by the feature generators: their contract, their MLP, noise and dropout.

Shape letters: C classes, N samples a class, W embedding, Z noise and D feature dimensions.
"""

from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_csrl.errors import UserError
from paddle_csrl.parallel import Share
from paddle_csrl.utils import device

#: Negative slope of LeakyReLU, as in ZS3Net.
LEAK = 0.2
#: Distributions: standard normal, and uniform from [0, 1); by Paddle and by NumPy.
NOISES = {"gaussian": (paddle.randn, "standard_normal"), "uniform": (paddle.rand, "random")}


class GeneratorOutput(NamedTuple):
    """Output of a generator."""

    features: Tensor  # [C, N, D], of the classes in the share
    relations: list[Tensor]  # e^0 (semantic) to e^L (visual), each [C, C]


class FeatureGenerator(nn.Layer):
    """From class embeddings and noise to visual features; subclasses say how in ``generate``.

    Args:
        embed_dim (int): W, of a class embedding.
        noise_dim (int): Z.
        dropout (float): the subclass's rate, in [0, 1), which is only checked here.
        **sizes (int): the subclass's further sizes, which are only checked here.
    """

    #: Whether the relations after e^0 are learned, so that ``generator.relation: edges`` has
    #: something to compare.
    learns_relations = False
    #: Whether it is trained by iterations; the others have ``fit``, ``prototypes`` and
    #: ``make_room``, as ``PrototypeGenerator``.
    is_trained = True
    #: The distribution of the noise, of ``NOISES``.
    noise = "gaussian"

    def __init__(self, embed_dim: int, noise_dim: int, dropout: float, **sizes: int):
        super().__init__()
        self._title = type(self).__name__
        for name, value in {"embed_dim": embed_dim, "noise_dim": noise_dim, **sizes}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{self._title}: {name} must be an integer >= 1, got {value!r}")
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise UserError(f"{self._title}: dropout must be in [0, 1), got {dropout!r}")
        self.embed_dim, self.noise_dim = embed_dim, noise_dim
        self._semantic: tuple[Tensor, Tensor] | None = None

    def forward(self, embeddings: Tensor, num_samples: int,
                noise: Tensor | None = None,
                share: Share | None = None) -> GeneratorOutput:
        """Generate features.

        Args:
            embeddings (Tensor): [C, W], C >= 1, none of norm zero.
            num_samples (int): N >= 1.
            noise (Tensor, optional): [C, N, Z]; drawn where it is not given.
            share (Share, optional): the classes whose features to generate, while other
                processes generate the others; all by default. Random numbers are drawn for all
                classes, so that the features do not depend on the share.

        Returns:
            GeneratorOutput: features [C, N, D] of the share; relations e^0..e^L, each [C, C].

        Raises:
            UserError: a shape does not fit, or an embedding is zero or not finite.
        """
        noise = self._check_inputs(embeddings, num_samples, noise)
        # Products of edges, prototypes and nodes over layers outgrow half precision.
        with paddle.amp.auto_cast(enable=False):
            return self.generate(embeddings, noise, share or Share(len(embeddings)))

    def generate(self, embeddings: Tensor, noise: Tensor, share: Share) -> GeneratorOutput:
        """``forward`` on checked inputs of full precision."""
        raise NotImplementedError

    def last_features(self, embeddings: Tensor, num_samples: int, start: int) -> Tensor:
        """Features [C - start, N, D] of the classes from ``start`` on, as ``forward`` has them."""
        return self(embeddings, num_samples).features[start:]

    def last_prototypes(self, embeddings: Tensor, num_samples: int, start: int) -> Tensor:
        """Prototypes [C - start, D] of the classes from ``start`` on: means of their features."""
        return self(embeddings, num_samples).features.mean(1)[start:]

    def semantic_relations(self, embeddings: Tensor) -> Tensor:
        """As the function, which waits for a GPU to check its values.

        There the relations of the last embeddings are kept: these must not change in place.
        """
        if device.is_on_host(embeddings) or not embeddings.stop_gradient:
            return semantic_relations(embeddings)
        if self._semantic is None or self._semantic[0] is not embeddings:
            self._semantic = embeddings, semantic_relations(embeddings)
        return self._semantic[1]

    def draw_noise(self, shape: list[int], like: Tensor) -> Tensor:
        """Noise of a shape, of the dtype and at the place of ``like``."""
        on_device, on_host = NOISES[self.noise]
        if not device.is_on_host(like):
            return on_device(shape, dtype=like.dtype)
        draws = getattr(_host_generator(), on_host)(shape, dtype=np.float32)
        return paddle.to_tensor(draws, dtype=like.dtype, place=like.place)

    def _check_inputs(self, embeddings: Tensor, num_samples: int,
                      noise: Tensor | None) -> Tensor:
        if embeddings.ndim != 2 or embeddings.shape[0] < 1 \
                or embeddings.shape[1] != self.embed_dim:
            raise UserError(f"{self._title}: embeddings must be [C, {self.embed_dim}] with "
                            f"C >= 1, got {list(embeddings.shape)}; embed_dim must be the "
                            "dimension of the class embeddings")
        if num_samples < 1:
            raise UserError(f"{self._title}: num_samples must be >= 1, got {num_samples!r}")
        shape = [embeddings.shape[0], num_samples, self.noise_dim]
        if noise is None:
            return self.draw_noise(shape, embeddings)
        if list(noise.shape) != shape:
            raise UserError(f"{self._title}: noise must be {shape}, got {list(noise.shape)}")
        return noise


def semantic_relations(embeddings: Tensor) -> Tensor:
    """Cosines between class embeddings, [C, W] -> [C, C].

    Raises:
        UserError: an embedding is zero or not finite; the message names its row.
    """
    norms = embeddings.norm(axis=1, keepdim=True)
    values = norms.numpy()
    bad = np.flatnonzero(~((values > 0) & np.isfinite(values)))
    if bad.size:
        raise UserError("class embeddings need a finite norm > 0 for their cosine, row(s) "
                        f"{bad.tolist()} have {values.ravel()[bad].tolist()}; give these classes "
                        "an embedding")
    directions = embeddings / norms
    return paddle.matmul(directions, directions, transpose_y=True)


def mlp(in_dim: int, hidden_dim: int, out_dim: int, dropout: float) -> nn.Sequential:
    """Linear - LeakyReLU(0.2) - Dropout - Linear, as in ZS3Net: Xavier weights, biases 0.01."""
    return nn.Sequential(_linear(in_dim, hidden_dim), nn.LeakyReLU(LEAK), HostDropout(dropout),
                         _linear(hidden_dim, out_dim))


def apply_mlp(layers: nn.Layer, rows: Tensor, share: Share | None = None) -> Tensor:
    """Apply an ``mlp`` to all rows, or to those of a share under the same dropout."""
    first, leaky_relu, dropout, second = layers.children()
    return second(dropout(leaky_relu(first(rows)), share))


def _linear(in_dim: int, out_dim: int) -> nn.Linear:
    initial = nn.initializer
    return nn.Linear(in_dim, out_dim,
                     weight_attr=paddle.ParamAttr(initializer=initial.XavierUniform()),
                     bias_attr=paddle.ParamAttr(initializer=initial.Constant(0.01)))


def _host_generator() -> np.random.Generator:
    """NumPy's generator seeded by Paddle's random state.

    Paddle's own draws on the CPU take longer than the matrix products they go into.
    """
    return np.random.Generator(np.random.SFC64(int(paddle.randint(0, 2**31 - 1, [1]))))


class HostDropout(nn.Dropout):
    """Dropout whose mask is drawn by NumPy where the tensor is on the CPU.

    The rate is rounded to a multiple of 2^-16 there.
    """

    def forward(self, input: Tensor,  # noqa: A002 (Paddle's name)
                share: Share | None = None) -> Tensor:
        mask = self.mask(input, share)
        return input if mask is None else input * mask

    @paddle.no_grad()
    def mask(self, like: Tensor, share: Share | None = None) -> Tensor | None:
        """Draw the factors of ``like``, 0 or 1 / (1 - rate); None where there is no dropout.

        With a ``share``, ``like`` holds its rows, and the mask those rows of the whole mask.
        """
        if not self.training or self.p == 0:
            return None
        share = share or Share(like.shape[0])
        shape = [share.count, *like.shape[1:]]
        if not device.is_on_host(like):
            return share.take(F.dropout(paddle.ones(shape, like.dtype), self.p))
        size = int(np.prod(shape))
        draws = _host_generator().bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
        keep = draws.reshape(shape)[share.slice] >= round(self.p * 2**16)
        del draws  # their memory is for what follows
        # Made of floats by NumPy, because Paddle's cast takes longer than all the rest.
        factors = np.multiply(keep, 1 / (1 - self.p), dtype=np.float32)
        return paddle.to_tensor(factors, place=like.place).astype(like.dtype)
