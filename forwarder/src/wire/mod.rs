//! Packet formats: pure functions over byte slices, one file a protocol.
//!
//! A view (`Ipv4`, `Udp`, ...) is made once by a checked constructor, `parse`; its accessors read a fixed-size header and
//! cannot panic. Where a frame may lie in several segments, `parse` takes the bytes of the first segment and the length of
//! the whole: all headers lie in the first segment, payload need not. Changes are made through the `...Mut` twins, which
//! keep nothing consistent by themselves: whoever rewrites applies the [`checksum::Delta`] too.
//!
//! Numbers are in host order and addresses are `std::net` types, except checksums: these are raw words as they lie in
//! memory (see [`checksum`]).
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod eth;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

pub use checksum::{Delta, Sum};
pub use eth::{Frame, Mac, Tags};

/// Protocol number of ICMP (IPv4).
pub const PROTO_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

/// Why bytes are not what they claim to be: one variant a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the header, or than what the header announces.
    #[error("the packet is shorter than its header says")]
    Truncated,
    /// The output buffer cannot hold the frame.
    #[error("the buffer is too small for the frame")]
    NoRoom,
    /// More VLAN tags than an 802.1Q tag behind a service tag (802.1ad), or another order of them.
    #[error("the frame has more VLAN tags than one 802.1ad and one 802.1Q tag, or in another order")]
    StackedVlan,
    /// The IP version is not what the ethertype promised.
    #[error("the IP version differs from the ethertype")]
    BadVersion,
    /// A header length below the minimum (IPv4 IHL, TCP data offset, UDP length).
    #[error("the header length is below the protocol's minimum")]
    BadHeaderLength,
    /// A total length below the header's.
    #[error("the total length is below the header length")]
    BadTotalLength,
    /// The checksum is wrong.
    #[error("the checksum is wrong")]
    BadChecksum,
    /// Hardware or protocol type and sizes of an ARP packet are not Ethernet and IPv4.
    #[error("the ARP packet is not for Ethernet and IPv4")]
    BadArp,
    /// IPv6 extension headers that are malformed or too many to follow.
    #[error("the IPv6 extension headers are malformed or too many")]
    BadExtension,
    /// A neighbor discovery message that came from beyond the link (hop limit below 255, RFC 4861 section 7.1).
    #[error("the neighbor discovery message has a hop limit below 255")]
    BadHopLimit,
    /// A message type or code other than the one asked for.
    #[error("the message type or code is not the expected one")]
    BadCode,
    /// An option with length zero, beyond the end, or where it may not be (RFC 4861 sections 4.6 and 7.1).
    #[error("a neighbor discovery option is malformed")]
    BadOption,
    /// A multicast target, or addresses that the message may not have (RFC 4861 section 7.1).
    #[error("an address of the neighbor discovery message is not allowed there")]
    BadAddress,
}

/// The first `N` bytes, or [`WireError::Truncated`].
fn first<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], WireError> {
    bytes.first_chunk().ok_or(WireError::Truncated)
}

/// The first `N` bytes to write to, or [`WireError::Truncated`].
fn first_mut<const N: usize>(bytes: &mut [u8]) -> Result<&mut [u8; N], WireError> {
    bytes.first_chunk_mut().ok_or(WireError::Truncated)
}

/// `bytes` without its first `from`, and at most `to - from` of it; empty when there are none.
fn clamp(bytes: &[u8], from: usize, to: usize) -> &[u8] {
    bytes.get(from..to.min(bytes.len())).unwrap_or(&[])
}
