//! `[[identity]]` of the configuration file.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// One `[[identity]]`: a way to prove an identity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProviderConfig {
    /// Bearer tokens that an OAuth 2.0 server is asked about.
    Introspection(IntrospectionConfig),
    /// Bearer tokens with claims and signature.
    Jwt(JwtConfig),
    /// Client certificates.
    Certificate(CertificateConfig),
    /// Bearer tokens that the site itself has issued.
    Tokens(TokensConfig),
}

impl ProviderConfig {
    /// Its name: the end of its users' subjects.
    pub fn name(&self) -> &str {
        match self {
            ProviderConfig::Introspection(config) => &config.name,
            ProviderConfig::Jwt(config) => &config.name,
            ProviderConfig::Certificate(config) => &config.name,
            ProviderConfig::Tokens(config) => &config.name,
        }
    }

    /// The provider `globus` with what Globus Auth has registered for this service, as `--client_id` and
    /// `--client_secret` give it.
    pub fn globus(client_id: String, client_secret: Secret) -> ProviderConfig {
        ProviderConfig::Introspection(IntrospectionConfig {
            name: "globus".to_owned(),
            preset: Some(Preset::Globus),
            url: None,
            client_id,
            client_secret_file: None,
            client_secret_env: None,
            client_secret: Some(client_secret),
            scope: None,
            audience: None,
            issuer: None,
            ca: None,
            cache: cache(),
            cache_seconds: cache_seconds(),
            subject_claim: subject_claim(),
            group_claim: group_claim(),
            name_claims: None,
        })
    }
}

/// Tokens are shown to an introspection endpoint: RFC 7662.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// Name of the provider.
    pub name: String,
    /// Fills `url`, `scope` and `name_claims` where they are left out.
    pub preset: Option<Preset>,
    /// The endpoint: https, or http at a loopback address.
    pub url: Option<String>,
    /// Who we are at the OAuth 2.0 server.
    pub client_id: String,
    /// File with our secret there. One of the three has to be given.
    pub client_secret_file: Option<PathBuf>,
    /// Environment variable with it.
    pub client_secret_env: Option<String>,
    /// The secret itself; not from the file, which others may read.
    #[serde(skip)]
    pub client_secret: Option<Secret>,
    /// Scope that a token needs. This or `audience` has to be given.
    pub scope: Option<String>,
    /// One of the services that a token has to be meant for.
    pub audience: Option<String>,
    /// Issuer that the endpoint has to name.
    pub issuer: Option<String>,
    /// CAs of the endpoint, PEM, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Most answers kept.
    #[serde(default = "cache")]
    pub cache: usize,
    /// How long an answer is kept, and so how long a revoked token may still be accepted; 0 asks each time.
    #[serde(default = "cache_seconds")]
    pub cache_seconds: u64,
    /// Member of the answer that names the user, unique and never given to another user.
    #[serde(default = "subject_claim")]
    pub subject_claim: String,
    /// Member of the answer with the user's groups, a string or a list.
    #[serde(default = "group_claim")]
    pub group_claim: String,
    /// Members of the answer with further names of the user, strings or lists; left out: `username`.
    pub name_claims: Option<Vec<String>>,
}

/// A known OAuth 2.0 server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Globus Auth.
    Globus,
}

/// Tokens are JWTs: RFC 7519.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// Name of the provider.
    pub name: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// What `aud` of its tokens has to hold.
    pub audience: String,
    /// The JWK set: a file, or a URL (https, or http at a loopback address).
    pub jwks: String,
    /// Algorithms of signature that are accepted.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<String>,
    /// Scope that a token needs.
    pub scope: Option<String>,
    /// CAs of the URL, PEM, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Least time between two fetches of the URL: how long a new key may be unknown.
    #[serde(default = "refresh_seconds")]
    pub refresh_seconds: u64,
    /// Claim that names the user, unique and never given to another user.
    #[serde(default = "subject_claim")]
    pub subject_claim: String,
    /// Claim with the user's groups, a string or a list.
    #[serde(default = "group_claim")]
    pub group_claim: String,
    /// Claims with further names of the user, strings or lists. A verified e-mail address is one without being listed.
    #[serde(default)]
    pub name_claims: Vec<String>,
}

/// Clients have certificates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// Name of the provider.
    pub name: String,
    /// CAs of the clients' certificates, PEM.
    pub ca: PathBuf,
}

/// The site has issued the tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Name of the provider.
    pub name: String,
    /// The file: see [`super::tokens`].
    pub file: PathBuf,
}

fn cache() -> usize {
    1024
}

fn cache_seconds() -> u64 {
    60
}

fn refresh_seconds() -> u64 {
    30
}

fn subject_claim() -> String {
    "sub".to_owned()
}

fn group_claim() -> String {
    "groups".to_owned()
}

fn algorithms() -> Vec<String> {
    vec!["RS256".to_owned(), "ES256".to_owned()]
}

/// Text that is not printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
