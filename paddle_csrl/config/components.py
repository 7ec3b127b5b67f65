"""Components in a config: whether there is one of that name, and whether it can be made so."""

import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle.optimizer import lr
from paddleseg.cvlibs import SegBuilder, manager

from paddle_csrl.config.wording import join, unknown_key
from paddle_csrl.errors import UserError

_REGISTRIES = (manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS,
               manager.LOSSES, manager.OPTIMIZERS)


def build(content: dict[str, Any]) -> Any:
    """Make a component as PaddleSeg does.

    Raises:
        UserError: it cannot be made; a mistake that a user can mend surfaces as it was raised.
    """
    try:
        return SegBuilder(None).build_component(content)
    except RuntimeError as error:
        raise _user_error_behind(error) or UserError(
            f"could not make {content.get('type')}: "
            f"{' '.join(str(error.__context__ or error).split())}") from error


def _user_error_behind(error: BaseException | None) -> UserError | None:
    """The ``UserError`` that led to ``error``, if one did."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


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
            return build({**content, **more})
        except UserError as error:
            raise UserError(f"`{dotted}`: {error}") from None


def try_losses(loss: dict[str, Any], dotted: str) -> None:
    """As ``try_out``, for every loss of a section ``loss``."""
    for number, content in enumerate(loss["types"]):
        try_out(content, f"{dotted}.types[{number}]")


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
    if isinstance(value, dict):
        if dotted.rsplit(".", 1)[-1] == "lr_scheduler":
            _check_scheduler(value, dotted, place)
        elif "type" in value:
            _check_component(value, dotted, place)
        for key, item in value.items():
            check_components(item, place, join(dotted, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_components(item, place, f"{dotted}[{index}]")
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
    known = {key: component for registry in reversed(_REGISTRIES)
             for key, component in registry.components_dict.items()}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{place}: `{dotted}.type: {name}` is no registered component{hint}")
    target = known[name].__init__ if inspect.isclass(known[name]) else known[name]
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    _check_arguments(content, {parameter.name for parameter in parameters}, dotted, place)


def _check_scheduler(content: dict[str, Any], dotted: str, place: str) -> None:
    """A schedule is a class of ``paddle.optimizer.lr``, with PaddleSeg's warm-up around it."""
    name, known = content.get("type"), lr.__all__
    if name not in known:
        nearest = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
        raise UserError(f"{place}: `{dotted}.type: {name}` is no schedule; {hint}")
    parameters = set(inspect.signature(getattr(lr, name).__init__).parameters)
    _check_arguments(content, parameters | {"warmup_iters", "warmup_start_lr"}, dotted, place)


def _check_arguments(content: dict[str, Any], known: set[str], dotted: str, place: str) -> None:
    for key in content:
        if key not in (known - {"self"}) | {"type", "_inherited_"}:
            raise unknown_key(key, known - {"self"}, dotted, place)


def _component_name(content: dict[str, Any]) -> str:
    """The component that PaddleSeg makes of ``type``, which for optimizers has older spellings."""
    name = str(content["type"])
    name = {"adam": "Adam", "sgd": "SGD"}.get(name, name)
    return "Momentum" if name == "SGD" and "momentum" in content else name
