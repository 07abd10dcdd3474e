//! Processes of a topology: started in a namespace, watched, stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::TopologyError;

/// How often a waiting thread looks.
const LOOK: Duration = Duration::from_millis(10);

/// What a process wrote.
#[derive(Debug, Clone)]
pub struct Output {
    /// To standard output.
    pub stdout: String,
    /// To standard error.
    pub stderr: String,
}

/// A running process, killed on drop.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `LOG.out` and `LOG.err`.
    pub(crate) fn start(what: String, mut command: Command, log: PathBuf) -> Result<Process, TopologyError> {
        for (kind, set) in
            [("out", Command::stdout as fn(&mut Command, fs::File) -> &mut Command), ("err", Command::stderr)]
        {
            let path = log_file(&log, kind);
            let file =
                fs::File::create(&path).map_err(TopologyError::io(format!("create {}", path.display())))?;
            set(&mut command, file);
        }
        let child = command.spawn().map_err(TopologyError::io(format!("start {what}")))?;
        Ok(Process { what, child, log })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or none while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, TopologyError> {
        self.child.try_wait().map_err(TopologyError::io(format!("wait for {}", self.what)))
    }

    /// Waits for its end; one that is late is killed.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, TopologyError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                let late = self.late("end", limit);
                self.kill();
                return Err(late);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end and returns what it wrote; a failure status is an error.
    pub fn finished(mut self, limit: Duration) -> Result<Output, TopologyError> {
        let status = self.wait(limit)?;
        match status.success() {
            true => self.output(),
            false => Err(TopologyError::Command { what: self.what.clone(), status, said: self.said() }),
        }
    }

    /// Waits until it has written `text` to either output.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<(), TopologyError> {
        let end = Instant::now() + limit;
        loop {
            // Looked at first, so that a process that wrote and ended counts as having written.
            let ended = self.ended()?;
            let output = self.output()?;
            if output.stdout.contains(text) || output.stderr.contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(TopologyError::Ended { what: self.what.clone(), status, said: self.said() });
            }
            if Instant::now() >= end {
                return Err(self.late(&format!("write {text:?}"), limit));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), TopologyError> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap_or(i32::MAX));
        kill(pid, signal).map_err(|e| TopologyError::io(format!("signal {}", self.what))(e.into()))
    }

    /// Asks it to end with SIGTERM and waits.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus, TopologyError> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(limit)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it wrote so far.
    pub fn output(&self) -> Result<Output, TopologyError> {
        let read = |kind| {
            let path = log_file(&self.log, kind);
            let bytes = fs::read(&path).map_err(TopologyError::io(format!("read {}", path.display())))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Output { stdout: read("out")?, stderr: read("err")? })
    }

    /// The last lines it wrote, for error messages.
    #[must_use]
    pub fn said(&self) -> String {
        let Ok(output) = self.output() else { return String::new() };
        let text = if output.stderr.trim().is_empty() { output.stdout } else { output.stderr };
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn late(&self, event: &str, limit: Duration) -> TopologyError {
        TopologyError::Late { what: self.what.clone(), event: event.into(), limit, said: self.said() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log_file(log: &Path, kind: &str) -> PathBuf {
    let mut path = log.as_os_str().to_owned();
    path.push(".");
    path.push(kind);
    path.into()
}

/// Finds an installed program. Administrators' directories count although they are not in every user's PATH.
pub fn find_tool(name: &str) -> Result<PathBuf, TopologyError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| TopologyError::MissingTool(name.into()))
}

/// Finds one of our own programs: in `S2_BIN_DIR`, else beside the running one.
pub fn find_binary(name: &str) -> Result<PathBuf, TopologyError> {
    let dir = match std::env::var_os("S2_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => beside(&std::env::current_exe().map_err(TopologyError::io("find the running program"))?),
    };
    // Absolute, because a child need not share our working directory.
    let path = dir.join(name);
    match fs::canonicalize(&path) {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(TopologyError::MissingBinary { name: name.into(), dir }),
    }
}

/// The directory of the built programs, seen from a program or from a test in `deps/`.
fn beside(exe: &Path) -> PathBuf {
    let dir = exe.parent().unwrap_or(Path::new("."));
    if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
}
