//! What `s2cs init` makes: a development CA, a server certificate, a policy, a token and the configuration that
//! uses them.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::file::FileError;
use crate::identity::tokens::{TokenError, TokenFile};

/// Name of the user whose token is made, and of the provider that knows it.
const USER: &str = "operator";
const PROVIDER: &str = "site";

/// Why not everything was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something would be lost.
    #[error("{} exists already; choose another directory, or give --keep to make only what is missing, or --force to replace what `s2cs init` makes there", .0.display())]
    Exists(PathBuf),
    /// Nobody to own the secrets.
    #[error("there is no user {0:?} to own the server's secrets; create it, or leave --owner out")]
    NoUser(String),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The token's file cannot be written.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A name cannot be in a certificate, or a key could not be made.
    #[error("certificate for {names}: {source}; give host names and addresses with --name", names = .names.join(", "))]
    Certificate {
        /// Names that the certificate was to have.
        names: Vec<String>,
        /// Why.
        source: rcgen::Error,
    },
}

/// What was made. Its `Display` tells a person how to go on.
#[derive(Debug, Clone)]
pub struct Made {
    /// Where: absolute.
    pub directory: PathBuf,
    /// Names of the server in its certificate, if that was made.
    pub names: Vec<String>,
    /// The files.
    pub files: Vec<&'static str>,
}

/// What becomes of files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// One of them, and nothing is made.
    Refuse,
    /// They are made anew.
    Replace,
    /// They stay, and what is missing is made. Certificates stay or are made all together, and so are tokens.
    Keep,
}

/// Files that only make sense together.
const CERTIFICATES: [&str; 4] = ["ca.crt", "ca.key", "server.crt", "server.key"];
const TOKENS: [&str; 2] = ["tokens.toml", "token"];
const POLICY: [&str; 1] = ["policy.toml"];
const CONFIG: [&str; 1] = ["s2cs.toml"];

/// Makes, in `directory`, `ca.crt`, `ca.key`, `server.crt`, `server.key`, `policy.toml`, `tokens.toml`, `token`
/// and `s2cs.toml`. The certificate is for this host, loopback and the further `names`. `owner` gets the secrets that
/// s2cs reads; without one they are the caller's.
///
/// # Errors
/// One of the files exists and may not: then nothing is written. Or one cannot be written, or there is no such user.
pub fn init(
    directory: &Path,
    names: &[String],
    existing: Existing,
    owner: Option<&str>,
) -> Result<Made, InitError> {
    let owner = owner.map(user).transpose()?;
    let names = server_names(names);
    let certificates =
        certificates(&names).map_err(|source| InitError::Certificate { names: names.clone(), source })?;

    let write_error = |path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Write { path, source }
    };
    std::fs::create_dir_all(directory).map_err(write_error(directory))?;
    let directory = directory.canonicalize().map_err(write_error(directory))?;
    let at = |name: &str| directory.join(name);
    let there = |name: &&str| at(name).symlink_metadata().is_ok();
    let mut made: Vec<&'static str> = Vec::new();
    let groups: [&[&'static str]; 4] = [&CERTIFICATES, &POLICY, &TOKENS, &CONFIG];
    for group in groups {
        match group.iter().copied().find(|name| there(name)) {
            Some(name) if existing == Existing::Refuse => return Err(InitError::Exists(at(name))),
            Some(_) if existing == Existing::Keep => {}
            _ => made.extend(group.iter().copied()),
        }
    }
    for name in made.iter().filter(|name| there(name)) {
        std::fs::remove_file(at(name)).map_err(write_error(&at(name)))?;
    }

    let mut secret = String::new();
    if made.contains(&"token") {
        let mut tokens = TokenFile::load(at("tokens.toml"))?;
        secret = format!("{}\n", tokens.add(USER, Vec::new(), None)?.expose());
        tokens.save()?;
    }
    for (name, mode, text) in [
        ("ca.crt", 0o644, certificates.ca),
        ("ca.key", 0o600, certificates.ca_key),
        ("server.crt", 0o644, certificates.server),
        ("server.key", 0o600, certificates.server_key),
        ("policy.toml", 0o644, policy()),
        ("token", 0o600, secret),
        ("s2cs.toml", 0o644, config(&directory)),
    ] {
        if !made.contains(&name) {
            continue;
        }
        let path = at(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(write_error(&path))?;
    }
    for name in ["server.key", "tokens.toml"].iter().filter(|name| made.contains(name)) {
        if let Some((uid, gid)) = owner {
            let owned = chown(at(name), Some(uid.as_raw()), Some(gid.as_raw()));
            owned.map_err(write_error(&at(name)))?;
        }
    }
    Ok(Made { directory, names, files: made })
}

fn user(name: &str) -> Result<(Uid, Gid), InitError> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok((user.uid, user.gid)),
        _ => Err(InitError::NoUser(name.to_owned())),
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.directory.display();
        let host = self.names.last().map_or("localhost", String::as_str);
        let names = self.names.join(", ");
        let lines = [
            (CERTIFICATES[0], "ca.crt, ca.key          development CA; give ca.crt to users, keep ca.key".to_owned()),
            (CERTIFICATES[2], format!("server.crt, server.key  certificate for {names}")),
            (
                POLICY[0],
                "policy.toml             who may do what: change it for your networks, it is read again while s2cs \
                 runs"
                    .to_owned(),
            ),
            (
                TOKENS[0],
                format!(
                    "tokens.toml, token      the token of {USER}@{PROVIDER}, hashed and plain; more with \
                     `s2cs token add --file {dir}/tokens.toml NAME`"
                ),
            ),
            (
                CONFIG[0],
                "s2cs.toml               configuration; [listeners] has to name the ports of your s2ds.toml".to_owned(),
            ),
        ];
        if self.files.is_empty() {
            writeln!(f, "Everything is in {dir} already.")?;
        } else {
            writeln!(f, "Made in {dir}:")?;
        }
        for (_, line) in lines.iter().filter(|(file, _)| self.files.contains(file)) {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "
Next:
  s2cs --config {dir}/s2cs.toml --check
  s2cs --config {dir}/s2cs.toml
  s2uc login --s2cs {host}:5000 --server_cert {dir}/ca.crt < {dir}/token
and, with a gateway on either side,
  s2uc open --producer-gateway HOST:5000 --consumer-gateway HOST:5000 --target ADDR:PORT --from PREFIX
",
        )
    }
}

/// Loopback's names, then this host's, then the `further` ones, each once.
fn server_names(further: &[String]) -> Vec<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let host = Some(host.trim()).filter(|host| !host.is_empty() && host.chars().all(plain));
    let mut names: Vec<String> = Vec::new();
    for name in
        ["localhost", "127.0.0.1", "::1"].into_iter().chain(host).chain(further.iter().map(String::as_str))
    {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// PEM texts.
struct Certificates {
    ca: String,
    ca_key: String,
    server: String,
    server_key: String,
}

/// P-256, which SciStream's clients know.
fn certificates(names: &[String]) -> Result<Certificates, rcgen::Error> {
    let now = OffsetDateTime::now_utc();
    let params = |names: Vec<String>, title: &str, days: i64| {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, title);
        // Clocks differ.
        params.not_before = now - Duration::days(1);
        params.not_after = now + Duration::days(days);
        params.use_authority_key_identifier_extension = true;
        Ok::<_, rcgen::Error>(params)
    };

    let mut ca = params(Vec::new(), "SciStream development CA", 3650)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();

    let mut server = params(names.to_vec(), "s2cs", 825)?;
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_key = KeyPair::generate()?;
    let server_pem = server.signed_by(&server_key, &Issuer::from_params(&ca, &ca_key))?.pem();
    Ok(Certificates {
        ca: ca_pem,
        ca_key: ca_key.serialize_pem(),
        server: server_pem,
        server_key: server_key.serialize_pem(),
    })
}

fn policy() -> String {
    format!(
        r#"# Who may do what: docs/control-api.md, "Policy". What no rule permits is refused.

[defaults]
# Who may connect when the caller names nobody, by the session's side.
producer_sources = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"]
consumer_sources = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"]

[[rule]]
name = "operator"
users = ["{USER}@{PROVIDER}"]
roles = ["producer", "consumer"]
protocols = ["tcp", "udp"]
targets = ["10.0.0.0/8:*", "172.16.0.0/12:*", "192.168.0.0/16:*", "[fd00::/8]:*"]
rate = "10G"
lease = "8h"
administrator = true
"#
    )
}

fn config(directory: &Path) -> String {
    // Text in quotes, with what TOML wants escaped.
    let path = |name: &str| toml::Value::from(directory.join(name).display().to_string());
    format!(
        r#"# Configuration of s2cs; docs/s2cs.example.toml has every key with its meaning.

[server]
listen = "0.0.0.0:5000"
certificate = {certificate}
key = {key}

[listeners]
ports = "5100-5200"
producer = ["wan"]              # ports of the forwarder, as in s2ds.toml
consumer = ["lan"]

[state]
file = {state}

[audit]
file = {audit}

[metrics]
listen = "127.0.0.1:9464"

[policy]
file = {policy}

[[identity]]
kind = "tokens"
name = "{PROVIDER}"
file = {tokens}
"#,
        certificate = path("server.crt"),
        key = path("server.key"),
        state = path("s2cs.redb"),
        audit = path("audit.jsonl"),
        policy = path("policy.toml"),
        tokens = path("tokens.toml"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::certificate::Certificate;
    use crate::config::{Config, Options};
    use crate::policy::Policy;

    #[test]
    fn what_is_made_loads_and_keeps_its_secrets() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("new \"one\"");
        let made =
            init(&dir, &["gw.example".to_owned(), "192.0.2.7".to_owned()], Existing::Refuse, None).unwrap();
        let config = Config::load(Some(&dir.join("s2cs.toml")), &Options::default()).unwrap();
        assert_eq!(config.policy.file, made.directory.join("policy.toml"));
        Policy::load(&config.policy.file).unwrap();
        let certificate = Certificate::load(&config.server.certificate, &config.server.key).unwrap();
        assert_eq!(certificate.names, made.names);
        for name in ["localhost", "127.0.0.1", "::1", "gw.example", "192.0.2.7"] {
            assert!(made.names.iter().any(|n| n == name), "{name}");
        }
        for secret in ["ca.key", "server.key", "token", "tokens.toml"] {
            let mode = std::fs::metadata(dir.join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        let token = std::fs::read_to_string(dir.join("token")).unwrap();
        let hashed = std::fs::read_to_string(dir.join("tokens.toml")).unwrap();
        assert!(!hashed.contains(token.trim()) && !made.to_string().contains(token.trim()));
    }

    #[test]
    fn nothing_is_replaced_unless_it_is_to_be() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "mine").unwrap();
        assert!(matches!(init(dir.path(), &[], Existing::Refuse, None), Err(InitError::Exists(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        init(dir.path(), &[], Existing::Replace, None).unwrap();
        assert_ne!(std::fs::read_to_string(dir.path().join("token")).unwrap(), "mine");
    }

    #[test]
    fn what_is_missing_is_made_beside_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join("policy.toml"), "mine").unwrap();
        let made = init(dir.path(), &[], Existing::Keep, None).unwrap();
        assert_eq!(read("policy.toml"), "mine");
        assert!(made.files.contains(&"server.key") && !made.files.contains(&"policy.toml"));
        assert!(!made.to_string().contains("  policy.toml "), "{made}");

        // A new key would not fit the certificate that stays, nor a new token what is hashed.
        let (key, tokens) = (read("ca.key"), read("tokens.toml"));
        for name in ["server.key", "token", "s2cs.toml"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(init(dir.path(), &[], Existing::Keep, None).unwrap().files, ["s2cs.toml"]);
        assert_eq!((read("ca.key"), read("tokens.toml")), (key, tokens));
        assert!(!dir.path().join("server.key").exists() && !dir.path().join("token").exists());
        assert!(init(dir.path(), &[], Existing::Keep, None).unwrap().to_string().starts_with("Everything"));
    }

    #[test]
    fn nobody_gets_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let error = init(dir.path(), &[], Existing::Refuse, Some("no-such-user")).unwrap_err().to_string();
        assert!(error.contains("no-such-user") && error.contains("--owner"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_no_certificate_can_have_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            init(dir.path(), &["b\u{fc}cher".to_owned()], Existing::Refuse, None).unwrap_err().to_string();
        assert!(error.contains("b\u{fc}cher") && error.contains("--name"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
