# lorabundle: from a pinned base model and a dataset to a LoRA adapter, a report and a submission tarball.
#
#   fetch -> data -> train -> eval -> sample -> report -> archive
#
# Each stage is `python -m lorabundle.<stage>`, run by docker/run.sh in the locked environment. A stage's target is its
# record, outputs/<run>/stages/<stage>.json, which it writes last; it depends on the code, the config sections and the
# results that the stage reads, so a change reruns what reads it and nothing else. For GNU make 3.81 and later.

# From the command line or the environment
CONFIG ?= config/default.yaml
DATA ?=
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
# Where PyTorch publishes its CPU builds; used only if pip's own settings do not offer the locked build
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
export BASE THREADS TORCH_INDEX SET PYTHON QUICK
$(if $(strip $(CONFIG)),,$(error config: error: CONFIG is empty. Pass CONFIG=<file>, for example CONFIG=config/default.yaml))

SHELL := $(shell command -v bash)
.SHELLFLAGS = -feuo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.SUFFIXES:

# quoted(text): the text as one word of a shell command
quoted = '$(subst ','\'',$(1))'

# Names that make would split or read as a pattern
$(if $(shell printf %s $(call quoted,$(value CONFIG)) | grep '[][ :$$%\#=*?;\]'),$(error config: error: make cannot follow a file of the name \
	CONFIG='$(value CONFIG)'. Rename it with letters, digits, '.', '_' and '-'))

# DATA=FILE is short for SET="data.source=FILE run=<the file's name>", which SET itself may override. Several words are a list.
# NUMERICS=... is short for SET="numerics=..."; a stage gets it as a variable too, because it must know it before it loads torch.
comma := ,
exists = $(shell set +f; ls -d $(1) 2> /dev/null | head -n 1)
named = $(shell test -e $(call quoted,$(1)) && echo yes)
$(if $(word 2,$(DATA)),$(if $(call named,$(DATA)),$(error config: error: make cannot use a file name with spaces: DATA is '$(DATA)'. \
	Rename the file, or make a link to it: ln -s "$(DATA)" mine.csv)))
$(foreach word,$(DATA),$(if $(or $(call named,$(word)),$(call exists,$(word)),$(filter data.revision=%,$(SET))),,$(error config: error: there is \
	no file $(word). Name data files or a folder; or a dataset on the hub together with its commit: DATA=owner/name SET="data.revision=<40 digits>")))
clean_name = $(shell basename -- $(call quoted,$(1)) | LC_ALL=C sed -E 's/\.(gz|zst|xz|bz2)$$//; s/(.)\.[A-Za-z0-9]+$$/\1/; s/[^A-Za-z0-9._-]/-/g; s/^[^A-Za-z0-9]+//')
file_name = $(or $(call clean_name,$(firstword $(1))),$(call clean_name,$(patsubst %/,%,$(dir $(firstword $(1))))))
data_source = $(if $(word 2,$(1)),[$(subst $() ,$(comma),$(strip $(1)))],$(1))
override SET := $(strip $(if $(DATA),data.source=$(call data_source,$(DATA)) run=$(call file_name,$(DATA))) $(SET) $(NUMERICS:%=numerics=%))

# The settings that name files and folders. setting(key)
SETTINGS := $(shell set -f; set -- $(call quoted,$(SET)); bash docker/read_config.sh $(call quoted,$(CONFIG)) $$1)
setting = $(patsubst $(1)=%,%,$(filter $(1)=%,$(SETTINGS)))
numerics := $(call setting,numerics)
# A run name that would lead out of outputs/ is replaced here; lorabundle.resolve_config then refuses it with the reason
plain = $(if $(or $(findstring /,$(1)),$(filter .%,$(1))),unnamed,$(or $(1),unnamed))
RUN := outputs/$(call plain,$(call setting,run))
MODEL := data/models/$(call plain,$(call setting,model.name))
# The user's own files that a run reads: a dataset, a local model
OWN_DATA := $(subst ",,$(subst ',,$(subst {, ,$(subst }, ,$(subst [, ,$(subst ], ,$(subst :, ,$(subst $(comma), ,$(foreach key,source splits splits.train splits.val splits.test,$(call setting,data.$(key)))))))))))
OWN_MODEL := $(if $(filter local,$(call setting,model.source)),$(wildcard $(call setting,model.path)/*))
# What the engine must show to the stages, should it lie outside the project
export READS := $(strip $(CONFIG) $(call setting,extends) $(OWN_DATA) $(if $(OWN_MODEL),$(call setting,model.path)))
# What the submission packs of the project itself
SOURCE := $(shell set -f; list=src/lorabundle/submission/source_tree.txt; \
	find -L $$(grep -v '^[\#!]' $$list) -type f $$(sed -n 's:^!\(.*\):-not -path */\1 -not -path */\1/*:p' $$list) 2> /dev/null)
STAGES := $(RUN)/stages
SECTIONS := $(RUN)/.sections

# One for each architecture, because torch's CPU builds differ
LOCKS := docker/requirements.lock docker/requirements-aarch64.lock docker/openmp.lock
WHEELS := docker/wheels/.complete
VENV := .venv/.complete
DEV := .venv/.dev-complete
# By bash, so that the scripts run where a copy has lost their execute bits
run := bash docker/run.sh
# The environment that the engine runs stages in
environment = $(if $(filter venv,$(engine)),$(VENV),docker/.image-$(engine))
# The same with the tools of the tests, and how to run in it
development = $(if $(filter venv,$(engine)),$(DEV),docker/.image-$(engine)-dev)
run_dev = RUN_DEV=1 $(run)
ENGINELESS := help clean distclean
TESTS := test test-slow test-resume test-portable test-browser lint
engine := venv
ifneq ($(filter-out $(ENGINELESS),$(MAKECMDGOALS)),)
wanted := $(if $(filter-out lock test-aarch64,$(MAKECMDGOALS)),$(ENGINE),venv)
only_tests := $(if $(filter-out $(ENGINELESS) $(TESTS),$(MAKECMDGOALS)),,1)
engine := $(shell ENGINE=$(call quoted,$(wanted)) PYTHON=$(call quoted,$(PYTHON)) RUN_DEV=$(only_tests) $(run) --engine)
$(if $(engine),,$(error no engine to run in))
endif
override export ENGINE := $(engine)

# code(stage,packages): the source files that a stage reads: its own module, and the packages that it imports from. (No folder
# is named, because its time changes when Python writes byte code into it.)
code = src/lorabundle/__init__.py src/lorabundle/$(1).py $(foreach package,core $(2),$(wildcard src/lorabundle/$(package)/*.* src/lorabundle/$(package)/*/*.*))
section = $(patsubst %,$(SECTIONS)/%.yaml,$(1))
# missing(stage): FORCE if a file is not there that the stage's record lists among its outputs, so that deleting a result makes it again
outputs = $(shell sed -n '/^  "outputs": {$$/,/^  }/s/^    "\([^"]*\)": .*/\1/p' $(STAGES)/$(1).json 2> /dev/null)
missing = $(call absent,$(call outputs,$(1)))
absent = $(if $(filter-out $(wildcard $(1)),$(1)),FORCE)
stage = NUMERICS=$(numerics) $(run) python -m lorabundle.$(1) --config $(CONFIG) $(if $(SET),--set $$SET)

## help: print this list (the default)
.PHONY: help
help:
	@echo "lorabundle: LoRA fine-tuning on a CPU, with a report and a submission tarball"
	@echo
	@awk -F ': ' '/^## / {printf "  make %-14s %s\n", substr($$1, 4), substr($$0, length($$1) + 3)}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Variables (make all CONFIG=config/smoke.yaml ENGINE=venv):"
	@echo "  DATA=FILE       data of your own: a file, a folder, several files or a glob in quotes; the run takes its name (make all DATA=data/mine.csv)"
	@echo "  CONFIG=FILE     settings of the run (default config/default.yaml)"
	@echo "  SET=\"K=V ...\"   override settings, for example SET=\"run=try train.learning_rate=1e-4\" (no spaces in a value)"
	@echo "  ENGINE=NAME     docker, podman or venv; auto (default) uses a container engine if one answers, else venv"
	@echo "  BASE=NAME       what the image is based on: registry (the official Python image), debian (packages), or auto (default)"
	@echo "  NUMERICS=MODE   fast, or portable: the same result bytes on every x86-64 CPU with AVX2 (default: what CONFIG says)"
	@echo "  THREADS=N       number of threads to compute with (default: all cores)"
	@echo "  SIGN_KEY=FILE   private SSH key to sign the archive with (default: no signature); for verify, the signer's public key"
	@echo "  ARCHIVE=FILE    what verify checks"
	@echo "  LEVEL=NAME      how much verify checks: hashes, report (default), eval or full"

## all: everything, through the archive
.PHONY: all
all: archive
	@echo "Done with $(engine). Read reports/results.html or results.md; hand in archive/submission-$(notdir $(RUN)).tar.gz"
	@echo "Fingerprint of the results: $$(. docker/host.sh; sha256 < $(RUN)/RESULTS.sha256)"

## fetch: download and verify the locked packages and the base model (the only step with network)
.PHONY: fetch
fetch: $(STAGES)/fetch.json

## image: build the environment of the chosen engine, a container image or .venv
.PHONY: image
image: FORCE
	@$(MAKE) --no-print-directory $(environment)
	@$(if $(filter venv,$(engine)),,sed -n 2p docker/.image-$(engine))

## data: build, split and tokenise the dataset
.PHONY: data
data: $(STAGES)/preprocess.json

## inspect: show how DATA is read, rows as the model sees them, and what training would take; trains nothing
.PHONY: inspect
inspect: $(STAGES)/fetch.json
	@$(call stage,inspect)

## train: fine-tune the adapter; after an interruption, continue from the last checkpoint
.PHONY: train
train: $(STAGES)/train.json

## eval: score base and fine-tuned model on the test split
.PHONY: eval
eval: $(STAGES)/evaluate.json

## sample: choose the answers that the report shows
.PHONY: sample
sample: $(STAGES)/sample.json

## report: render reports/results.md, results.html and the figures
.PHONY: report
report: $(STAGES)/report.json

## archive: pack the submission tarball; with SIGN_KEY=FILE sign it too
.PHONY: archive
archive: $(STAGES)/archive.json
	$(if $(SIGN_KEY),@bash docker/sign.sh "$(SIGN_KEY)" archive/submission-$(notdir $(RUN)).tar.gz)

# --- environment ---------------------------------------------------------------------------------------------------

$(WHEELS): $(LOCKS) docker/assets.lock docker/download.sh
	@bash docker/download.sh
	@touch $@

$(VENV): $(WHEELS) docker/setup.sh
	@echo "[image] building .venv from the locked packages (a minute or two)"
	@bash docker/setup.sh venv
	@touch $@

docker/.image-$(engine): $(WHEELS) $(addprefix docker/,setup.sh base_image.sh debian.lock debian-aarch64.lock Dockerfile digest.py)
	@bash docker/setup.sh $(engine)

docker/.image-$(engine)-dev: docker/.image-$(engine) docker/dev.lock
	@bash docker/download.sh dev
	@bash docker/setup.sh $(engine) dev

$(DEV): $(VENV) docker/dev.lock
	@bash docker/download.sh dev
	@bash docker/setup.sh venv dev
	@touch $@

# --- settings: one file a section, rewritten only if it changes ----------------------------------------------------

$(CONFIG):
	@test -f $@ || { echo "config: error: there is no config file $@. Pass CONFIG=<file>; config/ has:" \
		"$(wildcard config/*.yaml)." >&2; exit 2; }

$(SECTIONS)/.set: FORCE
	@mkdir -p $(@D) 2> /dev/null && test -w $(@D) || { echo "config: error: cannot write to outputs/. Check that the folder is writable by" \
		"user id $$(id -u) and that the disk is not full (df -h .), then run the same command again." >&2; exit 1; }
	@echo "$$SET" | cmp -s - $@ || echo "$$SET" > $@

$(SECTIONS)/.resolved: $(CONFIG) $(wildcard $(call setting,extends)) docker/read_config.sh $(SECTIONS)/.set $(call code,resolve_config) | $(environment)
	@echo "[make] run $(notdir $(RUN)), settings from $(CONFIG), engine $(engine)"
	@$(call stage,resolve_config) --make-reads $(foreach setting,$(filter-out extends=%,$(SETTINGS)),$(call quoted,$(setting)))
	@touch $@

$(SECTIONS)/%.yaml: $(SECTIONS)/.resolved
	@test -f $@

# Runs share some folders (a model folder, data/processed/, reports/), which hold the results of one run at a time. These files say
# which run that is, and change when another run takes its place.
$(MODEL).settings: $(call section,model) FORCE
	@mkdir -p $(@D)
	@cmp -s $< $@ || cp $< $@

data/processed/.settings: $(call section,model data) FORCE
	@mkdir -p $(@D)
	@cat $(call section,model data) | cmp -s - $@ || cat $(call section,model data) > $@

# The user's own data files with their sizes: changes when one is added, removed or changed. (make itself does not look into folders.)
$(RUN)/.own_data: FORCE
	@mkdir -p $(@D)
	@set +f; find -L $(or $(strip $(OWN_DATA)),none) -type f -exec ls -ln {} + 2> /dev/null | awk '{$$1 = $$2 = $$3 = $$4 = $$6 = $$7 = $$8 = ""; print}' | LC_ALL=C sort > $@.new || true
	@if cmp -s $@.new $@ && test -z "$$(set +f; find -L $(or $(strip $(OWN_DATA)),none) -type f -newer $@ 2> /dev/null | head -n 1)"; then \
		rm $@.new; else mv $@.new $@; fi

reports/.run: FORCE
	@mkdir -p $(@D)
	@echo $(RUN) | cmp -s - $@ || echo $(RUN) > $@

# --- stages --------------------------------------------------------------------------------------------------------

$(STAGES)/fetch.json: $(call code,fetch,model data) $(call section,model data) $(WHEELS) $(MODEL).settings $(OWN_MODEL) \
		$(call missing,fetch) | $(environment)
	@NETWORK=1 $(call stage,fetch)

$(STAGES)/preprocess.json: $(call code,preprocess,model data) $(call section,model data) $(RUN)/.own_data $(STAGES)/fetch.json \
		data/processed/.settings $(call missing,preprocess)
	@$(call stage,preprocess)

# fetch and preprocess write these only if they change, so fetching or building the same again does not retrain
$(RUN)/provenance.json: $(STAGES)/fetch.json
	@test -f $@

$(RUN)/manifest.json: $(STAGES)/preprocess.json
	@test -f $@

$(STAGES)/train.json: $(call code,train,model compute training) $(call section,seed numerics model lora train) \
		$(RUN)/provenance.json $(RUN)/manifest.json $(LOCKS) $(call missing,train)
	@$(call stage,train)

$(STAGES)/evaluate.json: $(call code,evaluate,model compute data evaluation) $(call section,seed numerics model data evaluate) \
		$(STAGES)/train.json $(call missing,evaluate)
	@$(call stage,evaluate)

$(STAGES)/sample.json: $(call code,sample,evaluation) $(call section,sample) $(STAGES)/evaluate.json $(call missing,sample)
	@$(call stage,sample)

$(STAGES)/report.json: $(call code,report,evaluation reporting) $(STAGES)/preprocess.json $(STAGES)/evaluate.json $(STAGES)/sample.json reports/.run \
		$(call section,seed numerics model data lora train evaluate sample) $(call missing,report)
	@$(call stage,report)

$(STAGES)/archive.json: $(call code,archive,evaluation reporting submission) $(SOURCE) $(STAGES)/report.json $(call missing,archive)
	@$(call stage,archive)

# --- verification --------------------------------------------------------------------------------------------------

## verify: check the submission ARCHIVE=FILE, as far as LEVEL says: hashes, report (default), eval or full
.PHONY: verify
verify: $(WHEELS) | $(environment)
	@bash docker/verify.sh "$(ARCHIVE)" "$(LEVEL)" "$(SIGN_KEY)"

# --- several seeds -------------------------------------------------------------------------------------------------

## seeds: train and evaluate once for each of SEEDS="0 1 2"; mean and standard deviation go to reports/seeds.md
.PHONY: seeds
seeds: | $(environment)
	@for seed in $(SEEDS); do \
		$(MAKE) --no-print-directory eval SET="$(filter-out run=% seed=%,$(SET)) run=$(notdir $(RUN))-seed-$$seed seed=$$seed"; \
	done
	@$(run) python -m lorabundle.seeds $(patsubst %,$(RUN)-seed-%,$(SEEDS))

# --- development ---------------------------------------------------------------------------------------------------

## test: run the unit and integration tests (ENGINE=auto: in .venv, or without CPython 3.11 in a container)
.PHONY: test
test: $(development)
	$(MAKE) --no-print-directory fetch ENGINE=$(engine) CONFIG=config/smoke.yaml SET=
	THREADS=1 $(run_dev) python -m pytest --numprocesses 2 --dist loadscope

## test-slow: compare the memory estimate with measured peaks (ten minutes; QUICK=1: a sample)
.PHONY: test-slow
test-slow: $(development)
	$(MAKE) --no-print-directory fetch ENGINE=$(engine) CONFIG=config/smoke.yaml SET=
	$(run_dev) python -m pytest tests/slow/test_memory_measured.py -s

## test-duration: compare the time estimate with measured times, on an otherwise idle machine (half an hour; QUICK=1: one)
.PHONY: test-duration
test-duration: $(development)
	$(MAKE) --no-print-directory fetch ENGINE=$(engine) CONFIG=config/smoke.yaml SET=
	$(run_dev) python -m pytest tests/slow/test_duration_measured.py -s

## test-resume: kill a training at 20 moments in each numerics mode, and resume it (ten minutes; QUICK=1: at five in each)
.PHONY: test-resume
test-resume: $(development)
	$(MAKE) --no-print-directory fetch ENGINE=$(engine) CONFIG=config/smoke.yaml SET=
	$(run_dev) python -m pytest tests/slow/test_resume.py -s

## test-portable: train and evaluate on this CPU and on two emulated ones (needs qemu-user; QUICK=1: one)
.PHONY: test-portable
test-portable: $(development)
	$(run_dev) python -m pytest tests/slow/test_cpus.py -s

## test-aarch64: set up, test and run the smoke config on emulated aarch64 (QUICK=1: import, and a few tests)
.PHONY: test-aarch64
test-aarch64: $(DEV)
	bash tests/slow/aarch64.sh

## test-golden: run the smoke config with portable numerics, and compare with reports/reference/smoke.json
.PHONY: test-golden
test-golden: $(development)
	$(MAKE) --no-print-directory all CONFIG=config/smoke.yaml NUMERICS=portable SET=
	$(run_dev) python -m pytest tests/golden

## test-browser: open results.html in headless Chromium (needs chromium)
.PHONY: test-browser
test-browser: $(development)
	$(run_dev) python -m pytest tests/browser

## bench: compare the speed of training, scoring and generation with the stock libraries (an hour; QUICK=1: minutes)
.PHONY: bench
bench: $(STAGES)/preprocess.json
	$(run) python -m tests.bench.bench_training $(bench_arguments)
	$(run) python -m tests.bench.bench_evaluation $(bench_arguments)
	$(if $(QUICK),,$(run) python -m tests.bench.bench_scaling --config $(CONFIG) $(if $(SET),--set $$SET))
	$(if $(QUICK),,$(run) python -m tests.bench.bench_geometry --config $(CONFIG) $(if $(SET),--set $$SET))
bench_arguments = --config $(CONFIG) $(if $(SET),--set $$SET) $(if $(QUICK),--quick)

## bench-quality: what fewer bits cost in quality, three seeds in each pair of formats (an hour)
.PHONY: bench-quality
bench-quality: $(STAGES)/preprocess.json
	$(run) python -m tests.bench.bench_quality --config $(CONFIG) $(if $(SET),--set $$SET)

## lint: check style and formatting
.PHONY: lint
lint: $(development)
	$(run_dev) ruff check --no-cache src tests
	$(run_dev) ruff format --no-cache --check src tests

## lock: resolve docker/*.in into docker/*.lock, with hashes
.PHONY: lock
lock: $(DEV)
	PYTHON=$(CURDIR)/.venv/bin/python bash docker/lock.sh

## clean: remove the results of runs (outputs, reports, archives)
.PHONY: clean
clean:
	rm -rf outputs archive reports/results.md reports/results.html reports/figures reports/seeds.md reports/seeds.json reports/.run

## distclean: remove everything that was built or downloaded (not your own data)
.PHONY: distclean
distclean: clean
	rm -rf data/raw/wheels data/raw/datasets data/raw/hub data/raw/docstrings.jsonl data/raw/reasoning_gym.jsonl data/models data/processed docker/wheels $(foreach name,docker podman,docker/.image-$(name) docker/.image-$(name)-dev docker/.unfit-$(name)) .venv

.PHONY: FORCE
FORCE:
