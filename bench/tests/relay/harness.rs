//! What the relay's tests share.

use std::process::Command;
use std::time::{Duration, Instant};

use bench::topology::{self, Family, Gateway, Relay, RelayOptions, flow_name, unaccounted};
use forwarder::api::{ConnectionInfo, Proto, Reply, Request};

/// How long tests wait for what must come soon; they fail only after it, so it costs nothing when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Set in a test that runs again as root of its own user namespace.
const INSIDE: &str = "S2BENCH_TEST_INSIDE";

/// Runs `test` where it may make networks: here as root, else in a user namespace, else not at all.
pub(crate) fn private(test: impl FnOnce()) {
    if topology::is_root() || std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if let Some(reason) = topology::why_not() {
        return skip(&reason);
    }
    let name = name();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([&name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its user namespace");
}

/// The running test's name: its thread's, or the one asked for when a lone test runs on the main thread.
fn name() -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap(),
    }
}

/// The same for what a user namespace does not allow, such as loading BPF programs.
pub(crate) fn as_root(test: impl FnOnce()) {
    if topology::is_root() && std::env::var_os(INSIDE).is_none() {
        test()
    } else {
        skip("loading BPF programs needs root")
    }
}

fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "a test was skipped: {reason}");
}

/// Runs `test` on a relay and checks what must hold after every test.
pub(crate) fn across(options: RelayOptions, test: impl FnOnce(&mut Relay)) {
    let mut relay = Relay::start(&options).unwrap();
    test(&mut relay);
    for gateway in relay.gateways() {
        let stats = gateway.settled(PATIENCE).unwrap();
        assert_eq!(unaccounted(&stats), 0, "{}: {stats:?}", gateway.netns.name());
    }
    for gateway in [&mut relay.consumer_gateway, &mut relay.producer_gateway] {
        let status = gateway.stop().unwrap();
        assert!(status.success(), "{status}: {}", gateway.process.said());
        assert!(!gateway.socket().exists(), "the control socket was left behind");
    }
}

/// [`private`] and [`across`] of the standard relay.
pub(crate) fn relay(test: impl FnOnce(&mut Relay)) {
    private(|| across(RelayOptions::default(), test));
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connections admitted by both gateways under the flow of a service.
pub(crate) fn admitted(relay: &Relay, proto: Proto, port: u16, family: Family) -> [u64; 2] {
    relay.gateways().map(|g| g.flow(&flow_name(proto, port, family)).unwrap().admitted)
}

/// Connections that a gateway now has under the flow of a service, the oldest first.
pub(crate) fn connections(gateway: &Gateway, proto: Proto, port: u16, family: Family) -> Vec<ConnectionInfo> {
    let flow = Some(flow_name(proto, port, family));
    let Reply::Connections { mut connections, .. } =
        gateway.call(Request::ConnectionList { flow, limit: None }).unwrap()
    else {
        panic!("not a list of connections");
    };
    connections.sort_by_key(|c| std::cmp::Reverse(c.age));
    connections
}
