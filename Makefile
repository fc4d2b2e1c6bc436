# Two commands on a fresh machine: `make run` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PORT   ?= 8000
DEBIAN := chromium fonts-noto-cjk default-jre-headless

.PHONY: install run test pictures fonts chaos bench check format lock lock-bench clean

install: $(STAMP)

# The lock holds every package with its hash; the project itself is put beside it without asking for more.
$(STAMP): requirements-test.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=… chooses one)."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt install python3-venv"; exit 1; }
	$(BIN)/pip install -qq --require-hashes -r requirements-test.lock
	$(BIN)/pip install -qq --no-deps -e .
	@sh .ci/debian $(DEBIAN)
	@touch $@

run: install
	@$(BIN)/broadcaster serve --port $(PORT)

# Everything: real mail, PostgreSQL, Redis and a browser, all on this machine. The killing goes last and by itself: it
# keeps several towns busy at once.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests --ignore tests/test_crash.py
	$(BIN)/python -m pytest tests/test_crash.py

# The pictures of the guides, as the browser tests see the pages.
pictures: install
	PICTURES=docs/pictures $(BIN)/python -m pytest tests/test_desk_day.py tests/test_desk_pages.py

# The fonts that a signage screen ships, cut from whole ones: after a change of the words or the places in config/.
fonts: install
	@sh .ci/debian fonts-morisawa-bizud-gothic fonts-noto-cjk
	$(BIN)/pip install -qq fonttools brotli
	$(BIN)/python tools/signage_fonts.py

# Every step at which a process can die, on both databases; CHAOS="--step … --seed …" repeats one. See docs/chaos.md.
chaos: install
	$(BIN)/python -m tests.chaos $(CHAOS)

# What docs/benchmarks.md tells: all of it by default, some by N="N9 N11"; ARGS=--quick to see that it works, ARGS=--write
# to put the tables into the page. Whatever cannot be installed here is named, and stands in the tables as not run.
BENCH := benchmarks/.venv
bench: install $(BENCH)/.installed
	@sh .ci/debian wrk nginx-light postfix
	@command -v npm >/dev/null 2>&1 || sh .ci/debian nodejs npm
	@cd benchmarks/peers && { npm ci --silent --no-audit --no-fund || echo "npm ci failed: nodemailer will not be compared."; }
	$(BIN)/python -m benchmarks $(N) $(ARGS)

$(BENCH)/.installed: benchmarks/requirements.lock
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install -qq --require-hashes -r benchmarks/requirements.lock
	@touch $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# After a change of pyproject.toml. The locks name packages and hashes, no address to fetch them from.
lock:
	$(BIN)/pip install -qq uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra test -o requirements-test.lock pyproject.toml

# After a change of benchmarks/requirements.in.
lock-bench:
	$(BIN)/pip install -qq uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o benchmarks/requirements.lock benchmarks/requirements.in

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache tests/.artifacts
