//! What threads share, and the only place with atomics.
//!
//! | field | written by | read by | ordering |
//! |---|---|---|---|
//! | [`Publisher`]'s current pointer and epoch | the service, under its lock | workers | release / acquire |
//! | [`Reader`]'s acknowledged epoch | its worker | the service | release / acquire |
//! | [`Counter`] | one worker | the service, telemetry, workers about fragments | relaxed: a figure may be one burst old, never torn |
//! | [`Limit`] | every worker, at admission and removal only | the service | relaxed: the count itself is all it guards |
//! | [`Meter`] | every worker that relays packets of a flow with a rate | the same | relaxed: the moment itself is all it guards |
//! | [`ring()`]'s places and the sender's count | its sender | its receiver | release / acquire |
//! | [`ring()`]'s receiver's count | its receiver | its sender | release / acquire |
//! | [`StopFlag`] | the main thread | workers and service threads | relaxed: it only ends loops |
//!
//! Commands, and news of next hops, travel in bounded queues of `crossbeam`, which own their orderings.

mod counter;
mod cpu;
mod meter;
mod publish;
mod ring;

pub use counter::{Counter, Limit, StopFlag};
pub use cpu::{equal_words, prefetch};
pub use meter::Meter;
pub use publish::{Publisher, Reader};
pub use ring::{RingReceiver, RingSender, ring};
