from paddle_csrl.utils.io import (
    atomic_path,
    make_folder,
    make_folder_of,
    read_json,
    write_json,
    write_text,
)
from paddle_csrl.utils.progress import progress
