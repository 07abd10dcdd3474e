//! Anonymous network namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::{Output, Process, TopologyError, Workdir, find_tool};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, alive as long as its thread.
///
/// Dropping it ends the thread; the kernel then kills every process started with [`Netns::spawn`].
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    dir: Arc<Workdir>,
    spawned: AtomicUsize,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Netns {
    /// Makes an empty namespace with its loopback up. `name` appears in errors and log files only.
    pub fn new(name: &str, dir: Arc<Workdir>) -> Result<Netns, TopologyError> {
        let (ready, is_ready) = channel();
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("ns-{name}"))
            .spawn(move || {
                let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid());
                let go_on = made.is_ok();
                // The maker waits for this; if it is gone, so is the reason to live.
                if ready.send(made).is_ok() && go_on {
                    work(&queue);
                }
            })
            .map_err(TopologyError::io("start a thread"))?;
        let tid = is_ready
            .recv()
            .map_err(|_| TopologyError::ThreadGone(name.into()))?
            .map_err(TopologyError::Namespace)?;
        let netns = Netns {
            name: name.into(),
            path: format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into(),
            dir,
            spawned: AtomicUsize::new(0),
            jobs: Some(jobs),
            thread: Some(thread),
        };
        // Addresses are to be usable at once.
        netns.sysctl("ipv6/conf/default/accept_dad", "0")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Makes another one in the same topology.
    pub fn sibling(&self, name: &str) -> Result<Netns, TopologyError> {
        Netns::new(name, self.dir.clone())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The topology's private directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file by which other programs find it: `nsenter --net=PATH`, `ip link set X netns PATH`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `job` on the namespace's thread: sockets opened and processes started there belong to the namespace.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TopologyError> {
        let gone = || TopologyError::ThreadGone(self.name.clone());
        let (done, result) = channel();
        let job = Box::new(move || {
            let _ = done.send(job());
        });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Starts a process in the namespace, its output kept in the topology's directory.
    pub fn spawn(&self, program: impl AsRef<Path>, args: &[&str]) -> Result<Process, TopologyError> {
        self.spawn_with(program.as_ref(), args, &[])
    }

    /// The same with environment variables.
    pub fn spawn_with(
        &self,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Process, TopologyError> {
        // A bare name is an installed tool.
        let program = match program.components().count() {
            1 => find_tool(&program.to_string_lossy())?,
            _ => program.to_owned(),
        };
        let n = self.spawned.fetch_add(1, Ordering::Relaxed);
        let short = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        let log = self.dir.path().join(format!("{}-{n}-{short}", self.name));
        // setpriv sets the death signal after the fork and before the exec, where we could only with unsafe code; the
        // shell then ends it all if we had died before that.
        let guard = format!("test $PPID = {} && exec \"$0\" \"$@\"", std::process::id());
        let mut command = Command::new(find_tool("setpriv")?);
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", &guard]).arg(&program).args(args);
        command.envs(env.iter().copied());
        command.stdin(Stdio::null());
        let what = format!("`{}` in {}", [&[&*short], args].concat().join(" "), self.name);
        self.run(move || Process::start(what, command, log))?
    }

    /// Runs a process to its end and returns what it wrote; a failure status is an error.
    pub fn output(
        &self,
        program: impl AsRef<Path>,
        args: &[&str],
        limit: Duration,
    ) -> Result<Output, TopologyError> {
        self.spawn(program.as_ref(), args)?.finished(limit)
    }

    /// Runs `ip` once for each line of arguments.
    pub fn ip(&self, script: &str) -> Result<(), TopologyError> {
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let args: Vec<&str> = line.split_whitespace().collect();
            self.output("ip", &args, TOOL_LIMIT)?;
        }
        Ok(())
    }

    /// Sets `net/KEY` of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), TopologyError> {
        let path = Path::new("/proc/sys/net").join(key);
        let what = format!("write {}", path.display());
        let value = value.to_owned();
        self.run(move || fs::write(path, value))?.map_err(TopologyError::io(what))
    }

    /// Makes `device` put whole, checksummed, untouched frames on the wire, as a NIC would: the forwarder at the other
    /// end reads them raw and must not see half-made ones.
    pub fn no_offloads(&self, device: &str) -> Result<(), TopologyError> {
        let features = ["tx", "rx", "tso", "gso", "gro", "rxvlan", "txvlan", "sg"];
        let mut args = vec!["-K", device];
        args.extend(features.iter().flat_map(|f| [*f, "off"]));
        self.output("ethtool", &args, TOOL_LIMIT).map(drop)
    }

    /// Brings `device` up while the kernel neither asks nor answers on it: it belongs to somebody else.
    pub fn silence(&self, device: &str) -> Result<(), TopologyError> {
        self.sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
        self.ip(&format!("link set {device} arp off up"))
    }

    /// Joins two namespaces by a veth pair, both ends down, offloads off.
    pub fn join(&self, device: &str, other: &Netns, far: &str, mtu: u16) -> Result<(), TopologyError> {
        self.ip(&format!(
            "link add {device} mtu {mtu} type veth peer name {far} mtu {mtu} netns {}",
            other.path.display()
        ))?;
        self.no_offloads(device)?;
        other.no_offloads(far)
    }
}

const TOOL_LIMIT: Duration = Duration::from_secs(20);

fn work(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job();
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
