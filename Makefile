# Every target sets itself up: it needs Python 3.10 to 3.13 and make, and keeps what it installs in .venv.
#
#   make train    text, vocabulary, two-stage BERT pre-training with LAMB, evaluation, export, a filled [MASK]
#   make test     the tests
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

PYTHON_VERSION := $(shell $(firstword $(wildcard $(RUN_PYTHON)) $(PYTHON)) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/python$(PYTHON_VERSION).txt
INSTALL := $(RUN_PYTHON) -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(CONSTRAINTS)

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: train test lint format clean

train: $(VENV)/.models
	$(RUN_PYTHON) tpu/python_docs.py --output_dir $(TEXT)
	$(RUN_PYTHON) tpu/prepare_bert_data.py --config_file $(CONFIG) --output_dir $(DATA) --overwrite \
		--train_text $(TEXT)/train.txt --held_out_text $(TEXT)/held_out.txt
	$(RUN_PYTHON) tpu/train_bert.py --config_file $(CONFIG) --data_dir $(DATA) --model_dir $(RUN)
	$(RUN_PYTHON) tpu/export.py --data_dir $(DATA) --model_dir $(RUN)
	$(RUN_PYTHON) tpu/fill_mask.py --saved_model $(RUN)/saved_model "$(SENTENCE)"

test: $(VENV)/.test
	$(RUN_PYTHON) -m pytest

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

$(VENV)/.test: $(VENV)/.models
	$(INSTALL) --editable '.[models,test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.python $(CONSTRAINTS)
	$(INSTALL) $$(sed -n 's/^\(ruff==.*\)/\1/p' $(CONSTRAINTS))
	@touch $@
