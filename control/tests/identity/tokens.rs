//! The site's own tokens.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use control::identity::tokens::{PREFIX, TokenError, TokenFile};
use control::identity::{Credentials, Invalid, Refused};

use super::{authenticator, shows};

const CONFIG: &str = "[[identity]]\nkind = 'tokens'\nname = 'site'\nfile = 'tokens.toml'";

#[tokio::test]
async fn a_token_is_good_from_its_making_to_its_removal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let mut file = TokenFile::load(&path).unwrap();
    let alice = file.add("alice", vec!["beamline7".to_owned()], None).unwrap();
    let hour = Duration::from_secs(3600);
    let bob = file.add("bob", Vec::new(), Some(SystemTime::now() + hour)).unwrap();
    let carol = file.add("carol", Vec::new(), Some(SystemTime::now() - hour)).unwrap();
    file.save().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(PREFIX), "the file holds hashes only: {text}");

    let who = authenticator(CONFIG, folder.path());
    let principal = shows(&who, alice.expose()).await.unwrap();
    assert_eq!((principal.subject.as_str(), principal.groups), ("alice@site", vec!["beamline7".to_owned()]));
    assert_eq!(principal.expires, None);
    assert!(shows(&who, &format!("Bearer {}", bob.expose())).await.unwrap().expires.is_some());
    assert_eq!(shows(&who, carol.expose()).await, Err(Refused::Invalid(Invalid::Expired)));
    assert_eq!(shows(&who, "s2t_unknown").await, Err(Refused::Invalid(Invalid::Unknown)));
    // The hash is not the token.
    let hash = &file.tokens()[0].sha256;
    assert_eq!(shows(&who, hash).await, Err(Refused::Invalid(Invalid::Unknown)));

    let mut file = TokenFile::load(&path).unwrap();
    assert_eq!(file.tokens().len(), 3);
    file.remove("alice").unwrap();
    let dora = file.add("dora", Vec::new(), None).unwrap();
    file.save().unwrap();
    assert_eq!(shows(&who, alice.expose()).await, Err(Refused::Invalid(Invalid::Unknown)));
    shows(&who, dora.expose()).await.unwrap();

    fs::write(&path, "[[token]]\nname = 'alice'\n").unwrap();
    shows(&who, dora.expose()).await.expect("a broken file leaves the one before in force");
    fs::remove_file(&path).unwrap();
    shows(&who, dora.expose()).await.expect("so does one that is gone");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no half-written file is left");
}

#[test]
fn a_file_of_tokens_that_makes_no_sense_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let hash = "0".repeat(64);
    let entry = format!("[[token]]\nname = 'alice'\nsha256 = '{hash}'\n");
    for (text, part) in [
        (format!("{entry}sha = 1\n"), "sha"),
        ("[[token]]\nname = 'alice'\nsha256 = 'abc'\n".to_owned(), "64 digits"),
        (format!("{entry}{entry}"), "twice"),
        (format!("{entry}{}", entry.replace("alice", "bob")), "twice"),
        (format!("{entry}expires = 'tomorrow'\n"), "2027-01-31T08:00:00Z"),
        (entry.replace("alice", ""), "name"),
    ] {
        fs::write(&path, &text).unwrap();
        let error = TokenFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("tokens.toml") && error.contains(part), "{text}: {error}");
        assert!(super::problem(CONFIG, folder.path()).contains(part), "{text}");
    }
    let mut file = TokenFile::load(folder.path().join("new")).unwrap();
    file.add("alice", Vec::new(), None).unwrap();
    assert!(matches!(file.add("alice", Vec::new(), None), Err(TokenError::Taken(_))));
    assert!(matches!(file.add("a\nb", Vec::new(), None), Err(TokenError::Name(_))));
    assert!(matches!(file.add("b", vec![String::new()], None), Err(TokenError::Name(_))));
    assert!(matches!(file.remove("bob"), Err(TokenError::NoSuch(_))));
    assert!(TokenFile::load(folder.path()).is_err());
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_token_is_printed_or_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let folder = tempfile::tempdir().unwrap();
    let mut file = TokenFile::load(folder.path().join("tokens.toml")).unwrap();
    let token = file.add("alice", Vec::new(), None).unwrap();
    file.save().unwrap();
    fs::write(folder.path().join("secret"), "hunter2-hunter2").unwrap();
    let config = format!(
        "{CONFIG}\n[[identity]]\nkind = 'introspection'\nname = 'a'\nurl = 'http://127.0.0.1:1/'\n\
         client_id = 'i'\nclient_secret_file = 'secret'\nscope = 's'"
    );
    let who = authenticator(&config, folder.path());
    let mut printed = format!("{token:?} {file:?} {who:?} {:?}", super::configs(&config));
    let long = "opaque-to-us".repeat(1000);
    for shown in [token.expose(), "opaque-to-us", "opaque-to-us and more", long.as_str()] {
        let credentials = Credentials { authorization: Some(shown), certificate: None };
        printed += &format!("{credentials:?}");
        match who.authenticate(credentials).await {
            Ok(principal) => printed += &format!("{principal:?}"),
            Err(refused) => printed += &format!("{refused} {refused:?}"),
        }
    }
    printed += &format!("{who:?}");
    printed += std::str::from_utf8(&log.0.lock().unwrap()).unwrap();
    assert!(printed.contains("127.0.0.1:1"), "the failed question is logged: {printed}");
    for secret in [token.expose(), "opaque-to-us", "hunter2"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
