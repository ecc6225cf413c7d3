# Every target sets itself up: it needs Python 3.10 to 3.13 and make, and keeps what it installs in .venv.
#
#   make train    text, vocabulary, two-stage BERT pre-training with LAMB, evaluation, export, a filled [MASK]
#   make train-resnet  ResNet-50 with LAMB on scanned digits, evaluation, export; OPTIMIZER=lars for LARS
#   make test     the tests, on the TensorFlow, JAX and torch backends of Keras
#   make coverage the tests of the library, with every branch of the optimizers counted
#   make matrix   the tests on several versions of Python, Keras and TensorFlow; installs them all
#   make matrix-row ROW=3.10:3.12.4:2.19.1   one of them; matrix-install only installs it
#   make bench    every benchmark, against peers; make bench QUICK=1 the optimizer alone, in five minutes
#   make docs     the documentation, into build/docs
#   make lint     ruff: format and check
#
# make PYTHON=python3.12 ... chooses the Python of a new .venv.

PYTHON ?= python3
VENV := .venv
RUN_PYTHON := $(VENV)/bin/python
CONFIG := configs/bert/tiny.yaml
TEXT := build/text
DATA := build/bert_tiny
RUN := runs/bert_tiny
SENTENCE := Return the [MASK] of the object.
OPTIMIZER := lamb
IMAGES := build/digit_images
IMAGE_DATA := build/digits
IMAGE_RUN := runs/digits_$(OPTIMIZER)

PYTHON_VERSION := $(shell $(firstword $(wildcard $(RUN_PYTHON)) $(PYTHON)) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/python$(PYTHON_VERSION).txt
INSTALL := $(RUN_PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(CONSTRAINTS)

export TF_CPP_MIN_LOG_LEVEL ?= 3
# Without bytecode, each of the many programs that are started here compiles TensorFlow's sources for 13 seconds.
unexport PYTHONDONTWRITEBYTECODE

BACKENDS := tensorflow jax torch
# Two processes for the tests, and new ones for each folder, since TensorFlow never frees what XLA compiled. By default
# xdist leaves the files with few tests for the end, which are those that take minutes.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# LLVM's optimizations take longer than the few steps of the tiny models of the scripts and configs.
COMPILING_QUICKLY := XLA_FLAGS=--xla_backend_optimization_level=0 KERAS_BACKEND=tensorflow
ON_EVERY_BACKEND := $(addprefix --ignore=tests/,on_tensorflow configs scripts)

.PHONY: train train-resnet test coverage matrix matrix-row matrix-install bench docs lint format clean

train: $(VENV)/.models
	$(RUN_PYTHON) tpu/python_docs.py --output_dir $(TEXT)
	$(RUN_PYTHON) tpu/prepare_bert_data.py --config_file $(CONFIG) --output_dir $(DATA) --overwrite \
		--train_text $(TEXT)/train.txt --held_out_text $(TEXT)/held_out.txt
	$(RUN_PYTHON) tpu/train_bert.py --config_file $(CONFIG) --data_dir $(DATA) --model_dir $(RUN)
	$(RUN_PYTHON) tpu/export.py --data_dir $(DATA) --model_dir $(RUN)
	$(RUN_PYTHON) tpu/fill_mask.py --saved_model $(RUN)/saved_model "$(SENTENCE)"

train-resnet: $(VENV)/.models
	$(RUN_PYTHON) tpu/digits.py --output_dir $(IMAGES)
	$(RUN_PYTHON) tpu/prepare_imagenet.py --train $(IMAGES)/train --validation $(IMAGES)/validation \
		--output_dir $(IMAGE_DATA) --train_shards 8 --validation_shards 2 --overwrite
	$(RUN_PYTHON) tpu/train_resnet.py --config_file configs/resnet50/digits_$(OPTIMIZER).yaml \
		--data_dir $(IMAGE_DATA) --model_dir $(IMAGE_RUN)
	$(RUN_PYTHON) tpu/export.py --model_dir $(IMAGE_RUN)

test: $(VENV)/.test
	set -e; for backend in $(BACKENDS); do \
		KERAS_BACKEND=$$backend $(RUN_PYTHON) -m pytest $(PARALLEL) $(ON_EVERY_BACKEND); done
	KERAS_BACKEND=tensorflow $(RUN_PYTHON) -m pytest $(PARALLEL) tests/on_tensorflow
	$(COMPILING_QUICKLY) $(RUN_PYTHON) -m pytest $(PARALLEL) tests/scripts
	$(COMPILING_QUICKLY) $(RUN_PYTHON) -m pytest $(PARALLEL) --dist load tests/configs  # one file is most of them

coverage: $(VENV)/.test
	$(RUN_PYTHON) -m coverage erase
	set -e; for backend in $(BACKENDS); do \
		KERAS_BACKEND=$$backend $(RUN_PYTHON) -m coverage run -m pytest $(PARALLEL) $(ON_EVERY_BACKEND); done; \
	KERAS_BACKEND=tensorflow $(RUN_PYTHON) -m coverage run -m pytest $(PARALLEL) tests/on_tensorflow
	$(RUN_PYTHON) -m coverage combine --quiet
	$(RUN_PYTHON) -m coverage report

# Python, Keras and TensorFlow of each row. Keras above 3.12 has no release for Python 3.10, and TensorFlow above 2.20 no
# tf-models-official: the scripts are left out there.
ROWS := 3.10:3.12.4:2.19.1 3.11:3.14.1:2.20.0 3.13:3.15.1:2.21.0
ROW_PARTS := $(subst :, ,$(ROW))
ROW_PYTHON := python$(word 1,$(ROW_PARTS))
ROW_KERAS := $(word 2,$(ROW_PARTS))
ROW_TENSORFLOW := $(word 3,$(ROW_PARTS))
ROW_HAS_MODELS := $(filter 2.19.% 2.20.%,$(ROW_TENSORFLOW))
WITH_MODELS := '.[models,aot,test]'
WITHOUT_MODELS := '.[tensorflow,test]' tf_keras
ROW_PACKAGES := $(if $(ROW_HAS_MODELS),$(WITH_MODELS),$(WITHOUT_MODELS))
ROW_VENV := build/matrix/$(ROW_PYTHON)-keras$(ROW_KERAS)-tensorflow$(ROW_TENSORFLOW)
ROW_INSTALL := $(ROW_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
ROW_TEST := $(ROW_VENV)/bin/python -m pytest -q $(PARALLEL)

matrix:
	set -e; for row in $(ROWS); do $(MAKE) matrix-row ROW=$$row; done

matrix-row: matrix-install
	set -e; for backend in $(BACKENDS); do KERAS_BACKEND=$$backend $(ROW_TEST) $(ON_EVERY_BACKEND); done
	KERAS_BACKEND=tensorflow $(ROW_TEST) tests/on_tensorflow
	$(if $(ROW_HAS_MODELS),$(COMPILING_QUICKLY) $(ROW_TEST) tests/scripts)
	$(if $(ROW_HAS_MODELS),$(COMPILING_QUICKLY) $(ROW_TEST) --dist load tests/configs)

# The first pin of a package counts: that of the row, of its TensorFlow, of its Python.
matrix-install:
	@test -n "$(ROW_TENSORFLOW)" || { echo "make: a row of the matrix is needed. Received: ROW='$(ROW)'. \
	Expected for example ROW=$(firstword $(ROWS))." >&2; exit 2; }
	$(ROW_PYTHON) -m venv $(ROW_VENV)
	{ echo keras==$(ROW_KERAS); echo tensorflow==$(ROW_TENSORFLOW); \
		cat $(wildcard constraints/tensorflow$(ROW_TENSORFLOW).txt) constraints/$(ROW_PYTHON).txt; } \
		| awk -F== '!seen[$$1]++' > $(ROW_VENV)/constraints.txt
	$(ROW_INSTALL) 'pip>=23.1'
	$(ROW_INSTALL) --constraint $(ROW_VENV)/constraints.txt --editable $(ROW_PACKAGES)
	$(ROW_INSTALL) --constraint $(ROW_VENV)/constraints.txt --no-deps timm

bench: $(VENV)/.test
	$(RUN_PYTHON) benchmarks/bench.py $(if $(QUICK),--quick)

docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build -q -W --keep-going docs build/docs

lint: $(VENV)/.lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

format: $(VENV)/.lint
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build runs *.egg-info

# A stamp for each set of packages: nothing is installed again until the metadata or the pins change.
$(VENV)/.python:
	@test -f $(CONSTRAINTS) || { echo "make: this project needs Python 3.10 to 3.13. Received: $(PYTHON) is $(PYTHON_VERSION). \
	Expected for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) 'pip>=23.1'  # Python 3.10 brings an older one, which cannot build seqeval.
	@touch $@

$(VENV)/.models: $(VENV)/.python setup.cfg pyproject.toml $(CONSTRAINTS)
	$(INSTALL) --editable '.[models]'
	@touch $@

# timm is a peer in the tests. Its optimizers do without torchvision, which has no build for the CPU.
$(VENV)/.test: $(VENV)/.models
	$(INSTALL) --editable '.[models,aot,test]'
	$(INSTALL) --no-deps timm
	@touch $@

# The pins for Python 3.10 leave out Sphinx, whose parser there needs another markdown-it than the rest.
$(VENV)/.docs: $(VENV)/.models
	$(INSTALL) --editable '.[models,docs]'
	@touch $@

$(VENV)/.lint: $(VENV)/.python $(CONSTRAINTS)
	$(INSTALL) $$(sed -n 's/^\(ruff==.*\)/\1/p' $(CONSTRAINTS))
	@touch $@
