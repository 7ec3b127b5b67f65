"""Components in a config: whether there is one of that name, and whether it can be made so."""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import paddle
from paddle.optimizer import lr
from paddleseg.cvlibs import SegBuilder, manager
from paddleseg.utils.utils import CachedProperty

from paddle_csrl.config.wording import join, unknown_key
from paddle_csrl.datasets import trial
from paddle_csrl.errors import UserError, one_line, user_message

#: What components are called, and where they are registered, in the order of PaddleSeg's search.
_REGISTRIES = {"model": manager.MODELS, "backbone": manager.BACKBONES,
               "data set": manager.DATASETS, "transform": manager.TRANSFORMS,
               "loss": manager.LOSSES, "optimizer": manager.OPTIMIZERS}
#: Where nothing but such a component may stand: ends of dotted keys, as regular expressions.
_NOUNS = {"(?<!_)model": "model", "backbone": "backbone", "dataset": "data set",
          r"transforms\[\d+\]": "transform", r"loss\.types\[\d+\]": "loss",
          "optimizer": "optimizer", "lr_scheduler": "schedule"}
#: Any larger step ends in weights that say nothing, though their loss may stay finite.
_MOST_LEARNING_RATE = 1000


class UserErrorBuilder(SegBuilder):
    """PaddleSeg's ``SegBuilder`` whose errors are for users.

    Attributes:
        is_silent (bool): do not show the section of what is made, as PaddleSeg does.
    """

    is_silent = True

    def show_msg(self, *args: Any) -> None:
        if not self.is_silent:
            super().show_msg(*args)

    def build_component(self, cfg: dict[str, Any]) -> Any:
        """Build as PaddleSeg does, but let a mistake a user can mend surface as it was raised."""
        try:
            return super().build_component(cfg)
        except RuntimeError as error:
            raise UserError(user_message(error) or f"could not make {cfg.get('type')}: "
                            f"{one_line(error.__context__ or error)}") from error

    @CachedProperty
    def optimizer(self) -> paddle.optimizer.Optimizer:
        """As PaddleSeg's, but a wrong argument of it or of its schedule is the user's mistake."""
        try:
            return SegBuilder.optimizer.func(self)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
                TypeError, ValueError) as error:
            raise UserError(
                f"could not make `optimizer` with `lr_scheduler`: {one_line(error)}") from error


def once(trial: Callable[..., None]) -> Callable[..., None]:
    """Make a trial that was passed under the same arguments, by their text, no second time.

    Many configs have the same components, and to make one takes longer than to read a config.
    """
    passed: set[str] = set()

    @wraps(trial)
    def made_once(*args: Any) -> None:
        if repr(args) not in passed:
            trial(*args)
            passed.add(repr(args))

    return made_once


def try_out(content: dict[str, Any], dotted: str, **more: Any) -> Any:
    """Make the component at a dotted key on the CPU; Paddle's state stays as it was.

    Args:
        content: its type and arguments.
        dotted: the key, for messages.
        **more: arguments that are not in the config.

    Raises:
        UserError: it cannot be made.
    """
    with _apart():
        try:
            return UserErrorBuilder(None).build_component({**content, **more})
        except UserError as error:
            raise UserError(f"`{dotted}`: {error}") from None


def try_transforms(transforms: list[dict[str, Any]], dotted: str, channels: int) -> None:
    """As ``try_out``, for transforms, which also have to get a small image through."""
    for number, content in enumerate(transforms):
        _try_transform(content, f"{dotted}[{number}]", channels)


@once
def _try_transform(content: dict[str, Any], place: str, channels: int) -> None:
    trial.require_bounded(content, place)
    trial.try_transform(try_out(content, place), place, channels)


def try_losses(loss: dict[str, Any], dotted: str, of_generator: bool = False) -> None:
    """As ``try_out``, for every loss of a section ``loss``.

    Raises:
        UserError: one cannot be made, or is for logits where ``of_generator``, or the reverse.
    """
    for number, content in enumerate(loss["types"]):
        _try_loss(content, f"{dotted}.types[{number}]", of_generator)


@once
def _try_loss(content: dict[str, Any], place: str, of_generator: bool) -> None:
    if hasattr(try_out(content, place), "consumes") != of_generator:
        wrong, right = ("logits", "what the generator makes")[::1 if of_generator else -1]
        raise UserError(f"`{place}`: {content['type']} is a loss on {wrong}; name one on {right}")


@contextmanager
def _apart() -> Iterator[None]:
    """Leave device, random state and names of parameters as they are."""
    device = paddle.get_device()
    paddle.set_device("cpu")
    state = paddle.get_rng_state()
    try:
        with paddle.utils.unique_name.guard():
            yield
    finally:
        paddle.set_rng_state(state)
        paddle.set_device(device)


def check_components(value: Any, place: str, dotted: str = "") -> None:
    """Walk a config: components and their arguments must exist, numbers must be numbers.

    Raises:
        UserError: naming the value, its place and the nearest that there is.
    """
    noun = next((noun for end, noun in _NOUNS.items() if re.search(f"(^|[._]){end}$", dotted)), "")
    if noun or isinstance(value, dict) and "type" in value:
        _check_component(value, noun or "component", dotted, place)
    if re.fullmatch(r"model\.(.+\.)?pretrained", dotted) and not isinstance(value, str | None):
        raise UserError(f"{place}: `{dotted}: {value}` must be a path, an address or a name of "
                        f"weights, in quotes where it looks like a number, or null")
    if isinstance(value, dict):
        for key, item in value.items():
            check_components(item, place, join(dotted, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_components(item, place, f"{dotted}[{index}]")
    elif isinstance(value, str) and "\0" in value:
        raise UserError(f"{place}: `{dotted}: {value}` holds a zero byte; take it out")
    elif isinstance(value, str) and re.match(r"\w+_dataset\.", dotted) and not _is_text(value):
        raise UserError(f"{place}: `{dotted}: {value}` is not UTF-8, at which OpenCV crashes; "
                        f"rename the files")
    elif isinstance(value, str) and _is_exponent_number(value) \
            and not dotted.startswith("zero_shot."):  # where texts are names, and types are known
        raise UserError(f"{place}: `{dotted}: {value}` is text to YAML; write a dot, "
                        f"such as 1.0e-4")
    elif isinstance(value, float) and not math.isfinite(value) \
            and re.search(r"(^|\.)(model|optimizer|lr_scheduler|loss|\w+_dataset)\b", dotted):
        raise UserError(f"{place}: `{dotted}: {value}` must be a finite number")
    elif dotted.endswith("learning_rate") and not (
            type(value) in (int, float) and 0 < value <= _MOST_LEARNING_RATE):
        raise UserError(f"{place}: `{dotted}: {value}` must be a number above 0 and up to "
                        f"{_MOST_LEARNING_RATE}")
    elif dotted.endswith("_lr") and not (
            type(value) in (int, float) and 0 <= value <= _MOST_LEARNING_RATE):
        raise UserError(f"{place}: `{dotted}: {value}` must be a number from 0 to "
                        f"{_MOST_LEARNING_RATE}")


def _is_text(path: str) -> bool:
    """False for a path whose bytes Python could not decode."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def _is_exponent_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower() and any(character.isdigit() for character in text)


def _check_component(content: Any, noun: str, dotted: str, place: str) -> None:
    if not isinstance(content, dict):
        got = "null" if content is None else repr(content)
        raise UserError(f"{place}: `{dotted}` must hold `key: value` pairs, the `type` of the "
                        f"{noun} and its arguments, got {got}")
    if "type" not in content:
        raise UserError(f"{place}: `{dotted}` has no `type`, the name of the {noun}")
    known = _known(noun)
    name = _component_name(content)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{place}: `{dotted}.type: {name}` is no registered {noun}{hint}")
    names = _arguments(known[name])
    if names is None:
        return
    if noun == "schedule":
        names |= {"warmup_iters", "warmup_start_lr"}  # PaddleSeg's
    for key in content:
        if key in names | {"type", "_inherited_"}:
            continue
        if noun == "data set":
            _require_no_key_of_another(key, name, dotted, place)
        raise unknown_key(key, names, dotted, place)


def _arguments(component: Any) -> set[str] | None:
    """The names of a component's arguments; None where it takes any."""
    target = component.__init__ if inspect.isclass(component) else component
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {"self"}


def _require_no_key_of_another(key: str, name: str, dotted: str, place: str) -> None:
    """Say whose key it is that is left where another data set took the place of a config's."""
    for other, component in _known("data set").items():
        if key in (_arguments(component) or ()):
            raise UserError(f"{place}: `{join(dotted, key)}` is of {other}, and the data set is of "
                            f"`type: {name}`; leave it out, or, with --data, take a config such as "
                            f"configs/csrl_custom.yml or configs/compare_custom.yml")


def _known(noun: str) -> dict[str, Any]:
    """All components of a kind by name."""
    if noun == "schedule":
        return {name: getattr(lr, name) for name in lr.__all__}
    registries = [_REGISTRIES[noun]] if noun in _REGISTRIES else reversed(_REGISTRIES.values())
    return {name: component for registry in registries
            for name, component in registry.components_dict.items()}


def _component_name(content: dict[str, Any]) -> str:
    """The component that PaddleSeg makes of ``type``, which for optimizers has older spellings."""
    name = str(content["type"])
    name = {"adam": "Adam", "sgd": "SGD"}.get(name, name)
    return "Momentum" if name == "SGD" and "momentum" in content else name
