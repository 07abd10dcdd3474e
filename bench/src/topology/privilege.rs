//! The right to make network namespaces: root's, or an ordinary user's own.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Set in the process that runs inside its own user namespace, so that it does not enter another.
const INSIDE: &str = "S2BENCH_USER_NAMESPACE";

/// Whether the process may make network namespaces by itself.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether the process has root's rights over the whole machine, not only over a user namespace of its own.
#[must_use]
pub fn is_real_root() -> bool {
    // All user ids, each itself.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Why an ordinary user cannot have a private network here, in a sentence; none when one can.
#[must_use]
pub fn why_not() -> Option<String> {
    if is_root() {
        return None;
    }
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "true"])
        .stdin(Stdio::null())
        .output();
    let said = match tried {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(e) => format!("cannot run unshare: {e}"),
    };
    Some(format!("an ordinary user cannot make a private network here ({said}): {}; or run as root", cause()))
}

/// The settings that forbid user namespaces, as far as the kernel tells.
fn cause() -> String {
    let forbids = [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0, set it to 1",
        ),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0, raise it"),
        ("/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces is 0, raise it"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns is 1, set it to 0",
        ),
    ];
    for (path, value, sentence) in forbids {
        if fs::read_to_string(path).is_ok_and(|v| v.trim() == value) {
            return sentence.into();
        }
    }
    if Path::new("/proc/self/ns/user").exists() {
        "a seccomp filter or a security module of the container seems to forbid it".into()
    } else {
        "the kernel has no user namespaces (CONFIG_USER_NS)".into()
    }
}

/// Makes an ordinary user root of a private user namespace by running the program again in one. Returns at once for
/// root; otherwise returns only with the reason why it cannot.
pub fn enter_user_namespace() -> Result<(), String> {
    if is_root() || std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if let Some(reason) = why_not() {
        return Err(reason);
    }
    let failed: io::Error = match std::env::current_exe() {
        Err(e) => e,
        Ok(exe) => Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--"])
            .arg(exe)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec(),
    };
    Err(format!("cannot run again in a user namespace: {failed}"))
}
