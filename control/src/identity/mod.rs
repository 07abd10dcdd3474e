//! Who calls: from what a caller shows to a [`Principal`], by the ways that the site has configured.
#![forbid(unsafe_code)]

use std::time::SystemTime;

/// Somebody whose identity was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Unique at the site: the issuer's name for the user, `@` and the issuer's name in the configuration, such as
    /// `f0b5...@globus` or `alice@tokens`. Owner of sessions, subject of policy and audit.
    pub subject: String,
    /// Name of the way of proof in the configuration.
    pub issuer: String,
    /// Further names that policy may call the user by, such as a verified e-mail address; unlike `subject` not necessarily unique.
    pub names: Vec<String>,
    /// Groups by the issuer's word.
    pub groups: Vec<String>,
    /// When the proof ends; none for proofs without end.
    pub expires: Option<SystemTime>,
}

/// What a caller shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// Value of the header `authorization`: a raw token or `Bearer TOKEN`.
    pub authorization: Option<&'a str>,
    /// The client's certificate, DER, which the TLS layer has verified up to the configured CA.
    pub certificate: Option<&'a [u8]>,
}
