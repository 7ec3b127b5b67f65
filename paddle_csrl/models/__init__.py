"""Models; importing one registers it in PaddleSeg's ``MODELS`` or ``BACKBONES``."""

from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.models.resnet import CSRLResNet50, CSRLResNet101
from paddle_csrl.models.structural_generator import GeneratorOutput, StructuralGenerator
from paddle_csrl.models.tiny_net import CSRLTinyNet

__all__ = ["CSRLResNet101", "CSRLResNet50", "CSRLTinyNet", "GeneratorOutput", "GeneratorTask",
           "PixelClassifier", "StructuralGenerator"]
