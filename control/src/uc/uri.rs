//! Names of gateways and sessions as texts.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Longest uid that gateways take, in bytes.
const LONGEST_UID: usize = 128;

const SCHEME: &str = "scistream://";

/// All but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No `HOST:PORT`.
    #[error(
        "{text:?} is not HOST:PORT: {why}; write it like \"gw.example.org:5000\" or \"[2001:db8::1]:5000\""
    )]
    HostPort {
        /// What was given.
        text: String,
        /// The part that is wrong.
        why: &'static str,
    },
    /// No session's URI.
    #[error(
        "the URI is wrong at character {at}, {rest:?}: {why}; it is like scistream://PRODUCER:PORT/CONSUMER:PORT/UID"
    )]
    Uri {
        /// Counted from 1.
        at: usize,
        /// The text from there.
        rest: String,
        /// What is wrong there.
        why: String,
    },
    /// No uid.
    #[error("the uid {why}; it has 1 to {LONGEST_UID} bytes and no control characters")]
    Uid {
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Address of a control server: a name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Without brackets, in lower case.
    host: String,
    port: u16,
}

impl HostPort {
    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for HostPort {
    type Err = NameError;

    fn from_str(text: &str) -> Result<HostPort, NameError> {
        let wrong = |why| NameError::HostPort { text: text.to_owned(), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = match port.parse() {
            Ok(port) if port != 0 && !port_has_sign(text) => port,
            _ => return Err(wrong("the port is no number from 1 to 65535")),
        };
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(|| wrong("the bracket is not closed"))?;
                let address: Ipv6Addr =
                    inner.parse().map_err(|_| wrong("what is in brackets is no IPv6 address"))?;
                address.to_string()
            }
            None if host.is_empty() => return Err(wrong("the host is missing")),
            None if host.contains(':') => return Err(wrong("an IPv6 address stands in brackets")),
            None => host.to_ascii_lowercase(),
        };
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if !host.bytes().all(of_a_name) || host.starts_with(['.', '-']) || host.len() > 253 {
            return Err(wrong("the host is neither a name nor an address"));
        }
        let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if numeric && host.parse::<Ipv4Addr>().is_err() {
            return Err(wrong("the host is no IPv4 address"));
        }
        Ok(HostPort { host, port })
    }
}

/// Rust reads "+5000" as a number.
fn port_has_sign(text: &str) -> bool {
    text.rsplit(':').next().is_some_and(|port| port.starts_with('+'))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Checks a uid as gateways do.
///
/// # Errors
/// It is empty, too long or has control characters.
pub fn check_uid(uid: &str) -> Result<(), NameError> {
    let why = match uid {
        "" => "is empty",
        _ if uid.len() > LONGEST_UID => "is too long",
        _ if uid.contains(char::is_control) => "has a control character",
        _ => return Ok(()),
    };
    Err(NameError::Uid { why })
}

/// A stream in one text: `scistream://PRODUCER:PORT/CONSUMER:PORT/UID`, the uid percent-encoded (RFC 3986).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionUri {
    /// Control server of the producer's side.
    pub producer: HostPort,
    /// Control server of the consumer's side.
    pub consumer: HostPort,
    /// The session's uid at both.
    pub uid: String,
}

impl fmt::Display for SessionUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = utf8_percent_encode(&self.uid, RESERVED);
        write!(f, "{SCHEME}{}/{}/{uid}", self.producer, self.consumer)
    }
}

impl FromStr for SessionUri {
    type Err = NameError;

    fn from_str(text: &str) -> Result<SessionUri, NameError> {
        // `rest` is always the end of `text`, so that its length tells where it begins.
        let wrong = |rest: &str, why: String| NameError::Uri {
            at: text.chars().count() - rest.chars().count() + 1,
            rest: rest.chars().take(40).collect(),
            why,
        };
        let rest =
            text.strip_prefix(SCHEME).ok_or_else(|| wrong(text, format!("it begins with {SCHEME}")))?;
        let (producer, rest) = rest
            .split_once('/')
            .ok_or_else(|| wrong(rest, "the consumer's gateway and the uid are missing".into()))
            .and_then(|(gateway, after)| match gateway.parse::<HostPort>() {
                Ok(gateway) => Ok((gateway, after)),
                Err(error) => Err(wrong(rest, format!("the producer's gateway {}", reason(error)))),
            })?;
        let (consumer, rest) = rest
            .split_once('/')
            .ok_or_else(|| wrong(rest, "the uid is missing".into()))
            .and_then(|(gateway, after)| match gateway.parse::<HostPort>() {
            Ok(gateway) => Ok((gateway, after)),
            Err(error) => Err(wrong(rest, format!("the consumer's gateway {}", reason(error)))),
        })?;
        if let Some(at) = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-._~%".contains(c)) {
            return Err(wrong(&rest[at..], "this character of the uid is written as %XX".into()));
        }
        for (at, _) in rest.match_indices('%') {
            let digits = rest.as_bytes().get(at + 1..at + 3);
            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                return Err(wrong(&rest[at..], "two hexadecimal digits follow a %".into()));
            }
        }
        let uid = percent_decode_str(rest)
            .decode_utf8()
            .map_err(|_| wrong(rest, "the uid is not UTF-8".into()))?
            .into_owned();
        check_uid(&uid).map_err(|error| wrong(rest, error.to_string()))?;
        Ok(SessionUri { producer, consumer, uid })
    }
}

fn reason(error: NameError) -> String {
    match error {
        NameError::HostPort { why, .. } => format!("is not HOST:PORT, {why}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host_port() -> impl Strategy<Value = HostPort> {
        let host = prop_oneof![
            "[a-z][a-z0-9-]{0,20}(\\.[a-z][a-z0-9-]{0,10}){0,3}",
            any::<Ipv4Addr>().prop_map(|a| a.to_string()),
            any::<Ipv6Addr>().prop_map(|a| a.to_string()),
        ];
        (host, 1..=u16::MAX).prop_map(|(host, port)| HostPort { host, port })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(
            producer in host_port(), consumer in host_port(), uid in "\\PC{1,32}"
        ) {
            prop_assume!(check_uid(&uid).is_ok());
            let uri = SessionUri { producer, consumer, uid };
            prop_assert_eq!(uri.to_string().parse(), Ok(uri));
        }

        #[test]
        fn any_text_is_read_or_refused_with_a_place(text in "\\PC{0,60}|scistream://\\PC{0,60}") {
            if let Err(NameError::Uri { at, .. }) = text.parse::<SessionUri>() {
                prop_assert!(at >= 1 && at <= text.chars().count() + 1);
            }
        }
    }

    #[test]
    fn a_wrong_uri_is_refused_with_the_place() {
        for (text, place) in [
            ("http://a:1/b:2/u", 1),
            ("scistream://a:1", 13),
            ("scistream://a/b:2/u", 13),
            ("scistream://a:1/b:2", 17),
            ("scistream://a:1/b:0/u", 17),
            ("scistream://a:1/[::1:2/u", 17),
            ("scistream://a:1/b:2/", 21),
            ("scistream://a:1/b:2/u%2", 22),
            ("scistream://a:1/b:2/u/v", 22),
            ("scistream://a:1/b:2/u%0a", 21),
            ("scistream://a:1/b:2/%ff", 21),
        ] {
            match text.parse::<SessionUri>() {
                Err(NameError::Uri { at, .. }) => assert_eq!(at, place, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, printed) in [
            ("GW.example:5000", "gw.example:5000"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::0001]:65535", "[::1]:65535"),
        ] {
            assert_eq!(text.parse::<HostPort>().map(|h| h.to_string()), Ok(printed.to_owned()));
        }
        for text in
            ["gw", ":5000", "gw:", "gw:+1", "gw:65536", "::1:5000", "[::1]5000", "a b:1", "../x:1", "1.2.3:4"]
        {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
