//! QEMU's monitor protocol (QMP): JSON lines over a UNIX socket.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    line: String,
    /// What came that nobody has asked for yet.
    events: VecDeque<Value>,
}

impl Qmp {
    /// Speaks to a QEMU that has just accepted the connection.
    pub(super) fn new(stream: UnixStream) -> Result<Qmp> {
        stream.set_read_timeout(Some(Duration::from_millis(200))).context("set a time limit")?;
        let mut qmp = Qmp { stream: BufReader::new(stream), line: String::new(), events: VecDeque::new() };
        let greeting = qmp.read(Instant::now() + PATIENCE)?.context("QEMU does not greet on its monitor")?;
        ensure!(greeting.get("QMP").is_some(), "QEMU's monitor greets with {greeting}");
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what QEMU returns.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").context("write to QEMU's monitor")?;
        let end = Instant::now() + PATIENCE;
        loop {
            let Some(mut reply) = self.read(end)? else { bail!("QEMU does not answer {request}") };
            match reply.get("error") {
                Some(error) => bail!("QEMU refuses {request}: {}", error["desc"]),
                None if reply.get("return").is_some() => return Ok(reply["return"].take()),
                None => self.events.push_back(reply),
            }
        }
    }

    /// Waits for an event of this name, such as `DEVICE_DELETED`; false when none came in time.
    pub fn event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let found = self.events.iter().position(|e| e["event"] == name && wanted(&e["data"]));
            if let Some(i) = found {
                self.events.remove(i);
                return Ok(true);
            }
            match self.read(end)? {
                Some(event) => self.events.push_back(event),
                None => return Ok(false),
            }
        }
    }

    fn read(&mut self, end: Instant) -> Result<Option<Value>> {
        loop {
            // A line that time cut in two goes on where it ended.
            match self.stream.read_line(&mut self.line) {
                Ok(0) => bail!("QEMU has closed its monitor"),
                Ok(_) => {
                    let read = serde_json::from_str(&self.line);
                    self.line.clear();
                    return read.map(Some).context("QEMU's monitor does not write JSON");
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= end {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(e).context("read QEMU's monitor"),
            }
        }
    }
}
