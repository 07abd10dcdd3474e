//! Identity from outside: real authorities, real keys, real certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod certificate;
mod jwt;
mod oauth;
mod tokens;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::identity::{Authenticator, Credentials, IdentityError, Principal, ProviderConfig, Refused};

/// How long tests wait for what must come soon; they fail only after it, so it costs nothing when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// The providers of a configuration file's `[[identity]]`.
fn configs(text: &str) -> Vec<ProviderConfig> {
    #[derive(serde::Deserialize)]
    struct File {
        identity: Vec<ProviderConfig>,
    }
    toml::from_str::<File>(text).unwrap().identity
}

fn authenticator(text: &str, base: &Path) -> Authenticator {
    Authenticator::new(&configs(text), base).unwrap()
}

/// Why a configuration is refused.
fn problem(text: &str, base: &Path) -> String {
    let error: IdentityError = Authenticator::new(&configs(text), base).unwrap_err();
    error.to_string()
}

/// Who shows this header.
async fn shows(who: &Authenticator, authorization: &str) -> Result<Principal, Refused> {
    who.authenticate(Credentials { authorization: Some(authorization), certificate: None }).await
}

/// Asks until the answer is `wanted`.
async fn until(who: &Authenticator, token: &str, wanted: impl Fn(&Result<Principal, Refused>) -> bool) {
    let begun = Instant::now();
    loop {
        let answer = shows(who, token).await;
        if wanted(&answer) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "still {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn without_a_way_of_proof_nothing_starts() {
    let error = Authenticator::new(&[], Path::new("/")).unwrap_err();
    assert!(error.to_string().contains("--insecure-no-authentication"), "{error}");
}

#[tokio::test]
async fn the_insecure_way_takes_everybody_for_one_principal() {
    let who = Authenticator::insecure();
    for authorization in [None, Some("whatever"), Some("INVALID_TOKEN")] {
        let shown = Credentials { authorization, certificate: None };
        assert_eq!(who.authenticate(shown).await.unwrap().subject, "anonymous@insecure");
    }
    assert!(who.is_insecure() && who.client_ca_files().is_empty());
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens.toml"), "").unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let tokens = "[[identity]]\nkind = 'tokens'\nfile = 'tokens.toml'\n";
    let asked = "[[identity]]\nkind = 'introspection'\nname = 'a'\nclient_id = 'i'\n";
    let jwt = "[[identity]]\nkind = 'jwt'\nname = 'a'\nissuer = 'i'\naudience = 'a'\n";
    for (text, key, part) in [
        (format!("{tokens}name = 'a'\n{tokens}name = 'a'\n"), "name", "another"),
        (format!("{tokens}name = 'a@b'\n"), "name", "characters"),
        (format!("{tokens}name = 'insecure'\n"), "name", "insecure"),
        ("[[identity]]\nkind = 'tokens'\nname = 'a'\nfile = 'absent'\n".to_owned(), "file", "cannot be read"),
        ("[[identity]]\nkind = 'certificate'\nname = 'a'\nca = 'empty'\n".to_owned(), "ca", "no certificate"),
        (format!("{asked}client_secret_env = 'PATH'\nscope = 's'\n"), "url", "missing"),
        (
            format!("{asked}client_secret_env = 'PATH'\nscope = 's'\nurl = 'http://192.0.2.1/'\n"),
            "url",
            "https",
        ),
        (
            format!("{asked}client_secret_env = 'PATH'\nscope = 's'\nurl = 'https://u:p@x/'\n"),
            "url",
            "password",
        ),
        (format!("{asked}client_secret_env = 'PATH'\nurl = 'https://x/'\n"), "scope", "audience"),
        (format!("{asked}preset = 'globus'\n"), "client_secret_file", "exactly one"),
        (
            format!("{asked}preset = 'globus'\nclient_secret_file = 'empty'\n"),
            "client_secret_file",
            "nothing",
        ),
        (format!("{asked}preset = 'globus'\nclient_secret_env = 'PATH'\ncache = 0\n"), "cache", "1 to"),
        (format!("{jwt}jwks = 'empty'\n"), "jwks", "JSON"),
        (format!("{jwt}jwks = 'http://192.0.2.1/jwks'\n"), "jwks", "https"),
        (format!("{jwt}jwks = 'https://x/'\nalgorithms = ['HS256']\n"), "algorithms", "forge"),
        (format!("{jwt}jwks = 'https://x/'\nalgorithms = ['none']\n"), "algorithms", "unknown"),
        (format!("{jwt}jwks = 'https://x/'\nalgorithms = []\n"), "algorithms", "empty"),
    ] {
        let problem = problem(&text, folder.path());
        assert!(problem.contains(&format!(": {key}: ")) && problem.contains(part), "{text}: {problem}");
    }
}

#[test]
fn an_unknown_key_of_a_provider_is_refused() {
    let text = "kind = 'tokens'\nname = 'a'\nfile = 'f'\nfiles = 'f'\n";
    let error = toml::from_str::<ProviderConfig>(text).unwrap_err().to_string();
    assert!(error.contains("files"), "{error}");
}
