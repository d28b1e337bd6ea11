# Verbs for people and for CI. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := build/demo
NANO   := build/nano
NANO_BIN := $(VENV)-nano/bin
# Not every shell expands the ~ of PHOTOS=~/Pictures.
OWN    := $(patsubst ~%,$(HOME)%,$(PHOTOS))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint fix nano nano-references nano-multilingual vectors bench wheel clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make demo PHOTOS=~/Pictures QUERY="a dog"    search your own photos'

# -- environments: one for users of the SDK, one for developers, one with torch for building the model ----------

$(VENV)-demo/ready: pyproject.toml
	@echo 'Installing magicmm into $(VENV)-demo (once) ...'
	@$(PYTHON) -m venv $(VENV)-demo
	@$(VENV)-demo/bin/pip install --quiet --disable-pip-version-check .
	@touch $@

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[heic,export,training,openvino,executorch,coreml,dev]'
	@touch $@

$(VENV)-nano/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-nano
	$(VENV)-nano/bin/pip install --quiet --disable-pip-version-check --editable '.[nano,training]'
	@touch $@

# The sample photos travel inside the scikit-image package; nothing else of it is needed.
$(DEMO)/photos/ready: | $(VENV)-demo/ready
	@echo 'Fetching sample photos from the scikit-image package (once) ...'
	@mkdir -p $(DEMO)/photos
	@$(VENV)-demo/bin/pip install --quiet --disable-pip-version-check --no-deps --target $(DEMO)/package scikit-image
	@cd $(DEMO)/package/skimage/data && cp astronaut.png chelsea.png coffee.png hubble_deep_field.jpg motorcycle_left.png \
	    rocket.jpg retina.jpg moon.png coins.png horse.png page.png text.png grass.png gravel.png brick.png ../../../photos/
	@rm -rf $(DEMO)/package
	@touch $@

# -- verbs ------------------------------------------------------------------------------------------------------

ifdef PHOTOS
demo: $(VENV)-demo/ready ## search sample photos by sentences, or yours: PHOTOS=DIR QUERY="..."
	@mkdir -p $(DEMO)
	@$(VENV)-demo/bin/magicmm index "$(OWN)" --index $(DEMO)/yours.db
	@$(VENV)-demo/bin/magicmm search "$(or $(QUERY),a dog)" --under "$(OWN)" --index $(DEMO)/yours.db --no-sync \
	    -k 12 --sheet $(DEMO)/yours.html
else
demo: $(VENV)-demo/ready $(DEMO)/photos/ready
	@$(VENV)-demo/bin/magicmm index $(DEMO)/photos --index $(DEMO)/samples.db
	@n=0; for query in $(if $(QUERY),"$(QUERY)","a cat" "a cup of coffee" "a motorbike in a workshop" "a rocket launch" "a horse" "a printed page of text"); do \
	    n=$$((n + 1)); printf '\n$$ magicmm search "%s"\n' "$$query"; \
	    $(VENV)-demo/bin/magicmm search "$$query" --index $(DEMO)/samples.db --no-sync -k 3 --sheet $(DEMO)/sheet-$$n.html 2>/dev/null || exit 1; \
	done
	@printf '\nContact sheets to look at: %s/sheet-1.html and so on.\nYour own photos: make demo PHOTOS=~/Pictures QUERY="a dog"\n' "$(CURDIR)/$(DEMO)"
endif

test: $(VENV)/ready ## run the tests
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(VENV)/ready ## run the tests that take minutes
	$(BIN)/pytest -m slow

lint: $(VENV)/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sdk/python/magicmm model/magicmm_model training/magicmm_training quant/magicmm_quant
	$(BIN)/mypy export/magicmm_export benchmarks tests/tools

fix: $(VENV)/ready ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

nano: $(NANO)/nano-base ## train and build the built-in model again from packages (installs torch; 15 to 20 minutes on two cores)
	$(NANO_BIN)/magicmm-train run nano --data_root $(NANO) --out $(NANO)/run
	$(NANO_BIN)/python -m magicmm_export.nano sdk/python/magicmm/bundles/nano.magicmm \
	    --checkpoint $$(ls -dt $(NANO)/run/stages/distil-*/checkpoint | head -1)

nano-references: $(NANO)/nano-base build/nano-bank.magicmm ## what benchmarks compare it with: concept bank, float32, seeds
	$(NANO_BIN)/python -m magicmm_export.nano build/nano-bank-fp32.magicmm --precision fp32
	$(NANO_BIN)/python -m magicmm_export.nano build/nano-fp32.magicmm --precision fp32 \
	    --checkpoint $$(ls -dt $(NANO)/run/stages/distil-*/checkpoint | head -1)
	@for seed in 1 2; do \
	    $(NANO_BIN)/magicmm-train run nano --data_root $(NANO) --out $(NANO)/run-$$seed --seed $$seed && \
	    $(NANO_BIN)/python -m magicmm_export.nano build/nano-seed$$seed.magicmm \
	        --checkpoint $$(ls -dt $(NANO)/run-$$seed/stages/distil-*/checkpoint | head -1) || exit 1; \
	done

build/nano-bank.magicmm: | $(VENV)-nano/ready
	@mkdir -p build
	$(NANO_BIN)/python -m magicmm_export.nano $@

$(NANO)/nano-base: | $(VENV)-nano/ready
	@mkdir -p $(NANO)
	$(NANO_BIN)/python -m magicmm_export.nano.base $@

nano-multilingual: build/nano-bank.magicmm ## a built-in model for words of many languages (npm; about 3 minutes)
	$(VENV)-nano/bin/python -m magicmm_export.nano.multilingual build/nano-multilingual.magicmm --from build/nano-bank.magicmm

vectors: $(VENV)/ready ## write tests/vectors again
	$(BIN)/python tests/tools/generate_vectors.py

bench: $(VENV)/ready ## run every benchmark (see benchmarks/README.md)
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/sync.py
	$(BIN)/python benchmarks/kotlin.py
	$(BIN)/python benchmarks/conformance.py
	$(BIN)/python benchmarks/nano_quality.py
	$(BIN)/python benchmarks/nano_composed.py
	$(BIN)/python benchmarks/nano_robust.py
	$(BIN)/python benchmarks/confidence.py
	$(BIN)/python benchmarks/signals.py
	$(BIN)/python benchmarks/model_2b.py
	$(BIN)/python benchmarks/export_2b.py
	$(BIN)/python benchmarks/latency_2b.py
	$(BIN)/python benchmarks/train_throughput.py
	$(BIN)/python benchmarks/runtimes.py
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/train_chain.py

wheel: $(VENV)/ready ## build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what the verbs made (not the built-in model)
	rm -rf build dist $(VENV) $(VENV)-demo $(VENV)-nano .mypy_cache .pytest_cache .ruff_cache .hypothesis
