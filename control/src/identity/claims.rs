//! From claims (of a JWT, or of an introspection endpoint's answer) to a principal.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::{Invalid, Principal};

/// Longest name of a user or group, in bytes.
const LONGEST: usize = 256;
/// Most names, and most groups, of one user; more are left out, which takes rights and gives none.
const MOST: usize = 256;
/// How far clocks may differ.
pub(super) const LEEWAY: Duration = Duration::from_secs(30);

/// Seconds since 1970 beyond every token's end, about the year 33,000: sums of times stay in range.
const FAR: f64 = 1e12;

/// Claims by name.
pub(super) type Claims = Map<String, Value>;

/// What a provider wants of claims.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) provider: String,
    pub(super) subject: String,
    pub(super) groups: String,
    pub(super) names: Vec<String>,
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) scope: Option<String>,
    /// How long tokens may be used after their end, as clocks differ.
    pub(super) leeway: Duration,
}

impl Rules {
    /// Whose claims these are, if `exp`, `nbf`, `iss`, `aud` and `scope` fit.
    pub(super) fn principal(&self, claims: &Claims) -> Result<Principal, Invalid> {
        let now = SystemTime::now();
        let expires = time(claims, "exp")?;
        if expires.is_some_and(|expires| expires + self.leeway <= now) {
            return Err(Invalid::Expired);
        }
        if time(claims, "nbf")?.is_some_and(|begin| begin > now + LEEWAY) {
            return Err(Invalid::Early);
        }
        if self
            .issuer
            .as_deref()
            .is_some_and(|issuer| claims.get("iss").and_then(Value::as_str) != Some(issuer))
        {
            return Err(Invalid::Issuer);
        }
        if self.audience.as_deref().is_some_and(|audience| !strings(claims.get("aud")).any(|a| a == audience))
        {
            return Err(Invalid::Audience);
        }
        let mut scopes = strings(claims.get("scope")).flat_map(|scope| scope.split(' '));
        if self.scope.as_deref().is_some_and(|wanted| !scopes.any(|scope| scope == wanted)) {
            return Err(Invalid::Scope);
        }
        let subject = claims.get(&self.subject).and_then(Value::as_str).ok_or(Invalid::Subject)?;
        // An address that nobody has verified is whatever the user has typed.
        let mail = claims.get("email").filter(|_| claims.get("email_verified") == Some(&Value::Bool(true)));
        let names = self.names.iter().flat_map(|claim| strings(claims.get(claim))).chain(strings(mail));
        let groups = strings(claims.get(&self.groups));
        principal(&self.provider, subject, kept(names), kept(groups), expires)
    }
}

/// A principal of `provider`.
pub(super) fn principal(
    provider: &str,
    name: &str,
    mut names: Vec<String>,
    groups: Vec<String>,
    expires: Option<SystemTime>,
) -> Result<Principal, Invalid> {
    if !is_name(name) {
        return Err(Invalid::Subject);
    }
    names.truncate(MOST);
    Ok(Principal {
        subject: format!("{name}@{provider}"),
        issuer: provider.to_owned(),
        names,
        groups,
        expires,
    })
}

/// Whether this can name a user or a group, in a line of a log as well.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.chars().any(char::is_control)
}

fn kept<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter(|name| is_name(name)).take(MOST).map(str::to_owned).collect()
}

/// A string, or the strings of a list.
fn strings(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = match claim {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    list.iter().filter_map(Value::as_str)
}

/// Seconds since 1970, with or without fraction: `NumericDate` of RFC 7519, section 2. A token with a time that cannot
/// be read is not valid; it must not pass for one without end.
fn time(claims: &Claims, claim: &str) -> Result<Option<SystemTime>, Invalid> {
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .filter(|seconds| (0.0..FAR).contains(seconds))
            .map(|seconds| Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
            .ok_or(Invalid::Unknown),
    }
}
