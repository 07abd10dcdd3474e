//! How each approach is set up on a gateway: configuration files and command lines, as pure functions of the place.
//!
//! All get what their own documentation calls sensible for streams, and the same of it where they have the same: one worker
//! thread, since s2ds has one worker a gateway; buffers of 128 KiB; TCP_NODELAY; splicing in the kernel where it is offered;
//! time-outs that no run reaches. Nobody logs connections. Files, sockets and process ids stay in the gateway's directory,
//! and each program is one process in the foreground, or one that takes its children along.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::approach::{Approach, StreamModule, stream_module};
use crate::stream::Carrier;
use crate::topology::{Driver, Family, Place, ports};

/// Bytes of a proxy's buffer.
const BUFFER: u32 = 128 << 10;
/// Bytes of the kernel's buffers for a proxy's datagrams; TCP's grow by themselves.
const DATAGRAMS: u32 = 4 << 20;

/// Which gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The consumer's.
    Consumer,
    /// The producer's.
    Producer,
}

impl Side {
    /// Both.
    pub const BOTH: [Side; 2] = [Side::Consumer, Side::Producer];

    /// The gateway's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Consumer => "consumer-gateway",
            Side::Producer => "producer-gateway",
        }
    }

    /// Its address on the link to its host.
    #[must_use]
    pub fn lan(self) -> Place {
        match self {
            Side::Consumer => Place::CONSUMER_GATEWAY,
            Side::Producer => Place::PRODUCER_GATEWAY,
        }
    }

    /// Its address on the WAN.
    #[must_use]
    pub fn wan(self) -> Place {
        match self {
            Side::Consumer => Place::CONSUMER_WAN,
            Side::Producer => Place::PRODUCER_WAN,
        }
    }

    /// Where connections come in.
    fn listen(self) -> Place {
        match self {
            Side::Consumer => Place::CONSUMER_GATEWAY,
            Side::Producer => Place::PRODUCER_WAN,
        }
    }

    /// Where they go.
    fn target(self) -> Place {
        match self {
            Side::Consumer => Place::PRODUCER_WAN,
            Side::Producer => Place::PRODUCER,
        }
    }

    /// The device they leave by.
    fn out(self) -> &'static str {
        match self {
            Side::Consumer => "wan",
            Side::Producer => "lan",
        }
    }
}

/// The port that a carrier's streams have at every hop.
#[must_use]
pub fn port(carrier: Carrier) -> u16 {
    if carrier == Carrier::Quic { ports::QUIC } else { ports::STREAM }
}

/// Where and for what a gateway is set up.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Which gateway.
    pub side: Side,
    /// What it relays.
    pub carrier: Carrier,
    /// In which family.
    pub family: Family,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The core for whatever relays.
    pub core: usize,
    /// The gateway's directory: absolute, for its files.
    pub dir: String,
}

/// How a gateway becomes one of an approach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setup {
    /// The kernel forwards.
    Kernel {
        /// A route to the network beyond the other gateway, in the words of `ip`.
        route: Option<String>,
        /// A script for nft.
        rules: Option<String>,
    },
    /// A program relays.
    Program {
        /// Its files: name and text.
        files: Vec<(&'static str, String)>,
        /// Its command line; the first word is an installed tool's name or one of our own.
        command: Vec<String>,
    },
    /// s2ds relays.
    S2ds {
        /// Its configuration.
        config: String,
    },
}

impl Gate {
    fn listen(&self) -> SocketAddr {
        self.side.listen().socket(self.family, port(self.carrier))
    }

    fn target(&self) -> SocketAddr {
        self.side.target().socket(self.family, port(self.carrier))
    }

    fn datagrams(&self) -> bool {
        self.carrier != Carrier::Tcp
    }

    fn protocol(&self) -> &'static str {
        if self.datagrams() { "udp" } else { "tcp" }
    }

    /// How `approach` is set up here. `stunnel.pem` and `stunnel.crt` are there already for stunnel.
    #[must_use]
    pub fn setup(&self, approach: Approach) -> Setup {
        match approach {
            Approach::Direct => Setup::Kernel { route: Some(self.route()), rules: None },
            Approach::Nftables => Setup::Kernel { route: None, rules: Some(self.nft()) },
            Approach::Haproxy => self.program("haproxy.cfg", self.haproxy(), &["haproxy", "-db", "-f"]),
            Approach::Nginx => {
                let flags = ["nginx", "-e", "stderr", "-p", &self.dir, "-c"];
                self.program("nginx.conf", self.nginx(&stream_module()), &flags)
            }
            Approach::Stunnel => self.program("stunnel.conf", self.stunnel(), &["stunnel"]),
            Approach::Socat => Setup::Program { files: Vec::new(), command: self.socat() },
            Approach::Naive => Setup::Program { files: Vec::new(), command: self.naive() },
            Approach::AfPacketPoll
            | Approach::AfPacketAdaptive
            | Approach::AfXdpPoll
            | Approach::AfXdpAdaptive => {
                let (driver, idle) = approach.s2ds().unwrap_or((Driver::AfPacket, "adaptive"));
                Setup::S2ds { config: self.s2ds(driver, idle) }
            }
        }
    }

    /// How `approach` is set up here, for people: an entry for each command and each file. The gateway's directory is `DIR`.
    #[must_use]
    pub fn settings(&self, approach: Approach) -> Vec<String> {
        let gate = Gate { dir: "DIR".to_owned(), ..self.clone() };
        let entries = match gate.setup(approach) {
            Setup::Kernel { route, rules } => [
                Some(format!("net/{} = 1", gate.forwarding())),
                route.map(|route| format!("ip {route}")),
                rules.map(|rules| format!("rules.nft:\n{rules}")),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Setup::Program { files, command } => {
                let mut entries = vec![format!("taskset -c {} {}", gate.core, command.join(" "))];
                entries.extend(files.into_iter().map(|(name, text)| format!("{name}:\n{text}")));
                entries
            }
            Setup::S2ds { config } => vec![format!("s2ds.toml:\n{config}")],
        };
        entries.into_iter().map(|entry| format!("{}: {}", gate.side.name(), entry.trim_end())).collect()
    }

    /// What makes the kernel forward, below `net/`.
    #[must_use]
    pub fn forwarding(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4/ip_forward",
            Family::V6 => "ipv6/conf/all/forwarding",
        }
    }

    /// A program whose only argument after `flags` is its one file.
    fn program(&self, file: &'static str, text: String, flags: &[&str]) -> Setup {
        let mut command: Vec<String> = flags.iter().map(|&f| f.to_owned()).collect();
        command.push(format!("{}/{file}", self.dir));
        Setup::Program { files: vec![(file, text)], command }
    }

    fn route(&self) -> String {
        let (host, via) = match self.side {
            Side::Consumer => (Place::PRODUCER, Place::PRODUCER_WAN),
            Side::Producer => (Place::CONSUMER, Place::CONSUMER_WAN),
        };
        let bits = if self.family == Family::V4 { 32 } else { 128 };
        format!("route add {}/{bits} via {}", host.ip(self.family), via.ip(self.family))
    }

    /// Twice NAT: the destination becomes the next hop, the source this gateway.
    fn nft(&self) -> String {
        let (listen, target, protocol) = (self.listen(), self.target(), self.protocol());
        let ip = if self.family == Family::V4 { "ip" } else { "ip6" };
        let mut text = String::from("table inet relay {\n");
        let _ = write!(
            text,
            "  chain in {{\n    type nat hook prerouting priority dstnat;\n    \
             {ip} daddr {} {protocol} dport {} dnat {ip} to {target}\n  }}\n",
            listen.ip(),
            listen.port()
        );
        let _ = write!(
            text,
            "  chain out {{\n    type nat hook postrouting priority srcnat;\n    oifname \"{}\" masquerade\n  }}\n}}\n",
            self.side.out()
        );
        text
    }

    fn haproxy(&self) -> String {
        format!(
            "global\n  nbthread 1\n  maxconn 4096\n  tune.bufsize {BUFFER}\n\
             defaults\n  mode tcp\n  option splice-auto\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
             listen stream\n  bind {}\n  server next {}\n",
            self.listen(),
            self.target()
        )
    }

    fn nginx(&self, module: &Option<StreamModule>) -> String {
        let load = match module {
            Some(StreamModule::File(file)) => format!("load_module {};\n", file.display()),
            _ => String::new(),
        };
        let (protocol, only) = match self.datagrams() {
            true => (format!(" udp rcvbuf={DATAGRAMS} sndbuf={DATAGRAMS}"), ""),
            false => (String::new(), "  tcp_nodelay on;\n  proxy_half_close on;\n"),
        };
        format!(
            "{load}daemon off;\nmaster_process off;\nerror_log stderr error;\npid {dir}/nginx.pid;\n\
             events {{\n  worker_connections 4096;\n}}\n\
             stream {{\n  access_log off;\n  proxy_buffer_size {BUFFER};\n  proxy_connect_timeout 10s;\n  \
             proxy_timeout 1h;\n{only}  \
             server {{\n    listen {}{protocol};\n    proxy_pass {};\n  }}\n}}\n",
            self.listen(),
            self.target(),
            dir = self.dir
        )
    }

    /// TLS 1.3 between the gateways, the server's certificate verified.
    fn stunnel(&self) -> String {
        let role = match self.side {
            Side::Consumer => {
                format!("client = yes\nverifyPeer = yes\nCAfile = {}/stunnel.crt\n", self.dir)
            }
            Side::Producer => format!("cert = {}/stunnel.pem\n", self.dir),
        };
        format!(
            "foreground = yes\npid =\nsyslog = no\ndebug = 4\nsslVersion = TLSv1.3\n\
             socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
             [stream]\naccept = {}\nconnect = {}\nTIMEOUTclose = 60\nTIMEOUTidle = 3600\n{role}",
            bare(self.listen()),
            bare(self.target())
        )
    }

    /// socat has a child for each connection; in a namespace of process ids that ends with it, none outlives it.
    fn socat(&self) -> Vec<String> {
        let family = if self.family == Family::V4 { 4 } else { 6 };
        let (listen, target) = (self.listen(), self.target());
        let bind = match listen.ip() {
            ip if ip.is_ipv4() => ip.to_string(),
            ip => format!("[{ip}]"),
        };
        let (protocol, options) = match self.datagrams() {
            true => ("UDP", format!("rcvbuf={DATAGRAMS},sndbuf={DATAGRAMS}")),
            false => ("TCP", "nodelay".to_owned()),
        };
        let mut command: Vec<String> =
            ["unshare", "--pid", "--fork", "--kill-child", "--", "socat", "-t", "3600"]
                .map(str::to_owned)
                .into();
        command.extend([
            "-b".to_owned(),
            BUFFER.to_string(),
            format!("{protocol}{family}-LISTEN:{},bind={bind},fork,reuseaddr,{options}", listen.port()),
            format!("{protocol}{family}:{target},{options}"),
        ]);
        command
    }

    fn naive(&self) -> Vec<String> {
        let (listen, target) = (self.listen().to_string(), self.target().to_string());
        ["s2bench", "naive", "--listen", &listen, "--target", &target].map(str::to_owned).into()
    }

    fn s2ds(&self, driver: Driver, idle: &str) -> String {
        // Links that nobody else has an address on; asking for them would take half a second of each run.
        let mut text = format!(
            "[eal]\nhuge = false\n[addresses]\ncheck = \"off\"\n[workers]\ncores = [{}]\nidle = \"{idle}\"\n",
            self.core
        );
        for (name, place) in [("lan", self.side.lan()), ("wan", self.side.wan())] {
            let _ = write!(
                text,
                "[[port]]\nname = \"{name}\"\ndevice = \"{}\"\naddresses = [\"{}\"]\nmtu = {}\n",
                driver.device(name),
                place.prefixed(self.family),
                self.mtu
            );
        }
        let from = match self.side {
            Side::Consumer => Place::CONSUMER,
            Side::Producer => Place::CONSUMER_WAN,
        };
        let bits = if self.family == Family::V4 { 32 } else { 128 };
        let _ = write!(
            text,
            "[[flow]]\nname = \"stream\"\nproto = \"{}\"\nlisten = \"{}\"\ntarget = \"{}\"\nfrom = [\"{}/{bits}\"]\n",
            self.protocol(),
            self.listen(),
            self.target(),
            from.ip(self.family)
        );
        text
    }
}

/// An address and port as stunnel wants them: without brackets.
fn bare(address: SocketAddr) -> String {
    format!("{}:{}", address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(side: Side, carrier: Carrier, family: Family) -> Gate {
        Gate { side, carrier, family, mtu: 1500, core: 1, dir: "/w".into() }
    }

    fn text(setup: Setup) -> String {
        match setup {
            Setup::Kernel { route, rules } => [route, rules].into_iter().flatten().collect(),
            Setup::Program { files, command } => {
                command.join(" ") + "\n" + &files.into_iter().map(|(_, text)| text).collect::<String>()
            }
            Setup::S2ds { config } => config,
        }
    }

    #[test]
    fn each_gateway_listens_where_the_one_before_connects_to() {
        for approach in Approach::all() {
            for family in Family::ALL {
                let [near, far] = Side::BOTH.map(|side| gate(side, Carrier::Tcp, family));
                assert_eq!(near.target(), far.listen());
                for gate in [near, far] {
                    let text = text(gate.setup(*approach));
                    if *approach == Approach::Direct {
                        continue;
                    }
                    let target = gate.target();
                    assert!(
                        text.contains(&target.to_string()) || text.contains(&bare(target)),
                        "{approach}: {text}"
                    );
                    assert!(text.contains(&gate.listen().ip().to_string()), "{approach}: {text}");
                }
            }
        }
    }

    #[test]
    fn datagrams_are_asked_for_where_they_can_be_had() {
        let gate = gate(Side::Consumer, Carrier::Quic, Family::V4);
        for (approach, word) in [
            (Approach::Nftables, "udp dport 5302"),
            (Approach::Nginx, "listen 10.81.0.1:5302 udp"),
            (Approach::Socat, "UDP4-LISTEN:5302,bind=10.81.0.1"),
            (Approach::AfPacketPoll, "proto = \"udp\""),
        ] {
            assert_eq!(approach.cannot_carry(Carrier::Udp), None);
            let text = text(gate.setup(approach));
            assert!(text.contains(word), "{approach}: {text}");
        }
    }

    #[test]
    fn kernel_rules_change_destination_and_source() {
        let rules = text(gate(Side::Producer, Carrier::Tcp, Family::V6).setup(Approach::Nftables));
        assert!(rules.contains("ip6 daddr fd82::2 tcp dport 5301 dnat ip6 to [fd83::2]:5301"), "{rules}");
        assert!(rules.contains("oifname \"lan\" masquerade"), "{rules}");
        let route = text(gate(Side::Consumer, Carrier::Tcp, Family::V4).setup(Approach::Direct));
        assert_eq!(route, "route add 10.83.0.2/32 via 10.82.0.2");
    }

    #[test]
    fn tls_is_between_the_gateways() {
        let [near, far] =
            Side::BOTH.map(|side| text(gate(side, Carrier::Tcp, Family::V4).setup(Approach::Stunnel)));
        assert!(near.contains("client = yes") && near.contains("verifyPeer = yes"), "{near}");
        assert!(far.contains("cert = /w/stunnel.pem") && !far.contains("client"), "{far}");
        assert!(near.contains("TLSv1.3") && far.contains("TLSv1.3"));
    }

    #[test]
    fn nginx_loads_its_module_from_where_it_is() {
        let gate = gate(Side::Consumer, Carrier::Tcp, Family::V4);
        let file = Some(StreamModule::File("/m/ngx_stream_module.so".into()));
        assert!(gate.nginx(&file).starts_with("load_module /m/ngx_stream_module.so;\ndaemon off;"));
        assert!(gate.nginx(&Some(StreamModule::BuiltIn)).starts_with("daemon off;"));
    }

    #[test]
    fn ours_differ_in_device_and_idle_alone() {
        let of = |approach: Approach| text(gate(Side::Consumer, Carrier::Tcp, Family::V4).setup(approach));
        let poll = of(Approach::AfPacketPoll);
        assert_eq!(poll.replace("\"poll\"", "\"adaptive\""), of(Approach::AfPacketAdaptive));
        assert_eq!(poll.replace("af_packet:", "af_xdp:"), of(Approach::AfXdpPoll));
        assert!(poll.contains("cores = [1]") && poll.contains("from = [\"10.81.0.2/32\"]"), "{poll}");
    }
}
