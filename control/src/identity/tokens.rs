//! Tokens that the site itself has issued, kept as hashes in a file:
//!
//! ```toml
//! [[token]]
//! name = "alice"
//! sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
//! groups = ["beamline7"]
//! created = "2026-11-26T08:00:00Z"
//! expires = "2027-11-26T08:00:00Z"
//! ```
//!
//! Plain SHA-256 is enough, unlike for passwords: the tokens are 256 random bits, and a search through as many is out of
//! reach however quick the hash is. For the same reason the look-up by hash needs no constant time: a caller who learns
//! how far a guess's hash agrees with a stored one cannot steer the next guess's hash.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::claims::{is_name, principal};
use super::config::{Secret, TokensConfig};
use super::{Invalid, Principal, Problem, file};
use crate::file::Watched;

/// What the tokens begin with; 43 characters follow, 256 bits in base64url.
pub const PREFIX: &str = "s2t_";

/// The file's first lines.
const HEAD: &str =
    "# Tokens of this site, as hashes. Change it with `s2cs token`: comments are not kept.\n\n";

/// Why a file of tokens cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// No such name can be used.
    #[error("{0:?} cannot be the name of a user or group; give 1 to 256 bytes without control characters")]
    Name(String),
    /// The name has a token already.
    #[error("{0:?} has a token already; remove it first, or choose another name")]
    Taken(String),
    /// The name has none.
    #[error("{0:?} has no token here; `s2cs token list` shows who has")]
    NoSuch(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// One token, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Who has it.
    pub name: String,
    /// SHA-256 of the token's text, hexadecimal.
    pub sha256: String,
    /// The user's groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// When it was made.
    #[serde(default, with = "utc", skip_serializing_if = "Option::is_none")]
    pub created: Option<SystemTime>,
    /// When it ends; left out: never.
    #[serde(default, with = "utc", skip_serializing_if = "Option::is_none")]
    pub expires: Option<SystemTime>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default, rename = "token")]
    tokens: Vec<Token>,
}

impl Content {
    fn parse(text: &str) -> Result<Content, String> {
        let content: Content = toml::from_str(text).map_err(|e| e.to_string())?;
        let mut hashes = HashMap::new();
        let mut names = HashMap::new();
        for token in &content.tokens {
            let name = &token.name;
            if let Some(bad) = std::iter::once(name).chain(&token.groups).find(|name| !is_name(name)) {
                return Err(TokenError::Name(bad.clone()).to_string());
            }
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if token.sha256.len() != 64 || !token.sha256.bytes().all(hex) {
                return Err(format!("token {name:?}: sha256 is not 64 digits of 0-9 a-f"));
            }
            if names.insert(name, ()).is_some() || hashes.insert(&token.sha256, ()).is_some() {
                return Err(format!("token {name:?}: its name or sha256 appears twice; remove one"));
            }
        }
        Ok(content)
    }
}

/// A file of tokens, to change.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    content: Content,
}

impl TokenFile {
    /// Reads the file; one that does not exist is empty.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn load(path: impl Into<PathBuf>) -> Result<TokenFile, TokenError> {
        let path = path.into();
        let content = match fs::read_to_string(&path) {
            Ok(text) => Content::parse(&text)
                .map_err(|problem| TokenError::Content { path: path.clone(), problem })?,
            Err(e) if e.kind() == ErrorKind::NotFound => Content::default(),
            Err(source) => return Err(TokenError::Io { path, source }),
        };
        Ok(TokenFile { path, content })
    }

    /// What it holds, in the file's order.
    pub fn tokens(&self) -> &[Token] {
        &self.content.tokens
    }

    /// Makes a token for `name`. The answer is the only copy of its text.
    ///
    /// # Errors
    /// A name cannot be used, or has a token already.
    pub fn add(
        &mut self,
        name: &str,
        groups: Vec<String>,
        expires: Option<SystemTime>,
    ) -> Result<Secret, TokenError> {
        if let Some(bad) =
            std::iter::once(name).chain(groups.iter().map(String::as_str)).find(|n| !is_name(n))
        {
            return Err(TokenError::Name(bad.to_owned()));
        }
        if self.content.tokens.iter().any(|token| token.name == name) {
            return Err(TokenError::Taken(name.to_owned()));
        }
        let mut bits = [0; 32];
        rand::fill(&mut bits).map_err(|_| TokenError::Random)?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits));
        self.content.tokens.push(Token {
            name: name.to_owned(),
            sha256: sha256(&text),
            groups,
            created: Some(SystemTime::now()),
            expires,
        });
        Ok(Secret::from(text))
    }

    /// Takes the token of `name` away.
    ///
    /// # Errors
    /// The name has none.
    pub fn remove(&mut self, name: &str) -> Result<(), TokenError> {
        let tokens = &mut self.content.tokens;
        let at = tokens.iter().position(|token| token.name == name);
        tokens.remove(at.ok_or_else(|| TokenError::NoSuch(name.to_owned()))?);
        Ok(())
    }

    /// Writes the file, mode 0600, in one step: a server that reads it meanwhile sees the old or the new. The owner
    /// stays, so that the server can go on reading it after root has changed it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self) -> Result<(), TokenError> {
        let text = toml::to_string(&self.content)
            .map_err(|e| TokenError::Content { path: self.path.clone(), problem: e.to_string() })?;
        replace(&self.path, &format!("{HEAD}{text}"))
            .map_err(|source| TokenError::Io { path: self.path.clone(), source })
    }
}

/// Puts `text` in the place of a file.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?.to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        match fs::metadata(path) {
            Ok(old) if old.uid() != file.metadata()?.uid() => {
                fchown(&file, Some(old.uid()), Some(old.gid()))?
            }
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn sha256(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The provider.
#[derive(Debug)]
pub(super) struct Tokens {
    name: String,
    file: Watched<HashMap<String, Token>, String>,
}

impl Tokens {
    pub(super) fn new(config: &TokensConfig, base: &Path) -> Result<Tokens, Problem> {
        let by_hash = |text: &str| {
            let tokens = Content::parse(text)?.tokens;
            Ok(tokens.into_iter().map(|token| (token.sha256.clone(), token)).collect())
        };
        let file = file::open(base.join(&config.file), by_hash).map_err(|problem| ("file", problem))?;
        Ok(Tokens { name: config.name.clone(), file })
    }

    /// Whose token this is.
    pub(super) fn check(&self, token: &str) -> Result<Principal, Invalid> {
        let tokens = file::current(&self.file);
        let found = tokens.get(&sha256(token)).ok_or(Invalid::Unknown)?;
        if found.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Invalid::Expired);
        }
        principal(&self.name, &found.name, Vec::new(), found.groups.clone(), found.expires)
    }
}

/// Times as RFC 3339 has them, in UTC.
mod utc {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(&humantime::format_rfc3339_seconds(*time)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
        let text = String::deserialize(from)?;
        let time = humantime::parse_rfc3339(&text);
        time.map(Some).map_err(|_| {
            de::Error::custom(format!("{text:?} is no time; write it like \"2027-01-31T08:00:00Z\""))
        })
    }
}
