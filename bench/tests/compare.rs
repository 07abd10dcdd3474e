//! `s2bench compare` and `s2bench naive` from outside: what they carry, what they write, and what they leave behind: nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bench::result::{Label, Series};
use bench::topology::{find_tool, why_not};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long tests wait for what must come soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of a test's own, also the mark by which its processes are known: they inherit it as TMPDIR.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("compare-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Place(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("result.json")
    }

    fn compare(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s2bench"));
        command.arg("compare").args(args.split_whitespace()).arg("--json").arg(self.file());
        command.env("TMPDIR", &self.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Ids and command lines of the processes that belong to this place.
    fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("TMPDIR={}", self.0.display());
        let text = |pid: &str, what: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let all = pids.map(|pid| (pid, text(&pid.to_string(), "environ"), text(&pid.to_string(), "cmdline")));
        all.filter(|(_, env, line)| env.contains(&mark) && !line.is_empty())
            .map(|(pid, _, line)| (pid, line))
            .collect()
    }

    /// Waits for a process whose command line has `words`.
    fn process(&self, words: &str) -> i32 {
        let mut found = None;
        eventually(words, || {
            found = self.processes().into_iter().find(|(_, line)| line.contains(words)).map(|(pid, _)| pid);
            found.is_some()
        });
        found.unwrap()
    }

    /// Nothing runs any more, and of the directory only the result is left.
    fn assert_empty(&self) {
        eventually("every process has gone", || self.processes().is_empty());
        let left: Vec<_> = fs::read_dir(&self.0).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| name == "result.json"), "{left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether networks can be made here; a test that needs them ends otherwise, or fails where none may be skipped.
fn no_networks() -> bool {
    let Some(reason) = why_not() else { return false };
    eprintln!("skipped: {reason}");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "a test was skipped: {reason}");
    true
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// A process of ours that says where it listens, killed on drop.
struct Server(Child, SocketAddr);

impl Server {
    fn start(args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s2bench"));
        let mut child = command.args(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut line = Vec::new();
        let mut err = child.stderr.take().unwrap();
        let mut byte = [0];
        while err.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        // What comes later is read and forgotten, so that nobody waits for a full pipe.
        std::thread::spawn(move || std::io::copy(&mut err, &mut std::io::sink()));
        let line = String::from_utf8(line).unwrap();
        let words = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}"));
        let address = words.split([' ', ',']).next().unwrap().parse().unwrap();
        Server(child, address)
    }

    fn naive(target: SocketAddr) -> Server {
        Server::start(&["naive", "--listen", "127.0.0.1:0", "--target", &target.to_string()])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_naive_server_carries_every_byte_of_several_connections_both_ways() {
    let source = Server::start(&["source", "--listen", "127.0.0.1:0"]);
    let naive = Server::naive(source.1);
    let sink = Command::new(env!("CARGO_BIN_EXE_s2bench"))
        .args(["sink", "--connect", &naive.1.to_string(), "--bytes", "3M", "--duplex", "--verify"])
        .args(["--parallel", "3", "--connections", "6", "--json"])
        .output()
        .unwrap();
    assert!(sink.status.success(), "{}", said(&sink));
    let report: serde_json::Value = serde_json::from_slice(&sink.stdout).unwrap();
    assert_eq!(report["connections"], 6, "{report}");
}

#[test]
fn the_naive_server_passes_on_the_end_of_one_direction_and_carries_the_other_on() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let naive = Server::naive(target.local_addr().unwrap());
    let far = std::thread::spawn(move || {
        let (mut connection, _) = target.accept().unwrap();
        let mut got = Vec::new();
        connection.read_to_end(&mut got).unwrap();
        connection.write_all(&got).unwrap();
        connection.write_all(b" after the end").unwrap();
        got.len()
    });
    let mut near = TcpStream::connect(naive.1).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    near.write_all(&bytes).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    near.read_to_end(&mut back).unwrap();
    assert_eq!(far.join().unwrap(), bytes.len());
    assert_eq!(back, [&bytes[..], b" after the end"].concat());
}

#[test]
fn the_naive_server_outlives_a_target_that_refuses() {
    // Bound and let go: nobody listens there.
    let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let naive = Server::naive(target);
    for _ in 0..2 {
        let mut near = TcpStream::connect(naive.1).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(matches!(near.read(&mut [0; 16]), Ok(0) | Err(_)));
    }
}

#[test]
fn a_series_is_written_with_rounds_in_turn_settings_versions_and_costs() {
    if no_networks() {
        return;
    }
    let place = Place::new("series");
    let args = "--rounds 2 --duration 500ms --profiles steady --carriers tcp --paths none \
                --approaches direct,naive,s2ds-af_packet-adaptive";
    let output = place.compare(args).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let series = Series::read(&place.file()).unwrap();
    assert!(!series.partial && series.error.is_none() && series.omitted.is_empty(), "{:?}", series.error);
    assert!(series.title.starts_with("s2bench compare --rounds 2"), "{}", series.title);
    let order: Vec<_> = series
        .runs
        .iter()
        .map(|run| (run.start.round.unwrap(), run.start.approach.clone().unwrap().name))
        .collect();
    let names = ["direct", "naive", "s2ds-af_packet-adaptive"];
    let wanted: Vec<_> = (1..=2).flat_map(|round| names.map(|name| (round, name.to_owned()))).collect();
    assert_eq!(order, wanted);
    for run in &series.runs {
        let approach = run.start.approach.as_ref().unwrap();
        assert_eq!(run.start.label, Label::Measured);
        assert!(approach.version.contains(|c: char| c.is_ascii_digit()), "{approach:?}");
        assert!(
            approach.settings.iter().any(|s| s.starts_with("all: links: veth, MTU 1500")),
            "{approach:?}"
        );
        assert_eq!(run.start.path.as_ref().unwrap().by, "none");
        assert!(run.end.sum_received.packets > 0 && run.end.delay.count > 0, "{:?}", run.end.sum_received);
        let (settings, end) = (approach.settings.join("\n"), &run.end);
        match approach.name.as_str() {
            "direct" => {
                assert!(settings.contains("route add 10.83.0.2/32 via 10.82.0.2"), "{settings}");
                assert!(
                    end.cpu.relay.is_none() && end.warnings.iter().any(|w| w.contains("softirq")),
                    "{end:?}"
                );
            }
            "naive" => {
                assert!(settings.contains("s2bench naive --listen 10.81.0.1:5301"), "{settings}");
                assert!(end.cpu.relay.is_some_and(|cpu| cpu > 0.0) && end.gateways.is_empty(), "{end:?}");
            }
            _ => {
                assert!(settings.contains("idle = \"adaptive\""), "{settings}");
                assert_eq!(end.gateways.len(), 2, "{end:?}");
                for ledger in &end.gateways {
                    let dropped: u64 = ledger.drops.values().sum();
                    assert!(ledger.received > end.sum_received.packets / 10, "{ledger:?}");
                    assert!(ledger.received <= ledger.sent + ledger.held + dropped, "{ledger:?}");
                    assert!(ledger.cycles_per_packet.is_some_and(|c| c > 0.0), "{ledger:?}");
                }
            }
        }
    }
    let printed = said(&output);
    assert!(names.iter().all(|name| printed.contains(name)), "{printed}");
    place.assert_empty();
}

#[test]
fn what_cannot_carry_a_protocol_is_marked_with_the_reason() {
    if no_networks() {
        return;
    }
    let place = Place::new("omitted");
    let output = place.compare("--quick --approaches haproxy,stunnel,naive --carriers udp").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let series = Series::read(&place.file()).unwrap();
    assert!(series.runs.is_empty() && !series.partial);
    let omitted: Vec<_> = series.omitted.iter().map(|o| (o.approach.as_str(), o.why.as_str())).collect();
    assert_eq!(omitted.len(), 3, "{omitted:?}");
    assert!(omitted.iter().all(|(_, why)| why.starts_with("cannot carry udp: ")), "{omitted:?}");
    assert!(omitted[0].1.contains("HAProxy") && said(&output).contains("HAProxy"), "{omitted:?}");
}

#[test]
fn a_peer_that_is_not_installed_is_marked_with_what_installs_it() {
    if no_networks() {
        return;
    }
    let place = Place::new("missing");
    let tools = place.0.join("tools");
    fs::create_dir(&tools).unwrap();
    for tool in ["ip", "ethtool", "setpriv", "sh", "taskset", "chrt", "unshare", "true"] {
        symlink(find_tool(tool).unwrap(), tools.join(tool)).unwrap();
    }
    let args =
        "--rounds 1 --duration 200ms --profiles steady --carriers tcp --paths none --approaches socat,direct";
    let output = place.compare(args).env("PATH", &tools).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let series = Series::read(&place.file()).unwrap();
    let [omitted] = &series.omitted[..] else { panic!("{:?}", series.omitted) };
    assert_eq!(omitted.approach, "socat");
    assert!(
        omitted.why.contains("socat is not installed") && omitted.why.contains("make deps-bench"),
        "{omitted:?}"
    );
    let [run] = &series.runs[..] else { panic!("{} runs", series.runs.len()) };
    assert_eq!(run.start.approach.as_ref().unwrap().name, "direct");
}

const LONG: &str =
    "--rounds 1 --duration 60s --profiles steady --carriers tcp --paths none --approaches naive";

#[test]
fn an_interrupt_in_the_middle_leaves_what_was_found_and_nothing_else() {
    if no_networks() {
        return;
    }
    let place = Place::new("interrupt");
    let child = place.compare(LONG).spawn().unwrap();
    place.process("sink --proto tcp --connect 10.81.0.1:5301 --profile steady");
    // A second's figures.
    std::thread::sleep(Duration::from_secs(2));
    let pid = i32::try_from(child.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let series = Series::read(&place.file()).unwrap();
    assert!(series.partial);
    assert_eq!(series.error.as_deref(), Some("interrupted"));
    let [run] = &series.runs[..] else { panic!("{} runs: {}", series.runs.len(), said(&output)) };
    assert!(run.end.partial && run.end.sum_received.packets > 0, "{:?}", run.end.error);
    place.assert_empty();
}

#[test]
fn a_relay_that_dies_ends_its_run_early_and_is_named() {
    if no_networks() {
        return;
    }
    let place = Place::new("death");
    let child = place.compare(LONG).spawn().unwrap();
    place.process("--profile steady");
    std::thread::sleep(Duration::from_secs(1));
    let relay =
        place.processes().into_iter().find(|(_, line)| line.contains("naive --listen 10.82.0.2")).unwrap();
    kill(Pid::from_raw(relay.0), Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let series = Series::read(&place.file()).unwrap();
    let error = series.error.unwrap();
    assert!(series.partial && error.contains("producer-gateway ended"), "{error}");
    place.assert_empty();
}

#[test]
fn a_kill_leaves_a_file_that_says_so_and_no_process() {
    if no_networks() {
        return;
    }
    let place = Place::new("kill");
    let mut child = place.compare(LONG).spawn().unwrap();
    place.process("--profile steady");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("every process has gone", || place.processes().is_empty());
    let series = Series::read(&place.file()).unwrap();
    assert!(series.partial && series.error.as_deref() == Some("it has not ended"), "{:?}", series.error);
}

#[test]
fn what_cannot_be_is_said_before_anything_runs() {
    if no_networks() {
        return;
    }
    let place = Place::new("wrong");
    for (args, words) in [
        ("--paths moon", "there is no path \"moon\""),
        ("--cores 0,9999", "core 9999"),
        ("--profiles nothing", "there is no profile \"nothing\""),
    ] {
        let output = place.compare(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args}");
        assert!(said(&output).contains(words), "{args}: {}", said(&output));
        assert!(!place.file().exists(), "{args}");
    }
    // No such directory, and a disk that is full.
    for file in ["/proc/nowhere/result.json", "/dev/full"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_s2bench"));
        let output = command.args(["compare", "--quick", "--json", file]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(&format!("cannot write the result {file}")), "{}", said(&output));
    }
}

#[test]
fn settings_are_told_without_running_anything() {
    if no_networks() {
        return;
    }
    let place = Place::new("settings");
    let output =
        place.compare("--settings --approaches nftables,haproxy,stunnel --carriers tcp").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["dnat ip to 10.82.0.2:5301", "tune.bufsize 131072", "sslVersion = TLSv1.3", "all: cores:"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(!place.file().exists());
}
