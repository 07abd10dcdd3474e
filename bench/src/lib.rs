//! What moves traffic through the relay to try it and to measure it.
//!
//! [`topology`] builds networks in a box, [`stream`] holds the sources and sinks that stand for producer and consumer
//! applications, [`emulate`] has them behave as instruments do, by profiles and schedules, [`wan`] stands for the way between
//! facilities, and [`pktgen`] for an instrument of packets. [`demo`] shows the whole relay at work, also with foreign programs,
//! [`conformance`] holds it against the RFCs packet by packet, [`mod@core`] counts what a packet costs, [`control`] how quick the
//! control server is, and [`compare`] sets the relay beside what else is used. [`result`] is what runs leave, with the [`host`]
//! they ran on; [`report`] and [`live`] show it. [`guest`] is a small virtual machine, whose NICs [`nic`] tries the relay on.
#![forbid(unsafe_code)]

pub mod compare;
pub mod conformance;
pub mod control;
pub mod core;
pub mod demo;
pub mod emulate;
pub mod guest;
pub mod host;
pub mod live;
pub mod nic;
pub mod pktgen;
pub mod report;
pub mod result;
pub mod size;
pub mod stream;
pub mod topology;
pub mod traffic;
pub mod wan;
