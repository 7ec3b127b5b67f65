"""Losses of the generator and the projection; importing a loss registers it in ``LOSSES``."""

from paddle_csrl.losses.cosine_regression_loss import CosineRegressionLoss
from paddle_csrl.losses.functional import prototype_relations, standardize_rows
from paddle_csrl.losses.listwise_relation_loss import ListwiseRelationLoss
from paddle_csrl.losses.mmd_loss import MMDLoss
from paddle_csrl.losses.pairwise_relation_loss import PairwiseRelationLoss
from paddle_csrl.losses.prototype_norm_loss import PrototypeNormLoss
