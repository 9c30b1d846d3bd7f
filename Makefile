# demo, test, lint, bench, docs and soak each set up what they need. PYTHON names another Python than the
# machine's python3 (give it a VENV of its own), PG_BINDIR the programs of another PostgreSQL than
# the embedded one, ARGS what is passed on.

PYTHON ?= python3
VENV ?= .venv
PG_BINDIR ?=
ARGS ?=
BIN = $(VENV)/bin
# How `make coverage` has the tests run.
COVERAGE =
SHAPE ?= role
# Those that pyenv has installed are not on the path, unless they are chosen.
BENCH_PYTHON ?= $(or $(shell for python in python3.13 python3.14 python3.12 \
	$$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[2-9].*/bin/python 2>/dev/null | sort -rV); do \
	$$python -c "" 2>/dev/null && echo $$python && break; done),$(PYTHON))
BENCH_VENV ?= $(VENV)-bench
# What does not depend on the shape of the policies, and takes its time.
ANY_SHAPE = adoption asgi_middleware benchmarks binding browser cache celery context copy_back docs \
	docs_links drf drive envelope handing_over instructions keys layers login middleware migrating mixed \
	mutants ninja packages plugin rebinding requests resolvers run_as_tenant run_for_all selection servers \
	shards soak standby startup storage streaming_lifecycle tasks

.PHONY: demo test lowest coverage shape lint bench bench-full docs soak django-suite clean pgbouncer \
	browser postgis redis valgrind

demo: $(VENV)/.demo
	@$(call install,pgbouncer,pgbouncer) || true
	@$(BIN)/python example_asgi/demo.py $(ARGS)

# The tests of isolation again, with the policies in another shape: SHAPE=role, sealed or sealed_guc.
shape: $(VENV)/.test pgbouncer postgis redis
	TENANTRY_SHAPE=$(SHAPE) TENANTRY_PG_BINDIR=$(PG_BINDIR) $(BIN)/python -m pytest $(patsubst %,--ignore=tests/test_%.py,$(ANY_SHAPE)) $(ARGS)

test: $(VENV)/.test pgbouncer browser postgis redis valgrind
	TENANTRY_PG_BINDIR=$(PG_BINDIR) $(BIN)/python $(COVERAGE) -m pytest $(ARGS)

# What is asked of psycopg and its pool, of the oldest that pyproject.toml allows, as of all else that
# the package depends on. It takes the libpq of the machine.
lowest: $(VENV)/.test pgbouncer
	@$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/lowest $$($(BIN)/python -c \
		"import tomllib; print(*(each.replace('>=', '==') for each in \
		tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']))")
	PSYCOPG_IMPL=python PYTHONPATH=$(VENV)/lowest TENANTRY_PG_BINDIR=$(PG_BINDIR) $(BIN)/python -m pytest \
		tests/test_layers.py tests/test_statement_paths.py tests/test_pool.py \
		-k "relied or each_path or test_pool" $(ARGS)

# The tests again, with what they leave out at the end. They take half as long again.
coverage:
	@$(MAKE) --no-print-directory test COVERAGE="-m coverage run"
	$(BIN)/coverage report

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# tenantry, stock Django and the peers side by side, in about ten minutes, then under load; and
# everything, in three hours.
# The newest releases of some peers need Python 3.12.
bench: $(BENCH_VENV)/.bench pgbouncer
	$(BENCH_VENV)/bin/python benchmarks/side_by_side.py $(ARGS)
	$(BENCH_VENV)/bin/python benchmarks/load.py

bench-full: $(BENCH_VENV)/.bench pgbouncer valgrind
	$(BENCH_VENV)/bin/python benchmarks/side_by_side.py --workloads all --routes all --seconds 60 --name side_by_side_full $(ARGS)
	$(BENCH_VENV)/bin/python benchmarks/load.py --clients 1 20 200 500 1000 2000 --seconds 10 --minutes 60
	$(BENCH_VENV)/bin/python benchmarks/driver_read.py
	$(BENCH_VENV)/bin/python benchmarks/driver_read.py --shape role
	$(BENCH_VENV)/bin/python benchmarks/driver_read.py --shape sealed
	$(BENCH_VENV)/bin/python benchmarks/policy_cost.py
	$(BENCH_VENV)/bin/python benchmarks/blocks.py
	$(BENCH_VENV)/bin/python benchmarks/blocks.py --shape role
	$(BENCH_VENV)/bin/python benchmarks/slow_await.py
	$(BENCH_VENV)/bin/python benchmarks/compile_cost.py
	$(BENCH_VENV)/bin/python benchmarks/middleware_cost.py
	$(BENCH_VENV)/bin/python benchmarks/growth.py --rows 10000000
	$(BENCH_VENV)/bin/python benchmarks/instructions.py
	$(BENCH_VENV)/bin/python benchmarks/profiles.py

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

soak: $(VENV)/.test pgbouncer
	$(BIN)/python -m tests.soak $(ARGS)

django-suite: $(VENV)/.django-suite
	$(BIN)/python tests/django_suite/run.py $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) benchmarks/.envs docs/_build .hypothesis

pgbouncer:
	@$(call install,pgbouncer,pgbouncer)

browser:
	@$(call install,chromedriver,chromium chromium-driver)

redis:
	@$(call install,redis-server,redis-server)

# Only a test on Linux needs it.
valgrind:
	@test "$$(uname)" != Linux || { $(call install,valgrind,valgrind) }

# GDAL and GEOS, which Django loads, come with it. Tests look for it where Debian's packages put it,
# and leave it out where there are none.
postgis:
	@! command -v apt-get >/dev/null || { $(call install,/usr/share/postgresql/*/extension/postgis.control,postgresql-postgis) }

$(BENCH_VENV)/.bench: pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) PYTHON=$(BENCH_PYTHON) $@

# $(VENV)/.GROUP stands for a dependency group that is installed.
$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the $* group into $(VENV)..."
	@$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install -q --group $* -e .
	@touch $@

# $(call install,PROGRAM,PACKAGES): install Debian's packages if the program, or files, are missing and
# we may.
define install
PATH="$$PATH:/usr/sbin:/usr/local/sbin"; \
if ! command -v $(1) >/dev/null && ! ls $(1) >/dev/null 2>&1; then \
	sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	if command -v apt-get >/dev/null && $$sudo true 2>/dev/null; then \
		echo "Installing $(2)..."; \
		$$sudo apt-get update -qq >/dev/null && \
		DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq $(2) >/dev/null; \
	fi; \
	command -v $(1) >/dev/null || ls $(1) >/dev/null 2>&1 || { \
		echo "$(1) is missing: install it with your system's package manager, on Debian and" \
			"Ubuntu with: sudo apt-get install $(2)"; false; }; \
fi
endef
