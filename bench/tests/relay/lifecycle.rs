//! Starting, stopping, being killed: nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bench::stream::Carrier;
use bench::topology::{self, Family, Netns, Workdir, find_binary};
use bench::traffic;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{PATIENCE, eventually, private, relay};

/// A topology held by another process, and all that belongs to it.
struct Held {
    owner: Child,
    processes: Vec<u32>,
    /// Inodes of its network namespaces.
    namespaces: BTreeSet<u64>,
    dir: PathBuf,
}

impl Held {
    fn start() -> Held {
        let dir = Workdir::new().unwrap();
        let said = dir.path().join("said");
        let owner = Command::new(find_binary("s2bench").unwrap())
            .arg("topology")
            .stdout(fs::File::create(&said).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("a topology", || fs::read_to_string(&said).unwrap().contains("ready"));
        let said = fs::read_to_string(&said).unwrap();
        let socket = said.split_once("--socket ").unwrap().1.split_once(';').unwrap().0;
        let dir = Path::new(socket).parent().unwrap().parent().unwrap().to_owned();

        let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let mut processes = Vec::new();
        let mut namespaces = BTreeSet::new();
        for task in fs::read_dir(format!("/proc/{}/task", owner.id())).unwrap().flatten() {
            namespaces.insert(fs::metadata(task.path().join("ns/net")).unwrap().ino());
            let children = fs::read_to_string(task.path().join("children")).unwrap();
            processes.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
        namespaces.remove(&own);
        assert_eq!(namespaces.len(), 4, "two hosts and two gateways");
        assert_eq!(processes.len(), 2, "two s2ds");
        Held { owner, processes, namespaces, dir }
    }

    fn end(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.owner.id()).unwrap()), signal).unwrap();
        self.owner.wait().unwrap()
    }

    /// No process of it and no process in its namespaces: the kernel frees those and their veth pairs with the last one.
    fn is_gone(&self) -> bool {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let in_use = processes.filter_map(|p| fs::metadata(p.path().join("ns/net")).ok()).map(|m| m.ino());
        let alive = |pid: &u32| {
            // A zombie that nobody has waited for yet is gone for our purpose.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        !self.processes.iter().any(alive) && !in_use.into_iter().any(|ino| self.namespaces.contains(&ino))
    }
}

#[test]
fn sigterm_leaves_nothing() {
    private(|| {
        let mut held = Held::start();
        assert!(held.end(Signal::SIGTERM).success());
        eventually("everything gone", || held.is_gone());
        assert!(!held.dir.exists());
    });
}

#[test]
fn a_killed_owner_takes_everything_with_it() {
    private(|| {
        let mut held = Held::start();
        assert!(!held.end(Signal::SIGKILL).success());
        eventually("everything gone", || held.is_gone());
        // Its files are for those who want to know what happened; the next topology removes them.
        drop(Workdir::new().unwrap());
        assert!(!held.dir.exists());
    });
}

#[test]
fn a_killed_s2ds_can_be_started_again() {
    relay(|relay| {
        let args = ["--bytes", "1M", "--duplex", "--verify"];
        traffic::stream(relay, Carrier::Tcp, Family::V4, &args).unwrap();
        relay.consumer_gateway.process.kill();
        assert!(relay.consumer_gateway.stats().is_err());
        relay.consumer_gateway.restart().unwrap();
        for family in Family::ALL {
            traffic::stream(relay, Carrier::Tcp, family, &args).unwrap();
        }
    });
}

#[test]
fn an_ordinary_user_sees_the_demo_or_the_reason_why_not() {
    if !topology::is_root() {
        eprintln!("skipped: already an ordinary user, as which every other test runs");
        return;
    }
    // Where anybody can read them.
    let dir = std::env::temp_dir().join(format!("s2-programs-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    for name in ["s2bench", "s2ds", "s2cs", "s2uc"] {
        fs::copy(find_binary(name).unwrap(), dir.join(name)).unwrap();
    }
    const NOBODY: u32 = 65534;
    let output = Command::new(dir.join("s2bench"))
        .args(["demo", "--seconds", "1", "--json"])
        .env("S2_BIN_DIR", &dir)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if err.contains("cannot make a private network here") {
        assert!(!output.status.success());
        return;
    }
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("no report; {err}"));
    assert!(output.status.success(), "{report:#}");
}

#[test]
fn a_namespaces_processes_end_with_it() {
    private(|| {
        let dir = std::sync::Arc::new(Workdir::new().unwrap());
        let netns = Netns::new("test", dir).unwrap();
        let mut sleeper = netns.spawn("sh", &["-c", "echo up; exec sleep 1000"]).unwrap();
        sleeper.wait_for("up", PATIENCE).unwrap();
        assert!(sleeper.ended().unwrap().is_none());
        drop(netns);
        let status = sleeper.wait(PATIENCE).unwrap();
        assert_eq!(status.signal(), Some(9));
    });
}
