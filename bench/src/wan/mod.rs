//! A WAN between two interfaces or DPDK ports, several links at once: delay, jitter, rate, loss, and what else paths do.
//!
//! A link is a wire: frames pass untouched, and nobody on it has an address. What it does is decided by [`direction`], a pure
//! state machine that is told the time; [`element`] moves packets between it and the devices, [`run`] opens these.
//! [`verify`] holds the whole against what it claims, [`netem`] has the kernel do the same.

pub mod chance;
pub mod config;
pub mod direction;
pub mod element;
pub mod line;
pub mod netem;
pub mod preset;
pub mod report;
pub mod run;
pub mod shape;
pub mod shaper;
pub mod units;
pub mod verify;
