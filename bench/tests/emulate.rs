//! `s2bench source` and `s2bench sink --profile` from outside, over loopback and over paths that do known harm.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use bench::result::{Run, Series};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Nothing may be listening here: port 1 of loopback.
const NOBODY: &str = "127.0.0.1:1";
const CARRIERS: [&str; 3] = ["tcp", "udp", "quic"];

/// A running source; killed on drop.
struct Source {
    child: Child,
    address: SocketAddr,
}

impl Source {
    fn start(proto: &str) -> Source {
        let mut child = command(&["source", "--listen", "127.0.0.1:0", "--json", "--proto", proto])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        said.read_line(&mut line).unwrap();
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let address = line.split_whitespace().nth(2).unwrap().parse().unwrap();
        Source { child, address }
    }

    /// Stops it and returns what it has served, and whether it calls that a success.
    fn stop(mut self) -> (Value, bool) {
        signal(&self.child, Signal::SIGTERM);
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let success = self.child.wait().unwrap().success();
        (serde_json::from_str(&text).unwrap(), success)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_s2bench"));
    command.args(args);
    command
}

/// A file of this test's own, removed on drop.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        Temporary(std::env::temp_dir().join(format!("s2bench-emulate-{}-{name}", std::process::id())))
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A sink that writes its result to `file`.
fn sink(to: SocketAddr, proto: &str, file: &Temporary, args: &[&str]) -> Command {
    let mut command =
        command(&["sink", "--connect", &to.to_string(), "--proto", proto, "--json", file.text()]);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn read(file: &Temporary) -> Run {
    Series::read(&file.0).unwrap().runs.remove(0)
}

/// A whole stream that must succeed.
fn fetch(to: SocketAddr, proto: &str, name: &str, args: &[&str]) -> Run {
    let file = Temporary::new(name);
    let output = sink(to, proto, &file, args).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout.is_empty(), "{}", said(&output));
    let run = read(&file);
    assert!(!run.end.partial && run.end.error.is_none(), "{:?}", run.end);
    run
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_omitted_ran_but_is_in_no_sum() {
    for proto in CARRIERS {
        let source = Source::start(proto);
        let args = ["--profile", "steady", "--rate", "200/s", "--duration", "1s", "--omit", "1"];
        let run = fetch(source.address, proto, "omit", &[&args[..], &["--parallel", "2"]].concat());
        let (all, context) = (&run.end.sum_received, format!("{proto}: {:?}", run.end));
        assert_eq!((run.start.omit, run.end.sum_sent.packets), (1, 400), "{context}");
        let seconds: Vec<_> = run.intervals.iter().map(|i| (i.sum.omitted, i.sum.packets)).collect();
        assert_eq!(seconds.iter().map(|s| s.0).collect::<Vec<_>>(), [true, false], "{context}");
        assert_eq!(seconds[0].1 + seconds[1].1, 400, "{context}");
        // The second interval and the sums are of the same messages.
        assert_eq!((all.packets, all.lost_packets, all.start), (seconds[1].1, 0, 1.0), "{context}");
        assert_eq!(run.end.delay.count, all.packets, "{context}");
        assert!(all.packets < 400 && all.bits_per_second < 2.0 * 200.0 * 1024.0 * 8.0, "{context}");
    }
}

#[test]
fn every_carrier_brings_every_message_over_one_and_several_connections() {
    for proto in CARRIERS {
        let source = Source::start(proto);
        for connections in [1u32, 3] {
            let parallel = connections.to_string();
            // Messages of several datagrams, and a number that three connections do not share evenly.
            let args =
                ["--profile", "steady", "--message", "3000", "--rate", "200/s", "--duration", "1250ms"];
            let run =
                fetch(source.address, proto, "whole", &[&args[..], &["--parallel", &parallel]].concat());
            let all = &run.end.sum_received;
            let context = format!("{proto} {connections}: {:?}", run.end.sum_received);
            assert_eq!((all.packets, all.bytes), (250, 750_000), "{context}");
            assert_eq!((all.lost_packets, all.out_of_order, all.duplicates, all.corrupt), (0, 0, 0, 0));
            assert_eq!((run.end.sum_sent.packets, run.end.sum_sent.bytes, run.end.unsent), (250, 750_000, 0));
            assert_eq!(run.end.streams.len(), connections as usize);
            let share: Vec<_> = run.end.streams.iter().map(|s| s.packets).collect();
            assert_eq!(share, if connections == 1 { vec![250] } else { vec![84, 83, 83] });
            assert_eq!(run.intervals.len(), 2, "{context}");
            let seconds = run.intervals.iter().map(|i| i.sum.packets).sum::<u64>();
            assert_eq!(seconds, 250, "{context}");
            for distribution in [&run.end.delay, &run.end.variation, &run.end.send_lag] {
                assert_eq!(distribution.count, 250, "{context}");
                assert_eq!(distribution.histogram().unwrap().len(), 250);
            }
            assert_eq!(run.end.jitter.count, 250 - u64::from(connections));
            // A message is read after it is sent, and sent when it is due or later.
            assert!(run.end.delay.max >= run.end.send_lag.min && run.end.delay.min > 0);
            assert_eq!(run.end.variation.min, 0);
            assert!(run.start.same_clock && run.end.cpu.source.is_some() && run.end.cpu.sink.is_some());
            assert_eq!(run.start.parameters["message"], 3000);
            assert_eq!(run.start.parameters["rate"], "200/s");
            assert_eq!(run.start.connections, connections);
        }
        let (served, success) = source.stop();
        assert!(success && served["failed"] == 0 && served["streams"] == 4, "{proto}: {served}");
        assert_eq!(served["bytes_down"], 1_500_000, "{proto}");
    }
}

#[test]
fn without_a_schedule_everything_sent_comes_and_delay_counts_from_sending() {
    let source = Source::start("tcp");
    let run = fetch(source.address, "tcp", "bulk", &["--profile", "bulk", "--duration", "300ms"]);
    let all = &run.end.sum_received;
    assert!(all.packets > 0 && all.packets == run.end.sum_sent.packets, "{all:?}");
    assert_eq!(all.bytes, all.packets * 131_072);
    assert_eq!((all.lost_packets, run.end.unsent, run.end.send_lag.count), (0, 0, 0));
    assert_eq!(run.end.delay.count, all.packets);
}

#[test]
fn bursts_and_pauses_are_sent_as_the_profile_file_says() {
    let profiles = Temporary::new("profiles.toml");
    // Two scans of six messages in bursts of three 50 ms apart; a pause; and the shipped one of that name replaced.
    std::fs::write(
        &profiles.0,
        "[steady]\nmessage = 500\nevery = \"50ms\"\nburst = 3\nscan = 6\npause = \"300ms\"\nduration = \"500ms\"\n",
    )
    .unwrap();
    let source = Source::start("tcp");
    let args = ["--profiles", profiles.text(), "--profile", "steady"];
    let run = fetch(source.address, "tcp", "bursts", &args);
    assert_eq!((run.end.sum_received.packets, run.end.sum_received.bytes), (12, 6000));
    assert_eq!(run.start.parameters["pause"], "300ms");
    assert_eq!(run.end.stall_count, 0, "a pause is no stall: {:?}", run.end.stalls);

    let listed = command(&["profiles", "--profiles", profiles.text()]).output().unwrap();
    let text = said(&listed);
    assert!(listed.status.success() && text.contains("light-source"), "{text}");
    // 12 messages of 500 bytes in 400 ms x 2.
    assert!(text.contains("0.060 Mbit/s"), "{text}");
}

#[test]
fn clocks_that_differ_are_told_and_only_variation_counts() {
    for proto in CARRIERS {
        let source = Source::start(proto);
        let args = ["--profile", "steady", "--duration", "400ms", "--own-clock", "--parallel", "2"];
        let run = fetch(source.address, proto, "clocks", &args);
        assert!(!run.start.same_clock, "{proto}");
        assert!(run.end.warnings.iter().any(|w| w.contains("different clocks")), "{:?}", run.end.warnings);
        assert_eq!(run.end.delay.count, 400);
        assert_eq!((run.end.variation.count, run.end.variation.min), (400, 0));
        assert_eq!(run.end.delay.offset, run.end.delay.min);
    }
}

#[test]
fn messages_that_met_a_hiccup_are_told_apart() {
    for proto in CARRIERS {
        let source = Source::start(proto);
        for clocks in [&[][..], &["--own-clock"]] {
            let args = ["--profile", "steady", "--duration", "400ms", "--parallel", "2", "--hiccups"];
            let run = fetch(source.address, proto, "hiccups", &[&args[..], clocks].concat());
            let quiet = run.end.quiet.expect("hiccups were watched for");
            // Each message is in one place; how many met one is the machine's to say.
            assert_eq!(quiet.met + quiet.delay.count, run.end.delay.count, "{proto}");
            assert_eq!((quiet.variation.count, run.end.delay.count), (quiet.delay.count, 400));
            assert!(quiet.variation.max <= run.end.variation.max && quiet.longest <= quiet.seconds);
            assert!((quiet.hiccups == 0) == (quiet.longest == 0.0), "{quiet:?}");
        }
    }
    let source = Source::start("tcp");
    let run = fetch(source.address, "tcp", "unwatched", &["--profile", "steady", "--duration", "100ms"]);
    assert_eq!(run.end.quiet, None);
    let args = ["--profile", "bulk", "--duration", "100ms", "--hiccups"];
    assert_eq!(fetch(source.address, "tcp", "fast", &args).end.quiet, None, "without a pace");
}

#[test]
fn a_source_that_dies_leaves_a_partial_result() {
    let file = Temporary::new("dies");
    for proto in ["tcp", "udp"] {
        let mut source = Source::start(proto);
        let args = ["--profile", "steady", "--duration", "60s", "--json-stream", "-"];
        let mut child = sink(source.address, proto, &file, &args).spawn().unwrap();
        wait_for_event(&mut child, "interval");
        source.child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let run = read(&file);
        let error = run.end.error.unwrap();
        assert!(run.end.partial && (error.contains("source") || error.contains("broke")), "{error}");
        assert!(said(&output).contains(&error), "{}", said(&output));
        assert!(run.end.sum_received.packets >= 900 && !run.intervals.is_empty(), "{proto}");
        assert!(run.end.sum_received.seconds < 50.0, "{proto}");
        assert_eq!(run.end.delay.count, run.end.sum_received.packets);
    }
}

/// Reads a sink's event lines until one has that name.
fn wait_for_event(child: &mut Child, name: &str) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the sink ended early");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == name {
            // The rest has to be read by somebody.
            thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return;
        }
    }
}

#[test]
fn an_interrupted_sink_writes_what_it_has_and_the_source_serves_on() {
    for proto in CARRIERS {
        let source = Source::start(proto);
        let file = Temporary::new(&format!("interrupted-{proto}"));
        let args = ["--profile", "steady", "--duration", "60s", "--parallel", "2", "--json-stream", "-"];
        let mut child = sink(source.address, proto, &file, &args).spawn().unwrap();
        wait_for_event(&mut child, "interval");
        signal(&child, Signal::SIGINT);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{proto}: {}", said(&output));
        let run = read(&file);
        assert!(run.end.partial, "{proto}");
        assert!(run.end.error.unwrap().contains("stopped before"), "{proto}");
        assert!(run.end.sum_received.packets >= 900 && run.end.sum_received.lost_packets == 0, "{proto}");
        assert!(run.intervals.iter().all(|i| i.streams.len() == 2), "{proto}");

        let again = fetch(source.address, proto, "again", &["--profile", "steady", "--duration", "200ms"]);
        assert_eq!(again.end.sum_received.packets, 200, "{proto}");
        let (served, success) = source.stop();
        assert!(!success && served["streams"] == 1, "{proto}: {served}");
    }
}

#[test]
fn events_are_lines_of_the_result() {
    let source = Source::start("tcp");
    let (file, events) = (Temporary::new("events"), Temporary::new("events.jsonl"));
    let args = ["--profile", "telemetry", "--duration", "2500ms", "--json-stream", events.text()];
    let output = sink(source.address, "tcp", &file, &args).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = std::fs::read_to_string(&events.0).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["start", "interval", "interval", "interval", "end"]);
    let run = serde_json::to_value(read(&file)).unwrap();
    assert_eq!(lines[0]["data"], run["start"]);
    assert_eq!(lines[1]["data"], run["intervals"][0]);
    assert_eq!(lines[4]["data"], run["end"]);
    assert_eq!(run["end"]["sum_received"]["packets"], 12_500);
    assert_eq!(run["intervals"][0]["streams"].as_array().unwrap().len(), 8);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    let profiles = Temporary::new("wrong.toml");
    std::fs::write(&profiles.0, "[mine]\nmessage = 1000\nrat = \"5/s\"\n").unwrap();
    let place = format!("{}:3:1: unknown field `rat`", profiles.text());
    let cases: [(&[&str], &str); 8] = [
        (&["--profile", "mine", "--profiles", profiles.text()], &place),
        (&["--profile", "none"], "there is no profile \"none\"; known are bulk"),
        (&["--profile", "steady", "--rate", "0/s"], "sends nothing"),
        (&["--profile", "steady", "--rate", "fast"], "is no rate"),
        (&["--profile", "steady", "--message", "8"], "its header takes 40"),
        (&["--profile", "steady", "--duration", "0s"], "duration must be more than 0"),
        (&["--profile", "steady", "--verify"], "cannot be used with"),
        (&["--duration", "1s"], "--profile"),
    ];
    for (args, says) in cases {
        let output = command(&["sink", "--connect", NOBODY]).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(said(&output).contains(says), "{args:?}: {}", said(&output));
    }
}

#[test]
fn nobody_and_somebody_else_at_the_other_end_are_told_apart() {
    let file = Temporary::new("nobody");
    for proto in ["tcp", "quic"] {
        let output = sink(NOBODY.parse().unwrap(), proto, &file, &["--profile", "steady"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = read(&file).end.error.unwrap();
        assert!(error.contains("cannot connect") && error.contains("s2bench source"), "{error}");
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = other.local_addr().unwrap();
    let greeting = thread::spawn(move || {
        let mut stream = other.accept().unwrap().0;
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = sink(to, "tcp", &file, &["--profile", "steady"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = read(&file).end.error.unwrap();
    assert!(error.contains("is no s2bench source"), "{error}");
    greeting.join().unwrap();
}

#[test]
fn an_order_of_another_release_is_refused_with_a_reason() {
    let source = Source::start("tcp");
    let mut stream = TcpStream::connect(source.address).unwrap();
    let order = r#"{"version":99,"run":1,"connection":0,"profile":{"message":100,"rate":"1/s"},"boot_id":null,"socket_buffer":null}"#;
    let length = u32::try_from(order.len()).unwrap();
    stream.write_all(&0x5332_0002u32.to_be_bytes()).unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(order.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[8..]);
    assert!(text.contains("refused") && text.contains("version 99"), "{text}");
}

#[test]
fn a_full_disk_is_told_and_the_result_is_printed() {
    let source = Source::start("tcp");
    let to = source.address.to_string();
    let args = ["sink", "--connect", &to, "--profile", "steady", "--duration", "200ms"];
    let output = command(&args).args(["--json", "/dev/full"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("/dev/full") && err.contains("is the disk full?"), "{err}");
    assert!(out.contains("200 messages") && out.contains("delay"), "{out}");
    // The device is still one.
    assert!(!std::fs::metadata("/dev/full").unwrap().is_file());

    let output = command(&args).args(["--json-stream", "/dev/full"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cannot write the events") && said(&output).contains("200 messages"));
}

/// Stands between a sink and a UDP source. `fate` gets each datagram from the source that is part of a message, with its
/// message's number and its offset in it, and says what is sent on.
fn harm(
    source: SocketAddr,
    mut fate: impl FnMut(u64, u32, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
) -> SocketAddr {
    const DATA: u8 = 3;
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    far.connect(source).unwrap();
    let address = near.local_addr().unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (sender, client) = std::sync::mpsc::channel();
    let (up_from, up_to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((n, from)) = up_from.recv_from(&mut buffer) {
            let _ = sender.send(from);
            let _ = up_to.send(&buffer[..n]);
        }
    });
    thread::spawn(move || {
        let client = client.recv().unwrap();
        while let Ok(n) = far.recv(&mut buffer) {
            let datagram = buffer[..n].to_vec();
            let number =
                |at: std::ops::Range<usize>| datagram[at].iter().fold(0, |n: u64, b| n << 8 | u64::from(*b));
            let out = if datagram[4] == DATA {
                fate(number(16..24), u32::try_from(number(24..28)).unwrap(), datagram.clone())
            } else {
                vec![datagram]
            };
            for datagram in out {
                near.send_to(&datagram, client).unwrap();
            }
        }
    });
    address
}

#[test]
fn a_path_of_known_harm_gives_the_known_counts() {
    let source = Source::start("udp");
    let mut held = Vec::new();
    let to = harm(source.address, move |seq, _, mut datagram| match seq % 10 {
        // Lost.
        3 => vec![],
        // Twice.
        5 => vec![datagram.clone(), datagram],
        // After the next.
        7 => {
            held = datagram;
            vec![]
        }
        8 => vec![datagram, std::mem::take(&mut held)],
        // Changed on the way.
        9 => {
            *datagram.last_mut().unwrap() ^= 1;
            vec![datagram]
        }
        _ => vec![datagram],
    });
    let args = ["--profile", "steady", "--rate", "500/s", "--duration", "1s"];
    let run = fetch(to, "udp", "harm", &args);
    let all = &run.end.sum_received;
    assert_eq!((all.packets, all.lost_packets, all.corrupt), (400, 50, 50), "{all:?}");
    assert_eq!((all.duplicates, all.out_of_order), (50, 50), "{all:?}");
    assert_eq!(run.end.sum_sent.packets, 500);
    assert!((all.lost_percent - 10.0).abs() < 1e-9);
    assert_eq!(run.end.delay.count, 400);
    // The pairs 0-1, 1-2, 4-5, 5-6 of each ten, and 9-0 between them not, as 9 is corrupt: 7 and 8 came swapped.
    assert_eq!(run.end.jitter.count, 50 * 4);
}

#[test]
fn a_message_in_parts_counts_once_it_is_whole() {
    let source = Source::start("udp");
    let mut held = Vec::new();
    // Four parts each; the second one of every fifth message is lost, and of all others the parts come out of order.
    let to = harm(source.address, move |seq, offset, datagram| match (seq % 5, offset / 1400) {
        (2, 1) => vec![],
        (2, _) => vec![datagram],
        (_, 1) => {
            held = datagram;
            vec![]
        }
        (_, 3) => vec![datagram, std::mem::take(&mut held)],
        _ => vec![datagram],
    });
    let args = ["--profile", "steady", "--message", "5000", "--rate", "100/s", "--duration", "1s"];
    let run = fetch(to, "udp", "parts", &args);
    let all = &run.end.sum_received;
    assert_eq!((all.packets, all.bytes, all.lost_packets), (80, 400_000, 20), "{all:?}");
    assert_eq!((all.duplicates, all.out_of_order, all.corrupt), (0, 0, 0), "{all:?}");
}

#[test]
fn a_sink_that_is_overrun_says_so() {
    let source = Source::start("udp");
    // Bursts of 64 KiB into a buffer of a few datagrams.
    let args = ["--profile", "bulk", "--message", "64Ki", "--duration", "300ms", "--socket-buffer", "4Ki"];
    let run = fetch(source.address, "udp", "overrun", &args);
    assert!(run.end.sum_received.lost_packets > 0, "{:?}", run.end.sum_received);
    let limits = run.end.limited_by.join("\n");
    assert!(limits.contains("sink:") && limits.contains("found its receive buffer full"), "{limits}");
    assert_eq!(run.start.socket_buffer, Some(4096));
}

#[test]
fn a_connection_that_cannot_be_ends_the_run_with_its_own_reason() {
    let file = Temporary::new("half");
    let source = Source::start("tcp");
    // Lets one connection through and holds back the other.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (to, far) = (listener.local_addr().unwrap(), source.address);
    thread::spawn(move || {
        let mut near = listener.accept().unwrap().0;
        let mut up_to = TcpStream::connect(far).unwrap();
        let second = listener.accept().unwrap().0;
        thread::spawn(move || std::io::copy(&mut near, &mut up_to));
        drop(second);
        thread::sleep(Duration::from_secs(30));
    });
    let output = sink(to, "tcp", &file, &["--profile", "steady", "--parallel", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let run = read(&file);
    let error = run.end.error.unwrap();
    assert!(run.end.partial && !error.contains("only 1 of 2"), "{error}");
    assert!(error.contains("closed without an answer") || error.contains("did not come"), "{error}");
    assert_eq!(run.end.sum_received.packets, 0);
}

#[test]
fn a_path_that_stops_for_a_while_is_a_stall_and_everything_due_meanwhile_is_late() {
    const STOP: Duration = Duration::from_millis(800);
    let source = Source::start("tcp");
    let (to, listener) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    };
    let far = source.address;
    thread::spawn(move || {
        let mut near = listener.accept().unwrap().0;
        let mut far = TcpStream::connect(far).unwrap();
        let (mut up_from, mut up_to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
        // The answer and a tenth of the messages; then nothing for a while.
        let _ = std::io::copy(&mut Read::by_ref(&mut far).take(100_000), &mut near);
        thread::sleep(STOP);
        let _ = std::io::copy(&mut far, &mut near);
    });
    // 1,000 messages of 1,000 bytes in a second, and then some: all must have been due in the pause that were.
    let args = ["--profile", "steady", "--message", "1000", "--duration", "2s", "--stall", "400ms"];
    let run = fetch(to, "tcp", "stops", &[&args[..], &["--deadline", "100ms"]].concat());
    assert_eq!((run.end.sum_received.packets, run.end.sum_received.lost_packets), (2000, 0));
    // How long exactly is the machine's to say; that nothing came meanwhile is certain.
    assert!(run.end.stall_count >= 1 && run.end.stall_seconds > 0.7, "{:?}", run.end.stalls);
    assert!(run.end.delay.max > 700_000_000, "{:?}", run.end.delay);
    // Due in the stop's first 600 ms: each counts, not only the one that was held up first.
    assert!(run.end.sum_received.late >= 600, "{:?}", run.end.sum_received);
    assert!(run.end.variation.p90 > 100_000_000, "{:?}", run.end.variation);
}
