//! A packet generator and what judges its packets, over DPDK: real ports, kernel interfaces, virtual devices.
//!
//! ```text
//!               Search, Loads, BurstSearch say what to try
//!                               |
//!   Template, Pacer ---> sending thread ---> tx device
//!                                               : what is tried
//!   Findings <--- Judge <--- receiving thread <--- rx device
//! ```
//!
//! Everything that decides is pure and has time given to it: [`headers`] and [`template`] write packets, [`pacer`] says when,
//! [`frame`] reads what arrives, [`judge`] counts, [`search`] and [`burst`] are the searches of RFC 2544 and RFC 9004. [`session`]
//! has the devices and the two [`threads`], [`mod@measure`] puts it together, [`outcome`] is what it writes. Packets are known by
//! what their payload says ([`stamp`]), never by their addresses: a relay between may change these. Both threads read the time
//! stamp counter of one machine, so delays need no synchronised clocks; for a far host there is [`reflect`].

pub mod burst;
pub mod frame;
pub mod headers;
pub mod judge;
pub mod measure;
pub mod outcome;
pub mod pacer;
mod procedure;
pub mod rate;
pub mod reflect;
pub mod search;
pub mod session;
pub mod setup;
pub mod sizes;
pub mod stamp;
pub mod template;
mod text;
pub mod threads;
