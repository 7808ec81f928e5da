# What one can type here; `make` alone lists it. Needs make and Python 3.11 or newer.
VENV   ?= .venv
# Once made, an environment stays with its interpreter; PYTHON=python3.12 names another.
PYTHON ?= $(or $(wildcard $(VENV)/bin/python),python3)

# Whatever the environment holds, the code is this checkout's.
export PYTHONPATH := $(CURDIR)
export PYTHONNOUSERSITE := 1

# Each takes some 1.5 GB.
TEST_PROCESSES ?= 2

INTERPRETER = "$(VENV)/bin/python"

# Where `make cluster` keeps its cluster and its studies.
CLUSTER ?= $(CURDIR)/runs/cluster

.PHONY: help env workbook figures test browser soak bench gpu cluster lab python

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r target text; do printf '%-15s %s\n' "$$target" "$$text"; done

env:  ## .venv with the command detrnb, or VENV=elsewhere; the others make it as needed
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "there is no $(PYTHON) here; name one: make env PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c "import sys; v = tuple(sys.version_info[:3]); sys.exit(None if v >= (3, 11) \
	  else 'detrnb needs Python 3.11 or newer, $(PYTHON) is %d.%d.%d; name a newer one: make env PYTHON=python3.12' % v)"
	@"$(PYTHON)" tools/environment.py "$(VENV)"

workbook: env  ## run every notebook and write runs/workbook/index.html; SMOKE=1: in 2 to 3 minutes
	@$(INTERPRETER) -m detrnb workbook $(if $(filter-out 0,$(SMOKE)),--smoke)

figures: env  ## make workbook, and take its pictures over into figures/, to be committed
	@$(INTERPRETER) -m detrnb workbook --figures

test: env  ## ruff, then every test, each notebook in smoke mode among them
	@$(INTERPRETER) -m ruff check --quiet .
	@$(INTERPRETER) -m pytest -n $(TEST_PROCESSES) --dist loadfile

browser: env  ## in a real browser: the index page, notebook 05 by keyboard, a reload while training; SMOKE=1: two minutes
	@$(INTERPRETER) tools/browser_check.py $(if $(filter-out 0,$(SMOKE)),--smoke)

soak: env  ## break runs on purpose, for hours, into tests/soak/results.json; MINUTES=20 for a look
	@PYTHONPATH="$(CURDIR):$(CURDIR)/tests" $(INTERPRETER) -m soak $(DRILLS) \
	  $(if $(MINUTES),--minutes $(MINUTES))

bench: env  ## what it costs, beside its peers: bench/results.json and README.md; REFERENCE=clone of facebookresearch/detr
	@$(INTERPRETER) bench $(if $(REFERENCE),--reference "$(REFERENCE)")

gpu: env  ## on a CUDA device: the tests marked so, then bench; says where there is none
	@$(INTERPRETER) bench --gpu $(if $(REFERENCE),--reference "$(REFERENCE)")

cluster: env  ## a smoke study by a real SLURM on this machine (root, Debian), cut off and compared
	@rm -rf "$(CLUSTER)"
	@tools/slurm_here.sh start "$(CLUSTER)/slurm.one"
	@SLURM_CONF="$(CLUSTER)/slurm.one/slurm.conf" $(INTERPRETER) tools/cluster_check.py "$(CLUSTER)"; \
	  code=$$?; tools/slurm_here.sh stop "$(CLUSTER)/slurm.one"; exit $$code

lab: env  ## JupyterLab in notebooks/
	@$(INTERPRETER) -m jupyterlab --notebook-dir=notebooks --ip=127.0.0.1 \
	  --IdentityProvider.token="$$($(INTERPRETER) -c 'import secrets; print(secrets.token_hex(24))')"

python: env  ## print the environment's interpreter (make -s python)
	@$(INTERPRETER) -c 'import sys; print(sys.executable)'
