//! The old protocol as its clients speak it: a client in Python with gRPC's own library, written from the protocol's page alone.
//!
//! `python/conformance.py` says what is tried; here each of its classes gets a site of its own. Where the library is missing the
//! tests are skipped and say so; a skipped test fails where `CI=true`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::site::{Settings, Site};

/// The interpreter that `make deps` has given gRPC; none where it did not run.
fn python() -> Option<PathBuf> {
    // target/PROFILE/s2cs
    let target = Path::new(env!("CARGO_BIN_EXE_s2cs")).ancestors().nth(2).unwrap();
    let python = target.join("python/bin/python");
    let has = Command::new(&python).args(["-c", "import grpc"]).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let reason = format!("{} has no grpc; `make deps` installs it", python.display());
    eprintln!("skipped: {reason}");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "a test was skipped: {reason}");
    None
}

/// Runs one class of the client's checks.
fn check(python: &Path, site: &Site, class: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let output = Command::new(python)
        .arg("-B")
        .arg(here.join("conformance.py"))
        .arg(class)
        .env("S2CS", format!("localhost:{}", site.address().port()))
        .env("S2CS_CA", site.ca())
        .env("S2DS_SOCKET", site.forwarder.socket())
        .env("TOKEN_ALICE", site.token("alice"))
        .env("TOKEN_BOB", site.token("bob"))
        .env("TOKEN_ADMIN", site.token("root"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "s2cs wrote: {}\n{said}", site.log());
    eprintln!("{said}");
    for user in ["alice", "bob", "root"] {
        assert!(!site.log().contains(site.token(user)), "a token is in the log");
    }
}

fn holds(class: &str, settings: &Settings) {
    let Some(python) = python() else { return };
    check(&python, &Site::new(settings), class);
}

#[test]
fn messages_are_the_golden_bytes() {
    holds("Wire", &Settings::default());
}

#[test]
fn a_session_goes_call_by_call_as_clients_expect() {
    holds("Session", &Settings::default());
}

#[test]
fn req_waits_for_hello_and_nothing_waits_behind_req() {
    let Some(python) = python() else { return };
    let site = Site::new(&Settings::default());
    check(&python, &site, "Waiting");
    // Two of its callers hang up.
    let audit = std::fs::read_to_string(site.file("audit.jsonl")).unwrap();
    assert_eq!(audit.lines().filter(|line| line.contains("its caller has gone")).count(), 2, "{audit}");
}

#[test]
fn what_is_not_followed_up_ends_and_frees_everything() {
    holds("Deadlines", &Settings { wait: "1s", ..Settings::default() });
}

#[test]
fn ports_are_freed_and_an_exhausted_range_is_said_to_be() {
    holds("Range", &Settings { ports: "5100-5103", ..Settings::default() });
}

#[test]
fn sessions_and_users_do_not_meet() {
    holds("Apart", &Settings::default());
}

#[test]
fn rate_is_admitted_and_enforced() {
    holds("Rate", &Settings { capacity: "10G", ..Settings::default() });
}

#[test]
fn hostile_input_is_refused_and_leaves_nothing() {
    holds("Hostile", &Settings::default());
}

#[test]
fn sessions_outlive_the_server_and_half_made_ones_do_not() {
    let Some(python) = python() else { return };
    let mut site = Site::new(&Settings::default());
    check(&python, &site, "Before");
    site.kill_and_start();
    check(&python, &site, "After");
}
