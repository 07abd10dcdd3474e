#!/usr/bin/env bash
# Runs the fuzz targets of forwarder/tests/hostile under libFuzzer, on stable Rust: SECONDS_EACH each, or with --quick as many
# inputs as a few seconds take, the same ones in each run. What they learn is kept in target/fuzz/corpus, inputs that failed in
# target/fuzz/found.
#   scripts/fuzz.sh [--quick] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-60}
options=()
quick=
if [ "${1:-}" = --quick ]; then
    shift
    quick=1
fi
host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/fuzz
# Coverage as libFuzzer wants it: what `-Zsanitizer=fuzzer` would pass, which only nightly Rust knows. --target keeps it away
# from build scripts, which have no libFuzzer in them.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares"
case $host in
x86_64-*) coverage="-Ctarget-cpu=x86-64-v3 $coverage" ;;
esac
# libFuzzer is C++; clang is there already.
RUSTFLAGS="$(echo $coverage) --cfg fuzzing" CXX=${CXX:-clang++} \
    cargo build --release --locked --target "$host" --manifest-path forwarder/fuzz/Cargo.toml
program=$CARGO_TARGET_DIR/$host/release/forwarder-fuzz

found=$CARGO_TARGET_DIR/found
mkdir -p "$found"
mapfile -t all < <("$program" 2>/dev/null)
targets=("$@")
[ $# -gt 0 ] || targets=("${all[@]}")
for target in "${targets[@]}"; do
    [[ " ${all[*]} " == *" $target "* ]] || {
        echo "fuzz: there is no target $target; there are ${all[*]}" >&2
        exit 2
    }
done
failed=()
for target in "${targets[@]}"; do
    corpus=$CARGO_TARGET_DIR/corpus/$target
    # A quick run does not depend on runs before it.
    if [ -n "$quick" ]; then
        corpus=$CARGO_TARGET_DIR/quick/$target
        rm -rf "$corpus"
        case $target in
        engine) options=(-seed=4 -runs=4000) ;;
        fragments | claim | config) options=(-seed=4 -runs=20000) ;;
        *) options=(-seed=4 -runs=300000) ;;
        esac
    fi
    mkdir -p "$corpus"
    S2_FUZZ=$target S2_FUZZ_SEEDS=$corpus "$program" 2>/dev/null
    log=$CARGO_TARGET_DIR/$target.log
    # The value profile steers towards compared values: without it, two bytes that have to be right are hardly ever found.
    if S2_FUZZ=$target "$program" "${options[@]}" -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
        -use_value_profile=1 -print_final_stats=1 -artifact_prefix="$found/$target-" "$corpus" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        echo "fuzz: $target: $runs inputs, $edges edges"
    else
        failed+=("$target")
        { grep -A3 'panicked at' "$log" || tail -20 "$log"; } >&2
        echo "fuzz: $target failed; see $log" >&2
    fi
done
[ ${#failed[@]} -eq 0 ] && exit 0
echo "fuzz: ${failed[*]} failed. Inputs are in $found; run one again with S2_FUZZ=TARGET $program FILE," >&2
echo "and make it a case of forwarder/tests/hostile_targets.rs" >&2
exit 1
