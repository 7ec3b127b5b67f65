"""Packaging: `pip install .` installs the package with its assets."""

import re

from setuptools import find_packages, setup

PROGRAMS = ("train", "val", "predict", "export", "infer", "tune", "compare", "visualize",
            "add_class", "doctor", "demo", "prepare_voc", "prepare_context", "convert_zs3")


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


setup(
    name="paddle_csrl",
    version=re.search(r'__version__ = "(.+?)"', read("paddle_csrl/__init__.py")).group(1),
    description="Generalized zero-shot semantic segmentation (CSRL) as a PaddleSeg extension",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["paddle_csrl", "paddle_csrl.*"]),
    package_data={"paddle_csrl": ["assets/**/*"]},
    entry_points={"console_scripts": [
        f"csrl-{name.replace('_', '-')} = paddle_csrl.cli.programs:{name}" for name in PROGRAMS]},
    python_requires=">=3.10,<3.13",
    # Paddle itself is left out: the CPU and the GPU build have different names.
    install_requires=["paddleseg==2.8.0", "Jinja2>=3.1", "numpy>=1.24,<2", "opencv-python",
                      "Pillow>=10.1", "PyYAML>=6.0.1", "scipy>=1.10", "tqdm", "visualdl>=2.5.3"],
    extras_require={
        # tools/convert_zs3.py
        "convert": ["torch>=2.6"],
        # tools/demo.py; VisualDL brings Flask along, so that nothing more is installed
        "demo": ["Flask>=2.3"],
        # tools/export.py --format onnx; each paddle2onnx fits one major version of Paddle
        "onnx": ["paddle2onnx==2.1.0", "onnxruntime>=1.19,<2"],
        "onnx-paddle26": ["paddle2onnx==1.3.1", "onnxruntime>=1.19,<2"],
    },
)
