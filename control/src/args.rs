//! Arguments that several of our programs take.
#![forbid(unsafe_code)]

use clap::ValueEnum;
use forwarder::api::Proto;

/// A transport protocol on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[allow(missing_docs)]
pub enum ProtoArg {
    Tcp,
    Udp,
}

impl From<ProtoArg> for Proto {
    fn from(proto: ProtoArg) -> Proto {
        match proto {
            ProtoArg::Tcp => Proto::Tcp,
            ProtoArg::Udp => Proto::Udp,
        }
    }
}
