"""Reading configs."""

from paddle_csrl.config.load import ZeroShotConfig, load_yaml, merge, read_settings, set_key
from paddle_csrl.config.schema import AUTO
