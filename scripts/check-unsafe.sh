#!/usr/bin/env bash
# Unsafe code lives in three places, so that a reader knows where to look twice. Fails when it is found elsewhere. One test is
# excepted: it counts allocations, and `GlobalAlloc` is an unsafe trait.
set -euo pipefail
cd "$(dirname "$0")/.."
# -w leaves `unsafe_code` alone; comments may speak of it.
found=$(git grep -nw unsafe -- '*.rs' ':!dpdk-sys' ':!forwarder/src/dpdk' ':!forwarder/src/sync' \
    ':!forwarder/tests/engine_alloc.rs' |
    grep -vE '^[^:]+:[0-9]+:[[:space:]]*//' || true)
[ -z "$found" ] && exit 0
echo "$found" >&2
echo "unsafe code outside dpdk-sys, forwarder/src/dpdk and forwarder/src/sync; move it there or do without" >&2
exit 1
