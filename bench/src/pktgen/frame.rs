//! What a received frame is.

use forwarder::wire::eth::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use forwarder::wire::ipv4::Ipv4;
use forwarder::wire::ipv6::Ipv6;
use forwarder::wire::tcp::Tcp;
use forwarder::wire::udp::Udp;
use forwarder::wire::{Frame, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

use super::stamp::Stamp;

/// What a received frame is. Addresses do not count: a relay between may have changed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet of a generator.
    Stamped {
        /// Its stamp.
        stamp: Stamp,
        /// Where the IP header begins.
        l3: usize,
        /// Where the transport header begins.
        l4: usize,
        /// Over IPv6.
        v6: bool,
    },
    /// ARP.
    Arp(Frame),
    /// ICMPv6, neighbor discovery among it.
    Icmpv6(Frame),
    /// A checksum is wrong, or lengths contradict each other.
    Corrupt,
    /// Anything else.
    Foreign,
}

/// Looks at the first `bytes` of a frame that has `len` of them. `verify` sums up what the transport's checksum covers, too,
/// if all of it is there.
#[inline]
#[must_use]
pub fn read(bytes: &[u8], len: usize, verify: bool) -> Kind {
    let Ok(eth) = Frame::parse(bytes) else { return Kind::Foreign };
    let (l3, rest) = (eth.l3, &bytes[eth.l3..]);
    let (v6, protocol, pseudo, l4, payload, total) = match eth.ethertype {
        ETHERTYPE_IPV4 => {
            let Ok(ip) = Ipv4::parse(rest, len - l3) else { return Kind::Corrupt };
            if !ip.checksum_ok() {
                return Kind::Corrupt;
            }
            if ip.is_fragment() {
                return Kind::Foreign;
            }
            (false, ip.protocol(), ip.pseudo(), l3 + ip.header_len(), ip.payload(), ip.payload_len())
        }
        ETHERTYPE_IPV6 => {
            let Ok(ip) = Ipv6::parse(rest, len - l3) else { return Kind::Corrupt };
            if ip.next_header() == PROTO_ICMPV6 {
                return Kind::Icmpv6(eth);
            }
            (true, ip.next_header(), ip.pseudo(), l3 + 40, ip.payload(), ip.payload_len())
        }
        ETHERTYPE_ARP => return Kind::Arp(eth),
        _ => return Kind::Foreign,
    };
    let whole = verify && payload.len() == total;
    let data = match protocol {
        PROTO_UDP => {
            let Ok(udp) = Udp::parse(payload, total) else { return Kind::Corrupt };
            // Over IPv4 a sender may leave the checksum out (RFC 768); we do not.
            let summed = v6 || udp.checksum() != 0;
            if whole && summed && !udp.checksum_ok(pseudo) {
                return Kind::Corrupt;
            }
            udp.payload()
        }
        PROTO_TCP => {
            let Ok(tcp) = Tcp::parse(payload, total) else { return Kind::Corrupt };
            if whole && !tcp.checksum_ok(pseudo) {
                return Kind::Corrupt;
            }
            payload.get(tcp.header_len()..).unwrap_or_default()
        }
        _ => return Kind::Foreign,
    };
    match Stamp::read(data) {
        Some(stamp) => Kind::Stamped { stamp, l3, l4, v6 },
        None => Kind::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::headers::{Flows, Proto};
    use crate::pktgen::sizes::Mix;
    use crate::pktgen::template::{Template, fill};
    use forwarder::wire::Mac;

    fn frame() -> Vec<u8> {
        let flows = Flows {
            src: "10.0.0.1:1".parse().unwrap(),
            dst: "10.0.0.2:2".parse().unwrap(),
            count: 1,
            hosts: 1,
            proto: Proto::Udp,
            vlan: None,
        };
        let mix: Mix = "128".parse().unwrap();
        let heads = flows.heads(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let template = Template::new(heads, &mix, 1).unwrap();
        let mut frame = vec![0; template.len(0)];
        fill(&mut frame);
        template.write(0, 1, &mut frame);
        frame
    }

    #[test]
    fn any_flipped_bit_behind_the_ethernet_header_is_seen() {
        let good = frame();
        assert!(matches!(read(&good, good.len(), true), Kind::Stamped { .. }));
        for at in 14..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(read(&bad, bad.len(), true), Kind::Corrupt, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn without_verifying_the_payload_is_not_looked_at() {
        let mut frame = frame();
        *frame.last_mut().unwrap() ^= 1;
        assert!(matches!(read(&frame, frame.len(), false), Kind::Stamped { .. }));
        // The first segment of several: what is not there cannot be summed up.
        assert!(matches!(read(&frame[..80], frame.len(), true), Kind::Stamped { .. }));
    }

    #[test]
    fn others_frames_are_foreign() {
        assert_eq!(read(&[0; 60], 60, true), Kind::Foreign);
        assert_eq!(read(&[], 0, true), Kind::Foreign);
        let mut frame = frame();
        // A datagram without a checksum and without a stamp.
        frame[42..44].fill(0);
        frame[40..42].fill(0);
        assert_eq!(read(&frame, frame.len(), true), Kind::Foreign);
        frame[12..14].copy_from_slice(&[8, 6]);
        assert!(matches!(read(&frame, frame.len(), true), Kind::Arp(_)));
    }
}
