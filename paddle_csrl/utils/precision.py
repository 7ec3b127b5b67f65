"""Mixed precision where PaddleSeg's trainer is not the one that switches it on.

Only the segmentor computes in half precision. Stages 2 and 3, whose losses and relations need
float32, train small models from features in memory.
"""

from contextlib import AbstractContextManager

import paddle


def autocast(precision: str, amp_level: str) -> AbstractContextManager:
    """The block in which a segmentor predicts under ``precision`` and ``amp_level``.

    It does nothing with ``fp32``, and on devices for which Paddle has no half precision.
    """
    return paddle.amp.auto_cast(enable=precision == "fp16",
                                level=amp_level,  # type: ignore[arg-type]  # a Literal there
                                custom_black_list={"bilinear_interp_v2"})


def restore_full_precision(model: paddle.nn.Layer) -> None:
    """Turn parameters that ``amp_level`` O2 made half ones into float32, in place."""
    if any(parameter.dtype in (paddle.float16, paddle.bfloat16)
           for parameter in model.parameters()):
        model.to(dtype="float32")
