//! The user client S2UC: asks the control servers of both sides for a stream, keeps it, ends it.
#![forbid(unsafe_code)]

pub mod connect;
pub mod failure;
pub mod request;
pub mod session;
pub mod store;
pub mod trust;
pub mod uri;
pub mod view;

use std::io;

use tokio::signal::unix::{SignalKind, signal};

pub use failure::Failure;

/// A uid that nobody else has: 128 random bits written as a UUID of version 4 (RFC 9562, section 5.4).
///
/// # Errors
/// The system gives no random numbers.
pub fn new_uid() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
        Failure::Local("the system gives no random numbers for a uid; give one with --uid".into())
    })?;
    let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
/// The process cannot be told of signals.
pub async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}
