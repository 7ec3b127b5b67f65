"""Building the data sets, names and embeddings of a zero-shot config."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
from paddleseg.cvlibs import SegBuilder
from paddleseg.utils.utils import CachedProperty as cached_property

from paddle_csrl import visualize
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.class_names import class_names_for, read_class_names, resolve_classes
from paddle_csrl.datasets.label_scan import fingerprint
from paddle_csrl.datasets.sources import require_data
from paddle_csrl.datasets.unlabelled import UnlabelledImages
from paddle_csrl.datasets.zero_shot import ZeroShotDataset
from paddle_csrl.embeddings import attribute_vectors, load_class_embeddings
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import FeatureExtractor, find_classification_layer
from paddle_csrl.models.projection_segmentor import ProjectionSegmentor


class UserErrorBuilder(SegBuilder):
    """PaddleSeg's ``SegBuilder`` whose errors are for users."""

    def build_component(self, cfg: dict[str, Any]) -> Any:
        """As PaddleSeg's, but a mistake a user can mend surfaces as it was raised."""
        try:
            return super().build_component(cfg)
        except RuntimeError as error:
            raise _user_error_behind(error) or UserError(
                f"could not make {cfg.get('type')}: "
                f"{' '.join(str(error.__context__ or error).split())}") from error

    @cached_property
    def optimizer(self) -> paddle.optimizer.Optimizer:
        """As PaddleSeg's, but a wrong argument of it or of its schedule is the user's mistake."""
        try:
            return SegBuilder.optimizer.func(self)
        except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"could not make `optimizer` with `lr_scheduler`: "
                            f"{' '.join(str(error).split())}") from error


class ZeroShotBuilder(UserErrorBuilder):
    """PaddleSeg's ``SegBuilder`` with the data sets wrapped in ``ZeroShotDataset``.

    Args:
        config (ZeroShotConfig): the config.
    """

    config: ZeroShotConfig

    @property
    def train_dataset_class(self) -> SimpleNamespace:
        """What PaddleSeg reads off a data set's class, taken from the data set itself.

        A data set may have another number of classes than its class says (``Dataset`` says
        none at all), so the built object is the authority.
        """
        dataset = self.train_dataset
        return SimpleNamespace(NUM_CLASSES=dataset.num_classes,
                               IGNORE_INDEX=dataset.ignore_index,
                               IMG_CHANNELS=getattr(dataset, "img_channels", 3))

    @cached_property
    def train_dataset(self) -> ZeroShotDataset:
        """The training set of stage 1: unseen classes cannot get past it."""
        return self._wrap(self._inner_train)

    @cached_property
    def val_dataset(self) -> ZeroShotDataset:
        """The validation set with every class, for the final scores."""
        return self._wrap(self._inner_val, mode="val")

    @cached_property
    def selection_dataset(self) -> ZeroShotDataset:
        """The validation set under the training policy, for choosing checkpoints."""
        return self._wrap(copy.copy(self._inner_val), mode="val", hide_unseen=True)

    @cached_property
    def feature_dataset(self) -> ZeroShotDataset:
        """The training set under the validation transforms, for the feature bank."""
        cfg = copy.deepcopy(self.config.train_dataset_cfg)
        cfg["transforms"] = self._feature_transforms
        return self._wrap(self.build_component(cfg))

    @cached_property
    def unlabelled_dataset(self) -> UnlabelledImages:
        """What the policy keeps from ``feature_dataset``: images, without labels."""
        return UnlabelledImages(self.feature_dataset.unlabelled_images,
                                self.feature_dataset.transforms)

    @cached_property
    def display_dataset(self) -> ZeroShotDataset:
        """The validation set with every class, for pictures of real features.

        Images and labels are under the transforms of the feature bank. Nothing may be learned or
        chosen from it.
        """
        cfg = copy.deepcopy(self.config.val_dataset_cfg)
        require_data(cfg)
        cfg["transforms"] = self._feature_transforms
        dataset = self.build_component(cfg)
        dataset.mode = "train"  # in validation PaddleSeg leaves the label as it is in its file
        return self._wrap(dataset, mode="val")

    @property
    def _feature_transforms(self) -> list[dict[str, Any]]:
        transforms = (self.config.zero_shot.get("features") or {}).get("transforms")
        return copy.deepcopy(transforms or self.config.val_dataset_cfg.get("transforms", []))

    @cached_property
    def _inner_train(self) -> paddle.io.Dataset:
        require_data(self.config.train_dataset_cfg)
        return self.build_component(self.config.train_dataset_cfg)

    @cached_property
    def _inner_val(self) -> paddle.io.Dataset:
        require_data(self.config.val_dataset_cfg)
        return self.build_component(self.config.val_dataset_cfg)

    def _wrap(self, dataset: paddle.io.Dataset, **kwargs) -> ZeroShotDataset:
        zero_shot = self.config.zero_shot
        return ZeroShotDataset(dataset, unseen=zero_shot["unseen"],
                               policy=zero_shot.get("policy", "drop"),
                               class_names=self.class_names,
                               label_names=self.label_names,
                               cache_dir=zero_shot.get("cache_dir"), **kwargs)

    @cached_property
    def class_names(self) -> list[str]:
        """Name of every class, by id."""
        given = self.config.zero_shot.get("class_names")
        if given:
            names = read_class_names(given)
        else:
            own = getattr(self._inner_val, "class_names", None)
            names = list(own or class_names_for(self.config.val_dataset_cfg["type"]))
        if self.label_names is None and len(names) != self._inner_val.num_classes:
            raise UserError(f"`zero_shot.class_names` gives {len(names)} names for the "
                            f"{self._inner_val.num_classes} classes of the data set")
        return names

    @cached_property
    def label_names(self) -> list[str] | None:
        """Name of every label id of the data set, where these are not the classes."""
        given = self.config.zero_shot.get("label_names")
        return None if given is None else read_class_names(given)

    @cached_property
    def unseen_ids(self) -> np.ndarray:
        """int64 [U]: ids of the unseen classes, ascending."""
        return np.array(sorted(resolve_classes(
            self.class_names, self.config.zero_shot["unseen"])), np.int64)

    @cached_property
    def seen_ids(self) -> np.ndarray:
        """int64 [S]: ids of the seen classes, ascending."""
        return np.setdiff1d(np.arange(len(self.class_names)), self.unseen_ids)

    def classification_layer(self, model: paddle.nn.Layer) -> tuple[str, paddle.nn.Conv2D]:
        """The layer of a segmentor of this config that stage 3 replaces, with its dotted name.

        Raises:
            UserError: it has none, or not the one that ``zero_shot.classifier_layer`` names.
        """
        return find_classification_layer(model, len(self.class_names),
                                         self.config.zero_shot.get("classifier_layer"))

    def feature_extractor(self, model: paddle.nn.Layer) -> FeatureExtractor:
        """What takes features off a segmentor of this config, in the config's precision.

        Raises:
            UserError: as ``classification_layer``.
        """
        return FeatureExtractor(model, len(self.class_names),
                                self.config.zero_shot.get("classifier_layer"),
                                self.config.option("precision", "fp32"),
                                self.config.option("amp_level", "O1"))

    def throwaway_model(self) -> paddle.nn.Layer:
        """An untrained segmentor of this config that leaves the config and ``model`` alone."""
        builder = copy.copy(self)
        builder.__dict__.pop("model", None)
        builder.config = copy.deepcopy(self.config)
        with paddle.utils.unique_name.guard():
            return builder.model

    @cached_property
    def embeddings(self) -> np.ndarray:
        """float32 [C, d_w]: one embedding per class."""
        section = dict(self.config.zero_shot.get("embeddings") or {})
        if section.get("path") != "attributes":
            return load_class_embeddings(self.class_names, **section)
        attributes = getattr(self._inner_val, "attributes", None)
        if attributes is None:
            raise UserError(f"`zero_shot.embeddings.path: attributes`: "
                            f"{self.config.val_dataset_cfg['type']} has no attributes; name a "
                            f"word-vector file, or null for the vectors that come with the project")
        if self.label_names is not None:
            attributes = attribute_vectors(self.class_names, attributes,
                                           *self._names_of_attributes(), section.get("words"))
        norms = np.linalg.norm(attributes, axis=1, keepdims=True)
        return attributes / norms if section.get("normalize", True) else attributes

    def _names_of_attributes(self) -> tuple[list[str], list[str]]:
        """Of the rows and of the columns of the data set's attributes."""
        dataset = self._inner_val
        return (list(getattr(dataset, "class_names", self.label_names)),
                list(getattr(dataset, "attribute_names", [])))

    def projecting(self) -> "ZeroShotBuilder":
        """A builder over the same data whose ``model`` is new and ends in the projection.

        The model of this one stays the stock segmentor that ``ProjectionSegmentor.fold`` leads
        back to. A ``pretrained`` of the model is loaded before its last layer is exchanged.
        """
        builder = copy.copy(self)
        for made in ("model", "optimizer", "lr_scheduler"):
            builder.__dict__.pop(made, None)
        builder.config = copy.deepcopy(self.config)
        segmentor = builder.model
        layer_name, _ = self.classification_layer(segmentor)
        builder.model = ProjectionSegmentor(segmentor, layer_name, self.embeddings, self.seen_ids,
                                            **self.config.projection)
        return builder

    @cached_property
    def palette(self) -> np.ndarray:
        """uint8 RGB [C, 3]: the data set's own colours, where it has some that people know."""
        own = getattr(self._inner_val, "palette", None)
        name = "voc" if self.config.val_dataset_cfg["type"] == "PascalVOC" else None
        labels = self.class_names if self.label_names is None else self.label_names
        colors = visualize.palette(len(labels), name) if own is None else own
        return colors if self.label_names is None else visualize.colors_by_name(
            colors, labels, self.class_names)

    @property
    def normalizes_features(self) -> bool:
        """Whether stages 2 and 3 work on standardized features."""
        return (self.config.zero_shot.get("features") or {}).get("normalize", True)

    @property
    def whole_fingerprint(self) -> str:
        """As ``fingerprint``, over all training files, also those the policy takes out."""
        return fingerprint(getattr(self._inner_train, "file_list", None) or [])

    @property
    def unlabelled_fingerprint(self) -> str:
        """As ``fingerprint``, over the images of ``unlabelled_dataset``."""
        return fingerprint([[path] for path in self.unlabelled_dataset.paths])

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the names, sizes and times of all training files the policy lets through."""
        return fingerprint(self.train_dataset.file_list)


def _user_error_behind(error: BaseException) -> UserError:
    """The ``UserError`` that led to ``error``, if one did."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None
