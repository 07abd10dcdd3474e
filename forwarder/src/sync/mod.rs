//! What threads share, and the only place with atomics.
//!
//! | field | written by | read by | ordering |
//! |---|---|---|---|
//! | [`Publisher`]'s current pointer and epoch | the service, under its lock | workers | release / acquire |
//! | [`Reader`]'s acknowledged epoch | its worker | the service | release / acquire |
//! | [`Counter`] | one worker | the service, telemetry | relaxed: a figure may be one burst old, never torn |
//! | [`Limit`] | every worker, at admission and removal only | the service | relaxed: the count itself is all it guards |
//! | [`StopFlag`] | the main thread | workers and service threads | relaxed: it only ends loops |
//!
//! Commands and handed-over packets travel in bounded queues of `crossbeam`, which own their orderings.

mod counter;
mod cpu;
mod publish;

pub use counter::{Counter, Limit, StopFlag};
pub use cpu::{equal_words, prefetch};
pub use publish::{Publisher, Reader};
