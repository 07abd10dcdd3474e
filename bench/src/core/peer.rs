//! A DPDK program beside ours: started with the same kind of memory, watched over DPDK's telemetry socket, stopped.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::Value;

use super::row::Settings;
use crate::topology::{Output, Process, Workdir, find_tool};

/// How long a peer may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// Packets run in before they are counted.
const WARM_UP: Duration = Duration::from_millis(200);
/// Megabytes of memory without hugepages.
const MEMORY: &str = "512";

/// A running DPDK program, killed on drop and when this process ends.
pub(super) struct Peer {
    process: Process,
    name: &'static str,
    telemetry: Option<OwnedFd>,
    dir: Workdir,
}

/// What a peer forwards.
pub(super) struct Rate {
    /// Packets a second of processor time.
    pub(super) per_second: f64,
    /// Of the packets received, how many went out by the port they should.
    pub(super) sent: f64,
}

impl Peer {
    /// Starts `program`. `lcores` are EAL's; `devices` are vdevs; its files are in `dir`.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        settings: &Settings,
        lcores: &str,
        devices: &[String],
        arguments: &[&str],
        dir: Workdir,
    ) -> Result<Self> {
        let memory: &[&str] =
            if settings.huge { &["--in-memory"] } else { &["--no-huge", "--no-shconf", "-m", MEMORY] };
        // A row that is killed must not leave its peer polling.
        let mut command = Command::new(find_tool("setpriv")?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.args(memory).args(["--no-pci", "--file-prefix", "s2bench", "--lcores", lcores]);
        command.args(devices.iter().flat_map(|d| ["--vdev", d]));
        command.arg("--").args(arguments);
        // DPDK puts its sockets here; standard input stays open because testpmd ends with it.
        command.env("RUNTIME_DIRECTORY", dir.path()).stdin(Stdio::piped());
        let process = Process::start(name.to_owned(), command, dir.path().join("peer"))?;
        Ok(Self { process, name, telemetry: None, dir })
    }

    /// Waits until packets leave by `port`.
    pub(super) fn flowing(&mut self, port: u16) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended()? {
                bail!("{} ended at its start ({status}): {}", self.name, self.process.said());
            }
            if self.telemetry.is_none() {
                self.telemetry = connected(self.dir.path());
            } else if self.packets(port).is_ok_and(|(_, sent)| sent > 0) {
                std::thread::sleep(WARM_UP);
                return Ok(());
            }
            ensure!(Instant::now() < until, "{} forwards nothing: {}", self.name, self.process.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Counts for the settings' window what comes in by one port and leaves by another.
    pub(super) fn rate(&mut self, from: u16, to: u16, settings: &Settings) -> Result<Rate> {
        self.flowing(to)?;
        let (before, cpu) = (self.both(from, to)?, self.cpu()?);
        std::thread::sleep(settings.window());
        let (after, end) = (self.both(from, to)?, self.cpu()?);
        let received = (after.0 - before.0) as f64;
        ensure!(received > 0.0 && end > cpu, "{} stopped forwarding", self.name);
        Ok(Rate { per_second: received / (end - cpu), sent: (after.1 - before.1) as f64 / received })
    }

    /// Packets received by `from` and sent by `to`, since the start.
    fn both(&self, from: u16, to: u16) -> Result<(u64, u64)> {
        Ok((self.packets(from)?.0, self.packets(to)?.1))
    }

    /// Packets received and sent by a port.
    fn packets(&self, port: u16) -> Result<(u64, u64)> {
        let answer = self.ask(&format!("/ethdev/stats,{port}"))?;
        let count = |key: &str| answer["/ethdev/stats"][key].as_u64();
        let (Some(received), Some(sent)) = (count("ipackets"), count("opackets")) else {
            bail!("{}'s telemetry does not tell the packets of port {port}: {answer}", self.name)
        };
        Ok((received, sent))
    }

    fn ask(&self, command: &str) -> Result<Value> {
        let socket = self.telemetry.as_ref().context("the peer has no telemetry socket yet")?.as_raw_fd();
        let mut answer = vec![0; 65_536];
        send(socket, command.as_bytes(), MsgFlags::empty())?;
        let n = recv(socket, &mut answer, MsgFlags::empty())?;
        Ok(serde_json::from_slice(&answer[..n])?)
    }

    /// Seconds of processor time of the whole program. All of it is the thread that forwards: the others sleep.
    fn cpu(&self) -> Result<f64> {
        let pid = Pid::from_raw(i32::try_from(self.process.pid())?);
        let time = ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now);
        Ok(Duration::from(time.with_context(|| format!("{}'s clock cannot be read", self.name))?)
            .as_secs_f64())
    }

    /// Stops it; returns what it wrote.
    pub(super) fn stop(mut self) -> Result<Output> {
        self.process.stop(PATIENCE)?;
        Ok(self.process.output()?)
    }
}

/// The telemetry socket somewhere below `dir`, when the program has made it and answers.
fn connected(dir: &Path) -> Option<OwnedFd> {
    let path = find_socket(dir)?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(5, 0)).ok()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(&path).ok()?).ok()?;
    // It says hello first.
    let mut hello = [0; 4096];
    recv(fd.as_raw_fd(), &mut hello, MsgFlags::empty()).ok()?;
    Some(fd)
}

fn find_socket(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find_socket(&path);
        }
        entry.file_name().to_str()?.starts_with("dpdk_telemetry.v2").then_some(path)
    })
}
