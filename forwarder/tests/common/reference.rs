//! What the relay has to do with a frame, written plainly: one check after the other, checksums computed in full, no regard
//! for speed. It shares no code with the relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use forwarder::api::{FlowSpec, Proto};

use super::packet::{VLANS, gw_mac, host_mac, internet_checksum};
use super::{Conn, next_hop};

/// MTU of every port of [`super::PORTS`].
const MTUS: [usize; 4] = [1500, 1500, 1500, 1280];

/// What has to become of a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing comes out.
    Drop,
    /// ARP, ICMP and the like: at most an answer comes out, by the port it came in.
    Local,
    /// The first packet of a connection of this flow.
    Opens(usize),
    /// Exactly this comes out; see [`Rewritten::equals`] for what "exactly" means of a checksum that was wrong.
    Relay(u8, Rewritten),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub frame: Vec<u8>,
    /// Where the transport checksum is, when it was wrong before: it must then be wrong by as much.
    pub wrong_checksum: Option<usize>,
}

impl Rewritten {
    pub fn equals(&self, sent: &[u8]) -> bool {
        let Some(at) = self.wrong_checksum else { return sent == self.frame };
        let word = |f: &[u8]| u32::from(f[at]) << 8 | u32::from(f[at + 1]);
        sent.len() == self.frame.len()
            && sent[..at] == self.frame[..at]
            && sent[at + 2..] == self.frame[at + 2..]
            && word(sent) % 0xffff == word(&self.frame) % 0xffff
    }
}

/// Flows and connections as they have to be.
#[derive(Debug, Default)]
pub struct Model {
    pub flows: Vec<FlowSpec>,
    pub conns: Vec<Conn>,
}

/// A TCP or UDP packet that is in order.
struct Parsed {
    l3: usize,
    l4: usize,
    /// Length of the transport header and its data.
    l4_len: usize,
    proto: Proto,
    src: SocketAddr,
    dst: SocketAddr,
    flags: u8,
}

fn own(port: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, port, 0, 1).into(), Ipv6Addr::new(0xfd00, port.into(), 0, 0, 0, 0, 0, 1).into()]
}

fn own_anywhere(address: IpAddr) -> bool {
    let link_local = |p: u8| {
        let m = gw_mac(p);
        IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
    };
    (0..4).any(|p| own(p).contains(&address) || link_local(p) == address)
}

fn be(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

/// Err: not a packet to relay.
fn parse(port: u8, f: &[u8]) -> Result<Parsed, Verdict> {
    let check = |ok: bool| if ok { Ok(()) } else { Err(Verdict::Drop) };
    check(f.len() >= 14)?;
    let mut l3 = 14;
    let mut vlan = None;
    let mut ethertype = be(f, 12);
    if ethertype == 0x8100 {
        check(f.len() >= 18)?;
        l3 = 18;
        vlan = Some(be(f, 14) as u16 & 0xfff).filter(|id| *id != 0);
        ethertype = be(f, 16);
        check(ethertype != 0x8100 && ethertype != 0x88a8)?;
    }
    check(vlan == VLANS[usize::from(port)])?;
    let to_us = f[..6] == gw_mac(port);
    check(to_us || f[0] & 1 == 1)?;
    let ip = &f[l3..];
    let (l4, l4_len, proto, src, dst): (usize, usize, u8, IpAddr, IpAddr);
    match ethertype {
        0x0806 => return Err(Verdict::Local),
        0x0800 => {
            check(ip.len() >= 20 && ip[0] >> 4 == 4)?;
            let header = usize::from(ip[0] & 15) * 4;
            check(header >= 20 && be(ip, 2) >= header && be(ip, 2) <= ip.len())?;
            check(internet_checksum(&[&ip[..header]]) == 0)?;
            let (s, d) = (&ip[12..16], &ip[16..20]);
            let (s, d) = (Ipv4Addr::new(s[0], s[1], s[2], s[3]), Ipv4Addr::new(d[0], d[1], d[2], d[3]));
            let first = s.octets()[0];
            check(first != 0 && first != 127 && first < 224 && !s.is_link_local())?;
            check(s != Ipv4Addr::new(10, port, 0, 0) && s != Ipv4Addr::new(10, port, 0, 255))?;
            check(be(ip, 6) & 0x3fff == 0)?;
            let mut options = &ip[20..header];
            while !options.is_empty() && options[0] != 0 {
                let len = if options[0] == 1 { 1 } else { usize::from(*options.get(1).unwrap_or(&0)) };
                check(options[0] == 1 || len >= 2 && len <= options.len())?;
                check(options[0] != 131 && options[0] != 137)?;
                options = &options[len..];
            }
            (l4, l4_len, proto) = (l3 + header, be(ip, 2) - header, ip[9]);
            (src, dst) = (s.into(), d.into());
            if proto == 1 {
                return Err(Verdict::Local);
            }
            check(ip[8] > 1)?;
        }
        0x86dd => {
            check(ip.len() >= 40 && ip[0] >> 4 == 6 && be(ip, 4) + 40 <= ip.len())?;
            if ip[6] == 58 {
                return Err(Verdict::Local);
            }
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
            let s = address(8);
            check(!s.is_multicast() && !s.is_loopback() && !s.is_unspecified())?;
            check(!s.is_unicast_link_local() && s.to_ipv4_mapped().is_none())?;
            (l4, l4_len, proto) = (l3 + 40, be(ip, 4), ip[6]);
            (src, dst) = (s.into(), address(24).into());
            check(ip[7] > 1)?;
            check(proto != 17 || l4_len < 8 || be(f, l4 + 6) != 0)?;
        }
        _ => return Err(Verdict::Drop),
    }
    check(to_us && src != dst && !own_anywhere(src) && own(port).contains(&dst))?;
    let t = &f[l4..l4 + l4_len];
    let flags = match proto {
        6 => {
            check(t.len() >= 20)?;
            let header = usize::from(t[12] >> 4) * 4;
            check(header >= 20 && header <= t.len())?;
            check(t[13] & 2 == 0 || t[13] & 5 == 0)?;
            t[13]
        }
        17 => {
            check(t.len() >= 8 && be(t, 4) >= 8 && be(t, 4) <= t.len())?;
            0
        }
        _ => return Err(Verdict::Drop),
    };
    check(be(t, 0) != 0 && be(t, 2) != 0)?;
    let (src, dst) = (SocketAddr::new(src, be(t, 0) as u16), SocketAddr::new(dst, be(t, 2) as u16));
    let proto = if proto == 6 { Proto::Tcp } else { Proto::Udp };
    Ok(Parsed { l3, l4, l4_len, proto, src, dst, flags })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl Parsed {
    /// The right transport checksum of a packet of this shape.
    fn transport_checksum(&self, f: &[u8], src: IpAddr, dst: IpAddr) -> u16 {
        let (number, at, len) = match self.proto {
            Proto::Tcp => (6, 16, self.l4_len),
            Proto::Udp => (17, 6, be(f, self.l4 + 4)),
        };
        let mut t = f[self.l4..self.l4 + len].to_vec();
        t[at..at + 2].fill(0);
        let pseudo =
            [octets(src), octets(dst), vec![0, number], (len as u16).to_be_bytes().to_vec()].concat();
        let sum = internet_checksum(&[&pseudo, &t]);
        if sum == 0 && self.proto == Proto::Udp { 0xffff } else { sum }
    }
}

impl Model {
    /// What has to become of a frame that arrives at `port`.
    pub fn judge(&self, port: u8, frame: &[u8]) -> Verdict {
        let p = match parse(port, frame) {
            Ok(p) => p,
            Err(verdict) => return verdict,
        };
        for c in &self.conns {
            if p.proto == c.proto && (port, p.src, p.dst) == (c.port, c.client, c.listen) {
                return rewrite(&p, frame, c.out, c.source, c.target);
            }
            if p.proto == c.proto && (port, p.src, p.dst) == (c.out, c.target, c.source) {
                return rewrite(&p, frame, c.port, c.listen, c.client);
            }
        }
        let opens = p.proto == Proto::Udp || p.flags & 0x17 == 2;
        let listens = |f: &FlowSpec| {
            f.proto == p.proto && f.listen == p.dst && f.from.iter().any(|n| n.contains(&p.src.ip())) && opens
        };
        self.flows.iter().position(listens).map_or(Verdict::Drop, Verdict::Opens)
    }
}

fn rewrite(p: &Parsed, frame: &[u8], out: u8, src: SocketAddr, dst: SocketAddr) -> Verdict {
    if frame.len() - p.l3 > MTUS[usize::from(out)] {
        return Verdict::Drop;
    }
    let mut f = frame.to_vec();
    let v4 = src.is_ipv4();
    let (ttl, addresses) = if v4 { (8, 12) } else { (7, 8) };
    let checksum_at = p.l4 + if p.proto == Proto::Tcp { 16 } else { 6 };
    let before = be(frame, checksum_at) as u32;
    let right_before = u32::from(p.transport_checksum(frame, p.src.ip(), p.dst.ip()));

    f[p.l3 + ttl] -= 1;
    let (s, d) = (octets(src.ip()), octets(dst.ip()));
    f[p.l3 + addresses..][..s.len()].copy_from_slice(&s);
    f[p.l3 + addresses + s.len()..][..d.len()].copy_from_slice(&d);
    f[p.l4..][..2].copy_from_slice(&src.port().to_be_bytes());
    f[p.l4 + 2..][..2].copy_from_slice(&dst.port().to_be_bytes());
    let right_after = u32::from(p.transport_checksum(&f, src.ip(), dst.ip()));
    let none = p.proto == Proto::Udp && before == 0;
    let right = before == right_before;
    let after = match (none, right) {
        (true, _) => 0,
        (_, true) => right_after,
        // Wrong by as much as before.
        _ => (before + right_after + 0xffff - right_before) % 0xffff,
    };
    f[checksum_at..][..2].copy_from_slice(&(after as u16).to_be_bytes());
    if v4 {
        f[p.l3 + 10..][..2].fill(0);
        let sum = internet_checksum(&[&f[p.l3..p.l4]]);
        f[p.l3 + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut out_frame = [host_mac(next_hop(dst.ip())), gw_mac(out)].concat();
    if let Some(id) = VLANS[usize::from(out)] {
        out_frame.extend([0x81, 0x00]);
        out_frame.extend(id.to_be_bytes());
    }
    out_frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    let l3 = out_frame.len();
    out_frame.extend(&f[p.l3..]);
    let wrong_checksum = (!none && !right).then_some(l3 + checksum_at - p.l3);
    Verdict::Relay(out, Rewritten { frame: out_frame, wrong_checksum })
}
