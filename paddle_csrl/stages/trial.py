"""Losses on trial: their terms on a made-up batch, before any stage is trained."""

import math
from collections.abc import Callable
from typing import Any

import paddle

from paddle_csrl.config.schema import TrainedSection
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.stages.fit import TrainingBuilder, batch_of


def try_stage(model: Any, batches: Any, section: TrainedSection, place: str) -> None:
    """Compute the losses of a stage that ``fit`` trains.

    Args:
        model: untrained.
        batches: as the stage's, of which the first is taken.
        section: of the stage.
        place: stands before messages.

    Raises:
        UserError: a loss or the optimizer does not go with the model.
    """
    builder = try_optimizer(model, section, place)
    data = batch_of(batches, 0)
    try_terms(lambda: model.loss_computation(model(data["img"]), builder.loss, data),
              section.loss, place, "a batch for trial")


def try_optimizer(model: Any, section: Any, place: str = "") -> TrainingBuilder:
    """Make the optimizer of a section, whose groups are told by the names in ``model``.

    Returns:
        what has made it.

    Raises:
        UserError: it does not go with the model; ``place`` stands before messages.
    """
    with paddle.utils.unique_name.guard():
        builder = TrainingBuilder(section, model)
        try:
            builder.optimizer  # noqa: B018  raises where it cannot be built
        except UserError as error:
            raise UserError(f"{place}{error}") from error
    return builder


def try_terms(compute: Callable[[], list[paddle.Tensor]], loss: dict[str, Any], place: str,
              given: str) -> None:
    """Insist that ``compute`` returns one finite number, with a gradient, for each of its terms.

    Args:
        compute: the losses on something.
        loss: their section of the config.
        place: stands before messages.
        given: what they are computed on, for messages.

    Raises:
        UserError: it fails, or a term is not a number.
    """
    names = f"{place}`loss` ({', '.join(item['type'] for item in loss['types'])})"
    try:
        terms = compute()
        paddle.add_n([term.sum() for term in terms]).backward()
    except Exception as error:  # each loss has its own way to refuse what it is not made for
        raise UserError(f"{names} fails on {given} ({one_line(error)}); name another loss "
                        f"or mend its arguments") from error
    for term in terms:
        if term.size != 1:
            raise UserError(f"{names} gives {list(term.shape)} values on {given}, where one number "
                            f"belongs; name another loss")
        if not math.isfinite(term):
            raise UserError(f"{names} is {float(term)} on {given}; name another loss or mend its "
                            f"arguments")
