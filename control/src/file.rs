//! Files that people write: read with errors that name the place, and read again when they change.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forwarder::api::lease;
use ipnet::IpNet;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};

/// What is wrong with a file, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A place in it is wrong.
    #[error("{file}:{line}:{column}: {message}")]
    Text {
        /// Name of the text, usually its path.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, in characters from 1.
        column: usize,
        /// What is wrong and the mend.
        message: String,
    },
    /// Its values do not hold together.
    #[error("{file}: {message}")]
    Whole {
        /// Name of the text, usually its path.
        file: String,
        /// What is wrong and the mend.
        message: String,
    },
}

impl FileError {
    /// Something wrong at a byte offset of a text.
    pub(crate) fn at(file: &str, text: &str, offset: usize, message: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self::Text {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }

    pub(crate) fn whole(file: &str, message: impl Into<String>) -> Self {
        Self::Whole { file: file.to_owned(), message: message.into() }
    }
}

/// The text of a file.
///
/// # Errors
/// [`FileError::Read`].
pub fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })
}

/// Reads TOML; `name` is that of the text in errors.
///
/// # Errors
/// [`FileError::Text`], the first one only.
pub fn from_toml<T: DeserializeOwned>(text: &str, name: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        FileError::at(name, text, error.span().map_or(0, |span| span.start), error.message())
    })
}

/// A network prefix without bits beyond its length, which a file or a caller wrote.
///
/// # Errors
/// A sentence with the mend.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix: IpNet = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is no prefix; write it like \"192.0.2.0/24\" or \"2001:db8::/32\""))?;
    if prefix.trunc() != prefix {
        return Err(format!("{text:?} has bits beyond its length; the prefix is \"{}\"", prefix.trunc()));
    }
    if is_mapped(&prefix) {
        return Err(format!("{text:?} is an IPv4 prefix written as IPv6; write the IPv4 prefix"));
    }
    Ok(prefix)
}

/// Does it lie within `::ffff:0:0/96`, IPv4-mapped addresses (RFC 4291 section 2.5.5.2)? They never are on the
/// wire, and compared as IPv6 they would slip past rules about the IPv4 addresses that they stand for.
pub(crate) fn is_mapped(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(p) if p.prefix_len() >= 96 && p.network().to_ipv4_mapped().is_some())
}

/// A prefix as [`parse_prefix`] takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Prefix(pub(crate) IpNet);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_prefix(&text).map(Self)
    }
}

/// A whole number within `LEAST..=MOST`.
pub(crate) fn within<'de, const LEAST: u32, const MOST: u32, D: Deserializer<'de>>(
    d: D,
) -> Result<u32, D::Error> {
    let number = i64::deserialize(d)?;
    u32::try_from(number).ok().filter(|n| (LEAST..=MOST).contains(n)).ok_or_else(|| {
        D::Error::custom(format!("{number} is out of range; give a whole number from {LEAST} to {MOST}"))
    })
}

/// As [`within`], for what may be left out.
pub(crate) fn within_or_none<'de, const LEAST: u32, const MOST: u32, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<u32>, D::Error> {
    within::<LEAST, MOST, D>(d).map(Some)
}

/// Seconds or a text such as `8h`, within 1 second to `MOST` seconds.
pub(crate) fn duration<'de, const MOST: u64, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let seconds = lease::deserialize(d)?.unwrap_or_default();
    if !(1..=MOST).contains(&seconds) {
        let most = humantime::format_duration(Duration::from_secs(MOST));
        return Err(D::Error::custom(format!("must be from 1s to {most}")));
    }
    Ok(Duration::from_secs(seconds))
}

/// Port numbers in a row, such as `5100-5200`: within 1 to 65535, first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl Ports {
    /// Is it one of these?
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok().filter(|port| *port != 0);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            (Some(first), Some(last)) => {
                Err(format!("ports {text:?} run backwards; write \"{last}-{first}\""))
            }
            _ => Err(format!("{text:?} are no ports; write them like \"5100-5200\", within 1 to 65535")),
        }
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// What tells one version of a file from another, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// None when it cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// A value made from files. The last good one stays in use when a new version of the files is bad.
pub struct Watched<T, E = FileError> {
    paths: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, E> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    seen: Vec<Option<Stamp>>,
}

impl<T, E> fmt::Debug for Watched<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T, E> Watched<T, E> {
    /// Makes the value, and will look at `paths` for changes.
    ///
    /// # Errors
    /// `make`'s.
    pub fn open(
        paths: Vec<PathBuf>,
        make: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Looked at before the reading: what changes meanwhile is read again.
        let seen = paths.iter().map(|path| Stamp::of(path)).collect();
        let value = Arc::new(make()?);
        Ok(Self { paths, make: Box::new(make), state: Mutex::new(State { value, seen }) })
    }

    /// The last good value. Touches no file.
    pub fn get(&self) -> Arc<T> {
        self.lock().value.clone()
    }

    /// Looks whether the files changed and, if so, reads them: the new value, or once for each bad version why the
    /// old one stays. None when nothing changed. Reads files: to be called now and then, from where that may
    /// block.
    pub fn refresh(&self) -> Option<Result<Arc<T>, E>> {
        let now: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        if self.lock().seen == now {
            return None;
        }
        let made = (self.make)().map(Arc::new);
        let mut state = self.lock();
        state.seen = now;
        if let Ok(value) = &made {
            state.value = value.clone();
        }
        Some(made)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        // Nothing panics while it holds the lock, and both fields are whole in themselves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_within_range_and_ordered() {
        assert_eq!("5100-5200".parse(), Ok(Ports { first: 5100, last: 5200 }));
        assert_eq!("7".parse::<Ports>().unwrap().to_string(), "7");
        for bad in ["", "0", "0-5", "5-", "65536", "5200-5100", "a-b", "1-2-3", "-5", "+5"] {
            let answer = bad.parse::<Ports>();
            assert!(answer.is_err() || bad == "+5", "{bad:?} gave {answer:?}");
        }
    }

    #[test]
    fn prefixes_say_their_mend() {
        assert_eq!(parse_prefix("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert!(parse_prefix("10.1.2.3/16").unwrap_err().contains("\"10.1.0.0/16\""));
        assert!(parse_prefix("::ffff:10.0.0.0/104").unwrap_err().contains("IPv4"));
        assert!(parse_prefix("::ffff:10.0.0.1").is_err());
        assert!(parse_prefix("10.0.0.0/33").is_err());
        assert!(parse_prefix("::/0").is_ok());
    }

    #[test]
    fn a_bad_version_is_told_once_and_the_good_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        let write = |text: &str| {
            // As editors do: another file, renamed over the old one.
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
        };
        write("1");
        let of = path.clone();
        let watched = Watched::open(vec![path.clone()], move || {
            read(&of)?.parse::<u32>().map_err(|e| FileError::whole("number", e.to_string()))
        })
        .unwrap();
        assert!(watched.refresh().is_none());
        write("22");
        assert_eq!(*watched.refresh().unwrap().unwrap(), 22);
        write("many");
        assert!(watched.refresh().unwrap().is_err());
        assert!(watched.refresh().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(watched.refresh().unwrap().is_err());
        assert!(watched.refresh().is_none());
        assert_eq!(*watched.get(), 22);
        write("333");
        assert_eq!(*watched.refresh().unwrap().unwrap(), 333);
    }
}
