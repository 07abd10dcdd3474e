//! What moves traffic through the relay to try it and to measure it.
//!
//! [`topology`] builds networks in a box, [`stream`] holds the sources and sinks that stand for producer and consumer
//! applications, [`demo`] shows the whole relay at work with both and with foreign programs, [`conformance`] holds it against
//! the RFCs packet by packet, [`mod@core`] counts what a packet costs, and [`control`] how quick the control server is.
#![forbid(unsafe_code)]

pub mod compare;
pub mod conformance;
pub mod control;
pub mod core;
pub mod demo;
pub mod emulate;
pub mod host;
pub mod live;
pub mod pktgen;
pub mod report;
pub mod result;
pub mod size;
pub mod stream;
pub mod topology;
pub mod traffic;
pub mod wan;
