"""COCO's run-length encoding of masks."""

from typing import Any

import numpy as np

from paddle_csrl.errors import UserError


def decode_mask(encoded: dict[str, Any], place: str) -> np.ndarray:
    """The mask of ``{"size": [H, W], "counts": ...}``.

    ``counts`` are the lengths of runs of zeros and ones in turn, down the columns: a list, or
    text. In text every number is the difference to the one two places before it (from the fourth
    on), in groups of five bits, the lowest first; a character is 48 + the group, + 32 where more
    groups follow, and the highest bit of the last group is the sign.

    Args:
        encoded (dict): the mask.
        place (str): where it stands, for messages.

    Returns:
        bool [H, W].

    Raises:
        UserError: the runs do not fill the mask.
    """
    try:
        height, width = map(int, encoded["size"])
        counts = encoded["counts"]
        runs = _read_text(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{place} holds no run-length encoded mask; get it again") from None
    if (runs < 0).any() or runs.sum() != height * width:
        raise UserError(f"{place}: the mask's runs make {runs.sum()} pixels, not {height} x "
                        f"{width}; get it again")
    values = np.arange(len(runs)) % 2 == 1
    return values.repeat(runs).reshape(width, height).T


def _read_text(text: str) -> np.ndarray:
    """int64 run lengths of COCO's text form."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if (codes < 0).any() or (codes > 63).any() or not len(codes) or codes[-1] & 32:
        raise ValueError
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise ValueError
    shift = 5 * (np.arange(len(codes)) - starts.repeat(lengths))
    numbers = np.add.reduceat((codes & 31) << shift, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
