"""Reading weights from files."""

import os

import paddle

from paddle_csrl.errors import UserError


def load_state(path: str) -> dict:
    """Read a state dict.

    Raises:
        UserError: the file is missing or torn.
    """
    if not os.path.isfile(path):
        raise UserError(f"no weights at {path}")
    try:
        return paddle.load(path)
    except Exception as error:  # Paddle raises many types for a torn file
        raise UserError(f"{path} is not a whole .pdparams or .pdopt file "
                        f"({' '.join(str(error).split())[:200]})") from None
