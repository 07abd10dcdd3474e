//! SciStream's control plane: the control server S2CS, its user client S2UC, and the client of the forwarder's control socket.

pub mod client;
pub mod codec;
pub mod config;
pub mod file;
pub mod identity;
pub mod policy;
pub mod proto;
