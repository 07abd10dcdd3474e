//! Twice-NAT: the header change of a connection, made once ([`plan`]) and used for every packet ([`apply`]); the errors of others
//! about its packets ([`icmp`]) and our own ([`error`]); the headers of one whose sides differ in family ([`translate`]).
#![forbid(unsafe_code)]

pub mod apply;
pub mod error;
pub mod icmp;
pub mod plan;
pub mod translate;
