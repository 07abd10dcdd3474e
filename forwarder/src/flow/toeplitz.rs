//! The hash by which devices put packets into queues: Toeplitz (Microsoft's RSS specification), over addresses and ports.
//!
//! Bit i of the input, when set, adds (XOR) the 32 bits of the key from bit i on. The sum over a byte's bits is looked up in a
//! table, and because the hash is a plain sum, what the last two bytes add - the destination port - can be added apart.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use super::key::{Addrs, Key};

/// Bytes hashed of a packet over IPv6: two addresses, two ports.
const LONGEST: usize = 36;

/// Bytes of key that matter: one bit beyond the input's last for each bit of the hash. Longer keys of devices go on unused.
pub const KEY: usize = LONGEST + 4;

/// Tables of one key.
#[derive(Clone, PartialEq, Eq)]
pub struct Toeplitz(Box<[[u32; 256]; LONGEST]>);

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The tables tell the key.
        f.write_str("Toeplitz")
    }
}

impl Toeplitz {
    /// Tables for a key.
    #[must_use]
    pub fn new(key: &[u8; KEY]) -> Self {
        let mut tables = Box::new([[0; 256]; LONGEST]);
        for (at, table) in tables.iter_mut().enumerate() {
            let window = key[at..at + 5].iter().fold(0u64, |w, b| w << 8 | u64::from(*b));
            for byte in 1..256usize {
                let lowest = byte.trailing_zeros();
                // The byte's most significant bit comes first.
                table[byte] = table[byte & (byte - 1)] ^ (window >> (lowest + 1)) as u32;
            }
        }
        Self(tables)
    }

    #[inline]
    fn add(&self, at: usize, bytes: &[u8]) -> u32 {
        self.0[at..].iter().zip(bytes).fold(0, |sum, (table, byte)| sum ^ table[usize::from(*byte)])
    }

    /// Of a packet with this key; the key's protocol and port of arrival do not count.
    #[inline]
    #[must_use]
    pub fn of(&self, key: &Key) -> u32 {
        let ports = key.ports.to_ne_bytes();
        match key.addrs {
            Addrs::V4(addrs) => {
                let (src, dst) = (addrs as u32, (addrs >> 32) as u32);
                self.add(0, &src.to_ne_bytes()) ^ self.add(4, &dst.to_ne_bytes()) ^ self.add(8, &ports)
            }
            Addrs::V6(src, dst) => {
                self.add(0, &src.to_ne_bytes()) ^ self.add(16, &dst.to_ne_bytes()) ^ self.add(32, &ports)
            }
        }
    }

    /// What a packet from `src` to `dst` and port 0 hashes to. Both are of one family.
    #[must_use]
    pub fn to_any_port(&self, src: SocketAddr, dst: IpAddr) -> u32 {
        let port = src.port().to_be_bytes();
        match (src.ip(), dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                self.add(0, &s.octets()) ^ self.add(4, &d.octets()) ^ self.add(8, &port)
            }
            (s, d) => {
                let octets = |a: IpAddr| match a {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                self.add(0, &octets(s)) ^ self.add(16, &octets(d)) ^ self.add(32, &port)
            }
        }
    }

    /// What a destination port adds to that.
    #[inline]
    #[must_use]
    pub fn port(&self, v6: bool, port: u16) -> u32 {
        self.add(if v6 { LONGEST - 2 } else { 10 }, &port.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Proto;
    use crate::flow::Tuple;

    /// The key and the vectors of "Verifying the RSS Hash Calculation", Microsoft: source, destination, hash.
    const SPEC_KEY: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    const VECTORS: [(&str, &str, u32); 8] = [
        ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
        ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
        ("24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b_394a),
        ("38.27.205.30:48228", "209.142.163.6:2217", 0xafc7_327f),
        ("153.39.163.191:44251", "202.188.127.2:1303", 0x10e8_28a2),
        ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
        ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde5_1bbf),
        ("[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x02d1_feef),
    ];

    #[test]
    fn hashes_are_those_of_the_specification() {
        let hash = Toeplitz::new(&SPEC_KEY);
        for (src, dst, expected) in VECTORS {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let key = Tuple { port: 3, proto: Proto::Udp, src, dst }.key().unwrap();
            assert_eq!(hash.of(&key), expected, "{src} {dst}");
            let in_parts = hash.to_any_port(src, dst.ip()) ^ hash.port(src.is_ipv6(), dst.port());
            assert_eq!(in_parts, expected, "{src} {dst}");
        }
    }
}
