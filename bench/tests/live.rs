//! The live page: its data, what becomes of sources that fail, and the page in a browser.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bench::host::Host;
use bench::live::{Event, State};
use bench::result::{Approach, Distribution, End, Interval, Label, PathFacts, Start, Sums, histogram};
use bench::stream::Carrier;
use bench::topology::Workdir;
use forwarder::api;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn start(connections: u32) -> Event {
    let host = Host {
        date: "2026-11-26T09:30:00Z".into(),
        machine: "test".into(),
        cores: 2,
        memory_gib: 8,
        cpu: "test".into(),
        kernel: "Linux".into(),
        governor: "none".into(),
        load: None,
        numa_nodes: 1,
        dpdk: String::new(),
        version: "0.1.0".into(),
        commit: "none".into(),
    };
    Event::Start(Box::new(Start {
        version: "s2bench 0.1.0".into(),
        label: Label::Measured,
        host,
        carrier: Carrier::Tcp,
        profile: "light-source <b>".into(),
        parameters: BTreeMap::new(),
        omit: 0,
        connections,
        connecting_to: "10.1.0.1:5000".into(),
        approach: Some(Approach {
            name: "s2ds-af_xdp-poll".into(),
            version: "0.1.0".into(),
            settings: Vec::new(),
        }),
        path: Some(PathFacts {
            preset: Some("starlight-dallas".into()),
            rtt_ms: 20.0,
            bits_per_second: Some(10_000_000_000),
            loss_percent: 0.0,
            mtu: 9000,
            by: "s2bench wan".into(),
        }),
        round: None,
        same_clock: true,
        socket_buffer: None,
    }))
}

/// The second that ends at `end`, each connection at its own rate; every seventh of many has a late message.
fn interval(connections: u32, end: u32) -> Event {
    let sums = |socket: Option<u32>, bits: f64| Sums {
        socket,
        start: f64::from(end - 1),
        end: f64::from(end),
        seconds: 1.0,
        bytes: (bits / 8.0) as u64,
        bits_per_second: bits,
        jitter_ms: 0.02 + f64::from(end % 5) * 0.004,
        packets: 100,
        late: u64::from(socket.is_some_and(|n| n % 7 == 6)),
        delay_p50: Some(10_050_000 + i64::from(end % 4) * 9000),
        delay_p99: Some(10_220_000 + i64::from(end % 7) * 40_000),
        ..Sums::default()
    };
    let rate = |n: u32| 8.4e9 / f64::from(connections) * (1.0 - f64::from((n * 7 + end) % 5) * 0.05);
    let streams: Vec<Sums> = (0..connections).map(|n| sums(Some(n), rate(n))).collect();
    let all = streams.iter().map(|s| s.bits_per_second).sum();
    let late = streams.iter().map(|s| s.late).sum();
    Event::Interval(Interval { streams, sum: Sums { late, ..sums(None, all) } })
}

fn end() -> Event {
    let mut h = histogram();
    h.record_n(10_000_000, 1000).unwrap();
    let delay = Distribution::of(&h, 0);
    Event::End(Box::new(End { delay, stall_count: 1, ..End::default() }))
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).unwrap() + "\n"
}

/// `s2bench live`, on a port of its own.
struct Page {
    child: Child,
    address: String,
}

impl Page {
    fn start(args: &[&str]) -> Page {
        let mut child = Command::new(env!("CARGO_BIN_EXE_s2bench"))
            .args(["live", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        let address =
            said.split(['/', ' ']).find(|w| w.starts_with("127.0.0.1:")).unwrap_or_else(|| panic!("{said}"));
        Page { address: address.to_owned(), child }
    }

    /// The body of an answer.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.get("/api/state")).unwrap()
    }

    /// The state once it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let state = self.state();
            if wanted(&state) {
                return state;
            }
            assert!(began.elapsed() < PATIENCE, "not {what} after {PATIENCE:?}: {state:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it by SIGINT and tells whether it ended well.
    fn interrupt(mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file(dir: &Workdir, text: &str) -> PathBuf {
    let path = dir.path().join("stream.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn append(path: &Path, text: &str) {
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_file_that_grows_is_followed_to_its_end() {
    let dir = Workdir::new().unwrap();
    let path = dir.path().join("stream.jsonl");
    let page = Page::start(&["--stream", path.to_str().unwrap()]);
    let before =
        page.until("waiting", |s| s["stream"]["health"]["why"].as_str().unwrap().contains("waiting for"));
    assert_eq!(before["stream"]["health"]["state"], "waiting");
    std::fs::write(&path, line(&start(2))).unwrap();
    page.until("live", |s| s["stream"]["health"]["state"] == "live");
    let second = line(&interval(2, 1));
    // Half a line is none yet.
    append(&path, &second[..40]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(page.state()["stream"]["sum"], Value::Null);
    append(&path, &second[40..]);
    append(&path, &line(&interval(2, 2)));
    let state = page.until("two seconds", |s| s["stream"]["history"].as_array().unwrap().len() == 2);
    let stream = &state["stream"];
    assert_eq!(stream["connections"].as_array().unwrap().len(), 2);
    assert_eq!(stream["totals"]["packets"], 200);
    assert_eq!(stream["sum"]["end"], 2.0);
    assert_eq!(stream["start"]["path"]["rtt_ms"], 20.0);
    append(&path, &line(&end()));
    let state = page.until("ended", |s| s["stream"]["health"]["state"] == "ended");
    assert_eq!(
        (&state["stream"]["end"]["delay"]["hdr"], &state["stream"]["end"]["stall_count"]),
        (&"".into(), &1.into())
    );
    // Another run in the same place begins anew.
    std::fs::write(&path, line(&start(1))).unwrap();
    let state = page.until("begun again", |s| s["stream"]["start"]["connections"] == 1);
    assert_eq!(state["stream"]["totals"]["packets"], 0);
    assert!(page.interrupt(), "SIGINT ends it well");
}

#[test]
fn bad_lines_are_counted_and_the_rest_is_shown() {
    let dir = Workdir::new().unwrap();
    let bad = "no json\n{\"event\":\"other\",\"data\":1}\n{\"event\":\"interval\",\"data\":{}}\n\n";
    let path = file(&dir, &(line(&start(1)) + bad + &line(&interval(1, 1))));
    append(&path, "\u{fffd}\n");
    let page = Page::start(&["--stream", path.to_str().unwrap()]);
    let state = page.until("four bad lines", |s| s["stream"]["bad_lines"] == 4);
    assert_eq!(state["stream"]["history"].as_array().unwrap().len(), 1);
    assert!(!state["stream"]["bad"].as_str().unwrap().is_empty());
}

#[test]
fn stdin_and_a_fifo_serve_as_well() {
    let mut page = Page::start(&["--stream", "-"]);
    let mut stdin = page.child.stdin.take().unwrap();
    stdin.write_all((line(&start(1)) + &line(&interval(1, 1))).as_bytes()).unwrap();
    page.until("a second", |s| s["stream"]["sum"].is_object());
    drop(stdin);
    let state = page.until("ended", |s| s["stream"]["health"]["state"] == "ended");
    assert!(state["stream"]["health"]["why"].as_str().unwrap().contains("stdin was closed"));

    let dir = Workdir::new().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let page = Page::start(&["--stream", fifo.to_str().unwrap()]);
    for connections in [1, 3] {
        // Each writer is a run.
        std::fs::write(&fifo, line(&start(connections)) + &line(&interval(connections, 1))).unwrap();
        page.until("this run", |s| {
            s["stream"]["connections"].as_array().unwrap().len() == connections as usize
        });
    }
}

fn flow(name: &str, bytes: u64) -> api::FlowInfo {
    let count = api::Count { packets: bytes / 1000, bytes };
    api::FlowInfo {
        spec: api::FlowSpec {
            name: name.into(),
            proto: api::Proto::Tcp,
            listen: "192.0.2.10:5117".parse().unwrap(),
            target: "10.20.0.5:7000".parse().unwrap(),
            from: Vec::new(),
            max_conns: None,
            mss_clamp: None,
            hairpin: false,
            rate: None,
            lease: None,
        },
        state: api::FlowState::Active,
        configured: false,
        lease_remaining: None,
        connections: 4,
        admitted: 4,
        refused: 0,
        policed: 0,
        to_target: count,
        to_client: api::Count::default(),
    }
}

/// What a gateway tells after so many bytes.
fn sample(bytes: u64) -> (api::Stats, Vec<api::FlowInfo>, Vec<api::PortInfo>) {
    let stats = api::Stats {
        uptime: 10,
        received: bytes / 1000,
        drops: BTreeMap::from([
            ("no_flow".into(), 3),
            ("tx_full".into(), bytes / 100_000),
            ("ttl".into(), 0),
        ]),
        connections: 4,
        workers: vec![api::WorkerStats {
            residence: api::Residence {
                samples: 9,
                p50_ns: 700,
                p99_ns: 2500,
                p999_ns: 9000,
                max_ns: 20_000,
                ..Default::default()
            },
            ..Default::default()
        }],
        ..api::Stats::default()
    };
    let port = api::PortInfo {
        name: "wan".into(),
        device: "af_xdp:wan".into(),
        driver: "net_af_xdp".into(),
        mac: "02:00:00:00:00:01".into(),
        addresses: Vec::new(),
        mtu: 9000,
        vlan: None,
        outer_vlan: None,
        gateway: Vec::new(),
        queues: 1,
        steering: "one worker".into(),
        handed_over: 0,
        numa_node: None,
        link: "up".into(),
        speed: None,
        failure: None,
        rx: api::Count { packets: bytes / 1000, bytes },
        tx: api::Count::default(),
        rx_missed: 0,
        tx_errors: 0,
        neighbors: Vec::new(),
        conflicts: Vec::new(),
    };
    (stats, vec![flow("s2cs:9a4e:0", bytes), flow("detector", 0)], vec![port])
}

#[test]
fn rates_are_differences_over_the_time_between() {
    let put = |state: &mut State, bytes: u64, now: f64| {
        let (stats, flows, ports) = sample(bytes);
        state.gateway(0, Ok(bench::live::Sample { server: "s2ds 0.1.0".into(), stats, flows, ports }), now);
    };
    let mut state = State::new(false, ["chicago".to_owned()].into_iter(), false);
    put(&mut state, 1_000_000, 1.0);
    assert_eq!(state.gateways[0].bits_per_second, None, "one answer makes no rate");
    put(&mut state, 3_000_000, 3.0);
    let gateway = &state.gateways[0];
    assert_eq!((gateway.bits_per_second, gateway.packets_per_second), (Some(8e6), Some(1000.0)));
    assert_eq!(gateway.flows[0].name, "s2cs:9a4e:0", "the busiest first");
    assert_eq!(
        (gateway.flows[0].session.as_deref(), gateway.flows[0].bits_per_second),
        (Some("s2cs:9a4e"), Some(8e6))
    );
    assert_eq!(gateway.flows[1].session, None);
    let drops: Vec<_> = gateway.drops.iter().map(|d| (d.reason.as_str(), d.count, d.per_second)).collect();
    assert_eq!(drops, [("tx_full", 30, Some(10.0)), ("no_flow", 3, Some(0.0))]);
    assert_eq!(gateway.residence, Some([700, 2500, 9000, 20_000]));
    // One that restarted counts from 0: no negative rate.
    put(&mut state, 500_000, 4.0);
    assert_eq!((state.gateways[0].bits_per_second, state.gateways[0].drops[0].per_second), (None, None));
    assert_eq!(state.at(5.0).gateways[0].health.state, "live");
    assert_eq!(state.at(60.0).gateways[0].health.state, "silent");
    state.gateway(0, Err("gone".into()), 61.0);
    assert_eq!(
        (state.at(61.0).gateways[0].health.state, state.at(61.0).gateways[0].health.why.as_str()),
        ("failed", "gone")
    );
    state.gateway(7, Err("nobody".into()), 61.0);
}

/// Answers as s2ds does on its control socket, more bytes with each question.
fn gateway(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for (connection, n) in listener.incoming().zip(1..) {
            let mut stream = connection.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut bytes = n * 1_000_000_000;
            for line in lines.map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap();
                bytes += 300_000_000;
                let (stats, flows, ports) = sample(bytes);
                let reply = match value["op"].as_str() {
                    None => {
                        writeln!(stream, "{}", serde_json::to_string(&api::Hello::of("s2ds")).unwrap())
                            .unwrap();
                        continue;
                    }
                    Some("stats") => api::Reply::Stats { stats },
                    Some("flow_list") => api::Reply::Flows { flows },
                    _ => api::Reply::Ports { ports },
                };
                let outcome = api::Outcome::Ok(Box::new(reply));
                let answer = api::Answer { id: value["id"].as_u64(), outcome };
                if writeln!(stream, "{}", serde_json::to_string(&answer).unwrap()).is_err() {
                    break;
                }
            }
        }
    });
}

/// Serves one text to everybody over HTTP.
fn metrics(text: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            );
        }
    });
    url
}

#[test]
fn gateways_and_s2cs_are_asked_and_one_that_is_gone_is_told() {
    let dir = Workdir::new().unwrap();
    let socket = dir.path().join("a.sock");
    gateway(&socket);
    let url = metrics("s2cs_sessions{state=\"active\"} 2\ns2cs_in_step 1\n# EOF\n");
    let here = format!("chicago={}", socket.display());
    let gone = format!("dallas={}", dir.path().join("none.sock").display());
    let page = Page::start(&["--gateway", &here, "--gateway", &gone, "--s2cs", &url]);
    let state = page.until("asked", |s| {
        s["gateways"][0]["bits_per_second"].is_number()
            && s["gateways"][1]["health"]["state"] == "failed"
            && s["s2cs"]["health"]["state"] == "live"
    });
    assert!(state["gateways"][0]["bits_per_second"].as_f64().unwrap() > 0.0);
    assert!(state["gateways"][1]["health"]["why"].as_str().unwrap().contains("nothing answers on"));
    assert_eq!(state["s2cs"]["metrics"]["s2cs_sessions{state=\"active\"}"], 2.0);
    assert_eq!(state["stream"]["health"]["state"], "not asked");
    // The events say the same, again and again.
    let stream = TcpStream::connect(&page.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(&stream, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let data: Vec<Value> = BufReader::new(&stream)
        .lines()
        .map(Result::unwrap)
        .filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok())
        .take(2)
        .collect();
    assert_eq!(data[1]["gateways"][0]["name"], "chicago");
    // An open stream of events does not keep it from ending.
    assert!(page.interrupt());
}

#[test]
fn bad_usage_and_a_taken_address_are_told() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_s2bench")).arg("live").args(args).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(run(&[]).0, Some(2), "nothing to show");
    let (code, said) = run(&["--gateway", "/run/s2ds.sock"]);
    assert!(code == Some(2) && said.contains("chicago=/run"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = run(&["--stream", "-", "--listen", &taken.local_addr().unwrap().to_string()]);
    assert!(code == Some(1) && said.contains("give a free address with --listen"), "{said}");
}

/// Loads the page in headless Chromium; none, with the reason printed, where it is not installed.
fn browse(page: &Page, picture: &str, size: &str) -> Option<String> {
    let dir = Workdir::new().unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("live");
    std::fs::create_dir_all(&shots).unwrap();
    let chromium = |last: &str| {
        Command::new("timeout")
            .args([
                "60",
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg("--hide-scrollbars")
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("--window-size={size}"))
            .arg(last)
            .arg(format!("http://{}/", page.address))
            .output()
    };
    if Command::new("chromium").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI needs chromium");
        println!("skipped: chromium is not installed");
        return None;
    }
    let dom = chromium("--dump-dom").unwrap();
    let shot = format!("--screenshot={}", shots.join(picture).display());
    assert!(dom.status.success() && chromium(&shot).unwrap().status.success(), "chromium failed");
    Some(String::from_utf8(dom.stdout).unwrap())
}

#[test]
fn a_browser_shows_one_and_sixty_four_connections() {
    let dir = Workdir::new().unwrap();
    let socket = dir.path().join("a.sock");
    gateway(&socket);
    let url = metrics("s2cs_sessions{state=\"active\"} 2\ns2cs_in_step 1\n# EOF\n");
    let path = file(&dir, "");
    let here = format!("chicago={}", socket.display());
    let gone = format!("dallas={}", dir.path().join("none.sock").display());
    let page = Page::start(&[
        "--stream",
        path.to_str().unwrap(),
        "--gateway",
        &here,
        "--gateway",
        &gone,
        "--s2cs",
        &url,
    ]);
    for connections in [1u32, 8, 64] {
        let lines: String = (1..=90).map(|n| line(&interval(connections, n))).collect();
        std::fs::write(&path, line(&start(connections)) + &lines + "bad\n").unwrap();
        page.until("these connections", |s| {
            s["stream"]["connections"].as_array().unwrap().len() == connections as usize
                && s["stream"]["start"]["connections"] == connections
                && s["stream"]["sum"]["end"] == 90.0
                && s["gateways"][0]["bits_per_second"].is_number()
        });
        let Some(dom) = browse(&page, &format!("{connections}.png"), "1920,1080") else { return };
        assert!(dom.contains("data-shown=\"yes\""), "the script did not run to its end:\n{dom}");
        assert_eq!(dom.matches("data-connection=").count(), connections as usize);
        for part in [
            "chicago",
            "does not answer",
            "starlight-dallas",
            "RTT 20 ms, 10.0 Gbit/s",
            "RTT 20 ms, 10.0 Gbit/s",
            "tx_full",
            "s2cs:9a4e",
            "2 active",
            "bad lines",
            "Gbit/s",
        ] {
            assert!(dom.contains(part), "{part} is missing with {connections} connections");
        }
        // Markup in a name is text.
        assert!(dom.contains("light-source &lt;b&gt;"));
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = Page::start(&["--gateway", "a=/none"]);
    let html = page.get("/");
    for foreign in ["http:", "https:", "src=", "<link", "@import", "url("] {
        assert!(!html.contains(foreign), "the page has {foreign}");
    }
}
