//! What became of a packet. Every drop has one named, counted reason; the enum is also the index of its counter.
#![forbid(unsafe_code)]

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a received packet was not sent on. The name is what `s2ctl stats` and telemetry show.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// Its name in counters.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// An ARP packet that ended here: a reply, or a request that only taught us an address. Not a loss.
    LocalArp = "local_arp",
    /// A neighbor discovery packet that ended here. Not a loss.
    LocalNd = "local_nd",
    /// The frame is shorter than its Ethernet header.
    EthTruncated = "eth_truncated",
    /// The frame's VLAN tags are not those of a port of the device, or are more than two.
    VlanMismatch = "vlan_mismatch",
    /// The frame is addressed to another station.
    NotForUs = "not_for_us",
    /// Neither IPv4, IPv6 nor ARP.
    EthertypeUnknown = "ethertype_unknown",
    /// A malformed ARP packet.
    ArpMalformed = "arp_malformed",
    /// An ARP packet about addresses that are not on this port, or nobody's concern here.
    ArpIgnored = "arp_ignored",
    /// Another station claims one of our addresses (RFC 5227).
    AddressConflict = "address_conflict",
    /// A malformed neighbor discovery packet (RFC 4861 section 7.1).
    NdMalformed = "nd_malformed",
    /// A neighbor discovery packet that does not concern us.
    NdIgnored = "nd_ignored",
    /// The IP packet is longer than its frame, or its header is cut off.
    IpTruncated = "ip_truncated",
    /// The version field does not say what the ethertype says.
    IpBadVersion = "ip_bad_version",
    /// The IPv4 header length is impossible.
    IpBadHeaderLength = "ip_bad_header_length",
    /// The IP length field is impossible.
    IpBadLength = "ip_bad_length",
    /// The IPv4 header checksum is wrong.
    IpBadChecksum = "ip_bad_checksum",
    /// A source route or a malformed IPv4 option (RFC 7126).
    IpOptions = "ip_options",
    /// An IPv6 extension header the relay does not pass: malformed, too many, or a route yet to go (RFC 5095).
    Ipv6Extension = "ipv6_extension",
    /// A fragment that no datagram has: beyond 65,535 bytes, or not a multiple of 8 with more to come.
    FragmentMalformed = "fragment_malformed",
    /// A first fragment without the whole transport header, or one that begins within it (RFC 1858, RFC 3128).
    FragmentTiny = "fragment_tiny",
    /// A fragment of what was there already (RFC 5722).
    FragmentOverlap = "fragment_overlap",
    /// A fragment whose first one did not come in time, or whose connection went.
    FragmentTimeout = "fragment_timeout",
    /// There was no room to remember or keep a fragment.
    FragmentTableFull = "fragment_table_full",
    /// The source address is none a host may have: zero, loopback, class E, link-local.
    MartianSource = "martian_source",
    /// The source address is multicast or broadcast.
    MulticastSource = "multicast_source",
    /// Source and destination are the same (a LAND packet).
    Land = "land",
    /// The source address is our own: a packet that came back.
    Looped = "looped",
    /// The destination is multicast or broadcast.
    MulticastDestination = "multicast_destination",
    /// The destination is not an address of the port it arrived at, and no flow lets it be opened from there.
    NotOurAddress = "not_our_address",
    /// The TTL or hop limit ran out.
    TtlExpired = "ttl_expired",
    /// Neither TCP, UDP nor ICMP.
    ProtocolUnsupported = "protocol_unsupported",
    /// The transport header is cut off or its length field is impossible.
    L4Truncated = "l4_truncated",
    /// The TCP header is malformed: data offset or flags.
    TcpMalformed = "tcp_malformed",
    /// The UDP length field is impossible.
    UdpBadLength = "udp_bad_length",
    /// A UDP datagram without a checksum over IPv6 (RFC 8200 section 8.1).
    UdpNoChecksum = "udp_no_checksum",
    /// Port 0.
    PortZero = "port_zero",
    /// A malformed ICMP packet or a wrong ICMP checksum.
    IcmpMalformed = "icmp_malformed",
    /// An ICMP packet that is neither an echo request nor an error that is passed on.
    IcmpOther = "icmp_other",
    /// An ICMP error about a packet of no connection here (RFC 5508).
    IcmpUnmatched = "icmp_unmatched",
    /// An ICMP error that says nothing in the other IP family (RFC 7915).
    IcmpUntranslatable = "icmp_untranslatable",
    /// An echo request above the rate limit.
    IcmpRateLimited = "icmp_rate_limited",
    /// No flow listens there.
    NoFlow = "no_flow",
    /// The source is not in the flow's allowed prefixes.
    SourceDenied = "source_denied",
    /// The flow is draining: nothing new.
    FlowDraining = "flow_draining",
    /// The flow has its most connections.
    FlowFull = "flow_full",
    /// The flow has had its rate in this direction.
    RateExceeded = "rate_exceeded",
    /// A TCP segment of no connection that is not a SYN.
    TcpNoConnection = "tcp_no_connection",
    /// No route to the target or back to the source.
    NoRoute = "no_route",
    /// The source belongs behind another port (RFC 3704 strict reverse path).
    ReversePath = "reverse_path",
    /// No source port is free towards the target.
    NoSourcePort = "no_source_port",
    /// The connection table is full.
    ConnTableFull = "conn_table_full",
    /// The neighbor table is full.
    NeighborTableFull = "neighbor_table_full",
    /// Too many packets wait for this next hop.
    NeighborQueueFull = "neighbor_queue_full",
    /// The next hop did not answer.
    NeighborFailed = "neighbor_failed",
    /// The packet is larger than the MTU of the port it would leave by.
    TooBig = "too_big",
    /// There was no room in the buffer for the outgoing headers.
    NoHeadroom = "no_headroom",
    /// There was no buffer for the pieces of a packet that had to be fragmented.
    NoBuffer = "no_buffer",
    /// The device did not take packets for so long that the TX batch is full.
    TxFull = "tx_full",
    /// The port it was to leave by has failed, and nothing can be sent there.
    PortFailed = "port_failed",
    /// The worker that owns the connection does not keep up.
    HandoverFull = "handover_full",
    /// Held when the forwarder stopped.
    Stopped = "stopped",
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_counters_and_have_unique_names() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}
