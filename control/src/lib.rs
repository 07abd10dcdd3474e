//! SciStream's control plane: so far the client of a forwarder's control socket and `s2ctl`, the operator's tool on it.
#![forbid(unsafe_code)]

pub mod client;
