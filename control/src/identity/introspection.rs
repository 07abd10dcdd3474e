//! Tokens that an OAuth 2.0 server is asked about: RFC 7662.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use aws_lc_rs::digest::{SHA256, digest};
use reqwest::{Client, Url};
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::claims::Rules;
use super::config::{IntrospectionConfig, Preset, Secret};
use super::{Invalid, Principal, Problem, Refused, http};

/// Questions at once, lest strangers' tokens make a load for the authority.
const AT_ONCE: usize = 16;
/// Most entries that `cache` may ask for: each may be several KiB.
const LARGEST_CACHE: usize = 65_536;
/// Longest that `cache_seconds` may ask for: a revoked token is to be refused the same day.
const LONGEST_CACHE: u64 = 86_400;

/// The provider.
#[derive(Debug)]
pub(super) struct Introspection {
    rules: Rules,
    url: Url,
    client: Client,
    id: String,
    secret: Secret,
    include: Option<&'static str>,
    /// Basic authentication with identifier and secret encoded as RFC 6749, section 2.3.1 has it.
    encoded: bool,
    keep: Duration,
    most: usize,
    at_once: Semaphore,
    answers: Mutex<HashMap<Key, Arc<OnceCell<Answer>>>>,
}

/// SHA-256 of a token.
type Key = [u8; 32];

/// What the authority says of a token.
#[derive(Debug)]
struct Answer {
    verdict: Result<Principal, Invalid>,
    until: Instant,
}

impl Introspection {
    pub(super) fn new(config: &IntrospectionConfig, base: &Path) -> Result<Introspection, Problem> {
        let globus = config.preset == Some(Preset::Globus);
        let text = match &config.url {
            Some(url) => url.as_str(),
            None if globus => "https://auth.globus.org/v2/oauth2/token/introspect",
            None => {
                return Err((
                    "url",
                    "is missing; give the introspection endpoint of the OAuth 2.0 server".into(),
                ));
            }
        };
        let url = http::url(text).map_err(|problem| ("url", problem))?;
        if config.client_id.is_empty() {
            return Err((
                "client_id",
                "is empty; give what the OAuth 2.0 server has registered for this service".into(),
            ));
        }
        let scope = config.scope.clone().or_else(|| {
            globus.then(|| format!("https://auth.globus.org/scopes/{}/scistream", config.client_id))
        });
        if scope.is_none() && config.audience.is_none() {
            let text =
                "give scope or audience; otherwise tokens for every other service of the authority would do";
            return Err(("scope", text.to_owned()));
        }
        if !(1..=LARGEST_CACHE).contains(&config.cache) {
            return Err(("cache", format!("{} is not in 1 to {LARGEST_CACHE} answers", config.cache)));
        }
        if config.cache_seconds > LONGEST_CACHE {
            return Err(("cache_seconds", format!("{} is more than {LONGEST_CACHE}", config.cache_seconds)));
        }
        let names = match &config.name_claims {
            Some(names) => names.clone(),
            None if globus => vec!["username".to_owned(), "identity_set".to_owned()],
            None => vec!["username".to_owned()],
        };
        let secret = secret(config, base)?;
        let ca = config.ca.as_ref().map(|ca| base.join(ca));
        Ok(Introspection {
            rules: Rules {
                provider: config.name.clone(),
                subject: config.subject_claim.clone(),
                groups: config.group_claim.clone(),
                names,
                issuer: config.issuer.clone(),
                audience: config.audience.clone(),
                scope,
                // Who calls the token valid has looked at the clock.
                leeway: Duration::ZERO,
            },
            client: http::client(&url, ca.as_deref())?,
            url,
            id: config.client_id.clone(),
            secret,
            // Globus Auth's own extension: the identities that the user has linked.
            include: globus.then_some("identity_set"),
            // Its clients send them as they are.
            encoded: !globus,
            keep: Duration::from_secs(config.cache_seconds),
            most: config.cache,
            at_once: Semaphore::new(AT_ONCE),
            answers: Mutex::default(),
        })
    }

    /// Whose token this is, by the authority's word of at most `cache_seconds` ago. Callers with the same token wait for
    /// one question.
    pub(super) async fn check(&self, token: &str) -> Result<Principal, Refused> {
        let mut key = Key::default();
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let place = self.place(key);
        let asked = timeout(http::PATIENCE, place.get_or_try_init(|| self.ask(token))).await;
        let failure = match asked {
            Ok(Ok(answer)) => {
                let expires = answer.verdict.as_ref().ok().and_then(|principal| principal.expires);
                if expires.is_some_and(|expires| expires <= SystemTime::now()) {
                    return Err(Invalid::Expired.into());
                }
                return Ok(answer.verdict.clone()?);
            }
            Ok(Err(problem)) => problem,
            Err(_) => "it does not answer in time".to_owned(),
        };
        tracing::warn!("identity {:?}: {}: {failure}", self.rules.provider, self.url);
        Err(Refused::Unavailable { authority: self.rules.provider.clone() })
    }

    /// Where the answer about a token is or comes to be. Answers that are over and questions that failed leave first
    /// when there are too many, then those about tokens that are not valid, then the oldest.
    fn place(&self, key: Key) -> Arc<OnceCell<Answer>> {
        let now = Instant::now();
        let over = |place: &OnceCell<Answer>| place.get().is_some_and(|answer| answer.until <= now);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = answers.get(&key).filter(|place| !over(place)) {
            return Arc::clone(place);
        }
        if answers.len() >= self.most {
            // A place without answer that only this map holds is one of a question that failed.
            answers.retain(|_, place| !over(place) && (place.initialized() || Arc::strong_count(place) > 1));
        }
        if answers.len() >= self.most {
            let worth =
                |place: &OnceCell<Answer>| place.get().map(|answer| (answer.verdict.is_ok(), answer.until));
            let least = answers.iter().filter_map(|(key, place)| Some((worth(place)?, *key))).min();
            // Where every place waits for its answer, the number of callers bounds them.
            if let Some((_, key)) = least {
                answers.remove(&key);
            }
        }
        let place = Arc::default();
        answers.insert(key, Arc::clone(&place));
        place
    }

    /// Asks the authority.
    async fn ask(&self, token: &str) -> Result<Answer, String> {
        let _turn = self.at_once.acquire().await.map_err(|e| e.to_string())?;
        // The token may be revoked while the answer is on its way.
        let asked = Instant::now();
        let mut form = vec![("token", token), ("token_type_hint", "access_token")];
        form.extend(self.include.map(|include| ("include", include)));
        let (id, secret) = (self.id.as_str(), self.secret.expose());
        let request = self.client.post(self.url.clone()).header("accept", "application/json").form(&form);
        let request = match self.encoded {
            true => request.basic_auth(encoded(id), Some(encoded(secret))),
            false => request.basic_auth(id, Some(secret)),
        };
        let answer = http::json(request).await?;
        let verdict = match answer.get("active").and_then(Value::as_bool) {
            Some(true) => {
                answer.as_object().ok_or(Invalid::Unknown).and_then(|claims| self.rules.principal(claims))
            }
            Some(false) => Err(Invalid::Unknown),
            None => return Err("its answer does not tell whether the token is `active`".to_owned()),
        };
        if let Err(invalid @ (Invalid::Subject | Invalid::Issuer)) = verdict {
            // As likely a slip in the configuration as in the token.
            tracing::warn!(
                "identity {:?}: a token that {} calls active: {invalid}",
                self.rules.provider,
                self.url
            );
        }
        Ok(Answer { verdict, until: asked + self.keep })
    }
}

/// `application/x-www-form-urlencoded`.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Our secret at the authority.
fn secret(config: &IntrospectionConfig, base: &Path) -> Result<Secret, Problem> {
    let (key, text) = match (&config.client_secret, &config.client_secret_file, &config.client_secret_env) {
        (Some(secret), None, None) => return Ok(secret.clone()),
        (None, Some(file), None) => {
            let file = base.join(file);
            let text =
                fs::read_to_string(&file).map_err(|e| format!("{} cannot be read: {e}", file.display()));
            ("client_secret_file", text)
        }
        (None, None, Some(name)) => {
            let text = env::var(name).map_err(|e| format!("environment variable {name}: {e}"));
            ("client_secret_env", text)
        }
        _ => {
            return Err((
                "client_secret_file",
                "give exactly one of client_secret_file and client_secret_env".into(),
            ));
        }
    };
    let text = text.map_err(|problem| (key, problem))?.trim().to_owned();
    if text.is_empty() {
        return Err((key, "holds nothing; put the client's secret there".to_owned()));
    }
    Ok(Secret::from(text))
}
