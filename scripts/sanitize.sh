#!/usr/bin/env bash
# Runs the C shim under the address, leak and undefined behaviour sanitizers: dpdk-sys/csrc/tests/shim_test.c calls each of its
# functions on virtual devices. Needs neither hugepages nor rights.
set -euo pipefail
cd "$(dirname "$0")/.."

pkg-config --exists libdpdk || {
    echo "sanitize: DPDK is not installed; run \`make deps\`" >&2
    exit 1
}
out=${CARGO_TARGET_DIR:-target}/sanitize
mkdir -p "$out"
read -ra dpdk <<<"$(pkg-config --cflags libdpdk)"
read -ra libraries <<<"$(pkg-config --libs libdpdk)"
gcc -std=gnu11 -g -O1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unused-parameter -Werror \
    -fsanitize=address,undefined -fno-sanitize-recover=all "${dpdk[@]}" \
    -o "$out/shim_test" dpdk-sys/csrc/tests/shim_test.c dpdk-sys/csrc/shim.c "${libraries[@]}" -lrte_net_ring \
    -lrte_net_vhost -lrte_vhost

# EAL wants its memory where the address sanitizer has its shadow, unless told otherwise.
ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1 \
    UBSAN_OPTIONS=print_stacktrace=1 \
    "$out/shim_test" --no-huge --no-pci --no-telemetry --no-shconf -m 64 -l 0 \
    --base-virtaddr=0x200000000000 --log-level=critical --vdev=net_ring0 --vdev=net_null0,size=64
