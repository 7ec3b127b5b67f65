"""COCO's run-length encoding of masks.

The format's own library, pycocotools, hands out memory that it never wrote where the runs end
early, and wraps lengths at 32 bits. To know what it may be given, one has to read all runs, which
is the whole decoding; so it serves the tests alone.
"""

from typing import Any

import numpy as np

from paddle_csrl.errors import UserError

_MOST_BITS = 35  # of a number in text; far above any image, and long ones take long to build


def decode_mask(encoded: dict[str, Any], size: tuple[int, int], place: str) -> np.ndarray:
    """Return the mask of ``{"size": [H, W], "counts": ...}``, bool [H, W].

    ``counts`` are the lengths of runs of zeros and ones in turn, down the columns: a list, or
    text as ``_read_text`` takes it.

    Args:
        encoded (dict): the mask.
        size ((int, int)): H and W of the image, which the mask must have, too.
        place (str): where it stands, for messages.

    Raises:
        UserError: it is no mask, of another size, or its runs do not fill it.
    """
    try:
        own_size, counts = list(encoded["size"]), encoded["counts"]
        runs = _read_text(counts) if isinstance(counts, str) else list(counts)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{place} holds no run-length encoded mask; get it again") from None
    if own_size != list(size):
        raise UserError(f"{place} has a mask of {str(own_size)[:40]} pixels in an image of "
                        f"{list(size)}; get it again")
    # These are Python's integers: NumPy's would wrap, and so would their sum.
    pixels = size[0] * size[1]
    if not all(type(run) is int and 0 <= run <= pixels for run in runs) or sum(runs) != pixels:
        raise UserError(f"{place}: the mask's runs do not make {size[0]} x {size[1]} pixels; get "
                        f"it again")
    values = np.arange(len(runs)) % 2 == 1
    return values.repeat(runs).reshape(size[::-1]).T


def _read_text(text: str) -> list[int]:
    """Return the run lengths of COCO's text form.

    A number is written in groups of five bits, the lowest first, each as the character 48 + the
    group, + 32 where more groups follow; the highest bit of the last group is the sign. From the
    fourth number on it is the difference to the one two places before.
    """
    runs: list[int] = []
    number = bits = 0
    for code in text.encode("ascii"):
        if not 48 <= code < 112 or bits == _MOST_BITS:
            raise ValueError
        group, more = (code - 48) & 31, code >= 80
        number |= group << bits
        bits += 5
        if not more:
            number -= (group >> 4) << bits
            runs.append(number + runs[-2] if len(runs) > 2 else number)
            number = bits = 0
    if bits or not runs:
        raise ValueError
    return runs
