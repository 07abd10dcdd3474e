# One line of help stands behind `##` of each target.

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
BIN := $(TARGET)/release
CARGO := cargo
LOOM := $(patsubst forwarder/tests/%.rs,--test %,$(wildcard forwarder/tests/loom_*.rs))
MEASURED := $(TARGET)/bench
SECONDS ?= 60
CONFIG ?= docs/s2ds.example.toml
PAGE ?= $(TARGET)/nic/nic-test.md

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps deps-bench build run demo test nic-test conformance fuzz captures sanitize bench report deb deb-test lint docs ci clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

deps: ## install what is missing of Debian's packages, check Rust
	@scripts/deps.sh

deps-bench: ## install what the relay is compared with, and the browser that tests look through
	@scripts/deps.sh bench

build: ## build s2ds, s2ctl and s2bench into target/release
	$(CARGO) build --release --workspace --locked

run: build ## run a forwarder: make run CONFIG=/etc/scistream/s2ds.toml
	$(BIN)/s2ds --config $(CONFIG)

demo: deps build ## show iperf3, QUIC and plain sockets crossing two gateways
	$(BIN)/s2bench demo

test: deps build ## run every test; those that move traffic want root or user namespaces
	@scripts/nextest.sh
	S2_BIN_DIR=$(BIN) $(CARGO) nextest run --workspace --features forwarder/hwloc --locked
	$(CARGO) nextest run -p forwarder --no-default-features --locked --lib --test engine_differential
	$(CARGO) nextest run -p forwarder --no-default-features --features portable --locked --test engine_differential
	$(CARGO) test --doc --workspace --features forwarder/hwloc --locked
ifneq ($(LOOM),)
	RUSTFLAGS="--cfg loom" $(CARGO) test -p forwarder --no-default-features --locked --target-dir $(TARGET)/loom $(LOOM)
endif

nic-test: deps build ## run the relay in a virtual machine, on real drivers: make nic-test PAGE=docs/nic-test.md
	@if scripts/nic-guest.sh; then \
	    $(BIN)/s2bench nic-test --markdown $(PAGE); \
	else \
	    [ $$? = 3 ] && echo "nic-test: NOT RUN, the line above tells why"; \
	fi

conformance: deps build ## try the relay by the RFCs of NATs and write docs/nat-conformance.md
	$(BIN)/s2bench conformance --write docs/nat-conformance.md

fuzz: ## fuzz each parser and the engine: make fuzz SECONDS=60, of each target
	SECONDS_EACH=$(SECONDS) scripts/fuzz.sh

captures: ## replay captures of odd packets, from sources of packet tools where a machine can fetch them
	@if scripts/captures.sh; then \
	    S2_CAPTURES=require $(CARGO) test -p forwarder --no-default-features --locked --test engine_captures; \
	else \
	    [ $$? = 3 ]; \
	fi

sanitize: ## run the C shim under the address, leak and undefined behaviour sanitizers
	scripts/sanitize.sh

bench: deps deps-bench build ## measure: what a packet costs, the control server, and every approach side by side
	@mkdir -p $(MEASURED)
	$(BIN)/s2bench core --against testpmd,l3fwd --json $(MEASURED)/core.json
	$(BIN)/s2bench control --json $(MEASURED)/control.json
	$(BIN)/s2bench compare --json $(MEASURED)/compare.json

report: build ## make a page, a table and CSV of what `make bench` measured
	$(BIN)/s2bench report $(MEASURED)/compare.json $(MEASURED)/core.json --html $(MEASURED)/report.html --markdown $(MEASURED)/report.md \
	    --csv $(MEASURED)/report.csv

deb: deps build ## make Debian packages in target/deb: s2ds with s2ctl, s2cs, s2uc, s2bench
	@scripts/deps.sh deb
	@scripts/deb.sh

deb-test: deb ## install, start, upgrade, remove and purge those packages in a scratch Debian; wants root
	@scripts/deb-test.sh

lint: ## check format, clippy, and where unsafe code lives
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --features forwarder/hwloc --all-targets --locked -- -D warnings
	$(CARGO) clippy -p forwarder --no-default-features --all-targets --locked -- -D warnings
	@scripts/check-unsafe.sh

docs: ## build the API documentation into target/doc
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --locked

ci: deps deps-bench lint test demo nic-test sanitize captures deb-test ## everything a change has to pass
	$(BIN)/s2bench conformance --check docs/nat-conformance.md
	scripts/fuzz.sh --quick
	$(BIN)/s2bench core --quick
	$(BIN)/s2bench control --quick
	$(BIN)/s2bench compare --quick --approaches naive,s2ds-af_packet-adaptive

clean: ## remove everything built
	$(CARGO) clean
