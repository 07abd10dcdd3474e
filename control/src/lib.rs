//! SciStream's control plane: the control server S2CS, its user client S2UC, and the client of the forwarder's control socket.

pub mod args;
pub mod audit;
pub mod book;
pub mod certificate;
pub mod client;
pub mod codec;
pub mod config;
pub mod file;
pub mod identity;
pub mod init;
pub mod keeper;
pub mod link;
pub mod manager;
pub mod policy;
pub mod preflight;
pub mod proto;
pub mod server;
pub mod session;
pub mod store;
pub mod tcp;
pub mod uc;
