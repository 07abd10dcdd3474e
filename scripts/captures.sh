#!/usr/bin/env bash
# Fetches captures of odd and malformed packets into target/captures: those that packet tools bring with their sources, from
# where this machine gets its Debian packages. The system's configuration is not changed; nothing of it is committed. Tells why
# when it cannot, and then ends with 3.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(tcpdump libpcap)
out=${CARGO_TARGET_DIR:-target}/captures

cannot() {
    echo "captures: $*" >&2
    exit 3
}

[ -e "$out/.complete" ] && [ "$(cat "$out/.complete")" = "${packages[*]}" ] && exit 0
for tool in apt-get tar; do
    command -v "$tool" >/dev/null || cannot "$tool is missing; this is not a Debian system"
done
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$codename" ] || cannot "/etc/os-release names no release"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/parts" "$work/lists/partial" "$work/cache/archives/partial" "$work/fetched"
# The release's own entries, as sources.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -e "$file" ] && awk -v suite="$codename" '$1 == "deb" && index(" " $0 " ", " " suite " ") { sub(/deb/, "deb-src"); print }' "$file"
done >"$work/parts/all.list"
for file in /etc/apt/sources.list.d/*.sources; do
    [ -e "$file" ] && awk -v suite="$codename" 'BEGIN { RS = ""; FS = "\n" }
        {
            ours = 0
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^Suites:/ && index(substr($i, 8) " ", " " suite " ")) ours = 1
                if ($i ~ /^Types:/) $i = "Types: deb-src"
            }
            if (ours) { for (i = 1; i <= NF; i++) print $i; print "" }
        }' "$file"
done >"$work/parts/all.sources"
[ -s "$work/parts/all.list" ] || [ -s "$work/parts/all.sources" ] ||
    cannot "apt's sources have no entry for $codename"

apt() {
    apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
        -o Acquire::https::Timeout=20 "$@"
}
apt -o APT::Update::Error-Mode=any update >"$work/log" 2>&1 || cannot "apt-get cannot read the lists of sources: $(grep -m1 '^[EW]:' "$work/log" || tail -1 "$work/log")"
rm -rf "$out"
mkdir -p "$out"
missing=()
for package in "${packages[@]}"; do
    if ! (cd "$work/fetched" && apt source --download-only --only-source "$package") >"$work/log" 2>&1; then
        echo "captures: no source of $package: $(grep -m1 '^[EW]:' "$work/log" || tail -1 "$work/log")" >&2
        missing+=("$package")
        continue
    fi
    mkdir -p "$out/$package"
    for archive in "$work/fetched/${package}"_*.tar.*; do
        case $archive in
        *.asc) continue ;;
        esac
        # An archive without any is no error.
        tar -xf "$archive" -C "$out/$package" --wildcards '*.pcap' '*.cap' '*.pcap.gz' 2>/dev/null || true
    done
done
found=$(find "$out" -type f | wc -l)
[ "$found" -gt 0 ] || cannot "none of ${packages[*]} could be fetched, or none has captures"
[ ${#missing[@]} -gt 0 ] || echo "${packages[*]}" >"$out/.complete"
echo "captures: $found files of ${packages[*]} in $out"
