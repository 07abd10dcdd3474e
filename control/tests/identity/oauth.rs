//! Introspection at an OAuth 2.0 server that others have written: Django OAuth Toolkit.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use control::identity::{Authenticator, Invalid, Refused};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{authenticator, shows, until};

/// Debian's, which has its packages.
const PYTHON: &str = "/usr/bin/python3";

/// The server, until dropped.
struct Server {
    child: Child,
    ready: Ready,
    folder: TempDir,
}

/// What the server tells of itself.
#[derive(Deserialize)]
struct Ready {
    port: u16,
    client_id: String,
    client_secret: String,
    username: String,
    password: String,
    expired: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it; none where its package is missing.
    fn start() -> Option<Server> {
        let found =
            Command::new(PYTHON).args(["-c", "import oauth2_provider"]).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            let reason = "it needs Debian's python3-django-oauth-toolkit; run scripts/deps.sh";
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "a test was skipped: {reason}");
            eprintln!("skipped: {reason}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(PYTHON)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oauth/server.py"))
            .arg(folder.path().join("db.sqlite3"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("the server's ready line");
        Some(Server { child, ready, folder })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/o/{path}/", self.ready.port)
    }

    /// A post by the service itself, in the way that the server's own documentation shows.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> String {
        let identity = [
            ("client_id", self.ready.client_id.as_str()),
            ("client_secret", self.ready.client_secret.as_str()),
        ];
        let form: Vec<_> = form.iter().chain(&identity).collect();
        // The first there is stays.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let answer = reqwest::Client::new().post(self.url(path)).form(&form).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.text().await.unwrap()
    }

    /// A token for the user.
    async fn token(&self, scope: &str) -> String {
        let form = [
            ("grant_type", "password"),
            ("username", &self.ready.username),
            ("password", &self.ready.password),
            ("scope", scope),
        ];
        let answer: Value = serde_json::from_str(&self.post("token", &form).await).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn revoke(&self, token: &str) {
        self.post("revoke_token", &[("token", token)]).await;
    }

    /// A provider that asks the server.
    fn provider(&self, secret: &str, more: &str) -> Authenticator {
        std::fs::write(self.folder.path().join("secret"), format!("{secret}\n")).unwrap();
        let text = format!(
            "[[identity]]\nkind = 'introspection'\nname = 'campus'\nurl = '{}'\nclient_id = '{}'\n\
             client_secret_file = 'secret'\nscope = 'scistream'\nsubject_claim = 'username'\n{more}",
            self.url("introspect"),
            self.ready.client_id
        );
        authenticator(&text, self.folder.path())
    }
}

#[tokio::test]
async fn an_oauth_server_decides_who_is_let_in() {
    let Some(server) = Server::start() else { return };
    let who = server.provider(&server.ready.client_secret, "");

    let valid = server.token("scistream mail").await;
    for header in [valid.clone(), format!("Bearer {valid}"), format!("bearer  {valid}")] {
        let principal = shows(&who, &header).await.unwrap();
        assert_eq!(principal.subject, "alice@campus");
        assert_eq!(principal.issuer, "campus");
        assert_eq!(principal.names, ["alice"]);
        assert!(principal.expires.is_some());
    }

    let revoked = server.token("scistream").await;
    server.revoke(&revoked).await;
    let narrow = server.token("mail").await;
    for (token, why) in [
        (revoked.as_str(), Invalid::Unknown),
        (server.ready.expired.as_str(), Invalid::Unknown),
        ("never-issued", Invalid::Unknown),
        (narrow.as_str(), Invalid::Scope),
    ] {
        // The second answer comes from the cache.
        for _ in 0..2 {
            assert_eq!(shows(&who, token).await, Err(Refused::Invalid(why)));
        }
    }

    let stranger = server.provider("not the secret", "");
    let answer = shows(&stranger, &valid).await;
    assert_eq!(answer, Err(Refused::Unavailable { authority: "campus".to_owned() }));
}

#[tokio::test]
async fn a_revoked_token_is_refused_when_the_kept_answer_is_over() {
    let Some(server) = Server::start() else { return };
    let token = server.token("scistream").await;
    let keeps = server.provider(&server.ready.client_secret, "cache_seconds = 3600");
    let asks = server.provider(&server.ready.client_secret, "cache_seconds = 0");
    let between = server.provider(&server.ready.client_secret, "cache_seconds = 1");
    for who in [&keeps, &asks, &between] {
        shows(who, &token).await.unwrap();
    }
    server.revoke(&token).await;
    assert_eq!(shows(&asks, &token).await, Err(Refused::Invalid(Invalid::Unknown)));
    until(&between, &token, |answer| *answer == Err(Refused::Invalid(Invalid::Unknown))).await;
    shows(&keeps, &token).await.unwrap();
}

#[tokio::test]
async fn while_the_oauth_server_is_down_only_kept_answers_count() {
    let Some(mut server) = Server::start() else { return };
    let (known, new) = (server.token("scistream").await, server.token("scistream").await);
    let who = server.provider(&server.ready.client_secret, "cache_seconds = 3600");
    shows(&who, &known).await.unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    shows(&who, &known).await.unwrap();
    let unavailable = Err(Refused::Unavailable { authority: "campus".to_owned() });
    assert_eq!(shows(&who, &new).await, unavailable);
    // It keeps nobody from starting either.
    assert_eq!(shows(&server.provider(&server.ready.client_secret, ""), &known).await, unavailable);
}
