//! Files that change while s2cs runs, and the one that it writes.

use std::fs;

use control::proto::gateway::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tonic::Code;

use super::common::site::{POLICY, Settings, Site, run};
use super::connections::tls;
use super::{User, ask, code, until};

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_clients() {
    let site = Site::new(&Settings::default());
    let mut before = User::new(&site, "alice").await;
    let old = CertificateDer::from_pem_file(site.file("server.crt")).unwrap();
    let shown = async || tls(&site).await.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    assert_eq!(shown().await, old);
    let other = tempfile::tempdir().unwrap();
    run(&["init", other.path().to_str().unwrap()]);
    let made = |name: &str| fs::read_to_string(other.path().join(name)).unwrap();
    // Clients trust both CAs until everybody has changed.
    site.replace("ca.crt", &(fs::read_to_string(site.ca()).unwrap() + &made("ca.crt")));
    site.replace("server.crt", &made("server.crt"));
    site.replace("server.key", &made("server.key"));
    let new = CertificateDer::from_pem_file(site.file("server.crt")).unwrap();
    assert_ne!(new, old);
    until("the new certificate is shown", async || (shown().await == new).then_some(())).await;
    User::new(&site, "alice").await.open(ask("a")).await.unwrap();
    // Who is connected stays so.
    before.close("a").await.unwrap();
    // A key that is not its own changes nothing.
    site.replace("server.key", &made("ca.key"));
    until("it is told", async || site.log().contains("the old ones hold").then_some(())).await;
    assert_eq!(shown().await, new);
}

#[tokio::test]
async fn a_new_policy_applies_and_a_bad_one_does_not() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    alice.open(ask("a")).await.unwrap();
    site.replace("policy.toml", "[[rule]]\nname = 7\n");
    until("it is told", async || site.log().contains("the old one holds").then_some(())).await;
    assert!(site.log().contains("policy.toml:2:"), "{}", site.log());
    alice.open(ask("b")).await.unwrap();
    site.replace("policy.toml", &POLICY.replace("lease = \"1h\"", "lease = \"2h\""));
    until("a longer lease is granted", async || alice.renew("a", Some(7200)).await.ok()).await;
    site.replace("policy.toml", &POLICY.replace("lease = \"1h\"", "lease = \"1m\""));
    until("a shorter one only", async || alice.renew("a", Some(61)).await.err()).await;
    alice.renew("a", Some(60)).await.unwrap();
}

#[tokio::test]
async fn the_audit_file_has_a_line_for_each_decision_and_no_secret() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let mut bob = User::new(&site, "bob").await;
    let hostile = "\"}\u{202e}\\u000a{'";
    let opened = alice.open(ask(hostile)).await.unwrap();
    assert_eq!(code(alice.open(ask("two\nlines\u{1b}[31m")).await), Code::InvalidArgument);
    assert_eq!(code(alice.open(OpenRequest { listeners: 17, ..ask("many") }).await), Code::PermissionDenied);
    assert_eq!(code(bob.close(hostile).await), Code::NotFound);
    alice.renew(hostile, Some(60)).await.unwrap();
    let secret = "nobodys-secret-token";
    assert_eq!(code(User::on(site.channel().await, secret).open(ask("x")).await), Code::Unauthenticated);
    // Looking is not deciding.
    alice.get(hostile).await.unwrap();
    alice.list().await;
    alice.release(hostile).await.unwrap();

    let text = fs::read_to_string(site.file("audit.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let read = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let told: Vec<_> =
        lines.iter().map(|l| ["decision", "call", "subject", "uid"].map(|key| read(l, key))).collect();
    assert_eq!(
        told,
        [
            ["granted", "open", "alice@site", hostile],
            ["failed", "open", "alice@site", "two\nlines\u{1b}[31m"],
            ["refused", "open", "alice@site", "many"],
            ["refused", "close", "bob@site", hostile],
            ["granted", "renew", "alice@site", hostile],
            ["refused", "open", "-", "-"],
            ["granted", "release", "alice@site", hostile],
        ]
    );
    assert_eq!(lines[0]["rule"], "users");
    assert_eq!(lines[0]["asked"]["targets"][0], "10.81.0.9:7000");
    assert_eq!(lines[0]["granted"]["listeners"][0], opened.listeners[0].address);
    assert!(lines.iter().all(|l| read(l, "peer").starts_with("127.0.0.1:") && read(l, "at").ends_with('Z')));
    let log = site.log();
    for secret in [secret, site.token("alice"), site.token("bob")] {
        assert!(!text.contains(secret) && !log.contains(secret));
    }
    assert!(!log.contains('\u{1b}'), "{log}");
}
