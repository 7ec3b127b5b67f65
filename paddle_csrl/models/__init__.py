"""Models; importing one registers it in PaddleSeg's ``MODELS`` or ``BACKBONES``."""

from paddle_csrl.models.deeplab import DeepLabV3PPlain
from paddle_csrl.models.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from paddle_csrl.models.feature_generator import FeatureGenerator, GeneratorOutput
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.mlp_generator import MLPGenerator
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.models.projection_segmentor import ProjectionSegmentor
from paddle_csrl.models.prototype_generators import (
    ConvexPrototypes,
    MeanPrototypes,
    RidgePrototypes,
)
from paddle_csrl.models.resnet import CSRLResNet50, CSRLResNet101
from paddle_csrl.models.segformer import FusedSegFormer
from paddle_csrl.models.structural_generator import StructuralGenerator
from paddle_csrl.models.tiny_net import CSRLTinyNet
