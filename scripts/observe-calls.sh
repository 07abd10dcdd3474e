#!/usr/bin/env bash
# Shows which system calls s2ds makes once it runs, by kind of thread: what the lists in forwarder/src/privilege/calls.rs are held
# against. Runs the demo over each driver, and s2ds by itself over the devices that the demo has not, with s2ds traced and its
# sandbox logging only. Needs root, strace and built programs; the directory of these may be named. Calls that no list has are
# marked: find out what they are for before a list gets them.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "observe-calls: run as root" >&2; exit 1; }
command -v strace >/dev/null || { echo "observe-calls: strace is missing; install it with apt-get" >&2; exit 1; }
bin=$(realpath "${1:-target/debug}")

work=$(mktemp -d)
netns=s2-observe-$$
trap 'ip netns del "$netns" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/bin"
for program in s2cs s2uc s2ctl s2bench; do ln -s "$bin/$program" "$work/bin/"; done
# -D: the traced process keeps its parent, which waits for it and kills it.
cat >"$work/bin/s2ds" <<WRAPPER
#!/bin/sh
exec strace -D -f -qq -Y -o "$work/trace.\$\$" "$bin/s2ds" "\$@" --sandbox log
WRAPPER
chmod +x "$work/bin/s2ds"

for driver in af_packet af_xdp pcap; do
    echo "observe-calls: the demo over $driver" >&2
    S2_BIN_DIR=$work/bin "$bin/s2bench" demo --driver "$driver" --seconds 1 >"$work/demo" 2>&1 ||
        echo "observe-calls: some checks of it failed, as they may under strace" >&2
done

ip netns add "$netns"
for device in tap:s2observe "memif:$work/memif.sock" "vhost:$work/vhost.sock"; do
    echo "observe-calls: ${device%%:*} from start to stop" >&2
    cat >"$work/s2ds.toml" <<CONFIG
[eal]
huge = false
[workers]
idle = "adaptive"
[service]
socket = "$work/s2ds.sock"
[[port]]
name = "lan"
device = "$device"
addresses = ["10.0.0.1/24"]
CONFIG
    RUNTIME_DIRECTORY=$work nsenter --net="/var/run/netns/$netns" "$work/bin/s2ds" --config "$work/s2ds.toml" 2>"$work/said" &
    pid=$!
    for _ in $(seq 300); do
        grep -q "s2ds: ready" "$work/said" && break
        sleep 0.1
    done
    "$bin/s2ctl" --socket "$work/s2ds.sock" stats >/dev/null
    kill "$pid"
    wait "$pid" || { cat "$work/said" >&2; exit 1; }
done

# A worker counts from its own filter on, every other thread from the process's on.
awk '
    FILENAME ~ /calls\.rs$/ {
        if ($0 ~ /^const THREAD/) list = "both"
        if ($0 ~ /const WORKER/) list = "worker"
        if ($0 ~ /const PROCESS/) list = "process"
        if ($0 ~ /const ATTACK/) list = "attack"
        while (match($0, /SYS_[a-z0-9_]+/)) {
            known[list, substr($0, RSTART + 4, RLENGTH - 4)] = 1
            $0 = substr($0, RSTART + RLENGTH)
        }
        next
    }
    FILENAME ~ /seccomp\.rs$/ {
        while (match($0, /SYS_[a-z0-9_]+/)) {
            known["both", substr($0, RSTART + 4, RLENGTH - 4)] = 1
            $0 = substr($0, RSTART + RLENGTH)
        }
        next
    }
    FNR == 1 { settled = 0; split("", filtered) }
    match($0, /^[0-9]+<[^>]*> +[a-z0-9_]+\(/) {
        split(substr($0, RSTART, RLENGTH), part, /[<>(]/)
        tid = part[1]; name = part[2]; call = part[3]
        sub(/^ +/, "", call)
        sub(/-[0-9]+$/, "", name)
        if (call == "seccomp") { if (name == "worker") filtered[tid] = 1; else settled = 1; next }
        if (name == "worker" ? !filtered[tid] : !settled) next
        count[name, call]++
    }
    END {
        for (pair in count) {
            split(pair, part, SUBSEP)
            list = part[1] == "worker" ? "worker" : "process"
            ok = (("both", part[2]) in known) || ((list, part[2]) in known)
            printf "%-16s %-18s %8d%s\n", part[1], part[2], count[pair], ok ? "" : "  in no list"
        }
    }
' forwarder/src/privilege/calls.rs forwarder/src/privilege/seccomp.rs "$work"/trace.* | sort
