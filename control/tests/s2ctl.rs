//! `s2ctl` from outside: every subcommand as table and as JSON, and every exit code.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Fixture, spec};
use forwarder::api::{FlowSpec, Hello, Proto, Reply, Request};

const S2CTL: &str = env!("CARGO_BIN_EXE_s2ctl");

fn s2ctl(socket: &Path, args: &[&str]) -> Output {
    Command::new(S2CTL).env_remove("S2DS_SOCKET").arg("--socket").arg(socket).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs with success; gives what was printed.
fn good(fixture: &Fixture, args: &[&str]) -> String {
    let output = s2ctl(&fixture.socket(), args);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    text(&output.stdout)
}

/// Runs without success; gives the code and the sentence.
fn bad(socket: &Path, args: &[&str]) -> (i32, String) {
    let output = s2ctl(socket, args);
    assert_eq!(text(&output.stdout), "", "{args:?}");
    (output.status.code().unwrap(), text(&output.stderr))
}

const ADD: [&str; 12] = [
    "ok",
    "--proto",
    "tcp",
    "--listen",
    "10.0.0.1:5001",
    "--target",
    "192.0.2.9:5002",
    "--from",
    "10.1.0.0/16,10.2.0.0/16",
    "--max-conns=8",
    "--lease=1h",
    "--rate=2500M",
];

const EXPLAIN: [&str; 9] =
    ["explain", "--port", "lan", "--proto", "udp", "--src", "10.1.0.7:4000", "--dst", "10.0.0.1:5001"];

#[test]
fn what_is_asked_is_what_was_said() {
    let fixture = Fixture::new();
    let name = || "ok".to_owned();
    let cases: Vec<(Vec<&str>, Request)> = vec![
        ([&["flow", "add"], &ADD[..]].concat(), Request::FlowAdd { spec: spec() }),
        ([&["flow", "replace"], &ADD[..]].concat(), Request::FlowReplace { spec: spec() }),
        (
            "flow add v6 --proto udp --listen [fd00::1]:1 --target [fd00::2]:2 --from fd00::/8 --from fe00::/8 --rate 10G".split(' ').collect(),
            Request::FlowAdd {
                spec: FlowSpec {
                    name: "v6".into(),
                    proto: Proto::Udp,
                    listen: "[fd00::1]:1".parse().unwrap(),
                    target: "[fd00::2]:2".parse().unwrap(),
                    from: vec!["fd00::/8".parse().unwrap(), "fe00::/8".parse().unwrap()],
                    max_conns: None,
                    mss_clamp: None,
                    hairpin: false,
                    rate: Some(10_000),
                    lease: None,
                },
            },
        ),
        (vec!["flow", "del", "ok"], Request::FlowDelete { name: name() }),
        (vec!["flow", "drain", "ok"], Request::FlowDrain { name: name() }),
        (vec!["flow", "show", "ok"], Request::FlowShow { name: name() }),
        (vec!["flow", "renew", "ok"], Request::LeaseRenew { name: name(), lease: None }),
        (vec!["flow", "renew", "ok", "--lease", "90s"], Request::LeaseRenew { name: name(), lease: Some(90) }),
        (vec!["flow", "list"], Request::FlowList),
        (vec!["conn", "list"], Request::ConnectionList { flow: None, limit: None }),
        (
            vec!["conn", "list", "--flow", "ok", "--limit", "5"],
            Request::ConnectionList { flow: Some(name()), limit: Some(5) },
        ),
        (vec!["port", "list"], Request::PortList),
        (vec!["port", "show", "lan"], Request::PortShow { name: "lan".into(), all: false }),
        (vec!["port", "show", "lan", "--all"], Request::PortShow { name: "lan".into(), all: true }),
        (vec!["stats"], Request::Stats),
        (
            EXPLAIN.to_vec(),
            Request::Explain {
                port: "lan".into(),
                proto: Proto::Udp,
                src: "10.1.0.7:4000".parse().unwrap(),
                dst: "10.0.0.1:5001".parse().unwrap(),
            },
        ),
        (vec!["snapshot"], Request::Snapshot),
    ];
    for (args, request) in cases {
        good(&fixture, &args);
        assert_eq!(fixture.asked(), std::slice::from_ref(&request), "{args:?}");
        let json = good(&fixture, &[&["--json"], &args[..]].concat());
        assert_eq!(fixture.asked(), [request], "{args:?}");
        assert_eq!(json.lines().count(), 1, "{json}");
        serde_json::from_str::<Reply>(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
    }
}

/// Every row begins where the heading says; the words appear.
#[track_caller]
fn shows(table: &str, words: &[&str]) {
    for word in words {
        assert!(table.contains(word), "{word:?} is not in\n{table}");
    }
    assert!(!table.contains('\x1b'), "{table:?}");
    assert!(table.ends_with('\n') && !table.lines().any(|l| l.ends_with(' ')), "{table:?}");
}

#[test]
fn tables_show_what_matters() {
    let fixture = Fixture::new();
    shows(&good(&fixture, &[&["flow", "add"], &ADD[..]].concat()), &["done (epoch 4)"]);
    let flow =
        ["10.1.0.0/16, 10.2.0.0/16", "draining", "17", "20 (30.0 MB)", "59m 59s", "control socket", "2500M"];
    shows(&good(&fixture, &["flow", "show", "ok"]), &flow);
    let flows = good(&fixture, &["flow", "list"]);
    shows(&flows, &["NAME", "2500M", "10.0.0.1:5001", "192.0.2.9:5002", "30.0 MB"]);
    let (heading, row) = flows.split_once('\n').unwrap();
    assert_eq!(heading.find("LISTEN"), row.find("10.0.0.1:5001"), "{flows}");
    let connections = good(&fixture, &["conn", "list"]);
    shows(&connections, &["10.1.0.7:40000", "192.0.2.1:51234", "established", "1m 1s"]);
    assert!(!connections.contains("more"), "{connections}");
    shows(&good(&fixture, &["conn", "list", "--limit", "1"]), &["raise --limit"]);
    let ports = [
        "net_af_packet",
        "10.0.0.1/24",
        "120",
        "up 10000 Mbit/s",
        "111",
        "222",
        "10.0.0.9",
        "resol\\u{1b}[31mving",
        "02:00:00:00:00:66",
        "4711",
        "12 s ago",
    ];
    shows(&good(&fixture, &["port", "list"]), &ports);
    let port = good(&fixture, &["port", "show", "lan"]);
    for (field, value) in [
        ("failed", "1m 15s ago: interface veth0 is gone"),
        ("tried since", "15"),
        ("last try", "there is no interface veth0"),
        ("next try", "in 4s"),
        ("place", "vdev net_af_packet0"),
        ("interface", "veth0"),
        ("firmware", "8.30 0x8000a49d"),
        ("link ", "up, 10000 Mbit/s, full duplex, fixed"),
        ("link changes", "3, the last 1m 1s ago; told by interrupt"),
        ("MTU", "1500 of at most 9600"),
        ("link-local", "fe80::ff:fe00:1"),
        ("queues", "2 of at most 16"),
        ("RX descriptors", "1024 of at most 4096"),
        ("TX descriptors", "512"),
        ("steering", "hand over: the device hashes nothing"),
        ("IPv4 header checksum", "in software  verified in every packet"),
        ("rx_good_packets", "4712"),
    ] {
        let row =
            port.lines().find(|l| l.starts_with(field)).unwrap_or_else(|| panic!("no {field} in\n{port}"));
        assert_eq!(row[field.len()..].trim_start(), value, "{field}");
    }
    shows(
        &port,
        &[
            "MRG_RXBUF",
            "8996",
            "DEVICE RX_ERRORS",
            "4713",
            "10.0.0.9",
            "02:00:00:00:00:66",
            "resol\\u{1b}[31mving",
        ],
    );
    let stats = good(&fixture, &["stats"]);
    shows(&stats, &["up 1m 30s, epoch 6", "drop source_denied", "25.0 %", "source_denied 5"]);
    assert!(!stats.contains("ttl_expired"), "{stats}");
    let row = |name: &str| {
        let line =
            stats.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {stats}"));
        line[name.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("worker 0, waits for next hops"), "4000 2.0 ms 4.0 ms 6.0 ms 8.0 ms 10.0 ms");
    assert_eq!(row("flow ok"), "4000 1.2 us 2.5 us 3.8 us 5.0 us 6.2 us");
    shows(
        &good(&fixture, &EXPLAIN),
        &["forward", "192.0.2.1:0", "wan", "10.0.0.1 is an address of port lan"],
    );
    shows(&good(&fixture, &["snapshot"]), &["Ports\n", "Flows\n", "Connections\n", "Stats\n", "51234"]);
}

#[test]
fn the_forwarders_errors_have_their_exit_codes() {
    let fixture = Fixture::new();
    let cases = [
        ("internal", 1),
        ("bad_request", 2),
        ("not_found", 3),
        ("conflict", 4),
        ("denied", 5),
        ("full", 7),
        ("version", 8),
    ];
    for (name, code) in cases {
        for verb in ["show", "del", "drain", "renew"] {
            let sentence = format!("s2ctl: a sentence about {name}\n");
            assert_eq!(bad(&fixture.socket(), &["flow", verb, name]), (code, sentence), "{verb}");
        }
    }
    assert_eq!(bad(&fixture.socket(), &["--json", "flow", "show", "conflict"]).0, 4);
    let elsewhere = EXPLAIN.map(|a| if a == "lan" { "nowhere" } else { a });
    assert_eq!(bad(&fixture.socket(), &elsewhere).0, 3);
}

#[test]
fn a_packet_that_would_be_dropped_exits_10() {
    let fixture = Fixture::new();
    let dropped = EXPLAIN.map(|a| if a == "10.0.0.1:5001" { "10.0.0.1:9" } else { a });
    let output = s2ctl(&fixture.socket(), &dropped);
    assert_eq!(output.status.code(), Some(10));
    assert!(text(&output.stdout).contains("no_flow"));
    let help = good(&fixture, &["--help"]);
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "10 ", "11 "] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(code)), "{code} in {help}");
    }
}

#[test]
fn wrong_usage_exits_2_and_asks_nothing() {
    let fixture = Fixture::new();
    let cases = [
        "",
        "flow",
        "flow fly",
        "flow add x --proto tcp --listen 10.0.0.1:1 --target 10.0.0.2:1",
        "flow add x --proto sctp --listen 10.0.0.1:1 --target 10.0.0.2:1 --from 10.0.0.0/8",
        "flow add x --proto tcp --listen 10.0.0.1 --target 10.0.0.2:1 --from 10.0.0.0/8",
        "flow add x --proto tcp --listen 10.0.0.1:1 --target 10.0.0.2:1 --from 10.0.0.0",
        "flow renew x --lease 0",
        "flow renew x --lease soon",
        "stats --interval 1s",
        "stats --watch --interval 0s",
    ];
    for args in cases {
        let args: Vec<_> = args.split(' ').filter(|a| !a.is_empty()).collect();
        let (code, sentence) = bad(&fixture.socket(), &args);
        assert!(code == 2 && !sentence.is_empty(), "{args:?}: {code} {sentence}");
    }
    assert_eq!(fixture.asked(), []);
}

#[test]
fn a_forwarder_that_cannot_be_reached_exits_6() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("s");
    let (code, sentence) = bad(&missing, &["flow", "list"]);
    assert!(
        code == 6 && sentence.contains("is s2ds running?") && sentence.lines().count() == 1,
        "{code} {sentence}"
    );
    drop(UnixListener::bind(&missing).unwrap());
    assert_eq!(bad(&missing, &["flow", "list"]).0, 6);
}

/// Answers the first client's lines with these, then hangs up.
fn impostor(answers: Vec<String>) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for answer in answers {
            lines.next().unwrap().unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (dir, thread)
}

#[test]
fn what_is_no_forwarder_or_another_release_is_told_apart() {
    let hello = || serde_json::to_string(&Hello::of("s2ds")).unwrap() + "\n";
    let newer = serde_json::to_string(&Hello { version: 999, ..Hello::of("s2ds") }).unwrap() + "\n";
    let refusal =
        r#"{"id":null,"error":{"code":"version","message":"use programs of one release"}}"#.to_owned() + "\n";
    let denied = r#"{"id":null,"error":{"code":"denied","message":"become root"}}"#.to_owned() + "\n";
    let cases = [
        (vec![newer], 8, "speaks version 999"),
        (vec![refusal], 8, "one release"),
        (vec![denied], 5, "become root"),
        (vec!["HTTP/1.1 400\n".to_owned()], 6, "is no s2ds"),
        (vec![], 6, "see whether s2ds still runs"),
        (vec![hello()], 6, "see whether s2ds still runs"),
        (vec![hello(), "{\"id\":1,\"o".to_owned()], 6, "see whether s2ds still runs"),
        (vec![hello(), "{\"id\":77,\"ok\":{\"kind\":\"done\",\"epoch\":1}}\n".to_owned()], 6, "is no s2ds"),
    ];
    for (answers, code, says) in cases {
        let (dir, thread) = impostor(answers.clone());
        let (got, sentence) = bad(&dir.path().join("s"), &["flow", "list"]);
        assert!(got == code && sentence.contains(says), "{answers:?}: {got} {sentence}");
        thread.join().unwrap();
    }
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let fixture = Fixture::new();
    let run = |command: &mut Command| command.args(["flow", "list"]).output().unwrap().status.code();
    assert_eq!(run(Command::new(S2CTL).env("S2DS_SOCKET", fixture.socket())), Some(0));
    assert_eq!(run(Command::new(S2CTL).env("S2DS_SOCKET", "/nonexistent/s")), Some(6));
}

#[test]
fn watching_shows_rates_until_nobody_reads() {
    let fixture = Fixture::new();
    for json in [false, true] {
        let mut command = Command::new(S2CTL);
        command.arg("--socket").arg(fixture.socket()).args(["stats", "--watch", "--interval", "5ms"]);
        let mut child = command
            .args(json.then_some("--json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        if json {
            let reply = |line: String| serde_json::from_str::<Reply>(&line).unwrap();
            let (Reply::Stats { stats: a }, Reply::Stats { stats: b }) =
                (reply(lines.next().unwrap()), reply(lines.next().unwrap()))
            else {
                panic!("no stats")
            };
            assert!(b.received > a.received);
        } else {
            let mut rates = lines
                .by_ref()
                .filter(|l| l.starts_with("received"))
                .map(|l| l.split_whitespace().nth(2).unwrap().to_owned());
            assert_eq!(rates.next().unwrap(), "-");
            assert!(rates.next().unwrap().parse::<u64>().unwrap() > 0);
        }
        drop(lines);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let fixture = Fixture::new();
    for args in [&["flow", "list"][..], &["completions", "bash"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(S2CTL)
            .arg("--socket")
            .arg(fixture.socket())
            .args(args)
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn shells_get_completions_without_a_forwarder() {
    let nowhere = Path::new("/nonexistent/s");
    for shell in ["bash", "zsh", "fish"] {
        let output = s2ctl(nowhere, &["completions", shell]);
        let script = text(&output.stdout);
        assert!(
            output.status.success() && script.contains("drain") && script.contains("max-conns"),
            "{shell}"
        );
    }
}
