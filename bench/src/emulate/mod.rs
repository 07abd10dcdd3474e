//! The emulator of scientific streams.
//!
//! The sink orders, the source sends by the order's [`profile`]. All connections of a run share one [`schedule`], fixed before
//! the first message: what a slow path holds up stays due when it was, so its delay counts in full (no coordinated
//! omission). Messages ([`message`]) carry number, schedule time, send time and checksum; the sink's [`tally`] makes loss,
//! order, delay, jitter and stalls of them. [`source`] and [`sink`] are the thin edges to sockets and threads.

mod amount;
pub mod clock;
pub mod datagram;
pub mod hiccup;
pub mod message;
pub mod order;
mod pace;
pub mod parse;
pub mod profile;
pub mod report;
pub mod schedule;
pub mod sequence;
pub mod sink;
mod socket;
pub mod source;
pub mod spread;
pub mod tally;
