#!/usr/bin/env bash
# Unsafe code lives in three places, so that a reader knows where to look twice. Fails when it is found elsewhere. The tests that
# count allocations are excepted: `GlobalAlloc` is an unsafe trait.
set -euo pipefail
cd "$(dirname "$0")/.."
# The keyword with what it stands before: `unsafe_code`, texts and comments may speak of it.
found=$(git grep -nE 'unsafe[[:space:]]*([({]|impl|fn|trait|extern)' -- '*.rs' ':!dpdk-sys' ':!forwarder/src/dpdk' \
    ':!forwarder/src/sync' ':!*/tests/*_alloc.rs' |
    grep -vE '^[^:]+:[0-9]+:[[:space:]]*//' || true)
[ -z "$found" ] && exit 0
echo "$found" >&2
echo "unsafe code outside dpdk-sys, forwarder/src/dpdk and forwarder/src/sync; move it there or do without" >&2
exit 1
