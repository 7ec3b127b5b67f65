"""The generator of ZS3Net: one MLP from a class embedding and noise to a visual feature."""

import paddle
from paddle import Tensor
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.models import feature_generator as base
from paddle_csrl.parallel import Share
from paddle_csrl.registry import register


@register(manager.MODELS)
class MLPGenerator(base.FeatureGenerator):
    """ZS3Net's generator (Bucher et al., NeurIPS 2019): x_in = f([a_i + z_in]) for each class i.

    + stands for concatenation (a embeddings, z noise). f is Linear - LeakyReLU(0.2) - Dropout -
    Linear with Xavier-uniform weights and biases 0.01. Classes do not know of each other: the
    only relations are e^0, the cosines between embeddings.

    Args:
        embed_dim (int): W, of a class embedding.
        feature_dim (int): D, of a visual feature.
        noise_dim (int): Z.
        hidden_dim (int): width inside the MLP.
        dropout (float): rate in [0, 1), in training mode only.
        noise (str): ``gaussian``, standard normal; or ``uniform``, from [0, 1), as in ZS3Net's
            code.
        num_classes (int, optional): unused; PaddleSeg injects it.
        in_channels (int): unused; PaddleSeg injects it.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, embed_dim: int, feature_dim: int, noise_dim: int = 300,
                 hidden_dim: int = 256, dropout: float = 0.5, noise: str = "gaussian",
                 num_classes: int | None = None, in_channels: int = 3):
        super().__init__(embed_dim, noise_dim, dropout, feature_dim=feature_dim,
                         hidden_dim=hidden_dim)
        if noise not in list(base.NOISES):  # a list, for YAML may give what has no hash
            raise UserError(f"MLPGenerator: noise must be one of {', '.join(base.NOISES)}, "
                            f"got {noise!r}")
        self.noise = noise
        self.mlp = base.mlp(embed_dim + noise_dim, hidden_dim, feature_dim, dropout)

    def generate(self, embeddings: Tensor, noise: Tensor, share: Share) -> base.GeneratorOutput:
        """Generate features; the relations are e^0 alone."""
        own = share.take(embeddings)
        expanded = own.unsqueeze(1).expand([len(own), noise.shape[1], self.embed_dim])
        nodes = paddle.concat([expanded, share.take(noise)], axis=2)
        features = base.apply_mlp(self.mlp, nodes, share)
        return base.GeneratorOutput(features, [self.semantic_relations(embeddings)])
