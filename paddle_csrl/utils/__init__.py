from paddle_csrl.utils.io import atomic_path, read_json, write_json
from paddle_csrl.utils.progress import progress

__all__ = ["atomic_path", "progress", "read_json", "write_json"]
