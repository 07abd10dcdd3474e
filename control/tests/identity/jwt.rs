//! JWTs: keys that change, and every way to forge that the form invites.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use control::identity::{Authenticator, Invalid, Refused};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::{authenticator, now, shows, until};

/// A key of the authority.
struct Key {
    kid: &'static str,
    algorithm: Algorithm,
    pair: KeyPair,
    private: EncodingKey,
}

impl Key {
    fn new(kid: &'static str, algorithm: Algorithm) -> Key {
        let kind = match algorithm {
            Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let private = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        Key { kid, algorithm, pair, private: private.unwrap() }
    }

    /// The public key as a JWK.
    fn public(&self) -> Value {
        let mut key =
            serde_json::to_value(Jwk::from_encoding_key(&self.private, self.algorithm).unwrap()).unwrap();
        key["kid"] = self.kid.into();
        key["use"] = "sig".into();
        key
    }

    fn signs(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.private).unwrap()
    }
}

/// Claims that fit, with one changed.
fn claims(key: &str, value: Value) -> Value {
    let mut claims = json!({
        "iss": "https://idp.example", "aud": ["mail", "scistream"], "sub": "alice", "exp": now() + 600,
        "nbf": now(), "groups": ["staff"], "scope": "stream mail",
    });
    match value {
        Value::Null => claims.as_object_mut().unwrap().remove(key),
        value => claims.as_object_mut().unwrap().insert(key.to_owned(), value),
    };
    claims
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn provider(jwks: &str, more: &str, base: &Path) -> Authenticator {
    let text = format!(
        "[[identity]]\nkind = 'jwt'\nname = 'campus'\nissuer = 'https://idp.example'\naudience = 'scistream'\n\
         jwks = '{jwks}'\n{more}"
    );
    authenticator(&text, base)
}

/// A provider with these keys in a file.
fn knows(keys: &[Value], more: &str) -> (Authenticator, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), set(keys)).unwrap();
    (provider("jwks.json", more, folder.path()), folder)
}

fn part(value: impl ToString) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn each_allowed_algorithm_proves_who_calls() {
    for algorithm in
        [Algorithm::RS256, Algorithm::PS384, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
    {
        let key = Key::new("k", algorithm);
        let (who, _folder) =
            knows(&[key.public()], &format!("algorithms = ['{algorithm:?}']\nscope = 'stream'"));
        let principal = shows(&who, &key.signs(&claims("email", "a@x".into()))).await.unwrap();
        assert_eq!(principal.subject, "alice@campus", "{algorithm:?}");
        assert_eq!((principal.names.len(), principal.groups), (0, vec!["staff".to_owned()]));
        assert!(principal.expires.is_some());
    }
}

#[tokio::test]
async fn claims_that_do_not_fit_keep_the_caller_out() {
    let key = Key::new("k", Algorithm::ES256);
    let (who, _folder) = knows(&[key.public()], "scope = 'stream'\nname_claims = ['nick']");
    let mut verified = claims("email", "a@x".into());
    verified["email_verified"] = true.into();
    verified["nick"] = json!(["al", "root@campus"]);
    assert_eq!(shows(&who, &key.signs(&verified)).await.unwrap().names, ["al", "a@x"]);
    for (claim, value, why) in [
        ("exp", json!(now() - 3600), Invalid::Expired),
        ("exp", Value::Null, Invalid::Endless),
        ("exp", json!("tomorrow"), Invalid::Endless),
        ("nbf", json!(now() + 3600), Invalid::Early),
        ("nbf", json!("yesterday"), Invalid::Unknown),
        ("aud", json!("mail"), Invalid::Audience),
        ("aud", Value::Null, Invalid::Audience),
        ("scope", json!("streams"), Invalid::Scope),
        ("sub", Value::Null, Invalid::Subject),
        ("sub", json!("a\u{1b}[2J"), Invalid::Subject),
        // No provider has this issuer.
        ("iss", json!("https://idp.example.evil"), Invalid::Unknown),
        ("iss", json!(["https://idp.example"]), Invalid::Unknown),
        ("iss", Value::Null, Invalid::Unknown),
    ] {
        let answer = shows(&who, &key.signs(&claims(claim, value.clone()))).await;
        assert_eq!(answer, Err(Refused::Invalid(why)), "{claim} {value}");
    }
    // Clocks may differ by half a minute.
    shows(&who, &key.signs(&claims("exp", json!(now() - 5)))).await.unwrap();
    shows(&who, &key.signs(&claims("nbf", json!(now() + 5)))).await.unwrap();
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let (key, rsa, stranger) =
        (Key::new("k", Algorithm::ES256), Key::new("r", Algorithm::RS256), Key::new("k", Algorithm::ES256));
    let (who, _folder) = knows(&[key.public(), rsa.public()], "");
    let good = claims("x", 1.into());
    let token = key.signs(&good);
    shows(&who, &token).await.unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, body) = signed.split_once('.').unwrap();

    let none = part(json!({"alg": "none", "kid": "k"}));
    let critical = Header {
        crit: Some(vec!["exp".to_owned()]),
        kid: Some("k".to_owned()),
        ..Header::new(Algorithm::ES256)
    };
    let public = rsa.pair.public_key_pem();
    let hmac = |secret: &[u8], kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &good, &EncodingKey::from_secret(secret)).unwrap()
    };
    let other = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::ES256) };
    let slower = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::RS512) };
    for (what, forged) in [
        ("another's key", stranger.signs(&good)),
        ("changed claims", format!("{header}.{}.{signature}", part(claims("sub", "root".into())))),
        ("no signature", format!("{signed}.")),
        ("algorithm none", format!("{none}.{body}.")),
        ("algorithm none, some signature", format!("{none}.{body}.{signature}")),
        ("a public key as HMAC secret", hmac(public.as_bytes(), "r")),
        ("a public key as HMAC secret, DER", hmac(&rsa.pair.subject_public_key_info(), "r")),
        ("a key of another kind", encode(&other, &good, &key.private).unwrap()),
        ("an algorithm that is not allowed", encode(&slower, &good, &rsa.private).unwrap()),
        ("critical extensions", encode(&critical, &good, &key.private).unwrap()),
        (
            "an unknown key",
            encode(&Header { kid: Some("?".to_owned()), ..critical.clone() }, &good, &key.private).unwrap(),
        ),
        ("claims that are no object", format!("{header}.{}.{signature}", part("[]"))),
    ] {
        assert_eq!(shows(&who, &forged).await, Err(Refused::Invalid(Invalid::Unknown)), "{what}");
    }
}

#[tokio::test]
async fn keys_that_are_not_for_signatures_verify_none() {
    let key = Key::new("k", Algorithm::ES256);
    let spare = Key::new("spare", Algorithm::ES256).public();
    let with = |member: &str, value: Value| {
        let mut public = key.public();
        match value {
            Value::Null => public.as_object_mut().unwrap().remove(member),
            value => public.as_object_mut().unwrap().insert(member.to_owned(), value),
        };
        public
    };
    let token = key.signs(&claims("x", 1.into()));
    for (member, value, good) in [
        ("use", json!("enc"), false),
        ("key_ops", json!(["encrypt"]), false),
        ("key_ops", json!(["verify"]), true),
        ("alg", json!("ES384"), false),
        ("alg", json!("ECDH-ES"), false),
        ("alg", Value::Null, true),
        ("use", Value::Null, true),
        ("kid", Value::Null, false),
        ("crv", json!("P-384"), false),
    ] {
        // Keys of unknown kinds stand beside it.
        let odd = json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"});
        let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "k"});
        let (who, _folder) = knows(&[odd, secret, spare.clone(), with(member, value.clone())], "");
        assert_eq!(shows(&who, &token).await.is_ok(), good, "{member} {value}");
    }
    // A token without `kid` may be of any key that fits.
    let (who, _folder) = knows(&[spare, key.public()], "");
    let nameless = encode(&Header::new(Algorithm::ES256), &claims("x", 1.into()), &key.private).unwrap();
    shows(&who, &nameless).await.unwrap();
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (old, new) = (Key::new("old", Algorithm::ES256), Key::new("new", Algorithm::ES256));
    let (who, folder) = knows(&[old.public()], "");
    let (first, second) = (old.signs(&claims("x", 1.into())), new.signs(&claims("x", 1.into())));
    shows(&who, &first).await.unwrap();
    shows(&who, &second).await.unwrap_err();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, set(&[old.public(), new.public()])).unwrap();
    shows(&who, &first).await.unwrap();
    shows(&who, &second).await.unwrap();
    std::fs::write(&file, "{").unwrap();
    shows(&who, &second).await.expect("a broken file leaves the one before in force");
    std::fs::write(&file, set(&[new.public()])).unwrap();
    shows(&who, &first).await.unwrap_err();
    shows(&who, &second).await.unwrap();
}

/// A server of one document, and how often it was fetched.
#[derive(Default)]
struct Document {
    text: Mutex<String>,
    fetched: AtomicUsize,
}

async fn serve(document: &Arc<Document>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let fetch = |State(document): State<Arc<Document>>| async move {
        document.fetched.fetch_add(1, Ordering::Relaxed);
        document.text.lock().unwrap().clone()
    };
    let router = Router::new().fallback(fetch).with_state(Arc::clone(document));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn keys_from_a_url_are_fetched_when_needed_and_seldom() {
    let (old, new) = (Key::new("old", Algorithm::ES256), Key::new("new", Algorithm::ES256));
    let document = Arc::new(Document::default());
    let url = serve(&document).await;
    let seldom = provider(&url, "refresh_seconds = 3600", Path::new("/"));
    let often = provider(&url, "refresh_seconds = 1", Path::new("/"));
    assert_eq!(document.fetched.load(Ordering::Relaxed), 0, "nothing is fetched to start");

    let (first, second) = (old.signs(&claims("x", 1.into())), new.signs(&claims("x", 1.into())));
    // What is there is no key set, and it is not asked for again at once.
    for _ in 0..2 {
        let answer = shows(&often, &first).await;
        assert_eq!(answer, Err(Refused::Unavailable { authority: "campus".to_owned() }));
    }
    *document.text.lock().unwrap() = set(&[old.public()]);
    until(&often, &first, Result::is_ok).await;
    document.fetched.store(0, Ordering::Relaxed);
    for _ in 0..3 {
        shows(&seldom, &first).await.unwrap();
        assert_eq!(shows(&seldom, &second).await, Err(Refused::Invalid(Invalid::Unknown)));
    }
    assert_eq!(document.fetched.load(Ordering::Relaxed), 1, "forged key names fetch nothing");

    *document.text.lock().unwrap() = set(&[new.public()]);
    until(&often, &second, Result::is_ok).await;
    assert_eq!(shows(&often, &first).await, Err(Refused::Invalid(Invalid::Unknown)), "the old key is gone");
}

#[tokio::test]
async fn a_jwt_goes_to_its_issuer_and_others_to_introspection() {
    let key = Key::new("k", Algorithm::ES256);
    let more = "[[identity]]\nkind = 'introspection'\nname = 'asked'\nurl = 'http://127.0.0.1:1/'\nclient_id = 'i'\n\
                client_secret_env = 'PATH'\nscope = 's'";
    let (who, _folder) = knows(&[key.public()], more);
    let asked = Err(Refused::Unavailable { authority: "asked".to_owned() });
    shows(&who, &key.signs(&claims("x", 1.into()))).await.unwrap();
    assert_eq!(
        shows(&who, &key.signs(&claims("aud", "x".into()))).await,
        Err(Refused::Invalid(Invalid::Audience))
    );
    assert_eq!(shows(&who, &key.signs(&claims("iss", "x".into()))).await, asked);
    assert_eq!(shows(&who, "opaque").await, asked);
}
