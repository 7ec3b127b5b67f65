"""A trained segmentor from its config and weights alone, without any data set."""

import paddle
from paddleseg.utils.utils import CachedProperty as cached_property

from paddle_csrl.builder import ZeroShotBuilder, classes_beside, classes_of
from paddle_csrl.classes import CLASSES_FILE
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy.predict import SegmentorPredictor
from paddle_csrl.errors import UserError


class DeployBuilder(ZeroShotBuilder):
    """Builds what prediction needs and reads no data set.

    Names, unseen classes and colours come from ``classes.json`` beside the weights, which every
    run writes. Where it is missing they come from the config, which suffices for data sets whose
    names are built in and for ``zero_shot.class_names``.

    Args:
        config (ZeroShotConfig): the config the model was trained with; it is not changed.
        model_path (str): the weights.

    Raises:
        UserError: the classes are neither beside the weights nor in the config, or their number
            is not the model's.
    """

    def __init__(self, config: ZeroShotConfig, model_path: str):
        classes = classes_beside(config, model_path)
        if classes is None:
            try:
                classes = classes_of(config)
            except UserError as error:
                raise UserError(f"no {CLASSES_FILE} beside {model_path}, and the config does not "
                                f"tell the classes ({error}); tools/train.py writes the file, also "
                                f"where all stages are finished") from None
        super().__init__(config, classes)
        self.model_path = model_path

    @cached_property
    def trained_model(self) -> paddle.nn.Layer:
        """The segmentor with its weights, in eval mode.

        Raises:
            UserError: the weights are missing or do not fit the config.
        """
        return self.trained_segmentor(self.model_path)

    def predictor(self, confidence: bool = False) -> SegmentorPredictor:
        """Make what predicts images with the trained model, as the config says."""
        settings = self.config.settings
        return SegmentorPredictor(self.trained_model, confidence, settings.precision,
                                  settings.amp_level, **self.config.test_config)
