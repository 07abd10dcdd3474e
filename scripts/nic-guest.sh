#!/usr/bin/env bash
# Fetches what `s2bench nic-test` boots a guest with into target/nic: QEMU with the libraries it lacks here, a kernel with its
# modules, a busybox. They are Debian's packages, from where this machine gets its own, unpacked there and nowhere installed.
# Tells why when it cannot, and then ends with 3. To fetch newer ones remove target/nic.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(realpath -m "${CARGO_TARGET_DIR:-target}/nic")

cannot() {
    echo "nic-guest: $*" >&2
    exit 3
}

# What it was made by, and where: programs are linked with libraries of this machine.
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
made_by="$(sha256sum <scripts/nic-guest.sh | cut -c-16) $release $out"
if [ "$(head -1 "$out/complete" 2>/dev/null)" = "$made_by" ] && "$out/qemu" --version >/dev/null 2>&1; then
    exit 0
fi
for tool in apt-get apt-cache dpkg-deb xz; do
    command -v "$tool" >/dev/null || cannot "$tool is missing; this is not a Debian system"
done
[ -n "$release" ] || cannot "/etc/os-release names no release"
[ "$(dpkg --print-architecture)" = amd64 ] || cannot "the guest is an amd64 one and this machine is not"

rm -rf "$out"
mkdir -p "$out"/{programs,kernel,modules,apt/{parts,lists/partial,cache/archives/partial}}
log=$out/apt/log
# The release's own entries and, from the same places, its backports.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -e "$file" ] && awk -v suite="$release" '$1 == "deb" {
        line = $0 " "
        if (index(line, " " suite " ") || index(line, " " suite "-")) print
        if (sub(" " suite " ", " " suite "-backports ", line)) print line
    }' "$file"
done >"$out/apt/parts/all.list"
for file in /etc/apt/sources.list.d/*.sources; do
    [ -e "$file" ] && awk -v suite="$release" 'BEGIN { RS = ""; FS = "\n" }
        function stanza(suites,    i) {
            for (i = 1; i <= NF; i++) print $i ~ /^Suites:/ ? "Suites: " suites : $i
            print ""
        }
        {
            suites = ""
            for (i = 1; i <= NF; i++) if ($i ~ /^Suites:/) suites = substr($i, 8)
            if (index(suites " ", " " suite " ") || index(suites, " " suite "-")) stanza(suites)
            if (index(suites " ", " " suite " ")) stanza(suite "-backports")
        }' "$file"
done >"$out/apt/parts/all.sources"
[ -s "$out/apt/parts/all.list" ] || [ -s "$out/apt/parts/all.sources" ] || cannot "apt's sources have no entry for $release"

options=(-qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$out/apt/parts" -o Dir::State::lists="$out/apt/lists"
    -o Dir::Cache="$out/apt/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1 -o Acquire::Retries=2
    -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)
apt() {
    apt-get "${options[@]}" "$@" >"$log" 2>&1 || cannot "apt-get $1: $(grep -m1 '^[EW]:' "$log" || tail -1 "$log")"
}
echo "nic-guest: fetching QEMU, a kernel and busybox into $out"
apt -o APT::Update::Error-Mode=any update
# igb came with QEMU 8.0.
version=$(apt-cache "${options[@]}" policy qemu-system-x86 | sed -n 's/^ *Candidate: *\(.*:\)\?\([0-9]*\)\..*/\2/p')
from=()
[ "${version:-0}" -ge 8 ] || from=(-t "$release-backports")
apt --yes --download-only --no-install-recommends "${from[@]}" install qemu-system-x86
# Already installed on some machine, it would be missing: what is unpacked here has to stand by itself.
kernel=$(apt-cache "${options[@]}" depends linux-image-cloud-amd64 | sed -n 's/.*Depends: *//p' | head -1)
[ -n "$kernel" ] || cannot "there is no linux-image-cloud-amd64"
cd "$out/apt/cache/archives"
ls qemu-system-x86_*.deb >/dev/null 2>&1 || apt "${from[@]}" download qemu-system-x86 qemu-system-common qemu-system-data seabios
apt download "$kernel" busybox-static

for package in *.deb; do
    case $package in
    linux-image-*) dpkg-deb -x "$package" "$out/kernel" ;;
    *) dpkg-deb -x "$package" "$out/programs" ;;
    esac
done
fetched=$(printf '%s\n' *.deb)
cd "$out"
# Module files by their names alone, as insmod wants them.
find kernel/lib kernel/usr/lib -name '*.ko*' -exec mv -t modules {} + 2>/dev/null || true
xz --decompress --quiet modules/*.ko.xz 2>/dev/null || true
[ -e modules/vfio-pci.ko ] || cannot "$kernel has no module vfio-pci"
mv kernel/boot/vmlinuz-* vmlinuz
mv programs/bin/busybox programs/usr/bin/busybox . 2>/dev/null || true
[ -x busybox ] || cannot "busybox-static has no busybox"
# A script, so that QEMU's libraries are QEMU's alone.
libraries=$out/programs/usr/lib/x86_64-linux-gnu
cat >qemu <<END
#!/bin/sh
LD_LIBRARY_PATH='$libraries' QEMU_MODULE_DIR='$libraries/qemu' \\
    exec '$out/programs/usr/bin/qemu-system-x86_64' -L '$out/programs/usr/share/qemu' -L '$out/programs/usr/share/seabios' "\$@"
END
chmod +x qemu
./qemu --version >"$log" 2>&1 || cannot "QEMU does not run: $(tail -1 "$log")"
rm -rf apt kernel
printf '%s\n' "$made_by" "$fetched" >complete
echo "nic-guest: $(./qemu --version | head -1), $kernel"
