"""Reading configs."""

from paddle_csrl.config.load import *  # noqa: F401,F403
