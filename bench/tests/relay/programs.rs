//! s2ds and s2ctl as programs: what they print, how they end, and that nothing of them stays.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use bench::topology::{Family, Gateway, Netns, Place, Process, Workdir, find_binary};
use control::client::Client;
use forwarder::api::{Reply, Request, Stats};
use forwarder::engine::DropReason;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::Value;

use crate::harness::{PATIENCE, eventually, private, relay};

/// A port, and a flow from one address of the host to the other.
const CONFIG: &str = r#"
[eal]
huge = false
[workers]
idle = "adaptive"
[[port]]
name = "lan"
device = "af_packet:lan"
addresses = ["10.81.0.1/24"]
[[flow]]
name = "echo"
proto = "udp"
listen = "10.81.0.1:7000"
target = "10.81.0.3:7000"
from = ["10.81.0.2/32"]
"#;

/// A node for one s2ds, and a host on its only link. `dir` holds its configuration, its socket and EAL's files.
struct Node {
    gateway: Netns,
    host: Netns,
    dir: PathBuf,
}

impl Node {
    fn new() -> Node {
        let work = Arc::new(Workdir::new().unwrap());
        let dir = work.path().join("s2ds");
        fs::create_dir(&dir).unwrap();
        let [gateway, host] = ["gateway", "host"].map(|name| Netns::new(name, Arc::clone(&work)).unwrap());
        gateway.join("lan", &host, "eth0", 1500).unwrap();
        gateway.silence("lan").unwrap();
        host.ip("link set eth0 up\n address add 10.81.0.2/24 dev eth0\n address add 10.81.0.3/24 dev eth0")
            .unwrap();
        Node { gateway, host, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s2ds.sock")
    }

    /// Starts s2ds with `config`: `wrapper` comes before the program, `eal` before its own arguments.
    fn start(&self, config: &str, wrapper: &[&str], eal: &[&str]) -> Process {
        let file = self.dir.join("s2ds.toml");
        fs::write(&file, format!("{config}\n[service]\nsocket = {:?}\nmode = \"0600\"\n", self.socket()))
            .unwrap();
        let (s2ds, file) = (find_binary("s2ds").unwrap(), file.to_str().unwrap().to_owned());
        let command: Vec<&str> = [wrapper, &[s2ds.to_str().unwrap()], eal, &["--config", &file]].concat();
        let env = [("RUNTIME_DIRECTORY", self.dir.to_str().unwrap())];
        self.gateway.spawn_with(Path::new(command[0]), &command[1..], &env).unwrap()
    }

    /// A running s2ds.
    fn ready(&self) -> Process {
        let mut process = self.start(CONFIG, &[], &[]);
        process.wait_for("s2ds: ready", PATIENCE).unwrap();
        process
    }

    /// Starts s2ds, which must fail and leave nothing; its last line must hold `words`.
    fn refuses(&self, config: &str, wrapper: &[&str], words: &[&str]) {
        let before = self.interfaces();
        let mut process = self.start(config, wrapper, &[]);
        let status = process.wait(PATIENCE).unwrap();
        let said = process.output().unwrap().stderr;
        assert!(status.code().is_some_and(|code| code != 0), "{status}: {said}");
        let last = said.trim_end().lines().last().unwrap_or_default();
        assert!(
            last.starts_with("s2ds: ") && words.iter().all(|w| last.contains(w)),
            "not {words:?}: {said}"
        );
        assert_eq!(self.interfaces(), before);
        assert_eq!(self.processes(), [0; 0], "processes are left");
    }

    /// The first packet of a connection of the flow.
    fn datagram(&self) {
        datagram(&self.host, "10.81.0.2:4000".parse().unwrap(), "10.81.0.1:7000".parse().unwrap());
    }

    fn stats(&self) -> Stats {
        match Client::connect(self.socket()).unwrap().call(Request::Stats).unwrap() {
            Reply::Stats { stats } => stats,
            other => panic!("{other:?}"),
        }
    }

    fn interfaces(&self) -> String {
        let output = self.gateway.output("ip", &["-brief", "link"], PATIENCE).unwrap();
        output
            .stdout
            .lines()
            .map(|l| l.split_whitespace().next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Processes whose network is the gateway's.
    fn processes(&self) -> Vec<u32> {
        let namespace = fs::metadata(self.gateway.path()).unwrap().ino();
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == namespace))
            .collect()
    }
}

/// The host sends one datagram.
fn datagram(host: &Netns, from: SocketAddr, to: SocketAddr) {
    let sent = host.run(move || UdpSocket::bind(from)?.send_to(b"hello", to)).unwrap();
    assert_eq!(sent.unwrap(), 5);
}

/// Runs s2ctl: exit code, standard output, standard error.
fn s2ctl(gateway: &Gateway, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(find_binary("s2ctl").unwrap())
        .arg("--socket")
        .arg(gateway.socket())
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What s2ctl prints with this exit code, in words and read from JSON. For what changes nothing: it asks twice.
#[track_caller]
fn asks(gateway: &Gateway, args: &[&str], code: i32) -> (String, Reply) {
    let (had, words, errors) = s2ctl(gateway, args);
    assert_eq!((had, errors.as_str()), (code, ""), "{args:?}: {words}");
    let (had, json, errors) = s2ctl(gateway, &[args, &["--json"]].concat());
    assert_eq!((had, errors.as_str()), (code, ""), "{args:?}: {json}");
    assert_eq!(json.trim_end().lines().count(), 1, "{json}");
    (words, serde_json::from_str(&json).unwrap_or_else(|e| panic!("{args:?}: {e}: {json}")))
}

/// s2ctl changes something.
#[track_caller]
fn does(gateway: &Gateway, args: &[&str]) {
    let (code, words, errors) = s2ctl(gateway, args);
    assert_eq!((code, errors.as_str()), (0, ""), "{args:?}");
    assert!(words.starts_with("done (epoch "), "{args:?}: {words}");
}

/// s2ctl says why not, in one line, and nothing else.
#[track_caller]
fn fails(gateway: &Gateway, args: &[&str], code: i32, word: &str) {
    let (had, words, errors) = s2ctl(gateway, args);
    assert_eq!((had, words.as_str()), (code, ""), "{args:?}: {errors}");
    assert!(
        errors.starts_with("s2ctl: ") && errors.lines().count() == 1 && errors.contains(word),
        "{errors}"
    );
}

const EXTRA: [&str; 8] =
    ["--proto", "udp", "--target", "10.82.0.2:6000", "--from", "10.81.0.0/27", "--listen", "10.81.0.1:6000"];

#[test]
fn s2ctl_changes_flows_and_shows_everything() {
    relay(|relay| {
        let gateway = &relay.consumer_gateway;
        let add = |name| [&["flow", "add", name], &EXTRA[..]].concat();
        does(gateway, &add("extra"));
        fails(gateway, &add("extra"), 4, "extra");
        fails(gateway, &add("another"), 4, "10.81.0.1:6000");
        for args in
            [&["flow", "show", "absent"][..], &["flow", "del", "absent"], &["flow", "drain", "absent"]]
        {
            fails(gateway, args, 3, "absent");
        }
        let (words, reply) = asks(gateway, &["flow", "list"], 0);
        let Reply::Flows { flows } = reply else { panic!("{reply:?}") };
        assert!(flows.iter().any(|f| f.spec.name == "extra" && !f.configured), "{flows:?}");
        assert!(flows.iter().all(|f| words.lines().any(|l| l.starts_with(&f.spec.name))), "{words}");

        let explain = |src, code| {
            let args =
                ["explain", "--port", "lan", "--proto", "udp", "--dst", "10.81.0.1:6000", "--src", src];
            let (words, reply) = asks(gateway, &args, code);
            let Reply::Explained { explanation } = reply else { panic!("{reply:?}") };
            assert!(words.contains(&explanation.verdict), "{words}");
            explanation
        };
        let forward = explain("10.81.0.2:4000", 0);
        assert_eq!((forward.verdict.as_str(), forward.out_port.as_deref()), ("forward", Some("wan")));
        assert!(!forward.existing);
        let stranger = explain("10.81.0.66:4000", 10).verdict;
        assert!(DropReason::ALL.iter().any(|r| r.name() == stranger), "{stranger}");
        let nowhere = [
            "explain",
            "--port",
            "nowhere",
            "--proto",
            "tcp",
            "--src",
            "10.81.0.2:1",
            "--dst",
            "10.81.0.1:1",
        ];
        fails(gateway, &nowhere, 3, "nowhere");

        let client = Place::CONSUMER.socket(Family::V4, 4000);
        datagram(&relay.consumer, client, Place::CONSUMER_GATEWAY.socket(Family::V4, 6000));
        let connections = || match asks(gateway, &["conn", "list"], 0) {
            (words, Reply::Connections { connections, truncated: false }) => (words, connections),
            other => panic!("{other:?}"),
        };
        eventually("a connection", || !connections().1.is_empty());
        let (words, found) = connections();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].flow.as_str(), found[0].client), ("extra", client));
        assert!(words.contains("10.81.0.2:4000") && words.contains("10.82.0.2:6000"), "{words}");
        assert!(explain("10.81.0.2:4000", 0).existing);

        does(gateway, &["flow", "drain", "extra"]);
        let (words, reply) = asks(gateway, &["flow", "show", "extra"], 0);
        assert!(words.contains("draining") && words.contains("10.81.0.0/27"), "{words}");
        let Reply::Flow { flow } = reply else { panic!("{reply:?}") };
        assert_eq!((flow.connections, flow.admitted), (1, 1));
        explain("10.81.0.2:4001", 10);

        let (words, reply) = asks(gateway, &["port", "list"], 0);
        let Reply::Ports { ports } = reply else { panic!("{reply:?}") };
        assert_eq!(ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["lan", "wan"]);
        assert!(ports.iter().all(|p| words.contains(&p.mac) && p.rx.packets > 0), "{words}");

        let (words, reply) = asks(gateway, &["stats"], 0);
        let Reply::Stats { stats } = reply else { panic!("{reply:?}") };
        assert_eq!((stats.connections, stats.drops.len()), (1, DropReason::ALL.len()));
        assert!(stats.received > 0 && words.contains("received"), "{words}");

        does(gateway, &["flow", "del", "extra"]);
        fails(gateway, &["flow", "show", "extra"], 3, "extra");
        assert!(connections().1.is_empty(), "a connection outlived its flow");
    });
}

/// Runs `s2ds --check` on `config`: its exit code, standard output, standard error, and the file.
fn check(config: &str) -> (i32, String, String, String) {
    let work = Workdir::new().unwrap();
    let file = work.path().join("s2ds.toml");
    fs::write(&file, format!("{config}\n[service]\nsocket = {:?}\n", work.path().join("sub/s2ds.sock")))
        .unwrap();
    let list = || {
        let mut names: Vec<_> = fs::read_dir(work.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let before = list();
    let mut command = Command::new(find_binary("s2ds").unwrap());
    command.arg("--config").arg(&file).arg("--check").env("RUNTIME_DIRECTORY", work.path());
    let output = command.output().unwrap();
    assert_eq!(list(), before, "neither EAL nor the service was to begin");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr), file.to_str().unwrap().to_owned())
}

#[test]
fn check_prints_ports_and_workers_and_touches_no_device() {
    let (code, printed, errors, _) = check(&CONFIG.replace("af_packet:lan", "af_packet:absent0"));
    assert_eq!((code, errors.as_str()), (0, ""), "{printed}");
    let has = |words: &[&str]| printed.lines().any(|l| words.iter().all(|w| l.contains(w)));
    assert!(has(&["lan", "af_packet:absent0", "10.81.0.1/24", "1500"]), "{printed}");
    assert!(has(&["echo", "udp", "10.81.0.1:7000", "10.81.0.3:7000", "10.81.0.2/32"]), "{printed}");
    assert!(has(&["worker 0 on core"]), "{printed}");
    assert!(
        has(&["PORT", "DEVICE", "QUEUE", "CORE", "SIBLINGS", "ISOLATED", "POOL NODE", "REMARK"]),
        "{printed}"
    );
}

#[test]
fn check_tells_every_problem_and_its_place() {
    let bad = CONFIG
        .replace("adaptive", "lazy")
        .replace("10.81.0.1/24\"]", "10.81.0.1/240\"]\nmtu = 1")
        .replace("proto = \"udp\"", "proto = \"sctp\"");
    let (code, printed, errors, file) = check(&bad);
    assert!(code != 0 && printed.is_empty(), "{code}: {printed}");
    for (text, key) in [
        ("idle = ", "workers.idle"),
        ("addresses = ", "port[0].addresses"),
        ("mtu = ", "port[0].mtu"),
        ("proto = ", "flow[0].proto"),
    ] {
        let line = bad.lines().position(|l| l.starts_with(text)).unwrap() + 1;
        let place = format!("{file}:{line}: {key}");
        assert!(
            errors.lines().any(|l| l.trim_start_matches("s2ds: ").starts_with(&place)),
            "{place}\n{errors}"
        );
    }
    assert_eq!(errors.lines().count(), 4, "{errors}");
}

#[test]
fn an_interrupt_stops_cleanly_and_closes_the_ledger() {
    private(|| {
        let node = Node::new();
        let mut process = node.ready();
        node.datagram();
        eventually("a connection", || node.stats().connections == 1);
        process.signal(Signal::SIGINT).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        let said = process.output().unwrap().stderr;
        assert_eq!(status.code(), Some(0), "{said}");
        let ledger = said.lines().last().unwrap();
        let words = ledger.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(words, "sds: received  = sent  + held  + dropped ; originated ", "{said}");
        let numbers = ledger.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
        // The first is of the program's name.
        let [received, sent, held, dropped, _] = numbers.skip(1).collect::<Vec<_>>()[..] else {
            panic!("{ledger}")
        };
        assert!(received > 0 && received == sent + held + dropped, "{ledger}");
        assert!(!node.socket().exists(), "the control socket was left behind");
    });
}

#[test]
fn a_second_signal_at_any_moment_leaves_nothing() {
    private(|| {
        let node = Node::new();
        let ends = |mut process: Process, moment: &str| {
            let status = process.wait(PATIENCE).unwrap_or_else(|e| panic!("{moment}: {e}"));
            assert!(!node.socket().exists(), "{moment}, {status}: a socket is left");
            assert_eq!(node.processes(), [0; 0], "{moment}, {status}: processes are left");
        };
        // While it starts: once it has its socket, but devices and workers not yet.
        let process = node.start(CONFIG, &[], &[]);
        eventually("a control socket", || node.socket().exists());
        process.signal(Signal::SIGINT).unwrap();
        process.signal(Signal::SIGTERM).unwrap();
        ends(process, "at start");
        for ms in [0, 1, 10, 60] {
            let process = node.ready();
            process.signal(Signal::SIGTERM).unwrap();
            thread::sleep(Duration::from_millis(ms));
            process.signal(Signal::SIGINT).unwrap();
            ends(process, &format!("{ms} ms later"));
        }
    });
}

/// A client of DPDK's telemetry socket.
struct Telemetry(OwnedFd);

impl Telemetry {
    /// Connects and reads the greeting.
    fn connect(path: &Path) -> (Telemetry, Value) {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(30, 0)).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        let client = Telemetry(fd);
        let greeting = client.read();
        (client, greeting)
    }

    fn read(&self) -> Value {
        let mut bytes = vec![0; 64 * 1024];
        let len = recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        serde_json::from_slice(&bytes[..len]).unwrap()
    }

    fn ask(&self, command: &str) -> Value {
        send(self.0.as_raw_fd(), command.as_bytes(), MsgFlags::empty()).unwrap();
        self.read()[command].take()
    }
}

#[test]
fn telemetry_answers_in_a_folder_of_its_own() {
    private(|| {
        let node = Node::new();
        let mut process = node.start(CONFIG, &[], &["--file-prefix", "mine", "--"]);
        process.wait_for("s2ds: ready", PATIENCE).unwrap();
        let (telemetry, greeting) = Telemetry::connect(&node.dir.join("dpdk/mine/dpdk_telemetry.v2"));
        assert_eq!(greeting["pid"], process.pid());
        let flows = telemetry.ask("/scistream/flows");
        assert_eq!((&flows["echo_connections"], &flows["echo_to_target_packets"]), (&0.into(), &0.into()));

        node.datagram();
        eventually("the packet in the flow's telemetry", || {
            let flows = telemetry.ask("/scistream/flows");
            flows["echo_connections"] == 1 && flows["echo_to_target_packets"] == 1
        });
        // Ethernet, IPv4, UDP and five bytes, whether the link pads the frame or not.
        assert!(telemetry.ask("/scistream/flows")["echo_to_target_bytes"].as_u64().unwrap() >= 47);
        eventually("the connection in the telemetry of all", || {
            let stats = telemetry.ask("/scistream/stats");
            stats["received"].as_u64().unwrap() >= 1 && stats["connections"] == 1
        });
        let residence = telemetry.ask("/scistream/residence");
        assert!(residence["worker_0_samples"].as_u64().unwrap() >= 1, "{residence}");
        let [middle, most] = ["p50", "max"].map(|f| residence[format!("worker_0_{f}_ns")].as_u64().unwrap());
        assert!(0 < middle && middle <= most, "{residence}");
        let drops = telemetry.ask("/scistream/drops");
        let named = |r: &DropReason| drops[r.name()].is_u64();
        assert!(DropReason::ALL.iter().all(named), "{drops}");
    });
}

#[test]
fn an_absent_device_is_named_and_nothing_is_left() {
    private(|| {
        let node = Node::new();
        let absent = CONFIG.replace("af_packet:lan", "af_packet:absent0");
        node.refuses(&absent, &[], &["\"lan\"", "af_packet:absent0", "no interface", "ip link"]);
        // An interface of our own making, and the next port fails.
        let second =
            "[[port]]\nname = \"wan\"\ndevice = \"af_packet:absent1\"\naddresses = [\"10.82.0.1/24\"]\n";
        let both = format!("{}{second}", CONFIG.replace("af_packet:lan", "tap:made0"));
        node.refuses(&both, &[], &["\"wan\"", "af_packet:absent1", "ip link"]);
        assert!(!node.socket().exists());
    });
}

#[test]
fn too_few_hugepages_are_counted_and_nothing_is_left() {
    private(|| {
        let node = Node::new();
        let none = node.dir.join("no-hugepages");
        fs::create_dir(&none).unwrap();
        // Whatever this machine has, s2ds finds none free.
        let hide = "mount --bind \"$0\" /sys/kernel/mm/hugepages && exec \"$@\"";
        let wrapper = ["unshare", "--mount", "--", "sh", "-c", hide, none.to_str().unwrap()];
        let huge = CONFIG.replace("huge = false", "huge = true");
        node.refuses(&huge, &wrapper, &["hugepages", "0 MiB are free", "nr_hugepages", "huge = false"]);
        assert!(!node.socket().exists());
    });
}

#[test]
fn a_missing_capability_is_named_and_nothing_is_left() {
    private(|| {
        let node = Node::new();
        let wrapper =
            ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", "--ambient-caps", "-all"];
        node.refuses(CONFIG, &wrapper, &["\"lan\"", "af_packet:lan", "CAP_NET_RAW"]);
        assert!(!node.socket().exists());
    });
}

#[test]
fn a_socket_that_answers_is_left_to_its_owner() {
    private(|| {
        let node = Node::new();
        let owner = UnixListener::bind(node.socket()).unwrap();
        let path = node.socket().to_str().unwrap().to_owned();
        node.refuses(CONFIG, &[], &["in use", &path, "--socket"]);
        UnixStream::connect(node.socket()).unwrap();
        drop(owner);
        // Nobody answers any more: the stale file is replaced.
        let mut process = node.ready();
        assert_eq!(process.stop(PATIENCE).unwrap().code(), Some(0));
        assert!(!node.socket().exists());
    });
}
