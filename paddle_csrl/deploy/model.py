"""A trained segmentor from its config and weights alone, without any data set."""

import copy
from types import SimpleNamespace
from typing import Any

import paddle
from paddleseg.transforms import Compose
from paddleseg.utils.utils import CachedProperty as cached_property

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.classes import FILE_NAME, ClassTable, read_beside
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.stages.fit import load_weights


class DeployBuilder(ZeroShotBuilder):
    """Builds what prediction needs and reads no data set.

    Names, unseen classes and colours come from ``classes.json`` beside the weights, which every
    run writes. Where it is missing they come from the config, which suffices for data sets whose
    names are built in and for ``zero_shot.class_names``.

    Args:
        config (ZeroShotConfig): the config the model was trained with; it is not changed.
        model_path (str): the weights.
    """

    def __init__(self, config: ZeroShotConfig, model_path: str):
        config = copy.deepcopy(config)
        # The trained weights replace whatever `pretrained` would load or download first.
        config.dic["model"] = _without_pretrained(config.dic["model"])
        super().__init__(config)
        self.model_path = model_path
        self._stored = read_beside(model_path)

    @property
    def img_channels(self) -> int:
        return self.config.val_dataset_cfg.get("img_channels", 3)

    @property
    def train_dataset_class(self) -> SimpleNamespace:
        """What PaddleSeg's builder reads off the data set when it builds the model."""
        return SimpleNamespace(NUM_CLASSES=len(self.classes.names),
                               IMG_CHANNELS=self.img_channels)

    @cached_property
    def _inner_val(self) -> SimpleNamespace:
        """Stands in for the data set: the number of classes is the model's."""
        return SimpleNamespace(num_classes=self.config.model_cfg.get("num_classes"))

    @cached_property
    def classes(self) -> ClassTable:
        """Names, unseen classes and colours.

        Raises:
            UserError: they are neither beside the weights nor in the config, or their number
                is not the model's.
        """
        table = self._stored or self._classes_of_config()
        expected = self.config.model_cfg.get("num_classes", len(table.names))
        if len(table.names) != expected:
            raise UserError(f"{FILE_NAME} beside {self.model_path} names {len(table.names)} "
                            f"classes, but `model.num_classes: {expected}`; use the config that "
                            f"the model was trained with")
        return table

    def _classes_of_config(self) -> ClassTable:
        try:
            return ClassTable.of(self)
        except UserError as error:
            raise UserError(f"no {FILE_NAME} beside {self.model_path}, and the config does not "
                            f"tell the classes ({error}); tools/train.py writes the file, also "
                            f"where all stages are finished") from None

    @cached_property
    def transforms(self) -> Compose:
        """The validation transforms."""
        return Compose(self.val_transforms, img_channels=self.img_channels)

    @cached_property
    def trained_model(self) -> paddle.nn.Layer:
        """The segmentor with its weights, in eval mode.

        Raises:
            UserError: the weights are missing or do not fit the config.
        """
        model = self.model
        load_weights(model, self.model_path)
        model.eval()
        return model


def _without_pretrained(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_pretrained(value) for key, value in content.items()
                if key != "pretrained"}
    return content
