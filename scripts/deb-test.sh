#!/usr/bin/env bash
# Installs the packages of `make deb` in a scratch Debian that runs systemd in namespaces of its own, configures and starts the
# services, upgrades, removes and purges them, and compares what is there before and after. Wants root. Nothing of it stays but
# target/deb/scratch-*.tar, which saves the next run from fetching Debian again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/deb
packages=(scistream-s2ds scistream-s2cs scistream-s2uc scistream-bench)
state=

fail() {
    if [ -n "$state" ] && [ -n "${init:-}" ]; then
        inside journalctl --no-pager -b -n 60 -u s2ds -u s2cs >&2 || true
    fi
    echo "deb-test: $*" >&2
    exit 1
}
step() { echo "deb-test: $*"; }

# --- the scratch machine ----------------------------------------------------------------------------------------------------

# As process 1 of new namespaces: makes a machine of an archive in memory, and becomes its systemd.
boot() {
    local root=$1 archive=$2 debs=$3 device
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 scratch "$root"
    tar -C "$root" -xf "$archive"
    mkdir -p "$root/packages"
    cp -r "$debs"/* "$root/packages"
    cd "$root"
    mount -t proc proc proc
    # The kernel is everybody's: what belongs to a network namespace stays writable.
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 dev dev
    mkdir -p dev/pts dev/shm dev/net
    for device in null zero full random urandom tty net/tun; do
        [ -e "/dev/$device" ] || continue
        : >"dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    mount -t tmpfs -o mode=755 run run
    mkdir before
    pivot_root . before
    umount -l before
    rmdir before
    exec env -i container=deb-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
}
if [ "${1:-}" = --boot ]; then
    shift
    boot "$@"
fi

[ "$(id -u)" = 0 ] || fail "only root can run this: it makes namespaces with a systemd of their own"
for tool in mmdebstrap dpkg-deb unshare nsenter ip; do
    command -v $tool >/dev/null || fail "$tool is missing; run \`scripts/deps.sh deb\`"
done
for package in "${packages[@]}"; do
    compgen -G "$out/${package}_*.deb" >/dev/null || fail "$out has no $package; run \`make deb\`"
done
cgroups=$(findmnt -nro TARGET -t cgroup2 | head -1)
[ -n "$cgroups" ] || fail "this kernel has no cgroup2 mounted, which systemd needs"

# Debian as this machine's own apt has it, with what the packages depend on in apt's cache, since the scratch machine has no network.
archive() {
    local depends key
    depends=$(for package in "${packages[@]}"; do dpkg-deb -f "$out/${package}"_*.deb Depends; done)
    key=$(cat /etc/os-release - <<<"$depends" | sha256sum | cut -c1-16)
    archive=$out/scratch-$key.tar
    if [ ! -e "$archive" ]; then
        step "fetching Debian and the packages' dependencies"
        rm -f "$out"/scratch-*.tar
        # shellcheck disable=SC2016 # words that apt replaces
        apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
            sort -u >"$state/sources.list"
        # shellcheck disable=SC2016 # variables of mmdebstrap's
        mmdebstrap --quiet --mode=root --variant=minbase --include=systemd,systemd-sysv --skip=cleanup/apt \
            --customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb' \
            --customize-hook="APT_CONFIG=\$MMDEBSTRAP_APT_CONFIG apt-get -qq -y --no-install-recommends --download-only install $(
                printf '%s ' "$out"/scistream-*.deb)" \
            "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)" "$out/new.tar" "$state/sources.list" >"$state/mmdebstrap" 2>&1 ||
            { cat "$state/mmdebstrap" >&2; fail "mmdebstrap failed"; }
        mv "$out/new.tar" "$archive"
    fi
}

# The same packages with a higher version, in which a configuration's default is another.
next_version() {
    local package file tree=$state/tree
    for package in "${packages[@]}"; do
        dpkg-deb -R "$state/debs/now/$package.deb" "$tree"
        sed -i 's/^Version: .*/&+next/' "$tree/DEBIAN/control"
        for file in "$tree"/etc/scistream/*.toml; do
            [ ! -e "$file" ] || echo '# As of the next version.' >>"$file"
        done
        dpkg-deb -Znone --root-owner-group -b "$tree" "$state/debs/next/$package.deb" >/dev/null
        rm -rf "$tree"
    done
}

stop() {
    local code=$?
    trap - EXIT
    if [ -n "$group" ] && [ -d "$group" ]; then
        if [ -n "$starter" ]; then
            echo 1 >"$group/cgroup.kill" 2>/dev/null || kill -9 "$starter" 2>/dev/null || true
            wait "$starter" 2>/dev/null || true
        fi
        for _ in $(seq 100); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    fi
    [ -z "$state" ] || rm -rf "$state"
    exit "$code"
}

inside() { nsenter -t "$init" -a -- env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"; }

# eventually WHAT COMMAND...: tries for half a minute.
eventually() {
    local what=$1 tries
    shift
    for tries in $(seq 150); do
        "$@" >"$state/tried" 2>&1 && return
        sleep 0.2
    done
    fail "$what (after $tries tries): $(cat "$state/tried")"
}

state=$(mktemp -d)
group=
starter=
trap stop EXIT
archive=
archive
mkdir -p "$state"/debs/{now,next} "$state/root"
for package in "${packages[@]}"; do
    cp "$out/${package}"_*.deb "$state/debs/now/$package.deb"
done
next_version

step "booting"
group=$cgroups/deb-test-$$
mkdir "$group"
# shellcheck disable=SC2016 # the inner shell's
unshare --mount --pid --net --uts --ipc --fork --kill-child sh -c '
    echo 0 >"$1/cgroup.procs" && shift && exec unshare --cgroup "$@"' - "$group" \
    "$0" --boot "$state/root" "$archive" "$state/debs" >"$state/boot" 2>&1 &
starter=$!
init=
for _ in $(seq 300); do
    candidate=$(pgrep -P "$starter" | head -1) || true
    if [ -n "$candidate" ] && [ "$(cat "/proc/$candidate/comm" 2>/dev/null)" = systemd ]; then
        init=$candidate
        break
    fi
    kill -0 "$starter" 2>/dev/null || break
    sleep 0.1
done
[ -n "$init" ] || { cat "$state/boot" >&2; fail "the scratch machine does not boot"; }
booted() { case $(inside systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac; }
eventually "the scratch machine does not come up" booted

# Two networks, whose other ends are the machine's too: nothing has to pass.
for port in lan wan; do
    nsenter -t "$init" -n ip link add $port type veth peer name $port-far
    nsenter -t "$init" -n ip link set $port up
    nsenter -t "$init" -n ip link set $port-far up
done

# --- the test ---------------------------------------------------------------------------------------------------------------

# What is there, but for logs, caches, and what apt, dpkg and the users' files keep of themselves.
files() {
    inside find / -xdev \( -path /packages -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log/apt \
        -o -path /var/log/journal -o -path /var/lib/systemd -o -path /tmp -o -path /var/tmp -o -path /root \) -prune -o -print |
        grep -vxE '/var/log/(dpkg|alternatives)\.log|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|/etc/\.pwd\.lock|/etc/ld\.so\.cache' |
        sort
}
apt() { inside apt-get -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold "$@" >"$state/apt" 2>&1 || {
    cat "$state/apt" >&2
    fail "apt-get $*"
}; }
install() {
    local debs=("${packages[@]/#//packages/$1/}")
    apt install "${debs[@]/%/.deb}"
}
property() { inside systemctl show --value -p "$2" "$1"; }
is() { [ "$(property "$1" "$2")" = "$3" ] || fail "$1 has $2=$(property "$1" "$2"), not $3"; }
# As somebody who is nobody, and in the group or not.
member() { inside runuser -u nobody -G scistream -- "$@"; }
stranger() { inside runuser -u nobody -- "$@"; }

files >"$state/before"

step "installing"
install now
grep -q 'systemctl enable --now s2ds' "$state/apt" || fail "installing does not say how to go on"
for unit in s2ds s2cs; do
    is "$unit" ActiveState inactive
    is "$unit" UnitFileState disabled
done
[ -z "$(inside systemctl --failed --no-legend)" ] || fail "units have failed: $(inside systemctl --failed --no-legend)"
configured=$(inside ls /etc/scistream | xargs)
[ "$configured" = "policy.toml s2cs.toml s2ds.toml" ] || fail "installing made more than the configurations: $configured"
verified=$(inside systemd-analyze verify --man=no s2ds.service s2cs.service 2>&1) || true
[ -z "$verified" ] || fail "systemd finds fault with the units: $verified"
inside systemd-analyze security --offline=true --no-pager --threshold=20 s2cs.service >"$state/security" ||
    { cat "$state/security" >&2; fail "s2cs.service lets s2cs do too much"; }
for unit in s2ds s2cs; do
    inside systemd-analyze security --offline=true --no-pager $unit.service | grep 'Overall exposure' | sed "s/^/deb-test: $unit.service: /"
done

step "manual pages and completions"
while read -r section program; do
    inside test -e "/usr/share/man/man$section/$program.$section.gz" || fail "$program has no page in section $section"
    inside bash -n "/usr/share/bash-completion/completions/${program%%-*}" || fail "$program has no completions for bash"
    inside test -e "/usr/share/zsh/vendor-completions/_${program%%-*}" || fail "$program has no completions for zsh"
    inside test -e "/usr/share/fish/vendor_completions.d/${program%%-*}.fish" || fail "$program has no completions for fish"
    inside "${program%%-*}" --version >/dev/null || fail "${program%%-*} does not run"
done <<<"8 s2ds
8 s2cs
8 s2cs-policy-check
1 s2ctl
1 s2ctl-flow-add
1 s2uc
1 s2uc-open
1 s2bench
1 s2bench-core"
for page in s2ds.toml s2cs.toml; do
    inside test -e "/usr/share/man/man5/$page.5.gz" || fail "$page has no page"
done

step "first start"
inside s2ds --config /etc/scistream/s2ds.toml --check >/dev/null || fail "the default s2ds.toml is not valid"
inside sed -i -e 's/^huge = true/huge = false/' -e 's/"ffff:00:00.0"/"af_packet:lan"/' -e 's/"ffff:00:00.1"/"af_packet:wan"/' \
    /etc/scistream/s2ds.toml
inside s2cs init /etc/scistream --keep --owner scistream-s2cs --name gw.example >/dev/null || fail "s2cs init"
inside s2cs --config /etc/scistream/s2cs.toml --check >/dev/null || fail "the default s2cs.toml is not valid"
inside sh -c 'cat >>/etc/scistream/policy.toml' <<'END'
[[rule]]
name = "operator"
users = ["operator@site"]
administrator = true
END
inside systemctl enable --now s2ds s2cs 2>/dev/null || fail "the services do not start"
is s2ds ActiveState active
is s2cs ActiveState active
ports=$(inside s2ctl port list --json) || true
for port in lan wan; do
    grep -q "\"name\":\"$port\"" <<<"$ports" || fail "s2ctl does not list the port $port: $ports"
done
member s2ctl port list >/dev/null || fail "a member of the group may not use s2ctl"
stranger s2ctl port list >/dev/null 2>&1 && fail "everybody may use s2ctl"
stranger cat /etc/scistream/server.key >/dev/null 2>&1 && fail "everybody may read the server's key"
authorized() {
    inside sh -c 's2uc check-auth --s2cs 127.0.0.1:5000 --server-cert /etc/scistream/ca.crt --token /etc/scistream/token --json' |
        grep '"forwarding":true'
}
eventually "s2cs does not answer, or not for s2ds" authorized
for unit in s2ds s2cs; do
    user=$(inside stat -c %U "/proc/$(property "$unit" MainPID)")
    wanted=scistream
    [ $unit = s2ds ] || wanted=scistream-s2cs
    [ "$user" = "$wanted" ] || fail "$unit runs as $user, not as $wanted"
done
capabilities=$(inside grep CapPrm "/proc/$(property s2cs MainPID)/status")
[ "${capabilities##*	}" = 0000000000000000 ] || fail "s2cs has capabilities: $capabilities"
inside systemctl reload s2cs || fail "s2cs cannot be told to reload"
# It tells its status now and then, and first when it may not have spoken with s2ds yet.
in_step() {
    property s2cs StatusText | grep 'in step with the forwarder' || { property s2cs StatusText && return 1; }
}
eventually "s2cs has another status" in_step

step "watchdog"
for unit in s2ds s2cs; do
    inside mkdir -p "/run/systemd/system/$unit.service.d"
    inside sh -c "printf '[Service]\nWatchdogSec=3s\n' >/run/systemd/system/$unit.service.d/quick.conf"
    inside systemctl daemon-reload
    inside systemctl restart $unit
    before=$(property "$unit" MainPID)
    inside sh -c "kill -STOP $before"
    another() {
        [ "$(property "$unit" ActiveState)" = active ] && [ "$(property "$unit" MainPID)" != "$before" ]
    }
    eventually "$unit was not started again when it stalled" another
    inside rm -r "/run/systemd/system/$unit.service.d"
    inside systemctl daemon-reload
    inside systemctl restart $unit
done

step "upgrading"
declare -A old
for unit in s2ds s2cs; do old[$unit]=$(property "$unit" MainPID); done
mine=$(inside sha256sum /etc/scistream/s2ds.toml /etc/scistream/policy.toml)
install next
[ "$mine" = "$(inside sha256sum /etc/scistream/s2ds.toml /etc/scistream/policy.toml)" ] || fail "the upgrade changed a configuration"
inside grep -q 'next version' /etc/scistream/s2cs.toml || fail "a configuration that nobody changed is not the new version's"
for unit in s2ds s2cs; do
    is "$unit" ActiveState active
    [ "$(property "$unit" MainPID)" != "${old[$unit]}" ] || fail "$unit was not started again"
done
eventually "s2cs does not answer after the upgrade" authorized

step "removing"
apt remove "${packages[@]}"
for unit in s2ds s2cs; do
    is "$unit" ActiveState inactive
done
left=$(inside find /proc -maxdepth 2 -name exe -lname '*/s2*') || true
[ -z "$left" ] || fail "processes are left: $left"
inside test -e /etc/scistream/s2ds.toml -a -e /etc/scistream/server.key -a -e /var/lib/scistream/s2cs.redb ||
    fail "removing took configuration or state away"
inside test ! -e /run/scistream || fail "/run/scistream is left: $(inside ls -la /run/scistream)"

step "purging"
# The others have no configuration, so nothing of them is left to purge.
apt purge scistream-s2ds scistream-s2cs
apt autoremove --purge
files >"$state/after"
diff "$state/before" "$state/after" >"$state/diff" || { cat "$state/diff" >&2; fail "files are left, or lost"; }

step "powering off"
inside systemctl poweroff 2>/dev/null || true
for _ in $(seq 100); do
    kill -0 "$starter" 2>/dev/null || break
    sleep 0.1
done
step "passed"
