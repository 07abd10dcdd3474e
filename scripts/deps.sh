#!/usr/bin/env bash
# Installs what building, demo and tests need, and only what is missing. Quick when nothing is.
# `deps.sh bench` installs what the benchmarks compare with, and a browser that looks at the live page; `deps.sh deb` what makes
# Debian packages and tries them.
set -euo pipefail
cd "$(dirname "$0")/.."

# To build: DPDK and its PMDs, libclang for bindgen, hwloc (which wants udev), a C compiler.
build=(gcc libc6-dev make pkg-config libdpdk-dev libclang-dev libhwloc-dev libudev-dev)
# To measure and to look inside: testpmd, dpdk-devbind.py, dpdk-telemetry.py; l3fwd's source and how to guard a peer's end.
tools=(dpdk dpdk-dev dpdk-doc util-linux)
# For demo and tests: networks, traffic, a QUIC and an OAuth 2.0 server that are not ours, and a Python for PyPI's gRPC.
tests=(clang iproute2 iputils-ping ethtool iperf3 ngtcp2-client ngtcp2-server python3 python3-venv
    python3-django-oauth-toolkit)
# What is set side by side with the relay.
peers=(haproxy nginx libnginx-mod-stream stunnel4 socat nftables)
packaging=(debhelper dpkg-dev iproute2 mmdebstrap procps util-linux)
browser=(chromium chromium-driver fonts-dejavu-core)
# What of these brings a service, and which. What is installed here is neither started nor left enabled.
declare -A services=([iperf3]=iperf3 [ngtcp2-server]=ngtcp2d [haproxy]=haproxy [nginx]=nginx [stunnel4]=stunnel4
    [nftables]=nftables)

case ${1:-} in
'') wanted=("${build[@]}" "${tools[@]}" "${tests[@]}") ;;
bench) wanted=("${peers[@]}" "${browser[@]}") ;;
deb) wanted=("${packaging[@]}") ;;
*)
    echo "deps: $1 is not known; there are \`bench\` and \`deb\`, or nothing" >&2
    exit 2
    ;;
esac

fail() {
    echo "deps: $*" >&2
    exit 1
}

missing=()
installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}
packages() {
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || fail "this is not a Debian system;" \
        "install the equivalents of these packages yourself: ${wanted[*]}"
    local package
    for package in "${wanted[@]}"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "these packages are missing and only root can install them:" \
            "run \`apt-get install --no-install-recommends ${missing[*]}\` as root"
        root=(sudo)
    fi
    echo "deps: installing ${missing[*]}"
    # Debian asks this file before it starts a service; 101 forbids it.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        # shellcheck disable=SC2064 # the words as they are now
        trap "${root[*]} rm -f /usr/sbin/policy-rc.d" EXIT
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee /usr/sbin/policy-rc.d >/dev/null
        "${root[@]}" chmod 755 /usr/sbin/policy-rc.d
    fi
    "${root[@]}" apt-get -qq update || fail "apt-get cannot update its lists; check the network and /etc/apt/sources.list"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" ||
        fail "apt-get could not install ${missing[*]}; its message above tells why"
    if command -v systemctl >/dev/null; then
        for package in "${missing[@]}"; do
            [ -n "${services[$package]:-}" ] || continue
            "${root[@]}" systemctl --quiet disable "${services[$package]}" 2>/dev/null || true
        done
    fi
}

rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null && command -v rustc >/dev/null ||
        fail "cargo and rustc are missing; install Rust $wanted or newer from https://rustup.rs and see that ~/.cargo/bin is in PATH"
    found=$(rustc --version | cut -d' ' -f2)
    printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -CV ||
        fail "Rust is $found and has to be $wanted or newer; run \`rustup update stable\`"
}

# gRPC's library for Python, which stands for the clients that are there already, in an environment of its own.
python() {
    local wanted=control/tests/python/requirements.txt env=${CARGO_TARGET_DIR:-target}/python
    if cmp -s "$wanted" "$env/installed.txt"; then
        return
    fi
    echo "deps: installing what $wanted names into $env"
    { python3 -m venv "$env" && "$env/bin/pip" --quiet --disable-pip-version-check install --requirement "$wanted"; } ||
        fail "pip could not install what $wanted names; its message above tells why"
    cp "$wanted" "$env/installed.txt"
}

packages
if [ -z "${1:-}" ]; then
    rust
    python
fi
