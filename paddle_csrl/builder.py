"""Building the data sets and models of a config."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
from paddleseg.cvlibs import SegBuilder
from paddleseg.transforms import Compose
from paddleseg.utils.utils import CachedProperty as cached_property

from paddle_csrl import compat, visualize
from paddle_csrl.classes import CLASSES_FILE, ClassTable, read_classes_beside
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.components import UserErrorBuilder
from paddle_csrl.datasets.class_names import class_names_for, read_class_names, resolve_classes
from paddle_csrl.datasets.fingerprint import (
    FileList,
    fingerprint,
    fingerprint_by_times,
    shared_images,
)
from paddle_csrl.datasets.sources import require_data, require_pairs, require_training_mode
from paddle_csrl.datasets.unlabelled import UnlabelledImages
from paddle_csrl.datasets.whole_view import require_whole_view
from paddle_csrl.datasets.zero_shot import ZeroShotDataset
from paddle_csrl.embeddings import embed_classes
from paddle_csrl.errors import UserError
from paddle_csrl.models.embedding_head import EmbeddingHead
from paddle_csrl.models.last_layer import FeatureExtractor, find_classification_layer
from paddle_csrl.models.pretrained import load_fitting
from paddle_csrl.models.projection_segmentor import ProjectionSegmentor
from paddle_csrl.utils.weights import load_weights


class ZeroShotBuilder(UserErrorBuilder):
    """Builds segmentors, and data sets wrapped in ``ZeroShotDataset``, each when it is asked for.

    Args:
        config (ZeroShotConfig): the config. It is copied, for PaddleSeg adds to it as it builds.
        classes (ClassTable, optional): its classes, where they are known. Then segmentors are
            built without a look at the data. By default the config and its data tell them.
    """

    config: ZeroShotConfig

    def __init__(self, config: ZeroShotConfig, classes: ClassTable | None = None):
        super().__init__(copy.deepcopy(config))
        self._classes = classes

    @cached_property
    def classes(self) -> ClassTable:
        """Names, unseen classes and colours."""
        return self._classes or classes_of(self.config, self._labelled_images)

    @cached_property
    def embeddings(self) -> np.ndarray:
        """float32 [C, d_w]: one embedding per class."""
        section = self.config.settings.zero_shot.embeddings
        return embed_classes(self.classes.names, self.classes.label_names,
                             lambda: self._labelled_images, path=section.path,
                             normalize=section.normalize, words=section.words)

    # Models.

    @property
    def img_channels(self) -> int:
        return self._of_dataset("img_channels", 3)

    @property
    def train_dataset_class(self) -> SimpleNamespace:
        """The stand-in for a data set's class, of which PaddleSeg reads when it builds.

        A data set may have another number of classes than its class says (``Dataset`` says none
        at all), so the classes are the authority.
        """
        return SimpleNamespace(NUM_CLASSES=len(self.classes), IMG_CHANNELS=self.img_channels,
                               IGNORE_INDEX=self._of_dataset("ignore_index", 255))

    def _of_dataset(self, key: str, default: int) -> int:
        """An argument of the training set: of the config, else of its class."""
        cfg = self.config.train_dataset_cfg
        kind = self.load_component_class(cfg["type"])
        return cfg.get(key, getattr(kind, key.upper(), default))

    def new_segmentor(self, pretrained: bool = True) -> paddle.nn.Layer:
        """Build an untrained segmentor, another one with every call.

        If ``pretrained``, what that key in the config names is loaded, or downloaded.
        """
        if pretrained:
            with compat.pretrained_loading(load_fitting):
                try:
                    return SegBuilder.model.func(self)
                except (AssertionError, RuntimeError, UserError) as error:
                    hint = self._feature_maps() if "list ind" in str(error) else ""
                    raise UserError(f"`model`: {error}{hint}") from error
        builder = ZeroShotBuilder(self.config, self.classes)
        builder.config.dic["model"] = without_pretrained(builder.config.dic["model"])
        return builder.new_segmentor()

    def _feature_maps(self) -> str:
        """Values that ``model.backbone_indices`` may have, where they may be the cause."""
        cfg = without_pretrained(self.config.model_cfg)
        try:
            channels = self.build_component(cfg["backbone"]).feat_channels
        except (AttributeError, KeyError, UserError):  # it is not them
            return ""
        return (f"; its backbone has {len(channels)} feature maps, so that `backbone_indices: "
                f"{cfg.get('backbone_indices')}` must be among 0 to {len(channels) - 1}")

    def trained_segmentor(self, path: str) -> paddle.nn.Layer:
        """Build a segmentor with the weights at ``path``, in eval mode.

        Its parameters do not count among those that Paddle numbers.

        Raises:
            UserError: the weights are missing or do not fit the config.
        """
        with paddle.utils.unique_name.guard():
            model = self.new_segmentor(pretrained=False)
        load_weights(model, path)
        model.eval()
        return model

    def new_projection(self, pretrained: bool = True) -> ProjectionSegmentor:
        """Build an untrained segmentor, as ``new_segmentor``, that ends in the projection."""
        segmentor = self.new_segmentor(pretrained)
        layer_name, _ = self.classification_layer(segmentor)
        return ProjectionSegmentor(segmentor, layer_name, self.embeddings, self.classes.seen_ids,
                                   self.config.projection.similarity)

    def trained_projection(self, path: str) -> ProjectionSegmentor:
        """Build a segmentor with a projection and its weights, as ``trained_segmentor``."""
        with paddle.utils.unique_name.guard():
            model = self.new_projection(pretrained=False)
        load_weights(model, path)
        model.eval()
        return model

    def new_trainee(self, pretrained: bool = True) -> paddle.nn.Layer:
        """Build what stage 1 trains: a projection, or a segmentor with or without a second head."""
        if self.config.projection:
            return self.new_projection(pretrained)
        segmentor, weight = self.new_segmentor(pretrained), self.embedding_head
        if not weight:
            return segmentor
        layer_name, _ = self.classification_layer(segmentor)
        return EmbeddingHead(segmentor, layer_name, self.embeddings, self.classes.seen_ids, weight,
                             self._of_dataset("ignore_index", 255))

    @property
    def embedding_head(self) -> float:
        """The weight of the second head of stage 1; 0 for none."""
        return 0.0 if self.config.projection else self.config.settings.zero_shot.embedding_head

    def classification_layer(self, model: paddle.nn.Layer) -> tuple[str, paddle.nn.Conv2D]:
        """Find the layer of a segmentor that stage 3 replaces, with its dotted name.

        Raises:
            UserError: it has none, or not the one that ``zero_shot.classifier_layer`` names.
        """
        return find_classification_layer(model, len(self.classes),
                                         self.config.settings.zero_shot.classifier_layer)

    def feature_extractor(self, model: paddle.nn.Layer) -> FeatureExtractor:
        """Make what takes features off a segmentor; errors as ``classification_layer``."""
        settings = self.config.settings
        return FeatureExtractor(model, len(self.classes), settings.zero_shot.classifier_layer,
                                settings.precision, settings.amp_level)

    @cached_property
    def transforms(self) -> Compose:
        """The validation transforms, for images without a data set."""
        require_whole_view(self.val_transforms, "val_dataset.transforms")
        return Compose(self.val_transforms, img_channels=self.img_channels)

    # Data sets.

    @cached_property
    def train_dataset(self) -> ZeroShotDataset:
        """The training set of stage 1: unseen classes cannot get past it."""
        return self._wrap(self._training_images)

    @cached_property
    def val_dataset(self) -> ZeroShotDataset:
        """The validation set with every class, for the final scores."""
        return self._wrap(self._labelled_images, mode="val")

    @cached_property
    def selection_dataset(self) -> ZeroShotDataset:
        """The validation set under the training policy, for choosing checkpoints."""
        return self._wrap(copy.copy(self._labelled_images), mode="val", hide_unseen=True)

    @cached_property
    def feature_dataset(self) -> ZeroShotDataset:
        """The training set under the validation transforms, for the feature bank."""
        return self._wrap(self._build_training_set(transforms=self.feature_transforms))

    @cached_property
    def unlabelled_dataset(self) -> UnlabelledImages:
        """The images that the policy keeps from ``feature_dataset``, without labels."""
        return UnlabelledImages(self.feature_dataset.unlabelled_images,
                                self.feature_dataset.transforms)

    @cached_property
    def display_dataset(self) -> ZeroShotDataset:
        """The validation set with every class, for pictures of real features.

        Images and labels are under the transforms of the feature bank. Nothing may be learned or
        chosen from it.
        """
        dataset = self._build_dataset(
            {**self.config.val_dataset_cfg, "transforms": self.feature_transforms})
        dataset.mode = "train"  # in validation PaddleSeg leaves the label as it is in its file
        return self._wrap(dataset, mode="val")

    @property
    def feature_transforms(self) -> list[dict[str, Any]]:
        """The transforms of images whose features are taken."""
        return (self.config.settings.zero_shot.features.transforms
                or self.config.val_dataset_cfg.get("transforms", []))

    @cached_property
    def _training_images(self) -> Any:
        return self._build_training_set()

    @cached_property
    def _labelled_images(self) -> Any:
        dataset = self._build_dataset(self.config.val_dataset_cfg)
        steps = getattr(getattr(dataset, "transforms", None), "transforms", None)
        require_whole_view(steps or [], "val_dataset.transforms")
        return dataset

    def _build_training_set(self, **changes: Any) -> Any:
        cfg = {**self.config.train_dataset_cfg, **changes}
        require_training_mode(cfg.get("mode"))
        dataset = self._build_dataset(cfg)
        require_training_mode(getattr(dataset, "mode", None))
        return dataset

    def _build_dataset(self, cfg: dict[str, Any]) -> Any:  # a data set of PaddleSeg's
        require_data(cfg)
        dataset = self.build_component(cfg)
        if cfg["type"] == "ADE20K":  # PaddleSeg leaves its pairs as the folder happens to list them
            dataset.file_list.sort()
        require_pairs(cfg["type"], getattr(dataset, "file_list", None) or [])
        return dataset

    def _wrap(self, dataset: paddle.io.Dataset, **kwargs: Any) -> ZeroShotDataset:
        zero_shot, classes = self.config.settings.zero_shot, self.classes
        return ZeroShotDataset(dataset, unseen=classes.unseen_names, policy=zero_shot.policy,
                               class_names=classes.names, label_names=classes.label_names,
                               cache_dir=zero_shot.cache_dir, seed=self.config.settings.seed,
                               **kwargs)

    def files(self, use: str) -> FileList:
        """The files of a data set; empty where it has no list of them.

        Args:
            use: ``seen``, the training files that the policy lets through; ``all``, also those
                that it takes out; ``unlabelled``, the images of ``unlabelled_dataset``; ``val``,
                all of validation; ``selection``, what of it a checkpoint may be chosen by.

        Raises:
            UserError: there is no such data set.
        """
        if use == "unlabelled":
            return [[path] for path in self.unlabelled_dataset.paths]
        name = {"seen": "train_dataset", "all": "_training_images", "val": "val_dataset",
                "selection": "selection_dataset"}[use]
        files = getattr(getattr(self, name), "file_list", None) or []
        return files if all(isinstance(pair, (list, tuple)) for pair in files) else []

    def shared_images(self) -> list[str]:
        """Paths of the validation images that are training images, too, by their contents.

        Those that the policy takes out count where self-training or a leak has them back.
        """
        use = "all" if self.config.transductive or self.config.leaks else "seen"
        return shared_images(self.files(use), self.files("val"),
                             self.config.settings.zero_shot.cache_dir)

    def kept_copies(self) -> list[str]:
        """Paths of the training images that are, by their contents, some that the policy takes out.
        """
        seen = self.files("seen")
        kept = set(map(tuple, seen))
        left_out = [pair for pair in self.files("all") if tuple(pair) not in kept]
        return shared_images(left_out, seen, self.config.settings.zero_shot.cache_dir)

    def fingerprint(self, use: str = "seen") -> str:
        """Hash the names and contents of ``files(use)``."""
        return fingerprint(self.files(use), self.config.settings.zero_shot.cache_dir)

    def fingerprint_by_times(self, use: str) -> str:
        """Hash the names, sizes and times of ``files(use)``, as records of 0.1.0 have them."""
        return fingerprint_by_times(self.files(use))


def classes_of(config: ZeroShotConfig, dataset: Any = None) -> ClassTable:
    """Find out the classes of a config, which may name them in ``zero_shot.class_names``.

    Its validation set may name and colour them, and knows their number. Without it, names that
    are built in for its type and the number in ``model`` do.

    Raises:
        UserError: nothing names them, or their number is not that of the data set.
    """
    zero_shot, data_type = config.settings.zero_shot, config.val_dataset_cfg["type"]
    labels = read_class_names(zero_shot.label_names) if zero_shot.label_names else None
    own = getattr(dataset, "class_names", None)
    names = (read_class_names(zero_shot.class_names) if zero_shot.class_names
             else list(own or class_names_for(data_type)))
    number = dataset.num_classes if dataset else config.model_cfg.get("num_classes")
    if labels is None and len(names) != number:
        raise UserError(f"`zero_shot.class_names` gives {len(names)} names for the {number} "
                        f"classes of the data set")
    unseen_ids = np.array(sorted(resolve_classes(names, zero_shot.unseen)), np.int64)
    palette = getattr(dataset, "palette", None)
    if palette is None:
        palette = visualize.palette(len(labels or names),
                                    "voc" if data_type == "PascalVOC" else None)
    if labels is not None:
        palette = visualize.colors_by_name(palette, labels, names)
    return ClassTable(names, unseen_ids, np.asarray(palette), labels)


def classes_beside(config: ZeroShotConfig, model_path: str) -> ClassTable | None:
    """Read the classes of trained weights from the file beside them; None where there is none.

    Raises:
        UserError: their number is not the model's.
    """
    classes = read_classes_beside(model_path)
    if classes is None:
        return None
    expected = config.model_cfg.get("num_classes", len(classes))
    if len(classes) != expected:
        raise UserError(f"{CLASSES_FILE} beside {model_path} names {len(classes)} "
                        f"classes, but `model.num_classes: {expected}`; use the config that "
                        f"the model was trained with")
    labels = config.settings.zero_shot.label_names
    return replace(classes, label_names=read_class_names(labels) if labels else None)


def pretrained_in(content: Any, place: str = "model") -> dict[str, str]:
    """Return the weights that a section ``model`` starts from, by their dotted keys."""
    found = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == "pretrained" and isinstance(value, str):
            found[f"{place}.{key}"] = value
        else:
            found.update(pretrained_in(value, f"{place}.{key}"))
    return found


def without_pretrained(content: Any) -> Any:
    """Return a section ``model`` without the weights that it starts from."""
    if isinstance(content, dict):
        return {key: without_pretrained(value) for key, value in content.items()
                if key != "pretrained"}
    return content
