//! A running s2ds for the tests of what it may do: in a network namespace of the test's thread, in a folder of its own.
#![allow(dead_code)]

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Tests fail only after it, so it costs nothing when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` on a thread with root's rights in a network namespace of its own, which has a veth pair `lan` and `far`.
pub(crate) fn privately(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(why) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
                assert!(std::env::var_os("CI").is_none(), "a network namespace cannot be made: {why}");
                return eprintln!("skipped: a network namespace cannot be made ({why}); run as root");
            }
            veth();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes the veth pair.
pub(crate) fn veth() {
    ip("link add lan type veth peer name far");
    for end in ["lan", "far"] {
        ip(&format!("link set {end} addrgenmode none up"));
    }
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Waits until `condition` gives something.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A thread's line of `/proc/PID/task/TID/status`.
pub(crate) struct Thread {
    pub(crate) name: String,
    status: String,
}

impl Thread {
    /// What a key has, its fields joined by one space.
    pub(crate) fn field(&self, key: &str) -> String {
        let line = self.status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// One of its capability sets, as bits.
    pub(crate) fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(&self.field(set), 16).unwrap()
    }
}

/// A running s2ds. Dropping it kills it.
pub(crate) struct S2ds {
    child: Child,
    said: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

/// A configuration of one port with this device and the tables of `more`.
pub(crate) fn config(folder: &Path, device: &str, more: &str) -> String {
    format!(
        "{more}\n[eal]\nhuge = false\n[workers]\nidle = \"adaptive\"\n[addresses]\ncheck = \"off\"\n\
         [service]\nsocket = {:?}\n[limits]\nconnections = 100\n[[port]]\nname = \"lan\"\ndevice = {:?}\n\
         addresses = [\"10.0.0.1/24\"]\n",
        folder.join("s2ds.sock"),
        device.replace("FOLDER", folder.to_str().unwrap()),
    )
}

impl S2ds {
    /// Starts it with one port, whose device may stand in `FOLDER`; `wrapper` comes before the program.
    pub(crate) fn start(device: &str, more: &str, wrapper: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = config(folder.path(), device, more);
        Self::start_in(folder, &text, wrapper, &[])
    }

    /// The same with a configuration and environment variables.
    pub(crate) fn start_in(
        folder: tempfile::TempDir,
        config: &str,
        wrapper: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let (file, said) = (folder.path().join("s2ds.toml"), folder.path().join("said"));
        fs::write(&file, config).unwrap();
        let words = [wrapper, &[env!("CARGO_BIN_EXE_s2ds"), "--config", file.to_str().unwrap()]].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .env("RUNTIME_DIRECTORY", folder.path())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(fs::File::create(&said).unwrap())
            // Signals of the test's terminal are the test's alone.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, said, folder }
    }

    /// Waits until it is ready.
    pub(crate) fn ready(mut self) -> Self {
        eventually("s2ds is ready", || {
            assert!(self.child.try_wait().unwrap().is_none(), "s2ds ended: {}", self.said());
            self.said().contains("s2ds: ready").then_some(())
        });
        self
    }

    pub(crate) fn said(&self) -> String {
        let mut text = String::new();
        fs::File::open(&self.said).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s2ds.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its threads. One that ends while it is looked at is left out.
    pub(crate) fn threads(&self) -> Vec<Thread> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten();
        let thread = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            Some(Thread { name, status: fs::read_to_string(task.path().join("status")).ok()? })
        };
        tasks.filter_map(thread).collect()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("s2ds ends", || self.child.try_wait().unwrap())
    }

    /// Has it stop, which must succeed and leave no socket.
    pub(crate) fn stop(mut self) -> String {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM).unwrap();
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.said());
        assert!(!self.socket().exists(), "the control socket was left behind: {}", self.said());
        self.said()
    }
}

impl Drop for S2ds {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
