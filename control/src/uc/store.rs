//! Logins: what was stored for a server, one file each, mode 0600, in a directory of mode 0700.
#![forbid(unsafe_code)]

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};

use super::Failure;

/// What SciStream's clients send that have no token.
const NO_TOKEN: &str = "INVALID_TOKEN";

/// An access token. It is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

impl Token {
    /// What clients send that have none.
    pub(super) fn none() -> Token {
        Token(NO_TOKEN.to_owned())
    }

    /// Reads one from a file, and warns when others could, too.
    ///
    /// # Errors
    /// The file cannot be read, or there is no token in it.
    pub fn read(path: &Path) -> Result<Token, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::Local(format!("the token file {} cannot be read: {error}", path.display()))
        })?;
        warn_if_exposed(path);
        Token::try_from(text).map_err(|why| Failure::Local(format!("{}: {why}", path.display())))
    }

    /// Value of the header `authorization`: the raw token, as SciStream's clients send it.
    pub(super) fn header(&self) -> Result<MetadataValue<Ascii>, Failure> {
        let mut value = MetadataValue::try_from(&self.0)
            .map_err(|_| Failure::Local("the token has characters that no header can carry".into()))?;
        // Nobody shows it by accident.
        value.set_sensitive(true);
        Ok(value)
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Token, &'static str> {
        match text.trim() {
            "" => Err("there is no token"),
            NO_TOKEN => Err("INVALID_TOKEN stands for no token; get a real one"),
            text if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
                Err("a token is one line of printable ASCII characters")
            }
            text => Ok(Token(text.to_owned())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What is stored for a server, or for a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// To show to it.
    pub token: Token,
    /// The only certificates to trust, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// The user's logins.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Logins in a directory of one's own.
    pub fn at(directory: PathBuf) -> Store {
        Store { directory }
    }

    /// `$XDG_CONFIG_HOME/scistream/logins`, by default `~/.config/scistream/logins`.
    ///
    /// # Errors
    /// The user has no home directory.
    pub fn of_user() -> Result<Store, Failure> {
        let base = env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| env::home_dir().map(|home| home.join(".config")))
            .ok_or_else(|| {
                Failure::Local("there is no home directory for logins; set XDG_CONFIG_HOME".into())
            })?;
        Ok(Store::at(base.join("scistream/logins")))
    }

    /// What is stored under a name, which is a server's `HOST:PORT` or a scope.
    ///
    /// # Errors
    /// The file is there but cannot be used.
    pub fn load(&self, name: &str) -> Result<Option<Login>, Failure> {
        let path = self.path(name)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::Local(format!("{} cannot be read: {error}", path.display()))),
        };
        warn_if_exposed(&path);
        // The parser's message would quote the line, and with it the token.
        let broken = |_| Failure::Local(format!("{} is broken; run `s2uc login` again", path.display()));
        toml::from_str(&text).map(Some).map_err(broken)
    }

    /// Stores under a name; gives the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, name: &str, login: &Login) -> Result<PathBuf, Failure> {
        let path = self.path(name)?;
        let failed = |error: &dyn fmt::Display| {
            Failure::Local(format!("{} cannot be written: {error}", path.display()))
        };
        let text = toml::to_string(login).map_err(|error| failed(&error))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| failed(&error))?;
        let fresh = self.directory.join(format!(".{}", std::process::id()));
        let written = (|| {
            let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // Whole or not at all.
            fs::rename(&fresh, &path)
        })();
        if let Err(error) = written {
            _ = fs::remove_file(&fresh);
            return Err(failed(&error));
        }
        Ok(path)
    }

    /// Forgets what is stored under a name; tells whether there was something.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, Failure> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Failure::Local(format!("{} cannot be removed: {error}", path.display()))),
        }
    }

    /// The file for a name.
    fn path(&self, name: &str) -> Result<PathBuf, Failure> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Failure::Usage(format!(
                "{name:?} cannot name a login; letters, digits, - . and _ can"
            )));
        }
        Ok(self.directory.join(format!("{name}.toml")))
    }
}

fn warn_if_exposed(path: &Path) {
    let exposed =
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o077 != 0);
    if exposed {
        let path = path.display();
        tracing::warn!("others can read the token in {path}; run `chmod 600 {path}`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_printable_line_and_never_shown() {
        for bad in ["", " \n", "INVALID_TOKEN\n", "a\nb", "gr\u{fc}n", "a\u{7}"] {
            assert!(Token::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        let token = Token::try_from("  Agx0 secret\n".to_owned()).unwrap();
        assert_eq!(token.header().unwrap().as_bytes(), b"Agx0 secret");
        assert!(!format!("{token:?} {:?}", token.header()).contains("secret"));
    }

    #[test]
    fn names_of_logins_stay_in_the_directory() {
        let store = Store { directory: "/d".into() };
        for bad in ["", "..", "../x", "a/b", ".hidden", "a\0"] {
            assert!(store.path(bad).is_err(), "{bad:?}");
        }
        assert_eq!(store.path("[::1]:5000").unwrap(), Path::new("/d/[::1]:5000.toml"));
    }
}
