//! Flows and connections: what the operator installed, and who uses it now.
#![forbid(unsafe_code)]

pub mod fragments;
mod hash;
pub mod key;
mod pages;
pub mod police;
mod ports;
pub mod set;
pub mod steering;
pub mod table;
pub mod toeplitz;

pub use fragments::{Arrived, FragmentKey, Fragments, Pairs, Piece, Refusal};
pub use hash::HashKey;
pub use key::{Key, Tuple};
pub use ports::SourcePorts;
pub use set::{Flow, FlowSet};
pub use steering::Steering;
pub use table::{ConnTable, Direction, Found};

/// Milliseconds of the worker's clock. Wraps after 49 days; compare with `wrapping_sub`.
pub type Millis = u32;
