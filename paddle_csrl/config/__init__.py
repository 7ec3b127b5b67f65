"""Reading configs."""

from paddle_csrl.config.load import (
    ZeroShotConfig,
    load_yaml,
    merge,
    parse_opts,
    read_settings,
    set_key,
)
from paddle_csrl.config.schema import AUTO

__all__ = ["AUTO", "ZeroShotConfig", "load_yaml", "merge", "parse_opts",
           "read_settings", "set_key"]
