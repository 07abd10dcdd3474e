//! How authorities are asked over HTTP.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, RequestBuilder, StatusCode, Url};
use serde_json::Value;

use super::Problem;
use crate::certificate;

/// Longest wait for an authority, from the wait for a free place to the last byte.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for its TCP and TLS connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const LONGEST_ANSWER: usize = 256 * 1024;

/// The URL in `text`, if secrets can be sent there.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{text:?} is no URL: {e}"))?;
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let here = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if url.scheme() != "https" && !(url.scheme() == "http" && here) {
        return Err(format!(
            "{text:?} would be asked in clear text; use https (http only at a loopback address)"
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with user or password would end up in logs; leave them out".to_owned());
    }
    Ok(url)
}

/// A client for `url`, which trusts the CAs in `ca`, or the system's.
pub(super) fn client(url: &Url, ca: Option<&Path>) -> Result<Client, Problem> {
    // A redirect could lead to where the secrets must not go.
    let mut builder = Client::builder()
        .timeout(PATIENCE)
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("s2cs/", env!("CARGO_PKG_VERSION")));
    if url.scheme() == "http" {
        // Own CAs, none, instead of the system's: no list of them is needed, and no proxy leads to a loopback address.
        builder = builder.no_proxy().tls_certs_only([]);
    }
    if let Some(ca) = ca {
        let trusted: Vec<Certificate> = certificate::read(ca)
            .map_err(|e| e.to_string())
            .and_then(|found| {
                found.iter().map(|der| Certificate::from_der(der).map_err(|e| e.to_string())).collect()
            })
            .map_err(|problem| ("ca", problem))?;
        builder = builder.tls_certs_only(trusted);
    }
    builder.build().map_err(|e| {
        let cause = causes(&e);
        ("ca", format!("no TLS client can be made ({cause}); name a file of CAs, or install the system's"))
    })
}

/// The JSON that answers `request`.
///
/// # Errors
/// A sentence for the operator's log.
pub(super) async fn json(request: RequestBuilder) -> Result<Value, String> {
    let mut response = request.send().await.map_err(|e| causes(&e))?;
    match response.status() {
        StatusCode::OK => {}
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(format!("it answers {status}; see whether client_id and secret are right"));
        }
        status => return Err(format!("it answers {status}")),
    }
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|e| causes(&e))? {
        if body.len() + part.len() > LONGEST_ANSWER {
            return Err(format!("its answer is longer than {LONGEST_ANSWER} bytes"));
        }
        body.extend_from_slice(&part);
    }
    serde_json::from_slice(&body).map_err(|e| format!("its answer is no JSON: {e}"))
}

/// An error and what has led to it: reqwest's own text tells only the first.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
