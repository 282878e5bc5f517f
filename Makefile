# Everything that a checkout can do. `make` alone prints the list.

VENV      := .venv
INSTALLED := $(VENV)/.installed
PYTHONS   := python3.13 python3.12 python3.11 python3
CODE      := engine brokers certs tests benchmarks

# Twice as many workers as cores that a CI machine has: most tests wait for a socket, a process or a date. Tests that
# cannot bear a neighbour share an xdist_group.
PYTEST    := -q --no-header -n 4 --dist loadgroup
ARGS      ?=
BROKER    := embedded

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench requirements lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the engine into it (the other targets do this themselves)

demo: $(INSTALLED) ## two platforms, from keys to replicated objects; BROKER=rabbitmq: with PostgreSQL, too; ARGS=--keep to play on
	@$(VENV)/bin/ocpi-engine demo --broker $(BROKER) $(ARGS)

test: lint ## everything: lint, types, all tests; ARGS="-k words" for some of the tests
	@$(VENV)/bin/python -m pytest $(PYTEST) $(ARGS)

lint: $(INSTALLED) ## style, formatting and types only
	@$(VENV)/bin/ruff check --quiet $(CODE) && $(VENV)/bin/ruff format --quiet --check $(CODE) && echo "ruff: clean"
	@$(VENV)/bin/mypy --no-error-summary && echo "mypy: clean"

format: $(INSTALLED) ## put the code into the formatter's shape, mend what ruff can mend
	@$(VENV)/bin/ruff check --quiet --fix $(CODE); $(VENV)/bin/ruff format $(CODE)

bench: $(INSTALLED) ## how fast, beside its yardsticks
	@$(VENV)/bin/python -m benchmarks $(ARGS)

requirements: $(INSTALLED) ## the draft's requirements: shown by which test, not yet, or why not; ARGS=R.03, ARGS=--open
	@$(VENV)/bin/python -m tests.support.requirements $(ARGS)

lock: ## take the newest versions of all packages into constraints.txt
	@rm -rf .venv-lock && $(find_python) && "$$python" -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@head -1 constraints.txt > .venv-lock/constraints.txt
	@.venv-lock/bin/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools \
		>> .venv-lock/constraints.txt
	@mv .venv-lock/constraints.txt constraints.txt && rm -rf .venv-lock
	@echo "constraints.txt: $$(grep -c == constraints.txt) packages"

clean: ## remove .venv and everything that the tools left behind
	@rm -rf $(VENV) .venv-lock .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets $$python to the first Python that is new enough.
define find_python
python=; for candidate in $(PYTHONS); do \
	if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then python="$$candidate"; break; fi; done; \
if [ -z "$$python" ]; then \
	echo "This needs Python 3.11 or newer, and none of these is: $(PYTHONS)." >&2; \
	echo "Install one (on Debian and Ubuntu: apt install python3 python3-venv), or name it: make PYTHONS=/path/to/python3" >&2; \
	exit 1; fi
endef

# The stamp is made last, so that an installation that was interrupted is begun again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(find_python); \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "$$python cannot make virtual environments: install its venv package" >&2; \
		echo "(on Debian and Ubuntu: apt install python$$version-venv), then try again." >&2; \
		exit 1; fi; \
	if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
		echo "Making $(VENV) with $$("$$python" --version) ..."; \
		rm -rf $(VENV) && "$$python" -m venv $(VENV); fi
	@echo "Installing $$(grep -c == constraints.txt) packages into $(VENV), once; half a minute or so ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
