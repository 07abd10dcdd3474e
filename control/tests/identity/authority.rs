//! Authorities that answer as no good one does, and how often they are asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use control::identity::{Authenticator, Invalid, ProviderConfig, Refused, Secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::{authenticator, configs, now, shows};

/// An introspection endpoint that gives one answer to all.
#[derive(Default)]
struct Authority {
    /// Status and body.
    answer: Mutex<(u16, String)>,
    /// What was asked: the header `authorization` and the form.
    asked: Mutex<Vec<(String, String)>>,
    /// Questions that wait for `go`, when `slow`.
    waiting: AtomicUsize,
    slow: bool,
    go: Notify,
}

impl Authority {
    async fn start(self) -> (Arc<Authority>, SocketAddr) {
        let authority = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(asked).with_state(Arc::clone(&authority));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (authority, address)
    }

    fn says(&self, status: u16, body: impl ToString) {
        *self.answer.lock().unwrap() = (status, body.to_string());
    }

    fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn asked(
    State(authority): State<Arc<Authority>>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let authorization = headers["authorization"].to_str().unwrap().to_owned();
    authority.asked.lock().unwrap().push((authorization, body));
    if authority.slow {
        authority.waiting.fetch_add(1, Ordering::Relaxed);
        authority.go.notified().await;
    }
    let (status, body) = authority.answer.lock().unwrap().clone();
    (StatusCode::from_u16(status).unwrap(), body)
}

fn provider(url: &str, more: &str) -> Authenticator {
    authenticator(
        &format!(
            "[[identity]]\nkind = 'introspection'\nname = 'campus'\nurl = '{url}'\nclient_id = 'id'\n\
             client_secret_env = 'PATH'\nscope = 'stream'\n{more}"
        ),
        std::path::Path::new("/"),
    )
}

/// An answer about a good token, with changes.
fn good(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut answer =
        serde_json::json!({"active": true, "scope": "mail stream", "sub": "alice", "exp": now() + 600});
    change(&mut answer);
    answer.to_string()
}

fn unavailable() -> Refused {
    Refused::Unavailable { authority: "campus".to_owned() }
}

#[tokio::test]
async fn every_answer_but_a_clear_yes_keeps_the_caller_out() {
    let (authority, address) = Authority::default().start().await;
    let who = provider(&format!("http://{address}/"), "cache_seconds = 0\naudience = 'us'\nissuer = 'them'");
    let fits = |answer: &mut serde_json::Value| {
        answer["aud"] = serde_json::json!(["others", "us"]);
        answer["iss"] = "them".into();
    };
    authority.says(200, good(fits));
    shows(&who, "t").await.unwrap();
    let with = |key: &str, value: serde_json::Value| {
        good(|answer| {
            fits(answer);
            answer[key] = value;
        })
    };
    let invalid = Refused::Invalid;
    for (status, body, refused) in [
        (200, with("active", false.into()), invalid(Invalid::Unknown)),
        (200, with("active", "true".into()), unavailable()),
        (200, with("exp", 1.into()), invalid(Invalid::Expired)),
        (200, with("exp", "never".into()), invalid(Invalid::Unknown)),
        (200, with("exp", (-1).into()), invalid(Invalid::Unknown)),
        (200, with("exp", 1e300.into()), invalid(Invalid::Unknown)),
        (200, with("nbf", (now() + 600).into()), invalid(Invalid::Early)),
        (200, with("scope", "streams".into()), invalid(Invalid::Scope)),
        (200, with("scope", serde_json::Value::Null), invalid(Invalid::Scope)),
        (200, with("aud", "others".into()), invalid(Invalid::Audience)),
        (200, with("iss", "others".into()), invalid(Invalid::Issuer)),
        (200, with("sub", serde_json::Value::Null), invalid(Invalid::Subject)),
        (200, with("sub", "".into()), invalid(Invalid::Subject)),
        (200, with("sub", 7.into()), invalid(Invalid::Subject)),
        (200, with("sub", "a\nb".into()), invalid(Invalid::Subject)),
        (200, with("sub", "a".repeat(257).into()), invalid(Invalid::Subject)),
        (200, "{}".to_owned(), unavailable()),
        (200, "[]".to_owned(), unavailable()),
        (200, "<html>".to_owned(), unavailable()),
        (200, with("much", "a".repeat(300_000).into()), unavailable()),
        (302, with("active", true.into()), unavailable()),
        (401, String::new(), unavailable()),
        (500, with("active", true.into()), unavailable()),
    ] {
        authority.says(status, &body);
        let answer = shows(&who, "t").await;
        assert_eq!(answer, Err(refused), "{status} {}", &body[..body.len().min(200)]);
    }
}

#[tokio::test]
async fn names_and_groups_are_what_the_authority_vouches_for() {
    let (authority, address) = Authority::default().start().await;
    let more = "cache_seconds = 0\ngroup_claim = 'member'\n[[identity]]\nkind = 'introspection'\nname = 'other'\n\
                preset = 'globus'\nclient_id = 'i'\nclient_secret_env = 'PATH'\n";
    let who = provider(&format!("http://{address}/"), more);
    authority.says(
        200,
        good(|answer| {
            answer["member"] = serde_json::json!(["staff", "bad\u{7}", 3, "", "beam"]);
            answer["username"] = "alice@example.org".into();
            answer["email"] = "boss@example.org".into();
        }),
    );
    let principal = shows(&who, "t").await.unwrap();
    assert_eq!(principal.subject, "alice@campus");
    assert_eq!(principal.groups, ["staff", "beam"]);
    assert_eq!(principal.names, ["alice@example.org"], "nobody has verified the e-mail address");

    authority.says(
        200,
        good(|answer| {
            answer["email"] = "alice@example.org".into();
            answer["email_verified"] = true.into();
        }),
    );
    assert_eq!(shows(&who, "t").await.unwrap().names, ["alice@example.org"]);

    for taken in ["bob@other", "bob@campus", "anonymous@insecure"] {
        authority.says(200, good(|answer| answer["username"] = taken.into()));
        let principal = shows(&who, "t").await.unwrap();
        assert!(principal.names.is_empty(), "{taken} would pass for a subject");
    }
}

#[tokio::test]
async fn callers_with_one_token_wait_for_one_question() {
    let (authority, address) = Authority { slow: true, ..Authority::default() }.start().await;
    authority.says(200, good(|_| {}));
    let who = Arc::new(provider(&format!("http://{address}/"), ""));
    let ask = |token: &'static str| {
        let who = Arc::clone(&who);
        tokio::spawn(async move { shows(&who, token).await })
    };
    let callers: Vec<_> = (0..20).map(|_| ask("t")).collect();
    while authority.waiting.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    authority.go.notify_one();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(authority.questions(), 1);
    shows(&who, "t").await.unwrap();
    assert_eq!(authority.questions(), 1, "the answer is kept");
}

#[tokio::test]
async fn garbage_does_not_reach_the_authority_and_bounds_hold_for_what_does() {
    let (authority, address) = Authority::default().start().await;
    let who = provider(&format!("http://{address}/"), "cache = 4");
    let long = "a".repeat(8193);
    for header in [long.as_str(), "two words", "Basic aWQ6c2VjcmV0", "ümlaut", "a=b", "a\u{0}", "="] {
        assert_eq!(shows(&who, header).await, Err(Refused::Invalid(Invalid::Malformed)), "{header}");
    }
    for header in ["", "  ", "Bearer", "Bearer ", "INVALID_TOKEN", "Bearer INVALID_TOKEN"] {
        assert_eq!(shows(&who, header).await, Err(Refused::Nothing), "{header}");
    }
    // One of the site's own tokens never leaves the site.
    assert_eq!(shows(&who, "s2t_abc").await, Err(Refused::Invalid(Invalid::Unknown)));
    assert_eq!(authority.questions(), 0);

    authority.says(200, good(|_| {}));
    shows(&who, "good").await.unwrap();
    authority.says(200, r#"{"active": false}"#);
    for number in 0..40 {
        shows(&who, &format!("bad{number}")).await.unwrap_err();
    }
    assert_eq!(authority.questions(), 41);
    shows(&who, "good").await.expect("answers about good tokens leave the cache last");
    assert_eq!(authority.questions(), 41);
}

#[tokio::test]
async fn a_failed_question_is_not_remembered() {
    let (authority, address) = Authority::default().start().await;
    let who = provider(&format!("http://{address}/"), "");
    authority.says(503, "");
    assert_eq!(shows(&who, "t").await, Err(unavailable()));
    authority.says(200, good(|_| {}));
    shows(&who, "t").await.unwrap();
}

#[tokio::test]
async fn globus_is_asked_in_its_own_way() {
    let (authority, address) = Authority::default().start().await;
    authority.says(
        200,
        good(|answer| {
            answer["scope"] = "https://auth.globus.org/scopes/c-1/scistream".into();
            answer["identity_set"] = serde_json::json!(["u-1", "u-2"]);
        }),
    );
    let ProviderConfig::Introspection(mut config) =
        ProviderConfig::globus("c-1".to_owned(), Secret::from("s+/=".to_owned()))
    else {
        panic!("globus is asked by introspection")
    };
    config.url = Some(format!("http://{address}/"));
    let who =
        Authenticator::new(&[ProviderConfig::Introspection(config)], std::path::Path::new("/")).unwrap();
    let principal = shows(&who, "t").await.unwrap();
    assert_eq!(principal.subject, "alice@globus");
    assert_eq!(principal.names, ["u-1", "u-2"]);
    let (authorization, form) = authority.asked.lock().unwrap()[0].clone();
    assert_eq!(authorization, "Basic Yy0xOnMrLz0=", "of c-1:s+/=");
    assert_eq!(form, "token=t&token_type_hint=access_token&include=identity_set");
}

#[tokio::test]
async fn an_authority_proves_itself_by_the_configured_ca() {
    let ca = || {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (own, other) = (ca(), ca());
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &own).unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"token_type_hint=access_token") {
                let read = stream.read_buf(&mut request).await.unwrap();
                assert_ne!(read, 0);
            }
            let body = good(|_| {});
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    for (name, ca) in [("own.pem", &own), ("other.pem", &other)] {
        std::fs::write(folder.path().join(name), ca.pem()).unwrap();
    }
    let with = |ca: &str| {
        let text = format!(
            "[[identity]]\nkind = 'introspection'\nname = 'campus'\nurl = 'https://{address}/'\nclient_id = 'id'\n\
             client_secret_env = 'PATH'\nscope = 'stream'\nca = '{ca}'"
        );
        Authenticator::new(&configs(&text), folder.path()).unwrap()
    };
    shows(&with("own.pem"), "t").await.unwrap();
    assert_eq!(shows(&with("other.pem"), "t").await, Err(unavailable()));
}
