"""The pairwise relation loss, Eqs. 5 and 6 of CSRL."""

from paddle import Tensor, nn
from paddleseg.cvlibs import manager

from paddle_csrl.losses import functional
from paddle_csrl.registry import register


@register(manager.LOSSES)
class PairwiseRelationLoss(nn.Layer):
    """KL divergence of each unseen class's relations to the seen classes (CSRL, Eqs. 5, 6).

    mean_i KL(softmax(semantic_i / gamma) || softmax(generated_i / gamma)). It does not change
    when a constant is added to a row of either side.

    Args:
        gamma (float): temperature, > 0; small values look at the nearest seen classes only.
        ignore_index (int): unused; PaddleSeg injects it.

    Shape: generated [U, S] and semantic [U, S], floating, S >= 1 -> scalar >= 0. U = 0 gives a
    differentiable 0. ``semantic`` is a constant: it gets no gradient.

    Raises:
        UserError: gamma is not a finite number > 0, or the shapes do not fit.
    """

    consumes = "relations"

    def __init__(self, gamma: float = 0.1, ignore_index: int = 255):
        super().__init__()
        self.gamma = functional.check_positive(gamma, "PairwiseRelationLoss: gamma")

    @functional.in_full_precision
    def forward(self, generated: Tensor, semantic: Tensor) -> Tensor:
        functional.check_relations(generated, semantic, "PairwiseRelationLoss")
        if generated.shape[0] == 0:
            return functional.differentiable_zero(generated)
        target = functional.log_softmax(semantic.detach() / self.gamma)
        model = functional.log_softmax(generated / self.gamma)
        # Rounding alone can take a divergence of zero below zero.
        return (target.exp() * (target - model)).sum(axis=1).mean().clip(min=0)
