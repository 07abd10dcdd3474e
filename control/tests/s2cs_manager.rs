//! s2cs as the service manager has it: `Type=notify` with a watchdog.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const S2CS: &str = env!("CARGO_BIN_EXE_s2cs");

/// s2cs under a manager, which is this test.
struct Service {
    child: Child,
    manager: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Service {
    fn start(watchdog: Option<Duration>) -> Service {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let made = Command::new(S2CS).args(["init", dir.path().to_str().unwrap()]).output().unwrap();
        assert!(made.status.success());
        let config = std::fs::read_to_string(at("s2cs.toml")).unwrap();
        let config = config.replace("0.0.0.0:5000", "127.0.0.1:0").replace("127.0.0.1:9464", "127.0.0.1:0");
        std::fs::write(at("s2cs.toml"), config).unwrap();
        let manager = UnixDatagram::bind(at("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = Command::new(S2CS);
        // No forwarder is there.
        command.args(["--config", &at("s2cs.toml"), "--socket", &at("s2ds.sock")]);
        command.env("NOTIFY_SOCKET", at("notify")).env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Service { child, manager, dir }
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// What it says until `word` comes, that included.
    fn until(&self, word: &str) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(60);
        let mut heard = Vec::new();
        while Instant::now() < end {
            let said = self.hear();
            let last = said.contains(word);
            heard.push(said);
            if last {
                return heard;
            }
        }
        panic!("no {word} in {heard:?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn has(heard: &[String], word: &str) -> bool {
    heard.iter().any(|said| said.contains(word))
}

#[test]
fn the_manager_is_told_of_start_life_reload_and_end() {
    let mut service = Service::start(Some(Duration::from_millis(200)));
    service.until("READY=1");
    let heard = service.until("STATUS=");
    assert!(heard.last().unwrap().contains("STATUS=serving on 127.0.0.1:"), "{heard:?}");
    assert!(heard.last().unwrap().contains("the forwarder does not answer"), "{heard:?}");
    for _ in 0..3 {
        service.until("WATCHDOG=1");
    }

    std::fs::write(service.dir.path().join("policy.toml"), "[[rule]]\nname = 7\n").unwrap();
    service.signal(Signal::SIGHUP);
    let heard = service.until("RELOADING=1");
    assert!(heard.last().unwrap().contains("MONOTONIC_USEC="), "{heard:?}");
    // A policy that is bad is no reason to end.
    service.until("READY=1");
    service.until("WATCHDOG=1");

    service.signal(Signal::SIGTERM);
    service.until("STOPPING=1");
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn without_a_watchdog_none_is_fed() {
    let mut service = Service::start(None);
    let mut heard = service.until("STATUS=");
    service.signal(Signal::SIGTERM);
    heard.extend(service.until("STOPPING=1"));
    assert!(has(&heard, "READY=1") && !has(&heard, "WATCHDOG"), "{heard:?}");
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn a_service_that_cannot_start_is_never_ready() {
    let mut service = Service::start(None);
    service.until("READY=1");
    service.signal(Signal::SIGKILL);
    service.child.wait().unwrap();
    // As it was, but its key is gone.
    std::fs::remove_file(service.dir.path().join("server.key")).unwrap();
    let config = service.dir.path().join("s2cs.toml");
    let mut command = Command::new(S2CS);
    command
        .args(["--config", config.to_str().unwrap()])
        .env("NOTIFY_SOCKET", service.dir.path().join("notify"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    service.manager.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = service.manager.recv(&mut buffer) {
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!said.contains("READY=1"), "{said}");
    }
}
