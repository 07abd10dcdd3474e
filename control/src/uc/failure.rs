//! Why something the user asked for was not done.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;

use serde::Serialize;
use tonic::{Code, Status};

use super::uri::HostPort;

/// Why something was not done, in a sentence that says what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// Nothing answers there.
    #[error(
        "{server} cannot be reached ({why}); check host and port, that s2cs runs there, \
         and that no firewall is between"
    )]
    Unreachable {
        /// Where.
        server: HostPort,
        /// What connecting said.
        why: String,
    },
    /// Its certificate is not signed by what the user trusts, or is not valid now.
    #[error(
        "the certificate of {server} is not trusted ({why}); \
         give its CA's or its own certificate, PEM, with --server-cert"
    )]
    Untrusted {
        /// Whose.
        server: HostPort,
        /// What is wrong with it.
        why: String,
    },
    /// Its certificate is for other names.
    #[error(
        "the certificate of {server} is not for {:?} but for {presented}; \
         connect by such a name, or have it made anew for {:?}",
        server.host(), server.host()
    )]
    WrongName {
        /// Whose.
        server: HostPort,
        /// Names in it.
        presented: String,
    },
    /// The connection failed in the middle of a call.
    #[error("the connection to {server} failed ({why}); see whether s2cs still runs there")]
    Lost {
        /// To whom.
        server: HostPort,
        /// What the transport said.
        why: String,
    },
    /// No answer in time.
    #[error("{server} did not answer within {seconds} s; try again, or see whether s2cs there is overloaded")]
    Late {
        /// Who.
        server: HostPort,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The server says no.
    #[error("{}", sentence(.server, *.code, .message))]
    Answer {
        /// Who.
        server: HostPort,
        /// In which way.
        code: Code,
        /// Its sentence.
        message: String,
    },
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Something is wrong on this machine.
    #[error("{0}")]
    Local(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
}

/// Classes of failures; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Anything else.
    Failed = 1,
    /// Wrong usage, or a request the server does not understand.
    Usage = 2,
    /// By policy, or for want of an identity.
    Refused = 3,
    /// No such session.
    NotFound = 4,
    /// The server, or the forwarder behind it, cannot be reached or trusted.
    Unreachable = 5,
    /// No room: ports, sessions or rate.
    Exhausted = 6,
}

impl Failure {
    /// Its class.
    pub fn kind(&self) -> Kind {
        match self {
            Failure::Unreachable { .. }
            | Failure::Untrusted { .. }
            | Failure::WrongName { .. }
            | Failure::Lost { .. } => Kind::Unreachable,
            Failure::Answer { code, .. } => match code {
                Code::InvalidArgument | Code::OutOfRange => Kind::Usage,
                Code::Unauthenticated | Code::PermissionDenied => Kind::Refused,
                Code::NotFound => Kind::NotFound,
                Code::Unavailable => Kind::Unreachable,
                Code::ResourceExhausted => Kind::Exhausted,
                _ => Kind::Failed,
            },
            Failure::Late { .. } | Failure::Interrupted | Failure::Local(_) => Kind::Failed,
            Failure::Usage(_) => Kind::Usage,
        }
    }

    /// The server's code, when it was the server that said no.
    pub fn code(&self) -> Option<Code> {
        match self {
            Failure::Answer { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Of what the transport said when connecting.
    pub(super) fn connecting(server: &HostPort, error: &(dyn Error + 'static)) -> Failure {
        use rustls::CertificateError as Bad;
        let server = server.clone();
        match find::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(Bad::NotValidForNameContext { presented, .. })) => {
                let presented = if presented.is_empty() {
                    "none at all".to_owned()
                } else {
                    // rustls shows names as it debugs them: DnsName("gw").
                    let plain = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name));
                    plain.collect::<Vec<_>>().join(", ")
                };
                Failure::WrongName { server, presented }
            }
            Some(rustls::Error::InvalidCertificate(bad)) => {
                let why = match bad {
                    Bad::UnknownIssuer => "its issuer is unknown".to_owned(),
                    Bad::Expired | Bad::ExpiredContext { .. } => "it has expired".to_owned(),
                    Bad::NotValidYet | Bad::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
                    other => other.to_string(),
                };
                Failure::Untrusted { server, why }
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                Failure::Unreachable { server, why: "what answers does not speak TLS".to_owned() }
            }
            _ => Failure::Unreachable { server, why: root(error) },
        }
    }

    /// Of an unsuccessful call.
    pub(super) fn calling(server: &HostPort, status: &Status) -> Failure {
        let server = server.clone();
        // A status from the server has no cause; one that the transport made up has.
        match status.source() {
            Some(error) => Failure::Lost { server, why: root(error) },
            None => Failure::Answer { server, code: status.code(), message: printable(status.message()) },
        }
    }
}

/// The text without control characters, which could steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn sentence(server: &HostPort, code: Code, message: &str) -> String {
    let said = if message.is_empty() { code.description() } else { message };
    match code {
        Code::Unauthenticated => format!(
            "{server} does not accept who you are: {said}; \
             get a token for it and store it with `s2uc login --s2cs {server}`"
        ),
        Code::PermissionDenied => format!("{server} refuses: {said}"),
        Code::ResourceExhausted => format!("{server} has no room: {said}"),
        Code::Unavailable => format!("{server} cannot do that now: {said}; try again later"),
        Code::Unimplemented => format!(
            "{server} does not know this call ({said}); it may be an older s2cs, which serves inbound-request, \
             outbound-request, prod-req, hello and release only"
        ),
        _ => format!("{server}: {said}"),
    }
}

/// The cause of a type among an error's causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // An I/O error's source is its inner error's source; the inner error itself would be left out.
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What the last of an error's causes says.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    printable(&last.to_string())
}
