#!/usr/bin/env bash
# Makes Debian packages in target/deb of what `make build` made, and prints their paths. DEB_VERSION=1.2.3 gives them another version
# than Cargo.toml's.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bin=$(realpath -m "${S2_BIN_DIR:-$target/release}")
out=$target/deb
stage=$out/build
programs=(s2ds s2ctl s2cs s2uc s2bench)

fail() {
    echo "deb: $*" >&2
    exit 1
}

for tool in dh dpkg-buildpackage; do
    command -v $tool >/dev/null || fail "$tool is missing; run \`scripts/deps.sh deb\`"
done
for program in "${programs[@]}"; do
    [ -x "$bin/$program" ] || fail "$bin/$program is missing; run \`make build\`"
done

# A build between releases sorts before the release that it leads to, and after all builds of older commits.
version() {
    local released commit
    released=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
    commit=$(git rev-parse --short=10 HEAD 2>/dev/null) || commit=
    if [ -z "$commit" ] || git describe --exact-match --tags --match "v$released" >/dev/null 2>&1; then
        echo "$released"
    else
        local dirty=
        [ -z "$(git status --porcelain --untracked-files=no)" ] || dirty=.dirty
        echo "$released~git$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S).$commit$dirty"
    fi
}

# The last commit's time, so that a tree gives the same packages whenever they are made.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH
version=${DEB_VERSION:-$(version)}

# toml_page NAME ABOUT FILE...: a page of section 5 that shows commented example files.
toml_page() {
    local name=$1 about=$2
    shift 2
    printf '.TH %s 5 %s "scistream %s" SciStream\n.SH NAME\n%s \\- %s\n' \
        "$name" "$(date -ud "@$SOURCE_DATE_EPOCH" +%F)" "$version" "$name" "$about"
    local file title
    for file in "$@"; do
        title=$(basename "$file" .example.toml).toml
        printf '.SH %s\n.nf\n' "$title"
        # Backslashes, dashes and what roff takes for requests.
        sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\\&&/" "$file"
        printf '.fi\n'
    done
    printf '.SH FILES\n.I /etc/scistream/%s\n.SH SEE ALSO\n.BR %s (8)\n' "$name" "${name%.toml}"
}

# drivers KIND: the packages that have the drivers which packaging/pmds has under KIND, as a field of debian/control.
drivers() {
    local kind driver library folder abi
    folder=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)
    # librte_eal.so -> librte_eal.so.23
    abi=$(readlink "$folder/librte_eal.so")
    abi=${abi#*.so.}
    while read -r kind driver; do
        [ "$kind" = "$1" ] || continue
        case $driver in
        meta_*) echo "librte-${driver//_/-}" ;;
        *)
            library=$folder/librte_$driver.so.$abi
            # A driver that this release of DPDK does not have for this processor is nobody's dependency.
            [ -e "$library" ] || continue
            dpkg-query -S "$library" | cut -d: -f1
            ;;
        esac
    done <packaging/pmds | sort -u | paste -sd, | sed 's/,/, /g'
}

rm -rf "$out"/scistream[-_]* "$stage"
mkdir -p "$stage"/{bin,docs}
cp -r packaging/debian packaging/etc "$stage"
cp docs/*.md docs/*.toml "$stage/docs"
cp CHANGELOG.md "$stage"
for program in "${programs[@]}"; do
    cp "$bin/$program" "$stage/bin"
    "$bin/$program" --write-manual "$stage/manual" || fail "$bin/$program writes no manual; run \`make build\`"
done
toml_page s2ds.toml "configuration of s2ds, every key" docs/s2ds.example.toml >"$stage/manual/man/s2ds.toml.5"
toml_page s2cs.toml "configuration and policy of s2cs, every key" docs/s2cs.example.toml docs/policy.example.toml \
    >"$stage/manual/man/s2cs.toml.5"
for service in s2ds s2cs; do
    printf '.SH FILES\n.I /etc/scistream/%s.toml\n.SH SEE ALSO\n.BR %s.toml (5)\n' $service $service >>"$stage/manual/man/$service.8"
    cp packaging/systemd/$service.service "$stage/debian/scistream-$service.$service.service"
    cp packaging/sysusers/scistream-$service.conf "$stage/debian/scistream-$service.sysusers"
done
for kind in Depends Recommends Suggests; do
    echo "dpdk:$kind=$(drivers ${kind,,})"
done >"$stage/dpdk.substvars"
cat >"$stage/debian/changelog" <<END
scistream ($version) bookworm; urgency=medium

  * changelog.gz tells what is new. Built from this commit:
    $(git rev-parse HEAD 2>/dev/null || echo unknown)

 -- $(sed -n 's/^Maintainer: //p' packaging/debian/control)  $(date -uRd "@$SOURCE_DATE_EPOCH")
END

# Without packages of debug symbols: they are ten times as large as the programs, and `make build` leaves them in target/release.
export DEB_BUILD_OPTIONS="noautodbgsym ${DEB_BUILD_OPTIONS:-}"
# cargo has built: whether this machine has what that needs is not asked again.
(cd "$stage" && dpkg-buildpackage --build=binary --no-sign --no-check-builddeps) >"$out/log" 2>&1 ||
    { tail -n 30 "$out/log" >&2; fail "dpkg-buildpackage failed; its output is in $out/log"; }
rm -rf "$stage" "$out"/*.buildinfo "$out"/*.changes
ls "$out"/*.deb
