#!/usr/bin/env bash
# Installs cargo-nextest when it is missing: it gives each test its own process, as tests that start DPDK need.
set -euo pipefail
cargo nextest --version >/dev/null 2>&1 && exit 0
cargo install --locked cargo-nextest || {
    echo "nextest: cargo could not install cargo-nextest; see https://nexte.st for other ways and run again" >&2
    exit 1
}
