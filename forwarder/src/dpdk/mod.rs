//! The edge to real devices: safe wrappers of DPDK by ownership, and [`DpdkIo`], which the engine polls.
//!
//! Who owns whom is the teardown order, so that it cannot be got wrong:
//!
//! ```text
//! DpdkIo -> Queue -> Arc<Port> -> Arc<Mempool> -> Arc<Eal>
//! ```
//!
//! A [`Queue`] is handed out once and moves into its worker. The last one to go lets its [`Port`] stop, close and detach
//! the device; then the [`Mempool`] frees its memory, then the [`Eal`] cleans up. An [`Mbuf`] is a plain pointer and holds
//! nothing; a pool that still misses mbufs when it is dropped therefore stays in memory instead of being freed.
//!
//! Threads that allocate or free mbufs often hold a [`WorkerThread`], which gives them a mempool cache of their own.

mod capability;
mod device;
mod eal;
mod error;
mod event;
mod hugepages;
mod io;
mod lookup;
mod mbuf;
mod mempool;
mod port;
mod queue;
mod ring;
mod rss;
mod sockets;
pub mod telemetry;
mod thread;
mod vhost;

pub use capability::Capabilities;
pub use device::{device_interface, interface_index, interface_mtu};
pub use eal::{Eal, EalOptions, rdtsc, tsc_hz};
pub use error::DpdkError;
pub use event::{Event, Events, pretend_removal};
pub use io::{DpdkIo, QueueDesk};
pub(crate) use lookup::sight;
pub use mbuf::Mbuf;
pub use mempool::{Mempool, PoolSettings};
pub use port::{Facts, Identity, Link, Port, PortSettings, PortStats, RingPort, Steer};
pub use queue::{Queue, RxQueue, TxQueue};
pub use ring::RingPair;
pub use rss::soft_rss;
pub use thread::WorkerThread;
pub use vhost::Guest;
