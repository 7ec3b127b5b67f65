"""What ``fuzz.py`` breaks and who then reads it.

A target writes a whole situation, one file of it broken, into a fresh folder, and gives the call
that reads it. ``tests/helpers`` makes the valid files.
"""

import functools
import gzip
import io
import json
import os
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import paddle
import yaml
from paddleseg.datasets import Dataset
from PIL import Image

from fuzz_edits import edit_array, edit_bytes, edit_text, edit_tree, with_right_checksums
from helpers import fabricated_archives as archives
from helpers.tiny_config import tiny_content
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import ZeroShotDataset
from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.datasets.label_scan import scan_labels
from paddle_csrl.datasets.sources import require_data
from paddle_csrl.embeddings import load_class_embeddings, read_vectors
from paddle_csrl.models import MLPGenerator
from paddle_csrl.preparation.context import prepare_context
from paddle_csrl.preparation.voc import prepare_voc
from paddle_csrl.utils.weights import load_state, load_weights

Reader = Callable[[], Any]
#: Writes a broken situation into a folder and gives what is to read it.
Target = Callable[[str, Random], Reader]

NAMES = ("background", "cat", "dog", "cow", "car")


def write(folder: str, name: str, content: bytes) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


# Images and labels.

@functools.cache
def _pictures() -> dict[str, bytes]:
    """A photograph and labels of it in many guises, by what they are called."""
    label = np.zeros((24, 32), np.uint8)
    label[4:12, 3:20], label[14:20, 8:30], label[0] = 1, 3, 255
    photograph = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "image.jpg": (Image.fromarray(photograph), {}),
        "image_turned.jpg": (Image.fromarray(photograph), {"exif": turned}),
        "image.png": (Image.fromarray(photograph), {}),
        "label_grey.png": (Image.fromarray(label), {}),
        "label_wide.png": (Image.fromarray(label.astype(np.uint16)), {}),
        "label_bits.png": (Image.fromarray(label == 1), {}),
        "label.tif": (Image.fromarray(label), {"compression": "tiff_lzw"}),
        "label.bmp": (Image.fromarray(label), {}),
        "label.gif": (Image.fromarray(label), {}),
    }
    result = {"label.png": archives.encode(label, "PNG"),
              "image_deep.png": archives.encode(photograph, "PNG")}
    for name, (picture, options) in made.items():
        stream = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name[-3:].upper())
        picture.save(stream, kind, **options)
        result[name] = stream.getvalue()
    return result


def _broken_picture(name: str, rng: Random) -> bytes:
    content = _pictures()[name]
    if rng.random() < 0.1:
        return content
    content = edit_bytes(content, rng)
    return with_right_checksums(content) if rng.random() < 0.7 else content


def labels(folder: str, rng: Random) -> Reader:
    """Images and labels, read by the label scan and by the data set."""
    image = rng.choice([name for name in _pictures() if name.startswith("image")])
    label = rng.choice([name for name in _pictures() if name.startswith("label")])
    both = rng.randrange(3)
    write(folder, f"i/{image}", _broken_picture(image, rng) if both != 1 else _pictures()[image])
    write(folder, f"l/{label}", _broken_picture(label, rng) if both != 0 else _pictures()[label])
    write(folder, "train.txt", f"i/{image} l/{label}\n".encode())
    return functools.partial(_read_samples, folder, list(NAMES))


def _read_samples(folder: str, class_names: Any) -> None:
    cfg = {"type": "Dataset", "dataset_root": folder, "num_classes": 5, "mode": "train",
           "train_path": os.path.join(folder, "train.txt")}
    require_data(cfg)
    dataset = Dataset(transforms=[], **{key: cfg[key] for key in cfg if key != "type"})
    scan_labels(dataset.file_list, 5, cache_dir=os.path.join(folder, "cache"))
    samples = ZeroShotDataset(dataset, ["cow"], "ignore", class_names,
                              cache_dir=os.path.join(folder, "cache"))
    label = samples[0]["label"]
    assert label.dtype == np.int32 and not np.isin(label, samples.unseen_ids).any()


def lists(folder: str, rng: Random) -> Reader:
    """Lists of files and of class names, read as a data set."""
    for name in ("image.jpg", "label.png"):
        write(folder, name, _pictures()[name])
    parts = {"train.txt": "image.jpg label.png\n" * 3, "classes.txt": "\n".join(NAMES) + "\n"}
    broken = rng.choice(list(parts))
    for name, text in parts.items():
        write(folder, name, _broken_text(text, rng) if name == broken else text.encode())
    return functools.partial(_read_samples, folder, os.path.join(folder, "classes.txt"))


def _broken_text(text: str, rng: Random) -> bytes:
    if rng.random() < 0.3:
        return edit_bytes(text.encode(), rng)
    text = edit_text(text, rng)
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16")), "replace")


# Word vectors.

def vectors(folder: str, rng: Random) -> Reader:
    """Word vectors in every format, read whole and for some classes."""
    numbers = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rows = [" ".join([word, *map(repr, map(float, row))]) for word, row in zip(NAMES, numbers)]
    match rng.choice(("text", "header", "binary", "npz", "npy")):
        case "npy":
            stream = io.BytesIO()
            np.save(stream, edit_array(numbers, rng) if rng.random() < 0.5 else numbers)
            content = edit_bytes(stream.getvalue(), rng)
            names = "\n".join(NAMES) + "\n"
            write(folder, "vectors.txt",
                  _broken_text(names, rng) if rng.random() < 0.5 else names.encode())
        case "npz":
            arrays: Any = {"names": np.array(NAMES), "vectors": numbers}
            if rng.random() < 0.7:
                key = rng.choice(list(arrays))
                arrays[key] = edit_array(arrays[key], rng)
            stream = io.BytesIO()
            rng.choice((np.savez, np.savez_compressed))(stream, **arrays)
            content = stream.getvalue()
            content = edit_bytes(content, rng) if rng.random() < 0.5 else content
        case "binary":
            content = b"5 4\n" + b"".join(
                word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(NAMES, numbers))
            content = edit_bytes(content, rng)
        case kind:
            text = "\n".join(["5 4"] * (kind == "header") + rows) + "\n"
            content = _broken_text(text, rng)
    if rng.random() < 0.2:
        content = gzip.compress(content, mtime=0)
        content = edit_bytes(content, rng) if rng.random() < 0.5 else content
    path = write(folder, "vectors", content)

    def read() -> None:
        kept = read_vectors(path, lambda word: True)
        assert all(np.isfinite(word.vector).all() for word in kept.values())
        load_class_embeddings(NAMES[1:3], path)

    return read


# Configs.

def config(folder: str, rng: Random) -> Reader:
    """A config with a base, broken as a tree or as text."""
    content = _tiny_content(folder)
    if rng.random() < 0.6:
        content = edit_tree(content, rng)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if rng.random() < 0.5:
        data = _broken_text(text, rng)
    else:
        data = text.encode("utf-8", "replace")
    write(folder, "base.yml", data)
    path = write(folder, "config.yml", b"_base_: base.yml\nseed: 3\n")
    return functools.partial(ZeroShotConfig, path)


def _tiny_content(folder: str) -> dict[str, Any]:
    return tiny_content(folder)


# Weights.

def weights(folder: str, rng: Random) -> Reader:
    """State dicts as Paddle writes them."""
    model = MLPGenerator(embed_dim=3, feature_dim=4, noise_dim=2, hidden_dim=5)
    state: Any = {key: value.numpy() for key, value in model.state_dict().items()}
    kind = rng.randrange(3)
    if kind != 0:
        state = edit_tree(state, rng)
    path = os.path.join(folder, "model.pdparams")
    if kind == 1 and isinstance(state, dict):
        state = {key: paddle.to_tensor(value) if _fits_tensor(value) else value
                 for key, value in state.items()}
    paddle.save(state if isinstance(state, dict) else {"a": state}, path)
    if kind != 2:
        with open(path, "rb") as file:
            content = file.read()
        write(folder, "model.pdparams", edit_bytes(content, rng))

    def read() -> None:
        load_state(path)
        load_weights(model, path)
        assert all(bool(paddle.isfinite(value).all()) for value in model.state_dict().values())

    return read


def _fits_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf" \
        and value.dtype not in (np.uint16, np.uint32, np.uint64)


# The archives of the real data sets.

def preparation(folder: str, rng: Random) -> Reader:
    """The archives of Pascal VOC, SBD and Pascal-Context, prepared as a whole."""
    root = os.path.join(folder, "root")
    if rng.random() < 0.4:
        files = {"voc": archives.voc_files(), "sbd": archives.sbd_files()}
        call: Any = prepare_voc
    else:
        names = CLASS_NAMES["context"]
        files = {"voc": archives.voc_files("VOC2010", archives.CONTEXT_TRAIN + archives.CONTEXT_VAL,
                                           archives.CONTEXT_TRAIN, archives.CONTEXT_VAL),
                 "labels": archives.context_files(names)}
        call = prepare_context
        if rng.random() < 0.5:
            files["labels"] = {"trainval_merged.json": _broken_json(rng)}
    broken = rng.choice(list(files))
    paths = {}
    for part, content in files.items():
        if part == broken:
            content = _broken_files(content, rng)
        if list(content) == ["trainval_merged.json"]:
            paths[part] = write(folder, "trainval_merged.json", *content.values())
            continue
        kind = rng.choice(("tar", "tar.gz", "zip"))
        pack = archives.write_zip if kind == "zip" else archives.write_tar
        paths[part] = pack(os.path.join(folder, f"{part}.{kind}"), content)
        if part == broken and rng.random() < 0.3:
            with open(paths[part], "rb") as file:
                packed = file.read()
            write(folder, f"{part}.{kind}", edit_bytes(packed, rng))
    return functools.partial(call, **paths, dataset_root=root, checksum=False)


def _broken_json(rng: Random) -> bytes:
    content = json.loads(archives.context_json(CLASS_NAMES["context"]))
    return json.dumps(edit_tree(content, rng)).encode("utf-8", "replace")


def _broken_files(files: archives.Files, rng: Random) -> archives.Files:
    """Files of which one has another name or content, or is missing."""
    name = rng.choice(list(files))
    content = files[name]
    files = dict(files)
    match rng.randrange(4):
        case 0 if len(files) > 1:
            del files[name]
        case 1 if len(files) > 1:
            del files[name]
            hostile = rng.choice(("../", "/", "./", "a/../../", "\\", "C:", " ", "."))
            files[f"{hostile}{name}" if rng.random() < 0.7 else f"{name}{hostile}"] = content
        case _:
            files[name] = edit_bytes(content, rng)
    return files


TARGETS: dict[str, Target] = {"labels": labels, "lists": lists, "vectors": vectors,
                              "config": config, "weights": weights, "archives": preparation}
