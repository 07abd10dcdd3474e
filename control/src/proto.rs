//! Messages and services, made from `control/proto`.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::all, unreachable_pub)]

/// `scistream.Control`, as SciStream's clients speak it.
pub mod scistream {
    tonic::include_proto!("scistream");
}

/// `scistream.gateway.v1.Gateway`, our own.
pub mod gateway {
    tonic::include_proto!("scistream.gateway.v1");
}

/// Descriptors of both, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
