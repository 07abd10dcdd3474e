//! `s2cs` from outside: first installation, check, policy, tokens, and what it says to mistakes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

use tempfile::TempDir;

fn s2cs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_s2cs")).env_remove("S2CS_CLIENT_SECRET").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs with success; gives what was printed.
fn good(args: &[&str]) -> String {
    let output = s2cs(args);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    text(&output.stdout)
}

/// Runs without success; gives the code and the sentence.
fn bad(args: &[&str]) -> (i32, String) {
    let output = s2cs(args);
    assert_eq!(text(&output.stdout), "", "{args:?}");
    (output.status.code().unwrap(), text(&output.stderr))
}

/// A first installation.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        good(&["init", site.0.path().to_str().unwrap(), "--name", "gateway.example"]);
        site
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.path().join(name), text).unwrap();
        self.path(name)
    }

    /// A copy of the configuration in which `from` is `to`.
    fn changed(&self, from: &str, to: &str) -> String {
        let config = std::fs::read_to_string(self.path("s2cs.toml")).unwrap();
        assert!(config.contains(from), "{from}");
        self.write("changed.toml", &config.replace(from, to))
    }
}

#[test]
fn a_first_installation_passes_its_check() {
    let site = Site::new();
    let checked = good(&["--config", &site.path("s2cs.toml"), "--check"]);
    for words in ["server.listen", "0.0.0.0:5000", "gateway.example", "tokens", "operator@site"] {
        assert!(checked.contains(words), "{words} in {checked}");
    }
}

#[test]
fn a_second_init_replaces_nothing_unless_forced() {
    let site = Site::new();
    let directory = site.0.path().to_str().unwrap();
    let token = || std::fs::read_to_string(site.path("token")).unwrap();
    let before = token();
    let (code, sentence) = bad(&["init", directory]);
    assert_eq!(code, 1);
    assert!(sentence.contains("exists already") && sentence.contains("--force"), "{sentence}");
    assert_eq!(token(), before);
    let next = good(&["init", directory, "--force"]);
    assert_ne!(token(), before);
    assert!(next.contains("s2uc login") && !next.contains(token().trim()), "{next}");
}

#[test]
fn both_spellings_of_the_old_options_override_the_file() {
    let site = Site::new();
    let config = site.path("s2cs.toml");
    for (ip, range, crt, key) in [
        ("--listener_ip", "--port_range", "--server_crt", "--server_key"),
        ("--listener-ip", "--port-range", "--server-crt", "--server-key"),
    ] {
        let checked = good(&[
            "--config",
            &config,
            "--check",
            "--verbose",
            "--port",
            "6001",
            ip,
            "192.0.2.77",
            range,
            "7000-7009",
            crt,
            &site.path("server.crt"),
            key,
            &site.path("server.key"),
            "--socket",
            "/run/other.sock",
        ]);
        for words in ["0.0.0.0:6001", "192.0.2.77", "7000-7009", "/run/other.sock"] {
            assert!(checked.contains(words), "{words} in {checked}");
        }
    }
    for (id, secret) in [("--client_id", "--client_secret"), ("--client-id", "--client-secret")] {
        let checked = good(&["--config", &config, "--check", id, "me", secret, "hush"]);
        assert!(checked.contains("globus") && !checked.contains("hush"), "{checked}");
    }
}

#[test]
fn the_policy_explains_what_it_grants_and_refuses() {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.example.toml");
    let check = ["policy", "check", "--policy", policy, "--as", "alice@site", "--role", "producer"];
    let asked = ["--target", "10.20.3.4:5001", "--rate", "10G", "--for", "2h", "--conns", "8"];
    let granted = good(&[&check[..], &asked[..]].concat());
    for words in
        ["granted by beamline", "198.51.100.0/28", "10G reserved, held to 10G", "2h", "not looked at"]
    {
        assert!(granted.contains(words), "{words} in {granted}");
    }

    let refused = s2cs(&[&check[..], &["--target", "10.99.0.1:22"]].concat());
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stdout).contains("refused: target 10.99.0.1:22"), "{refused:?}");

    let json = s2cs(&[&check[..], &["--from", "203.0.113.0/24", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["rules"][0]["rule"], "beamline");
    assert!(json["refusal"].as_str().unwrap().contains("203.0.113.0/24"), "{json}");
    assert!(json["grant"].is_null());
}

#[test]
fn the_policy_is_found_by_way_of_the_configuration() {
    let site = Site::new();
    let check =
        ["policy", "check", "--config", &site.path("s2cs.toml"), "--as", "operator@site", "--role", "CONS"];
    assert!(
        good(&[&check[..], &["--proto", "udp", "--target", "10.0.0.1:9"]].concat())
            .contains("granted by operator")
    );
}

#[test]
fn tokens_are_made_listed_and_taken_away() {
    let site = Site::new();
    let file = site.path("tokens.toml");
    let made = good(&["token", "add", "--file", &file, "bob", "--group", "beamline7", "--expires", "30d"]);
    let listed = good(&["token", "list", "--file", &file]);
    assert!(
        listed.contains("operator") && listed.contains("bob") && listed.contains("beamline7"),
        "{listed}"
    );
    assert!(!listed.contains(made.trim()) && !std::fs::read_to_string(&file).unwrap().contains(made.trim()));
    assert_eq!(bad(&["token", "add", "--file", &file, "bob"]).0, 1);
    good(&["token", "remove", "--file", &file, "bob"]);
    assert!(!good(&["token", "list", "--file", &file]).contains("bob"));
    assert_eq!(bad(&["token", "remove", "--file", &file, "bob"]).0, 1);
}

#[test]
fn mistakes_are_answered_with_their_place_and_the_mend() {
    let site = Site::new();
    let refuses = |config: &str, words: &[&str]| {
        let (code, sentence) = bad(&["--config", config, "--check"]);
        assert_eq!(code, 1);
        assert!(words.iter().all(|w| sentence.contains(w)) && sentence.starts_with("s2cs: "), "{sentence}");
    };
    refuses(&site.path("none.toml"), &["none.toml", "cannot be read"]);
    refuses(&site.changed("5100-5200", "5200-5100"), &["changed.toml:9:9", "backwards"]);
    refuses(&site.changed("127.0.0.1:9464", "0.0.0.0:9464"), &["changed.toml:20:10", "loopback"]);
    refuses(&site.changed("[audit]", "[audits]"), &["changed.toml:16:2", "audits"]);
    refuses(
        &site.changed(
            "[[identity]]",
            "[[identity]]\nkind = \"certificate\"\nname = \"site\"\nca = \"ca.crt\"\n[[identity]]",
        ),
        &["site", "name"],
    );
    refuses(&site.changed("server.key", "ca.key"), &["ca.key", "server.crt"]);
    refuses(&site.changed("server.crt", "s2cs.toml"), &["s2cs.toml", "certificate"]);

    let policy = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    let from = site.write("policy.toml", &policy.replace("lease = \"8h\"", "lease = \"long\""));
    let line = policy.lines().position(|line| line.starts_with("lease")).unwrap() + 1;
    refuses(&site.path("s2cs.toml"), &[&format!("{from}:{line}:9: "), "long"]);
}

#[test]
fn a_key_that_old_clients_cannot_use_is_refused() {
    let site = Site::new();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = site.write("ed.key", &key.serialize_pem());
    let certificate = site.write("ed.crt", &certificate.pem());
    let config = site.path("s2cs.toml");
    let (code, sentence) =
        bad(&["--config", &config, "--check", "--server_crt", &certificate, "--server_key", &key]);
    assert_eq!(code, 1);
    assert!(sentence.contains("ed.key") && sentence.contains("ECDSA"), "{sentence}");
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    assert_eq!(bad(&["--port", "0"]).0, 2);
    assert_eq!(bad(&["--port_range", "9-1"]).0, 2);
    assert_eq!(bad(&["policy", "check", "--as", "a@b", "--role", "producer"]).0, 2);
    assert_eq!(bad(&["policy", "check", "--policy", "x", "--as", "a@b", "--role", "other"]).0, 2);
    assert!(good(&["completions", "bash"]).contains("s2cs"));
}

#[test]
fn without_identity_nobody_is_served_unless_everybody_is_to_be() {
    let site = Site::new();
    let config = std::fs::read_to_string(site.path("s2cs.toml")).unwrap();
    let config = site.write("s2cs.toml", config.split("[[identity]]").next().unwrap());
    let (code, sentence) = bad(&["--config", &config, "--check"]);
    assert_eq!(code, 1);
    assert!(sentence.contains("--insecure-no-authentication"), "{sentence}");
    for spelling in ["--insecure-no-authentication", "--insecure_no_authentication"] {
        assert!(good(&["--config", &config, "--check", spelling]).contains("everybody"));
    }
}

#[test]
fn a_rule_for_an_issuer_that_is_not_there_is_noticed() {
    let site = Site::new();
    let policy = std::fs::read_to_string(site.path("policy.toml")).unwrap();
    site.write("policy.toml", &policy.replace("lease =", "issuers = [\"globs\"]\nlease ="));
    let checked = good(&["--config", &site.path("s2cs.toml"), "--check"]);
    assert!(checked.contains("Notice: rule \"operator\" is for issuer \"globs\""), "{checked}");
}
