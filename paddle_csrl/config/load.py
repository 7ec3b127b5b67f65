"""Reading a CSRL config: a stock PaddleSeg segmentor config plus three sections.

The top-level keys are stage 1, as PaddleSeg reads them. ``zero_shot`` names the unseen classes
and their embeddings; ``generator`` and ``classifier`` hold stages 2 and 3 under PaddleSeg's own
key names (``iters``, ``optimizer``, ``loss`` ...). With ``projection``, stage 1 learns a
projection onto the embeddings and there is nothing to generate. ``docs/configs.md`` lists every
key.
"""

import ast
import copy
import difflib
import inspect
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from paddle.optimizer import lr
from paddleseg.cvlibs import Config, manager
from paddleseg.cvlibs.config_checker import DefaultLossRule

from paddle_csrl.errors import UserError
from paddle_csrl.models.projection_segmentor import SIMILARITIES

_TRAINING_KEYS = {"iters", "batch_size", "optimizer", "lr_scheduler", "loss", "model", "seed"}

#: The keys a config may hold, by section; "" is the top level.
KNOWN_KEYS = {
    "": _TRAINING_KEYS | {
        "train_dataset", "val_dataset", "test_config", "to_static_training",
        "zero_shot", "projection", "generator", "classifier", "self_training",
        "save_dir", "save_interval", "log_iters", "num_workers", "keep_checkpoint_max",
        "do_eval", "use_vdl", "precision", "amp_level", "segmentor_weights",
    },
    "zero_shot": {"unseen", "policy", "class_names", "label_names", "embeddings", "features",
                  "cache_dir", "classifier_layer"},
    "zero_shot.embeddings": {"path", "normalize", "words"},
    "zero_shot.features": {"samples_per_class", "normalize", "transforms", "dtype"},
    "projection": {"similarity"},
    "generator": _TRAINING_KEYS - {"batch_size"} | {
        "num_samples", "relation", "relation_warmup", "unseen_prototypes", "outside_hull",
        "save_interval", "log_iters"},
    "classifier": _TRAINING_KEYS - {"model"} | {
        "mode", "unseen_share", "class_balance", "num_generated", "calibration", "seen_cost",
        "save_interval", "log_iters"},
    "self_training": {"share", "rounds", "pseudo_share", "samples_per_class", "seed",
                      "save_interval", "log_iters"},
    "test_config": {"aug_eval", "scales", "flip_horizontal", "flip_vertical", "is_slide",
                    "stride", "crop_size"},
}

_REQUIRED_KEYS = {
    "": ("train_dataset", "val_dataset", "model", "loss", "optimizer", "lr_scheduler",
         "iters", "batch_size", "zero_shot", "generator", "classifier"),
    "zero_shot": ("unseen",),
    "projection": ("similarity",),
    "generator": ("model", "loss", "optimizer", "lr_scheduler", "iters", "num_samples"),
    "classifier": ("loss", "optimizer", "lr_scheduler", "iters", "batch_size"),
}

#: Least value of the keys that hold whole numbers, in whatever section.
_LEAST = {"iters": 1, "batch_size": 1, "save_interval": 1, "log_iters": 1, "num_samples": 1,
          "num_generated": 1, "samples_per_class": 1, "rounds": 1, "relation_warmup": 0,
          "num_workers": 0, "keep_checkpoint_max": 0, "seed": 0}
#: Largest whole number: that of NumPy's seeds.
_MOST = 2 ** 32 - 1

#: Keys that are true or false, that name one of a few things, and that hold a path or null.
_SWITCHES = {"do_eval", "use_vdl", "to_static_training", "normalize", "aug_eval",
             "flip_horizontal", "flip_vertical", "is_slide"}
_CHOICES = {"precision": ("fp32", "fp16"), "amp_level": ("O1", "O2")}
_PATHS = {"save_dir", "cache_dir", "path"}

CLASSIFIER_MODES = ("clean", "legacy")

#: In place of a number, of ``classifier.calibration``: whatever costs ``classifier.seen_cost``.
AUTO = "auto"
DEFAULT_SEEN_COST = 0.1

_COMPONENT_KEYS = ("train_dataset", "val_dataset", "model", "loss", "optimizer", "lr_scheduler")

_COMPONENTS = (manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS,
               manager.LOSSES, manager.OPTIMIZERS)


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice: YAML's own takes the last one."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` stands twice",
                                               problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def load_yaml(path: str, children: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config with its ``_base_`` files, PaddleSeg's way but with the safe YAML loader.

    Args:
        path (str): the file.
        children (sequence of str): the files that led here by their ``_base_``.

    Raises:
        UserError: a file is missing, is not a ``.yml``, is not well-formed, or is its own base.
    """
    _check_path(path, children)
    if any(os.path.samefile(path, child) for child in children):
        raise UserError(f"{path} is its own `_base_`, by way of {children[-1]}")
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not well-formed YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no `key: value` pairs")
    bases = content.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: `_base_: {bases}` must name one YAML file or a list of them")
    for base in bases:
        base_path = os.path.join(os.path.dirname(path), base)
        content = merge(content, load_yaml(base_path, (*children, path)))
    return content


def _check_path(path: str, children: Sequence[str] = ()) -> None:
    if not os.path.isfile(path):
        hint = (f"the `_base_` of {children[-1]}" if children
                else "give a YAML file that is there; the project's own are in the folder "
                     "configs/ of its repository")
        raise UserError(f"no config at {path}; {hint}")
    if not path.endswith((".yml", ".yaml")):
        raise UserError(f"config {path} must end in .yml or .yaml")


def merge(content: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``content``, section by section unless ``_inherited_: false``."""
    if not content.get("_inherited_", True):
        return {key: value for key, value in content.items() if key != "_inherited_"}
    merged = dict(base)
    for key, value in content.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(value, base[key]) if both else value
    return merged


class ZeroShotConfig(Config):
    """A PaddleSeg ``Config`` with the sections ``zero_shot``, ``generator`` and ``classifier``.

    Args:
        path (str): the YAML file.
        opts (list[str] | dict, optional): ``key.subkey=value`` overrides, as PaddleSeg's
            ``--opts``, or dotted key to value.
        includes (sequence of str): YAML files merged over the file, the last one strongest.
        overrides (dict, optional): dotted key to value, applied last (command-line flags).
            A value of ``None`` leaves the key as it is.

    Attributes:
        given (dict): all of the above in one. PaddleSeg's builder adds to ``dic`` as it builds;
            a file with those additions would not be the config that a run was made from.

    Raises:
        UserError: a missing, misspelt or ill-typed key, naming it and the nearest known one.
    """

    def __init__(self, path: str, opts: Iterable[str] | Mapping[str, Any] | None = None,
                 overrides: dict[str, Any] | None = None, includes: Sequence[str] = ()):
        self.path, self.includes = path, includes
        self._settings = {**(opts if isinstance(opts, Mapping) else parse_opts(opts or [])),
                          **{key: value for key, value in (overrides or {}).items()
                             if value is not None}}
        _check_path(path)
        try:
            super().__init__(path)
        except (AssertionError, RuntimeError) as error:
            cause = error.__cause__ or error.__context__ or error
            raise UserError(f"{path}: {' '.join(str(cause).split())}") from None
        self.given = copy.deepcopy(self.dic)

    @classmethod
    def _parse_from_yaml(cls, path: str, *args, **kwargs) -> dict[str, Any]:
        return load_yaml(path)

    def update_config_dict(self, dic: dict, *args, **kwargs) -> dict:
        """Apply ``opts`` and the overrides, then check every key."""
        for include in self.includes:
            dic = merge(load_yaml(include), dic)
        dic = _unshared(dic)
        for dotted, value in self._settings.items():
            set_key(dic, dotted, _unshared(value))
        _unwrap_zero_shot_datasets(dic)
        check_keys(dic, self.path)
        return dic

    @property
    def test_config(self) -> dict[str, Any]:
        return dict(self.dic.get("test_config") or {})

    @property
    def zero_shot(self) -> dict[str, Any]:
        return self.dic["zero_shot"]

    @property
    def segmentor_weights(self) -> str | None:
        """The trained segmentor that takes the place of stage 1, if any."""
        return self.dic.get("segmentor_weights")

    @property
    def projection(self) -> dict[str, Any] | None:
        """The section of SPNet and SegDeViSE, if the config has one."""
        return self.dic.get("projection")

    @property
    def leaks(self) -> str | None:
        """How labels of unseen classes get into training, where the config lets them."""
        if (self.dic.get("classifier") or {}).get("mode", "clean") == "clean":
            return None
        return ("`classifier.mode: legacy` lays features out by the real labels of the training "
                "images with unseen classes, so that these scores are not zero-shot")

    @property
    def transductive(self) -> bool:
        """Whether images of unseen classes take part without their labels."""
        return self.dic.get("self_training") is not None

    @property
    def remark(self) -> str:
        """What has to stand beside the scores of such a config; mostly nothing."""
        return ", ".join(["LEAKS labels of unseen classes"] * bool(self.leaks)
                         + ["transductive"] * self.transductive)

    @property
    def save_dir(self) -> str:
        stem = os.path.splitext(os.path.basename(self.path))[0]
        return self.dic.get("save_dir") or os.path.join("output", stem)

    @property
    def seed(self) -> int:
        return self.dic.get("seed", 0)

    def option(self, key: str, default: Any, stage: str = "") -> Any:
        """A run option such as ``log_iters``: the stage's own value, else the top level's."""
        return (self.dic.get(stage) or {}).get(key, self.dic.get(key, default))


class StageConfig(Config):
    """A PaddleSeg ``Config`` made from one section, for the stages that have no file of their own.

    Args:
        section (dict): the section ``generator`` or ``classifier``.
    """

    def __init__(self, section: dict[str, Any]):
        # PaddleSeg's builder asks for the type of the data set; `Dataset` is the one for which
        # it infers nothing.
        self.dic = {**copy.deepcopy(section), "train_dataset": {"type": "Dataset"}}
        DefaultLossRule("loss").check_and_correct(self)


def parse_opts(items: Iterable[str]) -> dict[str, Any]:
    """Dotted key to value of ``key=value`` texts, as ``--opts`` takes them."""
    return dict(map(_parse_opt, items))


def _parse_opt(item: str) -> tuple:
    """Dotted key and value of ``key=value``: a Python literal, true, false, null, or text."""
    key, _, text = item.partition("=")
    if item.count("=") != 1:
        raise UserError(f"--opts {item}: write key=value, such as zero_shot.policy=ignore")
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return key, words[text.lower()]
    try:
        return key, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return key, text


def _unshared(value: Any) -> Any:
    """A deep copy without shared parts, for a YAML anchor makes one object of many places."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def set_key(dic: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key, making the sections on its way that are missing or empty.

    A number is a place in a list, as in ``generator.loss.types.1.gamma``.

    Raises:
        UserError: the way leads through what is neither pairs nor a list, or past a list's end.
    """
    content, name = dic, ""
    *parents, last = dotted.split(".")
    for parent in parents:
        if isinstance(content, dict) and content.get(parent) is None:
            content[parent] = {}
        content, name = content[_place(content, parent, name, dotted, value)], parent
    content[_place(content, last, name, dotted, value)] = value


def _place(content: Any, key: str, name: str, dotted: str, value: Any) -> Any:
    """``key`` as ``content``, the value of ``name``, wants it: text, or a place in a list."""
    if isinstance(content, list) and key.isdecimal() and int(key) < len(content):
        return int(key)
    if not isinstance(content, dict):
        raise UserError(f"`{dotted}: {value}` cannot be set, for `{name}` holds {content!r}, "
                        f"not `key: value` pairs")
    return key


def check_keys(dic: dict[str, Any], place: str) -> None:
    """Check section keys against ``KNOWN_KEYS`` and component arguments against signatures.

    Raises:
        UserError: naming the key, where it stands and the nearest known key.
    """
    required = _required_keys(dic)
    for section, known in KNOWN_KEYS.items():
        content = _section(dic, section)
        if content is None and section not in required:
            continue
        _check_pairs(content, section, place)
        for key, value in content.items():
            _check_known(key, known, section, place)
            if key in _COMPONENT_KEYS:
                _check_pairs(value, _join(section, key), place)
            if key in _LEAST:
                _check_integer(value, _LEAST[key], _join(section, key), place)
            _check_simple(key, value, _join(section, key), place)
            if key == "loss":
                _check_loss(value, _join(section, key), place)
        for key in required.get(section, ()):
            if key not in content:
                raise UserError(f"{place}: `{_join(section, key)}` is missing; set it or inherit "
                                f"it from a file under configs/_base_/")
    _check_values(dic, "", place)
    _check_test_config(dic.get("test_config") or {}, place)
    weights = dic.get("segmentor_weights")
    if weights is not None and not isinstance(weights, str):
        raise UserError(f"{place}: `segmentor_weights: {weights}` must be the path of a .pdparams "
                        f"file, or null to train stage 1")
    _check_projection(dic, place)
    outside = (dic.get("generator") or {}).get("outside_hull", 0.0)
    if not _is_number(outside) or not 0 <= outside <= 1:
        raise UserError(f"{place}: `generator.outside_hull: {outside}` must be a number from 0 to "
                        f"1")
    _check_classifier(dic, place)
    _check_self_training(dic.get("self_training") or {}, place)


def _check_classifier(dic: dict[str, Any], place: str) -> None:
    content = dic.get("classifier") or {}
    calibration, mode = content.get("calibration", 0.0), content.get("mode", "clean")
    if calibration != AUTO and not _is_number(calibration):
        raise UserError(f"{place}: `classifier.calibration: {calibration}` must be a number or "
                        f"auto")
    cost = content.get("seen_cost", DEFAULT_SEEN_COST)
    if not _is_number(cost) or not 0 < cost < 1:
        raise UserError(f"{place}: `classifier.seen_cost: {cost}` must be a number between 0 and 1")
    if calibration == AUTO and dic.get("projection") is not None:
        raise UserError(f"{place}: `classifier.calibration: auto` needs features of seen classes, "
                        f"which a `projection` does not keep; give a number")
    if mode not in CLASSIFIER_MODES:
        raise UserError(f"{place}: `classifier.mode: {mode}` must be one of "
                        f"{', '.join(CLASSIFIER_MODES)}")
    if mode != "clean" and dic.get("projection") is not None:
        raise UserError(f"{place}: `classifier.mode: {mode}` is a way to generate features, which "
                        f"a `projection` does not; leave one of the two out")


def _check_self_training(content: dict[str, Any], place: str) -> None:
    for key in ("share", "pseudo_share"):
        value = content.get(key, 1.0)
        if not _is_number(value) or not 0 < value <= 1:
            raise UserError(f"{place}: `self_training.{key}: {value}` must be a number above 0 "
                            f"and up to 1")


def _required_keys(dic: dict[str, Any]) -> dict[str, Sequence[str]]:
    """The keys that must be there: a projection takes the place of stages 2 and 3."""
    replaced = ("projection",) if dic.get("projection") is None else ("generator", "classifier")
    return {section: [key for key in keys if key not in replaced]
            for section, keys in _REQUIRED_KEYS.items() if section not in replaced}


def _check_projection(dic: dict[str, Any], place: str) -> None:
    """A known similarity, and cosines where the loss takes cosines."""
    similarity = (dic.get("projection") or {}).get("similarity")
    if dic.get("projection") is not None and similarity not in list(SIMILARITIES):
        raise UserError(f"{place}: `projection.similarity: {similarity}` must be one of "
                        f"{', '.join(SIMILARITIES)}")
    if dic.get("projection") is not None and dic.get("segmentor_weights"):
        raise UserError(f"{place}: `segmentor_weights` stands for a trained stage 1, but a "
                        f"`projection` has to be trained; to start from these weights set "
                        f"`model.pretrained: {dic['segmentor_weights']}`")
    if dic.get("projection") is not None and dic.get("self_training") is not None:
        raise UserError(f"{place}: `self_training` trains the layer of stage 3, which a "
                        f"`projection` has none of; leave one of the two out")
    losses = [item.get("type") for item in dic["loss"]["types"] if isinstance(item, dict)]
    if "CosineRegressionLoss" in losses and similarity != "cosine":
        raise UserError(f"{place}: `loss` names CosineRegressionLoss, which takes cosines; set "
                        f"`projection.similarity: cosine` or name another loss")


def _check_test_config(content: dict[str, Any], place: str) -> None:
    """What PaddleSeg's inference takes for granted: windows and scales above 0."""
    for key in ("crop_size", "stride"):
        value = content.get(key)
        if value is None and content.get("is_slide"):
            raise UserError(f"{place}: --is_slide needs `test_config.{key}`; give --{key} W H")
        if value is not None and not (
                isinstance(value, (list, tuple)) and len(value) == 2
                and all(isinstance(side, int) and side > 0 for side in value)):
            raise UserError(f"{place}: `test_config.{key}: {value}` must be two whole numbers "
                            f"above 0, width and height")
    if content.get("is_slide") and any(step > side for step, side in zip(content["stride"],
                                                                         content["crop_size"])):
        raise UserError(f"{place}: `test_config.stride: {content['stride']}` must not be larger "
                        f"than `crop_size: {content['crop_size']}`, or pixels are left out")
    scales = content.get("scales", 1.0)
    for scale in scales if isinstance(scales, (list, tuple)) else [scales]:
        if not _is_number(scale) or scale <= 0:
            raise UserError(f"{place}: `test_config.scales: {scales}` must be numbers above 0")


def _section(dic: dict[str, Any], dotted: str) -> Any:
    for key in dotted.split(".") if dotted else ():
        dic = dic.get(key) if isinstance(dic, dict) else None
    return dic


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section else str(key)


def _check_known(key: str, known: Iterable[str], section: str, place: str) -> None:
    if key in known:
        return
    nearest = difflib.get_close_matches(str(key), list(known), n=1)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(sorted(known))}"
    raise UserError(f"{place}: unknown key `{_join(section, key)}`; {hint}")


def _check_pairs(content: Any, dotted: str, place: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{place}: `{dotted}` must hold `key: value` pairs, got {content!r}")


def _check_integer(value: Any, least: int, dotted: str, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{place}: `{dotted}: {value}` must be an integer of at least {least}")
    if value > _MOST:
        raise UserError(f"{place}: `{dotted}: {value}` must be no more than {_MOST}")


def _check_simple(key: str, value: Any, dotted: str, place: str) -> None:
    """The values of keys that mean the same wherever they stand."""
    if key in _SWITCHES and not isinstance(value, bool):
        raise UserError(f"{place}: `{dotted}: {value}` must be true or false")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"{place}: `{dotted}: {value}` must be {' or '.join(_CHOICES[key])}")
    if key in _PATHS and not isinstance(value, (str, type(None))):
        raise UserError(f"{place}: `{dotted}: {value}` must be a path, in quotes where it "
                        f"looks like a number")


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and math.isfinite(value))


def _check_loss(content: dict[str, Any], dotted: str, place: str) -> None:
    types, coef = content.get("types"), content.get("coef")
    if not (isinstance(types, list) and isinstance(coef, list) and types
            and len(types) in (1, len(coef))):
        raise UserError(f"{place}: `{dotted}` must hold two lists of one length, `types` and "
                        f"`coef`, got {types} and {coef}")
    if not all(map(_is_number, coef)):
        raise UserError(f"{place}: `{dotted}.coef: {coef}` must be numbers")


def _check_values(value: Any, dotted: str, place: str) -> None:
    """Walk the config: component arguments must exist, numbers must be numbers."""
    if isinstance(value, dict):
        if dotted.rsplit(".", 1)[-1] == "lr_scheduler":
            _check_scheduler(value, dotted, place)
        elif "type" in value:
            _check_component(value, dotted, place)
        for key, item in value.items():
            _check_values(item, _join(dotted, key), place)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, f"{dotted}[{index}]", place)
    elif isinstance(value, str) and _is_exponent_number(value):
        raise UserError(f"{place}: `{dotted}: {value}` is text to YAML; write a dot, "
                        f"such as 1.0e-4")


def _is_exponent_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower() and any(character.isdigit() for character in text)


def _check_component(content: dict[str, Any], dotted: str, place: str) -> None:
    name = _component_name(content)
    found = [registry[name] for registry in _COMPONENTS if name in registry.components_dict]
    if not found:
        known = [key for registry in _COMPONENTS for key in registry.components_dict]
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{place}: `{dotted}.type: {name}` is no registered component{hint}")
    target = found[0].__init__ if inspect.isclass(found[0]) else found[0]
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {parameter.name for parameter in parameters} - {"self"}
    for key in content:
        if key not in ("type", "_inherited_"):
            _check_known(key, known, dotted, place)


def _check_scheduler(content: dict[str, Any], dotted: str, place: str) -> None:
    """A schedule is a class of ``paddle.optimizer.lr``, with PaddleSeg's warm-up around it."""
    name, known = content.get("type"), lr.__all__
    if name not in known:
        nearest = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
        raise UserError(f"{place}: `{dotted}.type: {name}` is no schedule; {hint}")
    parameters = set(inspect.signature(getattr(lr, name).__init__).parameters) - {"self"}
    for key in content:
        _check_known(key, parameters | {"type", "_inherited_", "warmup_iters",
                                        "warmup_start_lr"}, dotted, place)


def _component_name(content: dict[str, Any]) -> str:
    """The component that PaddleSeg makes of ``type``, which for optimizers has older spellings."""
    name = str(content["type"])
    name = {"adam": "Adam", "sgd": "SGD"}.get(name, name)
    return "Momentum" if name == "SGD" and "momentum" in content else name


def _unwrap_zero_shot_datasets(dic: dict[str, Any]) -> None:
    """Let a config name ``type: ZeroShotDataset`` itself.

    The pipeline wraps the data sets from ``zero_shot``, so that PaddleSeg's own checks see the
    stock data set; a wrapper written out in the config is taken apart into the same form.
    """
    for name in ("train_dataset", "val_dataset"):
        content = dic.get(name)
        if not isinstance(content, dict) or content.get("type") != "ZeroShotDataset":
            continue
        content = dict(content)
        content.pop("type")
        dic[name] = content.pop("dataset", None)
        section = dic.setdefault("zero_shot", {})
        for key, value in content.items():
            if section.setdefault(key, value) != value:
                raise UserError(f"`{name}.{key}: {value}` contradicts "
                                f"`zero_shot.{key}: {section[key]}`; keep one of them")
