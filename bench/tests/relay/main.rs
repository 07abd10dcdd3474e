//! The relay from outside: unmodified programs and s2bench's streams across two running s2ds.
//!
//! Each test has a topology of its own. It needs root or a user namespace; without either it prints why and passes, or
//! fails where `CI=true`. After each test both ledgers must balance and both gateways must stop cleanly.
#![allow(clippy::unwrap_used, clippy::panic)]

mod admission;
mod control;
mod emulate;
mod harness;
mod lifecycle;
mod links;
mod mtu;
mod programs;
mod quic;
mod rough;
mod tcp;
mod udp;
