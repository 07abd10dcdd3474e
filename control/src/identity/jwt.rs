//! Tokens with claims and signature: RFC 7519, keys by RFC 7517.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header};
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::Value;

use super::claims::{Claims, LEEWAY, Rules};
use super::config::JwtConfig;
use super::{Invalid, Principal, Problem, Refused, file, http};
use crate::file::Watched;

/// How old keys from a URL get before they are fetched again.
const FRESH: Duration = Duration::from_secs(3600);
/// How old they may get while fetching fails.
const STALE: Duration = Duration::from_secs(86_400);
/// Most keys of a set.
const MOST_KEYS: usize = 64;

/// The provider.
#[derive(Debug)]
pub(super) struct Jwt {
    rules: Rules,
    issuer: String,
    algorithms: Vec<Algorithm>,
    source: Source,
}

/// Where the keys are.
#[derive(Debug)]
enum Source {
    File(Watched<Keys, String>),
    Url(Arc<Remote>),
}

/// Keys from a URL.
#[derive(Debug)]
struct Remote {
    provider: String,
    url: Url,
    client: Client,
    rest: Duration,
    /// Held while fetching: callers meanwhile wait for the same keys.
    turn: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    keys: Option<(Arc<Keys>, Instant)>,
    /// When the last fetch ended, and whether well.
    last: Option<(Instant, bool)>,
}

/// The keys of a set that can verify signatures.
#[derive(Debug)]
struct Keys(Vec<(Jwk, DecodingKey)>);

impl Jwt {
    pub(super) fn new(config: &JwtConfig, base: &Path) -> Result<Jwt, Problem> {
        for (key, value) in
            [("issuer", &config.issuer), ("audience", &config.audience), ("jwks", &config.jwks)]
        {
            if value.is_empty() {
                return Err((key, "is empty; give what the authority has published".to_owned()));
            }
        }
        if config.refresh_seconds == 0 {
            return Err((
                "refresh_seconds",
                "is 0, which lets forged tokens make a load for the authority; give at least 1".to_owned(),
            ));
        }
        if config.algorithms.is_empty() {
            return Err(("algorithms", "is empty; leave it out for RS256 and ES256".to_owned()));
        }
        let algorithms = config
            .algorithms
            .iter()
            .map(|text| algorithm(text))
            .collect::<Result<_, _>>()
            .map_err(|e| ("algorithms", e))?;
        let source = if config.jwks.contains("://") {
            let url = http::url(&config.jwks).map_err(|problem| ("jwks", problem))?;
            let ca = config.ca.as_ref().map(|ca| base.join(ca));
            let client = http::client(&url, ca.as_deref())?;
            Source::Url(Arc::new(Remote {
                provider: config.name.clone(),
                url,
                client,
                rest: Duration::from_secs(config.refresh_seconds),
                turn: tokio::sync::Mutex::default(),
                kept: Mutex::default(),
            }))
        } else {
            Source::File(
                file::open(base.join(&config.jwks), Keys::parse).map_err(|problem| ("jwks", problem))?,
            )
        };
        Ok(Jwt {
            rules: Rules {
                provider: config.name.clone(),
                subject: config.subject_claim.clone(),
                groups: config.group_claim.clone(),
                names: config.name_claims.clone(),
                issuer: Some(config.issuer.clone()),
                audience: Some(config.audience.clone()),
                scope: config.scope.clone(),
                leeway: LEEWAY,
            },
            issuer: config.issuer.clone(),
            algorithms,
            source,
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whose token this is.
    pub(super) async fn check(&self, token: &str) -> Result<Principal, Refused> {
        let header = decode_header(token).map_err(|_| Invalid::Unknown)?;
        // Extensions that have to be understood (RFC 7515, section 4.1.11) are not.
        if header.crit.is_some() || !self.algorithms.contains(&header.alg) {
            return Err(Invalid::Unknown.into());
        }
        // The library proves the signature; times, issuer and audience are our rules, the same as for introspection.
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp"]);
        validation.validate_exp = false;
        validation.validate_aud = false;
        let keys = self.keys(header.kid.as_deref(), header.alg).await?;
        for key in keys.fitting(header.kid.as_deref(), header.alg) {
            match decode::<Claims>(token, key, &validation) {
                Ok(data) => return Ok(self.rules.principal(&data.claims)?),
                Err(e) => match e.kind() {
                    ErrorKind::MissingRequiredClaim(_) => {
                        return Err(Invalid::Endless.into());
                    }
                    _ => continue,
                },
            }
        }
        Err(Invalid::Unknown.into())
    }

    /// The keys. From a URL they are fetched when there are none, when they are old, and when none fits, which a new
    /// key of the authority explains as well as a forger's token: at most once in a while.
    async fn keys(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Keys>, Refused> {
        let remote = match &self.source {
            Source::File(file) => return Ok(file::current(file)),
            Source::Url(remote) => remote,
        };
        let fit = |keys: &Arc<Keys>| keys.fitting(kid, algorithm).next().is_some();
        if let Some(keys) = remote.kept(FRESH).filter(fit) {
            return Ok(keys);
        }
        // A task of its own: others may wait for the keys when this caller has gone.
        let well = tokio::spawn(Arc::clone(remote).refresh()).await.unwrap_or(false);
        let keys = remote.kept(STALE).filter(|keys| well || fit(keys));
        keys.ok_or_else(|| Refused::Unavailable { authority: self.rules.provider.clone() })
    }
}

impl Remote {
    /// The keys, if fetched at most `age` ago.
    fn kept(&self, age: Duration) -> Option<Arc<Keys>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keys.as_ref().filter(|(_, at)| at.elapsed() < age).map(|(keys, _)| Arc::clone(keys))
    }

    /// Fetches the keys if the last time is long enough ago. Whether the last fetch went well.
    async fn refresh(self: Arc<Remote>) -> bool {
        let _turn = self.turn.lock().await;
        let last = self.kept.lock().unwrap_or_else(PoisonError::into_inner).last;
        if let Some((_, well)) = last.filter(|(at, _)| at.elapsed() < self.rest) {
            return well;
        }
        let asked = Instant::now();
        let fetched = http::json(self.client.get(self.url.clone())).await.and_then(Keys::from_json);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let well = fetched.is_ok();
        kept.last = Some((Instant::now(), well));
        match fetched {
            Ok(keys) => kept.keys = Some((Arc::new(keys), asked)),
            Err(problem) => tracing::warn!("identity {:?}: {}: {problem}", self.provider, self.url),
        }
        well
    }
}

impl Keys {
    fn parse(text: &str) -> Result<Keys, String> {
        serde_json::from_str(text).map_err(|e| format!("is no JSON: {e}")).and_then(Keys::from_json)
    }

    /// Keys of kinds that are unknown here are left out: RFC 7517, section 5.
    fn from_json(set: Value) -> Result<Keys, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_value(set).map_err(|e| format!("is no JWK set: {e}"))?;
        let usable = |key: Value| {
            let key: Jwk = serde_json::from_value(key).ok()?;
            let meant = key.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature)
                && key.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
            let secret = matches!(key.algorithm, AlgorithmParameters::OctetKey(_));
            let decoding = DecodingKey::from_jwk(&key).ok()?;
            (meant && !secret).then_some((key, decoding))
        };
        let keys: Vec<_> = set.keys.into_iter().take(MOST_KEYS).filter_map(usable).collect();
        if keys.is_empty() {
            return Err("holds no public key for signatures".to_owned());
        }
        Ok(Keys(keys))
    }

    /// Keys that a token with this header can be signed with. One without `kid` may be of any; a key without `kid` has
    /// signed no token that names one.
    fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &Jwk| {
            let named = kid.is_none() || key.common.key_id.as_deref() == kid;
            let meant = key.common.key_algorithm.is_none_or(|alg| alg == KeyAlgorithm::from(algorithm));
            let made = match &key.algorithm {
                AlgorithmParameters::RSA(_) => algorithm.family() == AlgorithmFamily::Rsa,
                AlgorithmParameters::EllipticCurve(ec) => matches!(
                    (&ec.curve, algorithm),
                    (EllipticCurve::P256, Algorithm::ES256) | (EllipticCurve::P384, Algorithm::ES384)
                ),
                AlgorithmParameters::OctetKeyPair(_) => algorithm == Algorithm::EdDSA,
                _ => false,
            };
            named && meant && made
        };
        self.0.iter().filter(move |(key, _)| fits(key)).map(|(_, decoding)| decoding)
    }
}

/// An algorithm with a public key.
fn algorithm(text: &str) -> Result<Algorithm, String> {
    match text.parse::<Algorithm>() {
        Ok(algorithm) if algorithm.family() != AlgorithmFamily::Hmac => Ok(algorithm),
        Ok(_) => Err(format!(
            "{text} has no public key: whoever can verify such tokens can forge them; use RS256, ES256 or EdDSA"
        )),
        Err(_) => Err(format!(
            "{text:?} is unknown; known are RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"
        )),
    }
}

/// `iss` of a token that looks like a JWT, unproved: only good to choose who shall prove it.
pub(super) fn issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Unproved {
        iss: String,
    }
    decode_header(token).ok()?;
    Some(jsonwebtoken::dangerous::insecure_decode::<Unproved>(token).ok()?.claims.iss)
}
