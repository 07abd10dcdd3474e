//! Who calls: from what a caller shows to a [`Principal`], by the ways that the site has configured.
//!
//! | kind | proof | authority |
//! |---|---|---|
//! | `introspection` | bearer token | an OAuth 2.0 server that is asked about it (RFC 7662) |
//! | `jwt` | bearer token that carries claims and signature (RFC 7519) | the holder of a key in a JWK set (RFC 7517) |
//! | `tokens` | bearer token | a file of hashes at this site |
//! | `certificate` | client certificate of TLS | a CA |
#![forbid(unsafe_code)]

mod certificate;
mod claims;
mod config;
mod file;
mod http;
mod introspection;
mod jwt;
pub mod tokens;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use config::{
    CertificateConfig, IntrospectionConfig, JwtConfig, Preset, ProviderConfig, Secret, TokensConfig,
};

/// Longest access token that is looked at, in bytes.
const LONGEST_TOKEN: usize = 8 * 1024;
/// What clients of the older service send when they have no token.
const NO_TOKEN: &str = "INVALID_TOKEN";
/// The issuer when nobody is authenticated; no provider may have this name.
const INSECURE: &str = "insecure";

/// Somebody whose identity was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Unique at the site: the issuer's name for the user, `@` and the issuer's name in the configuration, such as
    /// `f0b5...@globus` or `alice@tokens`. Owner of sessions, subject of policy and audit.
    pub subject: String,
    /// Name of the way of proof in the configuration.
    pub issuer: String,
    /// Further names that policy may call the user by, such as a verified e-mail address; unlike `subject` not
    /// necessarily unique. None of them looks like a subject of this site.
    pub names: Vec<String>,
    /// Groups by the issuer's word.
    pub groups: Vec<String>,
    /// When the proof ends; none for proofs without end.
    pub expires: Option<SystemTime>,
}

/// What a caller shows.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// Value of the header `authorization`: a raw token or `Bearer TOKEN`.
    pub authorization: Option<&'a str>,
    /// The client's certificate, DER, which the TLS layer has verified up to the configured CA.
    pub certificate: Option<&'a [u8]>,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The header is the secret itself.
        let authorization = self.authorization.map(|_| "..");
        f.debug_struct("Credentials")
            .field("authorization", &authorization)
            .field("certificate", &self.certificate.map(<[u8]>::len))
            .finish()
    }
}

impl<'a> Credentials<'a> {
    /// The token, if one was sent.
    fn token(&self) -> Result<Option<&'a str>, Invalid> {
        let Some(value) = self.authorization.map(str::trim) else {
            return Ok(None);
        };
        let token = match value.split_at_checked("bearer".len()) {
            Some((scheme, rest))
                if scheme.eq_ignore_ascii_case("bearer") && (rest.is_empty() || rest.starts_with(' ')) =>
            {
                rest.trim_start()
            }
            _ => value,
        };
        match token {
            "" | NO_TOKEN => Ok(None),
            _ if token.len() <= LONGEST_TOKEN && is_b64token(token) => Ok(Some(token)),
            _ => Err(Invalid::Malformed),
        }
    }
}

/// Whether `text` has the form of a bearer token: RFC 6750, section 2.1, `b64token`.
fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

/// Why a caller is not let in, in a sentence for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The caller shows nothing.
    #[error("you have shown no identity; send an access token in the header `authorization`")]
    Nothing,
    /// What the caller shows is not valid here.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Whether it is valid cannot be told at the moment.
    #[error("the authority {authority:?} cannot be asked about your token at the moment; try again later")]
    Unavailable {
        /// Name of the provider in the configuration.
        authority: String,
    },
}

impl Refused {
    /// The more telling one of two providers' answers about one token. One who could not be asked may know the token;
    /// one who tells what is wrong knows it, unlike one to whom it is unknown.
    fn or(self, other: Refused) -> Refused {
        let rank = |refused: &Refused| match refused {
            Refused::Nothing | Refused::Invalid(Invalid::Unknown) => 0,
            Refused::Invalid(_) => 1,
            Refused::Unavailable { .. } => 2,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// What is wrong with a token or a certificate, as far as its bearer may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No access token at all.
    #[error(
        "the header `authorization` holds no access token; send the token alone or `Bearer` and the token, at most \
         8 KiB"
    )]
    Malformed,
    /// Nobody has issued it, or it was revoked, or the signature is another's.
    #[error("your token is not valid here: it is unknown, revoked or expired; get a new one")]
    Unknown,
    /// It ended.
    #[error("your token or certificate has expired; get a new one")]
    Expired,
    /// It has no end.
    #[error("your token does not tell when it expires; ask for one that does")]
    Endless,
    /// It begins later.
    #[error("your token or certificate is not valid yet; see whether the clocks are right")]
    Early,
    /// It was issued for other purposes.
    #[error("your token lacks the scope for this service; ask for a token with that scope")]
    Scope,
    /// It was issued for another service.
    #[error("your token is meant for another service; ask for a token for this one")]
    Audience,
    /// Another authority has issued it.
    #[error("your token comes from an authority that is not accepted here")]
    Issuer,
    /// It proves nobody's identity.
    #[error("your token or certificate does not tell who you are in a way that is accepted here")]
    Subject,
}

/// Why the configured providers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody could ever be let in.
    #[error(
        "no [[identity]] is configured, so nobody could be let in; add one, or start with \
         --insecure-no-authentication to let everybody in"
    )]
    None,
    /// A key of a provider has no usable value.
    #[error("identity {name:?}: {key}: {problem}")]
    Key {
        /// Name of the provider.
        name: String,
        /// The key.
        key: &'static str,
        /// What is wrong with its value, and the mend.
        problem: String,
    },
}

/// A key without usable value; the provider's name comes later.
type Problem = (&'static str, String);

/// Tells who callers are.
#[derive(Debug)]
pub struct Authenticator {
    /// In configured order; none lets everybody in.
    providers: Option<Vec<(String, Provider)>>,
}

/// One configured way of proof.
#[derive(Debug)]
enum Provider {
    Introspection(introspection::Introspection),
    Jwt(jwt::Jwt),
    Certificate(certificate::Certificate),
    Tokens(tokens::Tokens),
}

impl Authenticator {
    /// Makes ready what `configs` names; relative paths start at `base`. Reads files, asks no authority: one that is
    /// down does not keep the server from starting.
    ///
    /// # Errors
    /// No provider, two of a name, two for certificates, or a key without usable value.
    pub fn new(configs: &[ProviderConfig], base: &Path) -> Result<Authenticator, IdentityError> {
        if configs.is_empty() {
            return Err(IdentityError::None);
        }
        // The HTTP client asks for the process's provider. Where main has installed one, this changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut names = HashSet::new();
        let mut certificates = 0;
        let mut providers = Vec::new();
        for config in configs {
            let name = config.name();
            let problem = |(key, problem)| IdentityError::Key { name: name.to_owned(), key, problem };
            checked_name(name).map_err(|text| problem(("name", text)))?;
            if !names.insert(name) {
                let text =
                    "another [[identity]] has this name; owners of sessions would be mixed up".to_owned();
                return Err(problem(("name", text)));
            }
            certificates += usize::from(matches!(config, ProviderConfig::Certificate(_)));
            if certificates > 1 {
                let text =
                    "only one [[identity]] may be of kind certificate; put all CAs into one file".to_owned();
                return Err(problem(("kind", text)));
            }
            let provider = match config {
                ProviderConfig::Introspection(c) => {
                    introspection::Introspection::new(c, base).map(Provider::Introspection)
                }
                ProviderConfig::Jwt(c) => jwt::Jwt::new(c, base).map(Provider::Jwt),
                ProviderConfig::Certificate(c) => {
                    certificate::Certificate::new(c, base).map(Provider::Certificate)
                }
                ProviderConfig::Tokens(c) => tokens::Tokens::new(c, base).map(Provider::Tokens),
            };
            providers.push((name.to_owned(), provider.map_err(problem)?));
        }
        Ok(Authenticator { providers: Some(providers) })
    }

    /// Takes everybody for the one principal `anonymous@insecure`, whatever they show.
    pub fn insecure() -> Authenticator {
        Authenticator { providers: None }
    }

    /// Whether everybody is let in.
    pub fn is_insecure(&self) -> bool {
        self.providers.is_none()
    }

    /// Files with the CAs that client certificates have to come from, PEM; none when no certificates are asked for.
    pub fn client_ca_files(&self) -> Vec<PathBuf> {
        let providers = self.providers.iter().flatten();
        let ca = |(_, provider): &(String, Provider)| match provider {
            Provider::Certificate(certificate) => Some(certificate.ca().to_owned()),
            _ => None,
        };
        providers.filter_map(ca).collect()
    }

    /// Who shows this. A certificate counts when no token was sent.
    ///
    /// # Errors
    /// Nothing was shown, it is not valid, or who could tell cannot be reached.
    pub async fn authenticate(&self, shown: Credentials<'_>) -> Result<Principal, Refused> {
        let Some(providers) = &self.providers else {
            return Ok(Principal {
                subject: format!("anonymous@{INSECURE}"),
                issuer: INSECURE.to_owned(),
                names: Vec::new(),
                groups: Vec::new(),
                expires: None,
            });
        };
        let mut principal = match (shown.token()?, shown.certificate) {
            (Some(token), _) => bearer(providers, token).await?,
            (None, Some(der)) => presented(providers, der)?,
            (None, None) => return Err(Refused::Nothing),
        };
        // Names are free text of the authority: one like `root@site` must not pass for another provider's subject.
        principal.names.retain(|name| {
            name.rsplit_once('@')
                .is_none_or(|(_, issuer)| issuer != INSECURE && providers.iter().all(|(p, _)| p != issuer))
        });
        Ok(principal)
    }
}

/// Asks the providers in order whose token this is. A token goes only to those that can have issued it: the site's own
/// never leave the site, and a JWT whose issuer has a key set here is judged by that alone.
async fn bearer(providers: &[(String, Provider)], token: &str) -> Result<Principal, Refused> {
    let issuer = jwt::issuer(token);
    let to_jwt = |jwt: &jwt::Jwt| issuer.as_deref() == Some(jwt.issuer());
    let signed = providers.iter().any(|(_, p)| matches!(p, Provider::Jwt(jwt) if to_jwt(jwt)));
    let local = token.starts_with(tokens::PREFIX);
    let mut refused = Refused::Invalid(Invalid::Unknown);
    for (_, provider) in providers {
        let verdict = match provider {
            Provider::Tokens(tokens) => tokens.check(token).map_err(Refused::from),
            Provider::Jwt(jwt) if to_jwt(jwt) => jwt.check(token).await,
            Provider::Introspection(introspection) if !signed && !local => introspection.check(token).await,
            _ => continue,
        };
        match verdict {
            Ok(principal) => return Ok(principal),
            Err(error) => refused = refused.or(error),
        }
    }
    Err(refused)
}

/// Whose certificate this is.
fn presented(providers: &[(String, Provider)], der: &[u8]) -> Result<Principal, Refused> {
    let certificate = providers.iter().find_map(|(_, provider)| match provider {
        Provider::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    Ok(certificate.ok_or(Refused::Nothing)?.check(der)?)
}

/// A provider's name ends subjects, so it has no `@`, and no dot lest it be a mail domain.
fn checked_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err("give 1 to 64 of the characters A-Z a-z 0-9 - _".to_owned());
    }
    if name == INSECURE {
        return Err(format!("{INSECURE} stands for callers without authentication; choose another"));
    }
    Ok(())
}
