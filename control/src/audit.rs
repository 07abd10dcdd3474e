//! The audit log: one JSON line a decision.
//!
//! A line is written before the caller gets the answer, by one `write` to a file opened for appending. That takes
//! microseconds, so no thread stands between: its queue would be what a crash loses, and when it is full lines
//! would be lost or callers wait all the same.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::file::FileError;
use crate::identity::Principal;
use crate::session::Session;

/// Longest text of a caller that a line repeats, in characters.
const LONGEST: usize = 512;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was done.
    Granted,
    /// The caller may not.
    Refused,
    /// The caller may, but it could not be done.
    Failed,
}

/// One decision.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Name of the call, such as `req` or `open`.
    pub call: &'a str,
    /// The caller; none when no identity was proved.
    pub who: Option<&'a Principal>,
    /// Where the caller's connection comes from.
    pub peer: Option<SocketAddr>,
    /// The session's name as the caller gave it.
    pub uid: Option<&'a str>,
    /// What was asked for, as the caller put it; null for calls that only name a session.
    pub asked: &'a Value,
    /// What became of it.
    pub decision: Decision,
    /// Why, in a sentence.
    pub why: &'a str,
    /// What was granted: the session after the call.
    pub session: Option<&'a Session>,
}

/// An [`Entry`] as it is written.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    decision: Decision,
    call: &'a str,
    subject: Option<&'a str>,
    issuer: Option<&'a str>,
    peer: Option<SocketAddr>,
    uid: Option<String>,
    /// Its id, as the names of its flows have it.
    session: Option<String>,
    rule: Option<&'a str>,
    why: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    asked: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted: Option<&'a Session>,
}

/// Where decisions are written.
#[derive(Debug)]
pub struct Audit {
    /// None: to the log.
    file: Option<Mutex<Target>>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Target {
    path: PathBuf,
    file: File,
    /// Whether the last line ends without newline.
    torn: bool,
}

impl Audit {
    /// Opens the file for appending, and makes it (mode 0640) when it is not there; none writes to the log.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: Option<&Path>) -> Result<Self, FileError> {
        let open = |path: &Path| match append(path) {
            Ok(file) => Ok(Mutex::new(Target { path: path.to_owned(), file, torn: false })),
            Err(source) => Err(FileError::Write { path: path.to_owned(), source }),
        };
        Ok(Self { file: path.map(open).transpose()?, lost: AtomicU64::new(0) })
    }

    /// Writes a decision down. A line that the file does not take goes to the log as an error, and is counted.
    pub fn write(&self, entry: &Entry<'_>) {
        let line = Line {
            at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            decision: entry.decision,
            call: entry.call,
            subject: entry.who.map(|who| who.subject.as_str()),
            issuer: entry.who.map(|who| who.issuer.as_str()),
            peer: entry.peer,
            uid: entry.uid.map(short),
            session: entry.session.map(|session| format!("{:016x}", session.id)),
            rule: entry.session.map(|session| session.rule.as_str()),
            why: short(entry.why),
            asked: shorten(entry.asked),
            granted: entry.session,
        };
        let written = serde_json::to_string(&line).map_err(io::Error::from).and_then(|line| {
            let Some(target) = &self.file else {
                tracing::info!(target: "audit", "{line}");
                return Ok(());
            };
            let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
            target.write(&line).inspect_err(|_| tracing::error!(target: "audit", "{line}"))
        });
        if let Err(error) = written {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a line of the audit log could not be written: {error}");
        }
    }

    /// Lines that the file did not take.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Target {
    fn write(&mut self, line: &str) -> io::Result<()> {
        let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        // Moved away or removed, as logrotate does: a new one takes its name.
        if std::fs::metadata(&self.path).map(place).ok() != self.file.metadata().map(place).ok() {
            self.file = append(&self.path)?;
            self.torn = false;
        }
        let begin = if self.torn { "\n" } else { "" };
        let bytes = format!("{begin}{line}\n");
        let written = self.file.write(bytes.as_bytes())?;
        self.torn = written < bytes.len() && (written > 0 || self.torn);
        if written < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "only a part of it was written"));
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// With every text in it cut as [`short`] does, and lists after [`LONGEST`] items.
fn shorten(value: &Value) -> Value {
    match value {
        Value::String(text) => short(text).into(),
        Value::Array(items) => items.iter().take(LONGEST).map(shorten).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shorten(value))).collect(),
        plain => plain.clone(),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(uid: &str) -> Entry<'_> {
        Entry {
            call: "req",
            who: None,
            peer: Some(([127, 0, 0, 1], 4000).into()),
            uid: Some(uid),
            asked: &Value::Null,
            decision: Decision::Refused,
            why: "because",
            session: None,
        }
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn each_decision_is_one_line_whatever_the_caller_sends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(Some(&path)).unwrap();
        audit.write(&entry("two\nlines\u{1b}\""));
        audit.write(&entry(&"x".repeat(1 << 20)));
        let lines = lines(&path);
        assert_eq!(lines[0]["uid"], "two\nlines\u{1b}\"");
        assert_eq!(lines[0]["decision"], "refused");
        assert_eq!(lines[0]["peer"], "127.0.0.1:4000");
        assert_eq!(lines[1]["uid"].as_str().unwrap().len(), LONGEST + 3);
        assert_eq!(lines.len(), 2);
        assert!(lines[0]["at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn a_line_tells_who_asked_for_what_and_what_was_granted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let who = Principal {
            subject: "alice@site".to_owned(),
            issuer: "site".to_owned(),
            names: Vec::new(),
            groups: Vec::new(),
            expires: None,
        };
        let session = Session {
            id: 7,
            owner: "alice@site".to_owned(),
            uid: crate::session::Uid::new("u").unwrap(),
            role: crate::policy::Role::Consumer,
            proto: forwarder::api::Proto::Udp,
            state: crate::session::State::Active,
            rule: "all".to_owned(),
            path: "lan".to_owned(),
            listeners: vec!["10.0.0.1:5100".parse().unwrap()],
            targets: vec!["192.0.2.1:5100".parse().unwrap()],
            sources: vec!["10.0.0.0/8".parse().unwrap()],
            connections: Some(4),
            rate: Some(1000),
            limit: Some(1000),
            charged: vec!["lan".to_owned()],
            lease: 60,
            created: 1,
            expires: 61,
            labels: Default::default(),
        };
        let asked = serde_json::json!({"targets": ["192.0.2.1:5100", "x".repeat(LONGEST + 1)]});
        let granted = Entry {
            who: Some(&who),
            asked: &asked,
            decision: Decision::Granted,
            session: Some(&session),
            ..entry("u")
        };
        Audit::open(Some(&path)).unwrap().write(&granted);
        let mut line = lines(&path).remove(0);
        line["at"] = "now".into();
        let expected = serde_json::json!({
            "at": "now", "decision": "granted", "call": "req", "subject": "alice@site", "issuer": "site",
            "peer": "127.0.0.1:4000", "uid": "u", "session": "0000000000000007", "rule": "all", "why": "because",
            "asked": {"targets": ["192.0.2.1:5100", format!("{}...", "x".repeat(LONGEST))]},
            "granted": serde_json::to_value(&session).unwrap(),
        });
        assert_eq!(line, expected);
        assert_eq!(line["granted"]["sources"], serde_json::json!(["10.0.0.0/8"]));
    }

    #[test]
    fn a_file_moved_away_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(Some(&path)).unwrap();
        audit.write(&entry("before"));
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        audit.write(&entry("after"));
        assert_eq!(lines(&dir.path().join("old"))[0]["uid"], "before");
        assert_eq!(lines(&path)[0]["uid"], "after");
        assert_eq!(audit.lost(), 0);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let audit = Audit::open(Some(Path::new("/dev/full"))).unwrap();
        audit.write(&entry("x"));
        assert_eq!(audit.lost(), 1);
        assert!(
            Audit::open(Some(Path::new("/nowhere/audit")))
                .unwrap_err()
                .to_string()
                .contains("/nowhere/audit")
        );
    }
}
