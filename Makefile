# `make demo` and `make test` need Python 3.10-3.12 and nothing else; PYTHON chooses which one.
PYTHON ?= python3
VENV ?= .venv
# How many processes share the tests.
PROCESSES ?= 2
# What `make test` runs, and of that what another release of Paddle can change.
TESTS ?= tests
PADDLE26_TESTS ?= tests/test_compat.py tests/utils tests/models tests/losses tests/metrics tests/bank \
	tests/stages tests/core/test_train.py tests/core/test_extending.py tests/core/test_api.py
# An edit of requirements.txt (for sed), and what is installed beside it (for pip).
EDIT ?=
ALSO ?=

# The demo on photographs of one's own: their folder, and which of its classes are unseen.
DIR ?=
UNSEEN ?= cow,chair
PHOTOS = output/demo_photos

.PHONY: demo demo-photos test lint test-paddle26 test-torch test-browser fuzz mutants benchmarks \
	benchmark-zs3net install install-torch clean

demo: install
	$(VENV)/bin/python tools/train.py -c configs/csrl_shapes.yml

# Without DIR there is nothing to install for.
demo-photos: $(if $(DIR),install)
	$(if $(DIR),,$(error say DIR=FOLDER and UNSEEN=CLASS,CLASS: the folder holds train.txt and \
		val.txt, one `image label` pair a line, and classes.txt, one name a line))
	$(VENV)/bin/python tools/train.py -c configs/csrl_custom.yml --data '$(DIR)' \
		--save_dir $(PHOTOS) --opts 'zero_shot.unseen=$(UNSEEN)'
	$(VENV)/bin/python tools/predict.py --run $(PHOTOS) --image_path '$(DIR)/val.txt' \
		--save_dir $(PHOTOS)/photos
	@echo 'Scores and pictures on one page: $(PHOTOS)/report.html; all validation photographs:' \
		'$(PHOTOS)/photos/pseudo_color_prediction'

test: install
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(PROCESSES) --dist loadfile \
		--no-loadscope-reorder $(TESTS)

lint: $(VENV)/linters
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# On Paddle 2.6.2, the newest with a GPU build on PyPI; PADDLE26_TESTS=tests runs all.
test-paddle26:
	$(MAKE) test VENV=.venv-paddle26 TESTS='$(PADDLE26_TESTS)' \
		EDIT='s/^paddlepaddle==.*/paddlepaddle==2.6.2/; s/^paddle2onnx==.*/paddle2onnx==1.3.1/'

# tools/convert_zs3.py against PyTorch itself, which the other tests do without, and the loop that
# `make benchmark-zs3net` times.
test-torch: install-torch
	.venv-torch/bin/python -m pytest -m torch

# PyPI's wheel for Linux brings CUDA along (gigabytes); PIP_EXTRA_INDEX_URL can name PyTorch's index
# of CPU builds.
install-torch:
	$(MAKE) install VENV=.venv-torch ALSO=torch==2.13.0

# The pages of tools/demo.py and report.html in a headless Chromium.
test-browser:
	$(MAKE) install VENV=.venv-browser ALSO='-e .[browser]'
	.venv-browser/bin/python -m pytest -m browser

# Broken files for every reader, for as many seconds each.
FUZZ_SECONDS ?= 120
fuzz: install
	$(VENV)/bin/python scripts/fuzz.py --seconds $(FUZZ_SECONDS)

# Whether the tests notice a change of the losses, the evaluator and what keeps labels apart.
mutants: install
	OMP_NUM_THREADS=1 $(VENV)/bin/python scripts/mutants.py --jobs $(PROCESSES)

# All of them, also after one that misses its target.
benchmarks: install
	missed=; for script in benchmarks/[a-z]*.py; do \
		OMP_NUM_THREADS=1 $(VENV)/bin/python $$script || missed="$$missed $$script"; \
	done; test -z "$$missed" || { echo "ended with an error or a missed target:$$missed"; exit 1; }

# Stages 2 and 3 against ZS3Net's loop, which `make benchmarks` leaves out, for it has no PyTorch.
benchmark-zs3net: install-torch
	OMP_NUM_THREADS=1 .venv-torch/bin/python benchmarks/zs3net_loop.py

install: $(VENV)/installed

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	sed '$(EDIT)' requirements.txt > $(VENV)/requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(VENV)/requirements.txt $(ALSO)
	touch $@

$(VENV)/linters: $(VENV)/installed pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-* output .cache .*_cache *.egg-info
