"""Reading configs."""

from paddle_csrl.config.load import (
    StageConfig,
    ZeroShotConfig,
    load_yaml,
    merge,
    parse_opts,
    read_settings,
    set_key,
)
from paddle_csrl.config.schema import AUTO

#: To go once ``stages.calibration`` reads typed sections.
DEFAULT_SEEN_COST = 0.1

__all__ = ["AUTO", "StageConfig", "ZeroShotConfig", "load_yaml", "merge", "parse_opts",
           "read_settings", "set_key"]
