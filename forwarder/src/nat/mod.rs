//! Twice-NAT: the header change of a connection, made once ([`plan`]) and used for every packet ([`apply`]).
#![forbid(unsafe_code)]

pub mod apply;
pub mod error;
pub mod icmp;
pub mod plan;
pub mod translate;
