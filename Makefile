# Every target does its own set-up: a fresh clone needs python3 (3.10 or newer) and make.

# The first Python that works; override with PYTHON=/path/to/python3.
PYTHON ?= $(firstword $(foreach p,python3 /usr/bin/python3,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && echo $(p))))
# onnxruntime-gpu where an NVIDIA driver answers, onnxruntime elsewhere; never both.
EXTRA ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
# TensorRT-RTX, which builds engines without a GPU, where it can be had; RTX=no leaves it out.
RTX ?= yes
# nvidia-modelopt, which quantises to fp8; FP8=no leaves it out.
FP8 ?= yes
# Further arguments of pip install.
PIP_ARGS ?=
# Of `make engines`: auto is the released weights if they can be had, else the built-in model, and
# of the backend what is installed here. Sizes are the input's, WIDTHxHEIGHT.
MODEL ?= auto
SIZE ?= 320x180
BACKEND ?= auto
# Of `make live`: a camera, a stream, a file, or the built-in test pattern.
SRC ?= testsrc
# Of `make demo`: the folder, and what runs the engines. The libraries for a GPU are gigabytes, so that
# is a CPU unless EXTRA is set, or the rest is installed already.
OUT ?= demo-out
DEMO_EXTRA := $(if $(filter file,$(origin EXTRA)),cpu,$(EXTRA))
# Further arguments of pytest, of `make live`, `make engines`, `make bench`, `make train-tiny`.
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed-$(EXTRA)
INSTALLED_DEMO := .venv/.installed-demo-$(DEMO_EXTRA)
PIP_INSTALL = $(BIN)/python tools/pip_install.py .venv/install.log -c constraints.txt $(PIP_ARGS)
# Idle OpenMP threads that spin slow down every other process of the tests.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal

# The variable silences an advertisement of another program.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The environment of a checkout that was moved or copied points elsewhere: it is made again.
STAMPS := $(wildcard .venv/.installed-*)
MADE_FOR := $(if $(STAMPS),$(shell cat $(STAMPS)))
ifneq ($(MADE_FOR),)
ifneq ($(MADE_FOR),$(CURDIR))
$(shell rm -rf .venv)
STAMPS :=
endif
endif

.PHONY: help setup links demo live graphs train-tiny engines bench test test-slow test-gpu lint docs clean
.DEFAULT_GOAL := help

help: ## this list
	@echo 'streamdiffvsr: 4x video super-resolution as the video arrives'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s%s\n", $$1, $$2}'

setup: links $(INSTALLED) ## make .venv with the package (editable) and all that developing needs

links: .links/streamdiffvsr

# Type checkers and pytest find the package by its name here, whatever the checkout is called.
.links/streamdiffvsr:
	@mkdir -p .links && ln -sfn .. $@

$(BIN)/python:
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv

# Removes an onnxruntime that the one of the extra $(1) would overwrite.
define drop_other_onnxruntime
	@if [ '$(1)' = cuda ]; then other=onnxruntime; else other=onnxruntime-gpu; fi; \
		if $(BIN)/pip show -q $$other 2>/dev/null; then \
			$(BIN)/pip uninstall -q -y onnxruntime onnxruntime-gpu; fi
endef

$(INSTALLED_DEMO): $(BIN)/python pyproject.toml constraints.txt
	@echo 'installing what the demo needs into .venv (extra $(DEMO_EXTRA)); make setup adds the rest'
	$(call drop_other_onnxruntime,$(DEMO_EXTRA))
	@$(PIP_INSTALL) -e '.[$(DEMO_EXTRA)]'
	@rm -f .venv/.installed-* && printf '%s\n' '$(CURDIR)' > $@

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	@echo 'installing into .venv (extras $(EXTRA), export, train, live, bench, dev); the first time takes minutes'
	$(call drop_other_onnxruntime,$(EXTRA))
	@$(PIP_INSTALL) -e '.[$(EXTRA),export,train,live,whip,bench,dev]'
	@if [ '$(RTX)' = yes ]; then echo 'installing TensorRT-RTX, which builds engines without a GPU'; \
		$(BIN)/pip install -q --disable-pip-version-check --root-user-action=ignore \
			-c constraints.txt $(PIP_ARGS) -e '.[tensorrt-rtx]' >.venv/tensorrt-rtx.log 2>&1 || \
		echo 'TensorRT-RTX cannot be had here (.venv/tensorrt-rtx.log says why): all else works'; fi
	@if [ '$(FP8)' = yes ]; then $(BIN)/pip install -q --disable-pip-version-check \
			--root-user-action=ignore -c constraints.txt $(PIP_ARGS) -e '.[fp8]' >.venv/fp8.log 2>&1 || \
		echo 'nvidia-modelopt cannot be had here (.venv/fp8.log says why): no fp8, all else works'; fi
	@rm -f .venv/.installed-* && printf '%s\n' '$(CURDIR)' > $@

# Where the rest is installed, the demo uses that.
demo: $(if $(filter-out .venv/.installed-demo-%,$(STAMPS)),$(INSTALLED),$(INSTALLED_DEMO)) ## upscale the built-in clip, and draw what that gained
	@$(BIN)/streamdiffvsr demo --out '$(OUT)'

live: setup ## upscale a live source: make live SRC=rtsp://... ARGS='--to out.mkv --latency-ms 200'
	@$(BIN)/streamdiffvsr live '$(SRC)' $(ARGS)

graphs: setup ## export the built-in model's graphs again, after a change of the model or the code
	@$(BIN)/python tools/make_graphs.py $(ARGS)

train-tiny: setup ## train the built-in model again, into training-out/; goes on where it stopped
	@$(BIN)/python -m streamdiffvsr.research.training $(ARGS)

engines: setup ## build engines: make engines MODEL=... SIZE=320x180 BACKEND=tensorrt-rtx
	@$(BIN)/streamdiffvsr engines --model '$(MODEL)' --size '$(SIZE)' --backend '$(BACKEND)' $(ARGS)

bench: setup ## frame times of the built-in model here: make bench SIZE=320x180 ARGS='--report bench.html'
	@$(BIN)/streamdiffvsr bench --size '$(SIZE)' --backend '$(BACKEND)' $(ARGS)

test: setup ## the fast tests
	@$(PYTEST) $(ARGS)

test-slow: setup ## the tests that take minutes
	@$(PYTEST) -m 'slow and not gpu' $(ARGS)

test-gpu: setup ## what needs an NVIDIA GPU, in twelve minutes: frames, tests, figures
	@$(BIN)/python tools/gpu_steps.py --out build/test-gpu --minutes 12 $(ARGS)

lint: setup ## formatting, lint, types, layers, the manual
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	@PYTHONPATH=.links $(BIN)/lint-imports
	@$(MKDOCS)

docs: setup ## the manual as a site, in build/site; it loads nothing from elsewhere
	@$(MKDOCS) && echo 'open build/site/index.html; for search too: $(BIN)/python -m http.server -d build/site'

clean: ## remove .venv and whatever was made here; the engines in the user's cache stay
	rm -rf .venv .links build dist *.egg-info demo-out training-out .pytest_cache .mypy_cache .ruff_cache
