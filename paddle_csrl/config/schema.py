"""Every key of a config, once: its type and range, default, unit and meaning.

The sections of stages stand in the files of their stages, under ``@section``. The tables of
``docs/configs.md`` (``scripts/config_tables.py``) and the help of the tools come out of these.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PrivateAttr, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from paddle_csrl.errors import UserError

#: Largest whole number: that of NumPy's seeds.
MOST = 2 ** 32 - 1
#: In place of a number: found from the data.
AUTO = "auto"


def wanted(what: str) -> WrapValidator:
    """Say what a value must be, where pydantic does not say it well."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except pydantic.ValidationError:
            raise PydanticCustomError("wanted", "must be {what}", {"what": what}) from None

    return WrapValidator(check)


def _check_loss(content: dict[str, Any]) -> dict[str, Any]:
    types, coef = content.get("types"), content.get("coef")
    if not (isinstance(types, list) and isinstance(coef, list) and types
            and len(types) in (1, len(coef))):
        raise ValueError(f"must hold two lists of one length, `types` and `coef`, got {types} and "
                         f"{coef}")
    if not all(type(value) in (int, float) and math.isfinite(value) for value in coef):
        raise ValueError(f"must hold numbers as `coef`, got {coef}")
    return content


Count = Annotated[int, Field(ge=1, le=MOST)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
#: Features that are in memory at once.
Samples = Annotated[int, Field(ge=1, le=2 ** 20)]
Scale = Annotated[float, Field(ge=0.1, le=10)]
Path = Annotated[str, wanted("a path, in quotes where it looks like a number")]
#: A text in brackets is a list whose paths lack their quotes on the command line.
Paths = Annotated[Annotated[str, Field(pattern=r"^[^\[]")]
                  | Annotated[Sequence[str], Field(min_length=1)],
                  wanted("a path or a list of paths, each in quotes")]
Component = dict[str, Any]
Loss = Annotated[Component, AfterValidator(_check_loss)]
Names = Annotated[str | Sequence[str],
                  wanted("a list of names, in quotes where they look like something else, or text")]
Size = Annotated[Sequence[Count], Field(min_length=2, max_length=2),
                 wanted("two whole numbers above 0, width and height")]
MAY_BE_NULL = BeforeValidator(lambda value: {} if value is None else value)


def key(default: Any, meaning: str, shown: str = "") -> Any:
    """Describe a key.

    Args:
        default: its value where the config says none; ``...`` for a key that has to be there.
        meaning: one line in Markdown.
        shown: the default as the documents show it, where that is not its value.
    """
    return Field(default, description=meaning, json_schema_extra={"shown": shown})


class Keys(pydantic.BaseModel):
    """Keys of a YAML file; values are of exactly the type that the key has."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Section(Keys):
    """A section of a config."""

    #: Its key in the config.
    name: ClassVar[str] = ""
    #: Whether a config without the section is none.
    required: ClassVar[bool] = False
    #: The sections that need not be there, and need not be whole, beside this one.
    replaces: ClassVar[tuple[str, ...]] = ()

    def check(self, settings: "Settings") -> None:
        """Raise ``UserError`` for what does not go with the rest of the config."""


class StageSection(Section):
    """The keys that sections of stages share: without a value, that of the top level."""

    seed: Whole = key(..., "0 to 4294967295", "top level's")
    save_interval: Count = key(..., "iterations between checkpoints", "top level's")
    log_iters: Count = key(..., "iterations between lines of the log", "top level's")


class TrainedSection(StageSection):
    """A stage that trains a model: how, by PaddleSeg's keys."""

    iters: Count = key(..., "iterations")
    optimizer: Component = key(..., "as at the top level")
    lr_scheduler: Component = key(..., "as at the top level")
    loss: Loss = key(..., "as at the top level")


SECTIONS: dict[str, type[Section]] = {}
AnySection = TypeVar("AnySection", bound=type[Section])


def section(name: str) -> Callable[[AnySection], AnySection]:
    """Register the class of the section ``name``."""

    def add(kind: AnySection) -> AnySection:
        if name in SECTIONS:
            raise KeyError(f"the section {name} is already registered")
        kind.name = name
        SECTIONS[name] = kind
        return kind

    return add


class Embeddings(Section):
    """``zero_shot.embeddings``."""

    path: Paths | None = key(
        None, "a word-vector file: GloVe text (or `.gz`), word2vec text or `.bin`, fastText "
        "`.vec`, `.npz` with `names` and `vectors`, or `.npy` with its rows' names in a `.txt` "
        "beside it; `attributes`: the data set's own attribute vectors (AttributeShapes has "
        "some); null or `glove100`: the GloVe-100 vectors of 40,000 words that come with the "
        "project; `minilm`: those of a sentence encoder for the same words, which come with it, "
        "too. Of a list, every class has a vector in each, scaled to length 1, and they are "
        "joined, as SPNet does with word2vec and fastText")
    normalize: bool = key(True, "scale embeddings to length 1")
    words: Annotated[dict[Any, Any], MAY_BE_NULL] = key(
        {}, "class name → word to look up instead, such as `{sign: signboard}`; several, with "
        "commas, are tried in turn")


class Features(Section):
    """``zero_shot.features``."""

    samples_per_class: Samples = key(
        8192, "bound of the feature bank; 1 KiB per sample at 256 channels")
    dtype: Literal["float32", "float16"] = key(
        "float32", "`float16` halves the bank in memory and on disk; stages 2 and 3 compute in "
        "float32 all the same")
    normalize: bool = key(
        True, "stages 2 and 3 work on features standardized over the bank; the final layer has "
        "this folded into its weights")
    transforms: list[Component] | None = key(
        None, "transforms for the pass that fills the bank", "validation's")


class ZeroShot(Section):
    """``zero_shot``."""

    unseen: Names = key(..., "names of the unseen classes, a list or a text with commas")
    policy: Literal["drop", "ignore"] = key(
        "drop", "`drop`: training images with an unseen pixel are left out. `ignore`: they stay "
        "and their unseen pixels become 255; the network still sees the pixels, never the labels")
    pretraining: Literal["allow", "forbid"] = key(
        "allow", "`forbid`: weights that were trained with a label of an unseen class, or with "
        "unknown labels, are refused before anything trains ([what the backbone already knew]"
        "(#what-the-backbone-already-knew))")
    class_names: Names | None = key(
        None, "names by id: `voc`, `context`, `cityscapes`, `ade20k`, `coco_stuff`, "
        "`context_zs3`, a text file with one name a line, or a list", "by data set")
    label_names: Names | None = key(
        None, "names by label id of the label files, in the forms of `class_names`, where the "
        "labels are not the ids of the classes: a label counts as the class of its name, one whose "
        "name no class has becomes 255, and a class need not have a label. `num_classes` is then "
        "the number of classes everywhere. `tools/add_class.py` writes it "
        "([add_class.md](add_class.md))", "as `class_names`")
    embeddings: Annotated[Embeddings, MAY_BE_NULL] = Embeddings()
    features: Annotated[Features, MAY_BE_NULL] = Features()
    embedding_head: Annotated[float, Field(ge=0, le=100)] = key(
        0.0, "weight, 0 to 100, of a second head in stage 1, which reads the embeddings of seen "
        "classes off the features and is dropped afterwards, so that unseen classes have their "
        "place among the features; 0: none. With `projection` there is none")
    classifier_layer: str | None = key(
        None, "dotted name of the segmentor's last layer, such as `decode_head.conv_seg`: the 1×1 "
        "convolution whose inputs are the features and which stage 3 replaces. It is found by its "
        "effect on the logits, so that auxiliary heads are not mistaken for it", "found")
    cache_dir: Path | None = key(
        None, "folder where checksums of the files and the scan of the labels are kept; the "
        "environment variable `PADDLE_CSRL_CACHE` gives another default", "`.cache/paddle_csrl`")


class TestConfig(Section):
    """``test_config``: what PaddleSeg's inference takes for granted is checked here."""

    __test__ = False  # no test of pytest

    aug_eval: bool = key(
        False, "test-time augmentation: average over scales and flips when scores are taken and "
        "images predicted")
    scales: Annotated[Scale | Annotated[Sequence[Scale], Field(min_length=1)],
                      wanted("numbers from 0.1 to 10")] = key(
        1.0, "factors of the image's size to average over, 0.1 to 10, one or a list")
    flip_horizontal: bool = key(False, "average over the mirrored image, too")
    flip_vertical: bool = key(False, "average over the image upside down, too")
    is_slide: bool = key(False, "sliding windows")
    crop_size: Size | None = key(
        None, "width and height of the windows in pixels; needed with `is_slide`")
    stride: Size | None = key(None, "step of the windows in pixels, as `crop_size`")

    @pydantic.model_validator(mode="after")
    def _check_windows(self) -> "TestConfig":
        if not self.is_slide:
            return self
        if not self.crop_size or not self.stride:
            name = "stride" if self.crop_size else "crop_size"
            raise UserError(f"--is_slide needs `test_config.{name}`; give --{name} W H")
        if any(step > side for step, side in zip(self.stride, self.crop_size)):
            raise UserError(f"`test_config.stride: {self.stride}` must not be larger than "
                            f"`crop_size: {self.crop_size}`, or pixels are left out")
        return self


class DataSet(Keys):
    """A data set: what PaddleSeg's have in common, beside arguments of its own."""

    model_config = ConfigDict(extra="allow")

    dataset_root: Path | None = None
    train_path: Path | None = None
    val_path: Path | None = None
    test_path: Path | None = None
    separator: Annotated[str, Field(min_length=1), wanted("text")] | None = None
    num_classes: Count | None = None
    img_channels: Count = 3
    ignore_index: int = key(None, "label of pixels without a class")
    transforms: list[Component] = []


class Settings(Section):
    """The keys of a config: the top level and, behind ``section``, those of the stages."""

    iters: Count = key(..., "iterations of stage 1: one batch, one update each")
    batch_size: Count = key(..., "images per iteration and device")
    train_dataset: DataSet = key(
        ..., "any data set of PaddleSeg, with its `transforms`; it is put into a "
        "`ZeroShotDataset`, which may also be written out (`type: ZeroShotDataset` with a nested "
        "`dataset`)")
    val_dataset: DataSet = key(..., "as `train_dataset`")
    model: Component = key(
        ..., "any segmentor with a last 1×1 convolution; `pretrained` is the path or address of "
        "weights")
    optimizer: Component = key(
        ..., "`type` is Adam, SGD and so on; `weight_decay`, `grad_clip_cfg` and other arguments")
    lr_scheduler: Component = key(
        ..., "`type` is a class of `paddle.optimizer.lr`; `learning_rate`, `end_lr`, `power`; "
        "`warmup_iters` (iterations) with `warmup_start_lr`")
    loss: Loss = key(..., "`types`, a list of losses, and `coef`, their weights")
    zero_shot: ZeroShot
    test_config: Annotated[TestConfig, MAY_BE_NULL] = TestConfig()
    to_static_training: bool = key(
        False, "stage 1, and no other, as a static graph, as in PaddleSeg")
    save_dir: Path | None = key(None, "folder of all results", "`output/NAME`")
    seed: Whole = key(0, "0 to 4294967295, of every stage; a stage's own `seed` overrides it")
    do_eval: bool = key(
        True, "evaluate during training: picks the best stage-1 checkpoint by seen classes alone, "
        "and records GZS3 scores over time in stage 3")
    use_vdl: bool = key(True, "record curves and pictures for VisualDL")
    save_interval: Count = key(1000, "iterations between checkpoints (and evaluations)")
    log_iters: Count = key(10, "iterations between lines of the log")
    keep_checkpoint_max: Whole = key(3, "checkpoints kept per stage")
    num_workers: Annotated[int, Field(ge=0, le=1024)] = key(
        0, "processes that read and transform images; 0: the one that trains")
    segmentor_weights: Path | None = key(
        None, "a `.pdparams` or `.safetensors` file that fits `model` and takes the place of stage "
        "1: nothing is trained, the file becomes the stage's result and its checksum is kept in "
        "`stage.json`. What it was trained with cannot be told from it ([what the backbone already "
        "knew](#what-the-backbone-already-knew))")
    precision: Literal["fp32", "fp16"] = key(
        "fp32", "`fp16`: automatic mixed precision for training the segmentor, taking its features "
        "and evaluating it; stages 2 and 3 and all checkpoints are float32. A CPU has no fp16 and "
        "computes as with fp32")
    amp_level: Literal["O1", "O2"] = key(
        "O1", "level of mixed precision, as in PaddleSeg, with `fp16`")

    _sections: dict[str, Section] = PrivateAttr(default_factory=dict)

    def check(self, settings: "Settings") -> None:
        """Insist on cosines where a loss takes cosines."""
        losses = [item.get("type") for item in self.loss["types"] if isinstance(item, dict)]
        projection = self.section("projection")
        if "CosineRegressionLoss" in losses and (
                projection is None or projection.similarity != "cosine"):
            raise UserError("`loss` names CosineRegressionLoss, which takes cosines; set "
                            "`projection.similarity: cosine` or name another loss")

    def add(self, section: Section) -> None:
        """Add the section of a stage."""
        self._sections[section.name] = section

    def complete_sections(self) -> list[Section]:
        """The sections that no other one replaces."""
        replaced = {name for section in self._sections.values() for name in section.replaces}
        return [section for name, section in self._sections.items() if name not in replaced]

    def section(self, name: str) -> Any:
        """The typed section of a stage, an instance of ``SECTIONS[name]``; None without one."""
        return self._sections.get(name)


def help_line(kind: type[Section], name: str) -> str:
    """Return the meaning of a key and its default, as plain text."""
    field = kind.model_fields[name]
    default = shown_default(field)
    told = "" if default in ("false", "null") else f" (default: {default})"
    return f"{field.description}{told}".replace("`", "")


def shown_default(field: FieldInfo) -> str:
    """Return the default of a key as the documents show it, in Markdown."""
    extra = field.json_schema_extra
    shown = extra.get("shown") if isinstance(extra, dict) else None
    return str(shown or ("–" if field.is_required() else shown_value(field.default)))


def shown_value(value: Any) -> str:
    """Return a value as YAML has it, in Markdown."""
    if isinstance(value, str):
        return f"`{value}`"
    return "null" if value is None else str(value).lower()
