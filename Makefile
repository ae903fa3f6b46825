# lorabundle: from a pinned base model and a dataset to a LoRA adapter, a report and a submission tarball.
#
#   fetch -> data -> train -> eval -> sample -> report -> archive
#
# Each stage is `python -m lorabundle.<stage>`, run by docker/run.sh in the locked environment. A stage's target is its
# record, outputs/<run>/stages/<stage>.json, which it writes last; it depends on the code, the config sections and the
# results that the stage reads, so a change reruns what reads it and nothing else. Written for GNU make 3.81 and later.

# From the command line or the environment
CONFIG ?= config/default.yaml
SET ?=
NUMERICS ?=
ENGINE ?= auto
BASE ?= auto
THREADS ?=
SEEDS ?= 0 1 2
QUICK ?=
SIGN_KEY ?=
ARCHIVE ?=
LEVEL ?= report
# Where PyTorch publishes its CPU builds; used only if pip's own settings do not offer the locked one
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
export ENGINE BASE THREADS TORCH_INDEX SET PYTHON
$(if $(strip $(CONFIG)),,$(error config: error: CONFIG is empty. Pass CONFIG=<file>, for example CONFIG=config/default.yaml))

SHELL = /bin/bash
.SHELLFLAGS = -feuo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.SUFFIXES:

# Settings that name files: from SET if they are there, else from CONFIG. setting(section,key)
setting = $(or $(patsubst $(1).$(2)=%,%,$(filter $(1).$(2)=%,$(SET))),$(shell sed -n "/^$(1):/,/^[a-z]/s/^ *$(2): *$(scalar)" $(CONFIG) 2>/dev/null))
scalar = [\"']*\([^ \"'\#]*\).*/\1/p
# NUMERICS=... is short for SET="numerics=..."; a stage gets it as a variable too, because it must know it before it loads torch
override SET := $(strip $(SET) $(NUMERICS:%=numerics=%))
numerics := $(or $(patsubst numerics=%,%,$(lastword $(filter numerics=%,$(SET)))),$(shell sed -n "s/^numerics: *$(scalar)" $(CONFIG) 2>/dev/null))
# A name that would lead elsewhere names nothing; the config stage then says so
plain = $(if $(or $(findstring /,$(1)),$(filter .%,$(1))),unnamed,$(or $(1),unnamed))
RUN := outputs/$(call plain,$(or $(patsubst run=%,%,$(filter run=%,$(SET))),$(shell sed -n "s/^run: *$(scalar)" $(CONFIG) 2>/dev/null)))
MODEL := data/models/$(call plain,$(call setting,model,name))
# Files of the user's that a run reads: a dataset, a local model
DATA := $(wildcard $(call setting,data,source))
REVISION := $(filter-out null,$(call setting,data,revision))
# What fetch leaves of a dataset from the hub (as config.Data.dataset_dir has it)
DATASET := $(if $(REVISION),data/raw/datasets/$(subst /,--,$(call setting,data,source))-$(shell echo $(REVISION) | tr -d "\"'" | cut -c1-8)/provenance.json)
LOCAL := $(if $(filter local,$(call setting,model,source)),$(wildcard $(call setting,model,path)/*))
# What the submission packs of the project itself
SOURCE := $(shell find Makefile README.md LICENSE CONTRIBUTING.md pyproject.toml config docker reports/reference src tests .ci -type f \
	-not -name '.*' -not -name '*.pyc' -not -path '*/wheels/*' 2>/dev/null)
STAGES := $(RUN)/stages
SECTIONS := $(RUN)/.sections

WHEELS := docker/wheels/.complete
VENV := .venv/.complete
DEV := .venv/.dev-complete
# The environment that the engine runs stages in
environment = $(if $(filter venv,$(engine)),$(VENV),docker/.image-$(engine))
ENGINELESS := help clean distclean test test-slow test-resume test-portable test-golden test-browser lint lock
ifneq ($(filter-out $(ENGINELESS),$(MAKECMDGOALS)),)
engine := $(shell ENGINE=$(ENGINE) docker/run.sh --engine)
$(if $(engine),,$(error no engine to run in))
else
engine := venv
endif

# code(modules): source files. Every stage reads the foundation modules.
code = $(patsubst %,src/lorabundle/%.py,$(1) __init__ artifacts config errors stage)
section = $(patsubst %,$(SECTIONS)/%.yaml,$(1))
# missing(files): FORCE if one is not there, so that deleting a result makes it again
missing = $(if $(filter-out $(wildcard $(1)),$(1)),FORCE)
stage = NUMERICS=$(numerics) docker/run.sh python -m lorabundle.$(1) --config $(CONFIG) $(if $(SET),--set $$SET)

## help: print this list (the default)
.PHONY: help
help:
	@echo "lorabundle: LoRA fine-tuning on a CPU, reported and packed"
	@echo
	@sed -n 's/^## \([a-z-]*\): \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22
	@echo
	@echo "Variables (make all CONFIG=config/smoke.yaml ENGINE=venv):"
	@echo "  CONFIG=FILE     settings of the run (default config/default.yaml)"
	@echo "  SET=\"K=V ...\"   override settings, for example SET=\"run=try train.learning_rate=1e-4\" (no spaces in a value)"
	@echo "  ENGINE=NAME     docker, podman or venv; auto (default) takes a container engine that answers, else venv"
	@echo "  BASE=NAME       base of the image: registry, debian, or auto (default)"
	@echo "  NUMERICS=MODE   fast, or portable: the same result bytes on any x86-64 CPU with AVX2 (default: what CONFIG says)"
	@echo "  THREADS=N       threads of the computation (default: all cores)"
	@echo "  SIGN_KEY=FILE   private SSH key to sign the archive with (default: it is not signed); for verify, the signer's public key"
	@echo "  ARCHIVE=FILE    what verify checks"
	@echo "  LEVEL=NAME      how far verify goes: hashes, report (default), eval or full"

## all: everything, through the archive
.PHONY: all
all: archive
	@echo "Done with $(engine). Read reports/results.html or results.md; hand in archive/submission-$(notdir $(RUN)).tar.gz"
	@echo "Fingerprint of the results: $$(sha256sum < $(RUN)/RESULTS.sha256 | cut -c1-64)"

## fetch: download and verify the locked packages and the base model (the only step with network)
.PHONY: fetch
fetch: $(STAGES)/fetch.json

## image: build the environment of the chosen engine: a container image or .venv
.PHONY: image
image: FORCE
	@$(MAKE) --no-print-directory $(environment)
	@$(if $(filter venv,$(engine)),,sed -n 2p docker/.image-$(engine))

## data: build, split and tokenise the dataset
.PHONY: data
data: $(STAGES)/preprocess.json

## train: fine-tune the adapter; after an interruption, go on from the last checkpoint
.PHONY: train
train: $(STAGES)/train.json

## eval: score base and fine-tuned model on the test split
.PHONY: eval
eval: $(STAGES)/evaluate.json

## sample: pick the answers that the report shows
.PHONY: sample
sample: $(STAGES)/sample.json

## report: render reports/results.md, results.html and the figures
.PHONY: report
report: $(STAGES)/report.json

## archive: pack the submission tarball, and with SIGN_KEY=FILE sign it
.PHONY: archive
archive: $(STAGES)/archive.json
	$(if $(SIGN_KEY),@docker/sign.sh "$(SIGN_KEY)" archive/submission-$(notdir $(RUN)).tar.gz)

# --- environment ---------------------------------------------------------------------------------------------------

$(WHEELS): docker/requirements.lock docker/assets.lock docker/download.sh
	docker/download.sh
	@touch $@

$(VENV): $(WHEELS) docker/setup.sh
	@echo "[image] making .venv from docker/requirements.lock"
	docker/setup.sh venv
	@touch $@

docker/.image-$(engine): $(WHEELS) $(addprefix docker/,setup.sh base.sh base.lock Dockerfile digest.py)
	docker/setup.sh $(engine)

$(DEV): $(VENV) docker/dev.lock
	docker/download.sh dev
	docker/setup.sh venv dev
	@touch $@

# --- settings: one file a section, rewritten only if it changes ----------------------------------------------------

$(CONFIG):
	@test -f $@ || { echo "config: error: there is no config file $@. Pass CONFIG=<file>; those shipped are:" \
		"$(wildcard config/*.yaml)." >&2; exit 2; }

$(SECTIONS)/.set: FORCE
	@mkdir -p $(@D) 2>/dev/null || { echo "config: error: cannot write below outputs/. Check that the folder is writable by" \
		"user id $$(id -u) and that the disk is not full (df -h .), then run the same command again." >&2; exit 1; }
	@echo "$$SET" | cmp -s - $@ || echo "$$SET" > $@

$(SECTIONS)/.resolved: $(CONFIG) $(SECTIONS)/.set src/lorabundle/config.py | $(environment)
	@echo "[make] run $(notdir $(RUN)), settings from $(CONFIG), engine $(engine)"
	@$(call stage,config)
	@touch $@

$(SECTIONS)/%.yaml: $(SECTIONS)/.resolved
	@test -f $@

# What runs share holds the results of one at a time (a model folder, data/processed/, reports/). These files say whose,
# and change when another run takes the place.
$(MODEL).settings: $(call section,model) FORCE
	@mkdir -p $(@D)
	@cmp -s $< $@ || cp $< $@

data/processed/.settings: $(call section,model data) FORCE
	@mkdir -p $(@D)
	@cat $(call section,model data) | cmp -s - $@ || cat $(call section,model data) > $@

reports/.run: FORCE
	@mkdir -p $(@D)
	@echo $(RUN) | cmp -s - $@ || echo $(RUN) > $@

# --- stages --------------------------------------------------------------------------------------------------------

$(STAGES)/fetch.json: $(call code,fetch locks modeling packing probe prompts reasoning) $(call section,model data) $(WHEELS) $(MODEL).settings $(LOCAL) \
		$(call missing,$(MODEL)/provenance.json $(RUN)/provenance.json $(DATASET)) | $(environment)
	@NETWORK=1 $(call stage,fetch)

$(STAGES)/preprocess.json: $(call code,preprocess datacard docstrings leakage locks modeling packing probe problems prompts readers reasoning records similarity) \
		$(call section,model data) \
		$(DATA) $(STAGES)/fetch.json data/processed/.settings \
		$(call missing,$(patsubst %,data/processed/%,manifest.json train/state.json val/state.json test/state.json))
	@$(call stage,preprocess)

# Written by fetch and preprocess, and only if they change: fetching or building the same again trains nothing again
$(RUN)/provenance.json: $(STAGES)/fetch.json
	@test -f $@

$(RUN)/manifest.json: $(STAGES)/preprocess.json
	@test -f $@

$(STAGES)/train.json: $(call code,train card checkpoints fused journal memory numerics reload modeling packing probe prompts runinfo scoring step) $(call section,seed numerics model lora train) \
		$(RUN)/provenance.json $(RUN)/manifest.json docker/requirements.lock \
		$(call missing,$(patsubst %,$(RUN)/%,adapter/adapter_model.safetensors train_log.jsonl environment.json))
	@$(call stage,train)

$(STAGES)/evaluate.json: $(call code,evaluate diagnosis fused intervals locks metrics modeling numerics packing probe prompts reasoning results scoring summary) \
		$(call section,seed numerics model data evaluate) $(STAGES)/train.json $(call missing,$(RUN)/metrics.json $(RUN)/examples.jsonl)
	@$(call stage,evaluate)

$(STAGES)/sample.json: $(call code,sample picks) $(call section,sample) $(STAGES)/evaluate.json $(call missing,$(RUN)/samples.jsonl)
	@$(call stage,sample)

$(STAGES)/report.json: $(call code,report blocks colophon dataview document fields figures render results view) \
		$(wildcard src/lorabundle/templates/*) \
		$(STAGES)/preprocess.json $(STAGES)/evaluate.json $(STAGES)/sample.json reports/.run \
		$(call section,run seed numerics model data lora train evaluate sample) \
		$(call missing,$(RUN)/RESULTS.sha256 reports/results.md reports/results.html $(foreach figure,loss change prompt_lengths response_lengths,\
		reports/figures/$(figure).svg reports/figures/$(figure).png))
	@$(call stage,report)

$(STAGES)/archive.json: $(call code,archive blocks checklist crate evidence fields licences locks provenance render reproduce sbom submission tarball tolerances) \
		$(SOURCE) $(STAGES)/report.json \
		$(call missing,archive/submission-$(notdir $(RUN)).tar.gz archive/submission-$(notdir $(RUN)).tar.gz.sha256)
	@$(call stage,archive)

# --- verification --------------------------------------------------------------------------------------------------

## verify: check the submission ARCHIVE=FILE; LEVEL=hashes, report (default), eval or full says how far
.PHONY: verify
verify: $(WHEELS) | $(environment)
	@docker/verify.sh "$(ARCHIVE)" "$(LEVEL)" "$(SIGN_KEY)"

# --- several seeds -------------------------------------------------------------------------------------------------

## seeds: train and evaluate with each of SEEDS="0 1 2", and report mean and standard deviation in reports/seeds.md
.PHONY: seeds
seeds: | $(environment)
	@for seed in $(SEEDS); do \
		$(MAKE) --no-print-directory eval SET="$(filter-out run=% seed=%,$(SET)) run=$(notdir $(RUN))-seed-$$seed seed=$$seed"; \
	done
	@docker/run.sh python -m lorabundle.seeds $(patsubst %,$(RUN)-seed-%,$(SEEDS))

# --- development ---------------------------------------------------------------------------------------------------

## test: run the unit and integration tests (in .venv, CPython 3.11)
.PHONY: test
test: export ENGINE = venv
test: $(DEV)
	$(MAKE) --no-print-directory fetch ENGINE=venv CONFIG=config/smoke.yaml SET=
	THREADS=1 docker/run.sh python -m pytest --numprocesses 2 --dist loadscope

## test-slow: compare the memory estimate with measured peaks (about ten minutes)
.PHONY: test-slow
test-slow: export ENGINE = venv
test-slow: $(DEV)
	$(MAKE) --no-print-directory fetch ENGINE=venv CONFIG=config/smoke.yaml SET=
	docker/run.sh python -m pytest tests/slow/test_memory_measured.py -s

## test-resume: kill a training at 20 moments in each numerics mode, and run it again
.PHONY: test-resume
test-resume: export ENGINE = venv
test-resume: $(DEV)
	$(MAKE) --no-print-directory fetch ENGINE=venv CONFIG=config/smoke.yaml SET=
	docker/run.sh python -m pytest tests/slow/test_resume.py -s

## test-portable: train and evaluate natively and on emulated CPUs, which needs qemu-user
.PHONY: test-portable
test-portable: export ENGINE = venv
test-portable: $(DEV)
	docker/run.sh python -m pytest tests/slow/test_cpus.py -s

## test-golden: make the smoke run with portable numerics, and compare it with reports/reference/smoke.json
.PHONY: test-golden
test-golden: $(DEV)
	$(MAKE) --no-print-directory all CONFIG=config/smoke.yaml NUMERICS=portable SET=
	ENGINE=venv docker/run.sh python -m pytest tests/golden

## test-browser: open results.html in headless Chromium, which must be installed
.PHONY: test-browser
test-browser: export ENGINE = venv
test-browser: $(DEV)
	docker/run.sh python -m pytest tests/browser

## bench: measure training, scoring and generation beside the stock libraries (an hour or more; QUICK=1: a few minutes)
.PHONY: bench
bench: $(STAGES)/preprocess.json
	docker/run.sh python -m tests.bench.bench_training $(bench_arguments)
	docker/run.sh python -m tests.bench.bench_evaluation $(bench_arguments)
	$(if $(QUICK),,docker/run.sh python -m tests.bench.bench_scaling --config $(CONFIG) $(if $(SET),--set $$SET))
	$(if $(QUICK),,docker/run.sh python -m tests.bench.bench_geometry --config $(CONFIG) $(if $(SET),--set $$SET))
bench_arguments = --config $(CONFIG) $(if $(SET),--set $$SET) $(if $(QUICK),--quick)

## lint: check style and formatting
.PHONY: lint
lint: export ENGINE = venv
lint: $(DEV)
	docker/run.sh ruff check src tests
	docker/run.sh ruff format --check src tests

## lock: resolve docker/*.in into docker/*.lock again, with hashes
.PHONY: lock
lock: $(DEV)
	PYTHON=$(CURDIR)/.venv/bin/python docker/lock.sh

## clean: remove the results of runs (outputs, reports, archives)
.PHONY: clean
clean:
	rm -rf outputs archive reports/results.md reports/results.html reports/figures reports/seeds.md reports/seeds.json reports/.run

## distclean: remove everything that was built or downloaded
.PHONY: distclean
distclean: clean
	rm -rf data/raw data/models data/processed docker/wheels docker/.image-docker docker/.image-podman .venv

.PHONY: FORCE
FORCE:
