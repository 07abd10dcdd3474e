//! Kernel interfaces as ports: both ends of a veth in a network namespace of the test's own. Needs root, and passes
//! without a word of success otherwise. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dpdk_common;

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_common::{eal, frame, options, settings};
use etherparse::PacketBuilder;
use forwarder::api::{PortInfo, Reply, Request};
use forwarder::config::{Config, Device};
use forwarder::dpdk::{DpdkIo, Eal, Mbuf, Mempool, Port, PortSettings, Queue};
use forwarder::io::{Burst, PacketBuf, PacketIo, TxBatch};
use forwarder::pools::data_room_for;
use forwarder::server::Server;
use forwarder::service::{Handler, Peer};
use forwarder::topology::Placement;
use forwarder::wire::Tags;

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Moves this thread into a namespace with a veth pair `near` and `far`; it ends with the thread. False without the right.
fn veth(mtu: u16) -> bool {
    if let Err(why) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
        assert!(std::env::var_os("CI").is_none(), "a network namespace cannot be made: {why}");
        eprintln!("skipped: a network namespace cannot be made ({why}); run as root");
        return false;
    }
    ip(&format!("link add near mtu {mtu} numtxqueues 2 numrxqueues 2 type veth peer name far mtu {mtu}"));
    for end in ["near", "far"] {
        ip(&format!("link set {end} addrgenmode none up"));
    }
    true
}

fn open(
    eal: &Arc<Eal>,
    pool: &Arc<Mempool>,
    index: u8,
    device: Device,
    change: fn(&mut PortSettings),
) -> (Arc<Port>, Vec<Queue>) {
    let mut wanted = PortSettings {
        index,
        name: format!("p{index}"),
        multicast: vec![[0x33, 0x33, 0, 0, 0, 1]],
        ..settings(device)
    };
    change(&mut wanted);
    Port::open(eal, wanted, pool).unwrap()
}

/// A frame of the local experimental EtherType (0x88b5) with `len` bytes and these tags.
fn test_frame(pool: &Mempool, dst: [u8; 6], src: [u8; 6], tags: &[(u16, u16)], len: usize) -> Mbuf {
    let mut bytes = [dst, src].concat();
    for (kind, tci) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend([0x88, 0xb5]);
    let mut payload = 0u8;
    bytes.resize_with(len, || {
        payload = payload.wrapping_add(1);
        payload
    });
    frame(pool, &bytes)
}

/// The next frame of ours on any of the queues; the kernel's own talk is passed over.
fn receive(queues: &mut [Queue]) -> Mbuf {
    let until = Instant::now() + Duration::from_secs(10);
    let mut batch = TxBatch::<Mbuf>::new();
    while Instant::now() < until {
        for queue in queues.iter_mut() {
            queue.rx(&mut batch);
        }
        let ours = batch.iter().position(|f| {
            let head = f.head();
            [12, 16, 20].iter().any(|at| head.get(*at..at + 2) == Some(&[0x88, 0xb5]))
        });
        if let Some(at) = ours {
            assert_eq!(batch.len(), at + 1, "more than was sent");
            return batch.remove(at);
        }
        batch.clear();
    }
    panic!("nothing arrived within 10 s");
}

/// Sends frames of several shapes from one end to the other, one at a time, and compares every byte.
fn exchange(
    pool: &Arc<Mempool>,
    near: &mut (Arc<Port>, Vec<Queue>),
    far: &mut (Arc<Port>, Vec<Queue>),
    longest: usize,
) {
    let b = far.0.mac();
    for (dst, tags, len) in [
        (b, &[][..], 60),
        (b, &[(C, 100)], 64),
        (b, &[], longest),
        (b, &[(C, 0x6fff)], longest + 4),
        ([0xff; 6], &[], 60),
        ([0x33, 0x33, 0, 0, 0, 1], &[], 90),
    ] {
        pass(pool, near, far, dst, tags, len);
    }
}

const C: u16 = 0x8100;
const S: u16 = 0x88a8;

/// Sends a frame from one end to the other and compares every byte.
fn pass(
    pool: &Arc<Mempool>,
    near: &mut (Arc<Port>, Vec<Queue>),
    far: &mut (Arc<Port>, Vec<Queue>),
    dst: [u8; 6],
    tags: &[(u16, u16)],
    len: usize,
) {
    let sent = test_frame(pool, dst, near.0.mac(), tags, len);
    let bytes = sent.head().to_vec();
    let mut batch = TxBatch::<Mbuf>::new();
    batch.push(sent);
    assert_eq!(near.1[0].tx(&mut batch), 1);
    let got = receive(&mut far.1);
    assert_eq!(got.head(), bytes, "tags {tags:x?}, {len} bytes");
}

#[test]
fn af_packet_carries_every_byte_both_ways() {
    if !veth(1500) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "veth", 4095, 0, data_room_for(1500), None).unwrap();
    let mut near = open(&eal, &pool, 0, Device::AfPacket("near".into()), |_| ());
    let mut far = open(&eal, &pool, 1, Device::AfPacket("far".into()), |s| s.queues = 2);
    assert_eq!((near.0.driver(), far.1.len()), ("net_af_packet", 2));
    assert!(near.0.link().unwrap().up);
    exchange(&pool, &mut near, &mut far, 1514);
    exchange(&pool, &mut far, &mut near, 1514);
    drop((near, far));
    assert_eq!(pool.available(), pool.count());
}

/// Two tags take 8 bytes of the kernel's MTU; service tags are what they were, though the kernel takes them off.
#[test]
fn service_tags_pass_kernel_interfaces() {
    if !veth(1508) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "veth", 8191, 0, data_room_for(1508), None).unwrap();
    let change: fn(&mut PortSettings) = |s| {
        let [c30, s100, both] = [(None, Some(30)), (Some(100), None), (Some(100), Some(30))]
            .map(|(outer, inner)| Tags { outer, inner });
        s.mtu = 1508;
        s.tags = vec![Tags::NONE, c30, s100, both];
    };
    let mut near = open(&eal, &pool, 0, Device::AfXdp("near".into()), change);
    let mut far = open(&eal, &pool, 1, Device::AfPacket("far".into()), change);
    for (tags, len) in
        [(&[][..], 1514), (&[(C, 0x601e)], 1518), (&[(S, 0xe064)], 1518), (&[(S, 0x3064), (C, 0x701e)], 1522)]
    {
        let (a, b) = (near.0.mac(), far.0.mac());
        pass(&pool, &mut near, &mut far, b, tags, len);
        pass(&pool, &mut far, &mut near, a, tags, len);
    }
}

#[test]
fn af_packet_carries_large_frames() {
    if !veth(9000) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "veth", 1023, 0, data_room_for(9000), None).unwrap();
    let mut near = open(&eal, &pool, 0, Device::AfPacket("near".into()), |s| s.mtu = 9000);
    let mut far = open(&eal, &pool, 1, Device::AfPacket("far".into()), |s| s.mtu = 9000);
    exchange(&pool, &mut near, &mut far, 9014);
    exchange(&pool, &mut far, &mut near, 9014);
}

#[test]
fn af_xdp_carries_every_byte_both_ways() {
    if !veth(1500) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "veth", 8191, 0, data_room_for(1500), None).unwrap();
    let mut near = open(&eal, &pool, 0, Device::AfXdp("near".into()), |_| ());
    let mut far = open(&eal, &pool, 1, Device::AfPacket("far".into()), |_| ());
    assert_eq!(near.0.driver(), "net_af_xdp");
    exchange(&pool, &mut near, &mut far, 1514);
    exchange(&pool, &mut far, &mut near, 1514);
}

/// An adaptive worker sleeps until the kernel has frames for its queue, and for no other one: every wait here is for an hour.
fn wakes_whom_it_concerns(device: fn(String) -> Device, change: fn(&mut PortSettings)) {
    const HOUR: Duration = Duration::from_secs(3600);
    if !veth(1500) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "veth", 12_287, 0, data_room_for(1500), None).unwrap();
    let (near, queues) = open(&eal, &pool, 0, device("near".into()), change);
    let (_far, mut senders) = open(&eal, &pool, 1, device("far".into()), |_| ());
    let mut workers: Vec<DpdkIo> =
        queues.into_iter().map(|queue| DpdkIo::new(vec![queue], Arc::clone(&pool))).collect();
    assert!(workers.iter().all(PacketIo::wakes));
    let mut send = |flow: u16| {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], near.mac())
            .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
            .udp(flow, 7)
            .write(&mut bytes, b"wake up")
            .unwrap();
        let mut batch = TxBatch::from_iter([frame(&pool, &bytes)]);
        while senders[0].tx(&mut batch) == 0 {}
    };
    let mut woken = vec![0; workers.len()];
    for flow in 0..64 {
        send(flow);
        // Which worker's is it?
        let until = Instant::now() + Duration::from_secs(10);
        let mut burst = Burst::new();
        let place = loop {
            assert!(Instant::now() < until, "nothing arrived within 10 s");
            if let Some(place) = workers.iter_mut().position(|io| io.rx(0, &mut burst) > 0) {
                break place;
            }
        };
        burst.clear();
        send(flow);
        workers[place].wait(HOUR);
        assert_eq!(workers[place].rx(0, &mut burst), 1, "flow {flow}");
        woken[place] += 1;
    }
    assert!(woken.iter().all(|n| *n > 0), "one queue got nothing: {woken:?}");
}

#[test]
fn af_packet_wakes_whom_it_concerns() {
    wakes_whom_it_concerns(Device::AfPacket, |s| s.queues = 2);
}

#[test]
fn af_xdp_wakes_whom_it_concerns() {
    // A veth has no more that AF_XDP's driver would take.
    wakes_whom_it_concerns(Device::AfXdp, |s| s.queues = 1);
}

#[test]
fn a_tap_interface_comes_and_goes_with_its_port() {
    if !veth(1500) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "tap", 2047, 0, data_room_for(1500), None).unwrap();
    let exists = || Command::new("ip").args(["link", "show", "s2tap"]).output().unwrap().status.success();
    let tap = open(&eal, &pool, 0, Device::Tap("s2tap".into()), |_| ());
    assert!(exists());
    drop(tap);
    assert!(!exists());
}

#[test]
fn an_interface_with_a_smaller_mtu_is_refused_with_the_command_to_mend_it() {
    if !veth(1400) {
        return;
    }
    let eal = eal();
    let pool = Mempool::new(&eal, "veth", 1023, 0, data_room_for(1500), None).unwrap();
    let error = Port::open(&eal, settings(Device::AfPacket("near".into())), &pool).unwrap_err().to_string();
    assert!(error.contains("has MTU 1400, and the port wants 1500"), "{error}");
    assert!(error.contains("ip link set dev near mtu 1500"), "{error}");
}

/// MAC address of the station at the far end.
const FAR: &str = "02:00:00:00:00:77";

/// The whole forwarder at the near end, with one worker.
fn serve(folder: &std::path::Path) -> anyhow::Result<Server> {
    let text = format!(
        "[eal]\nhuge = false\n[workers]\nidle = \"adaptive\"\n[limits]\nconnections = 100\n\
         [privileges]\nsandbox = \"off\"\n[service]\nsocket = {:?}\n[[port]]\nname = \"lab\"\ndevice = \"af_packet:near\"\n\
         addresses = [\"10.9.0.1/24\", \"10.9.0.2/24\", \"fd09::1/64\"]\n",
        folder.join("s2ds.sock")
    );
    let main = options().main_core;
    let placement = Placement::on_cores(main, &[main], 1);
    Server::start(Config::parse(&text, "test.toml").unwrap(), &placement, Vec::new())
}

#[test]
fn a_forwarder_whose_address_the_kernel_next_door_has_does_not_start_and_names_its_mac() {
    if !veth(1500) {
        return;
    }
    ip(&format!("link set far address {FAR}"));
    ip("address add 10.9.0.1/24 dev far");
    ip("address add fd09::1/64 dev far nodad");
    let folder = tempfile::tempdir().unwrap();
    let error = serve(folder.path()).map(drop).unwrap_err().to_string();
    for address in ["10.9.0.1", "fd09::1"] {
        assert!(error.contains(&format!("{address} of port \"lab\" by {FAR}")), "{error}");
    }
    assert!(!error.contains("10.9.0.2") && error.contains("check = \"off\""), "{error}");
    assert!(!folder.path().join("s2ds.sock").exists(), "the socket was left behind");
}

/// Waits until what is asked for shows.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(told) = ask() {
            return told;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn free_addresses_are_announced_and_kept_from_the_kernel_next_door() {
    if !veth(1500) {
        return;
    }
    ip(&format!("link set far address {FAR}"));
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).unwrap();
    let ports = || -> Vec<PortInfo> {
        let peer = Peer { pid: 1, uid: 0, gid: 0 };
        match server.gateway().handle(Request::PortList, &peer) {
            Ok(Reply::Ports { ports }) => ports,
            other => panic!("{other:?}"),
        }
    };
    // Twice two of IPv4, three times one and the link-local one of IPv6.
    until("announcements", || (server.gateway().stats().originated == 10).then_some(()));
    assert_eq!(ports()[0].conflicts, []);
    ip("address add fd09::1/64 dev far");
    until("the kernel giving up", || {
        let shown = Command::new("ip").args(["-6", "address", "show", "dev", "far"]).output().unwrap();
        String::from_utf8(shown.stdout).unwrap().contains("dadfailed").then_some(())
    });
    let conflicts = until("a conflict", || Some(ports().remove(0).conflicts).filter(|c| !c.is_empty()));
    assert_eq!((conflicts[0].address.to_string().as_str(), conflicts[0].mac.as_str()), ("fd09::1", FAR));
    assert!(server.stop());
}

/// As often as buffers last where the driver keeps those of an interface that goes.
const AF_XDP_RETURNS: u32 = 5;

/// A relay between two veth pairs whose far ends are the kernel's, a client at 10.9.0.9 and a target at 10.8.0.9; devices of this
/// kind. One interface goes in the middle of the traffic and comes back, several times.
fn an_interface_goes_and_comes_back(kind: &str) {
    if !veth(1500) {
        return;
    }
    // One queue each: of several, AF_XDP's one worker would serve the first only.
    let pair = |near: &str, far: &str| {
        ip(&format!(
            "link add {near} numtxqueues 1 numrxqueues 1 type veth peer name {far} numtxqueues 1 numrxqueues 1"
        ));
        for end in [near, far] {
            ip(&format!("link set {end} addrgenmode none up"));
        }
    };
    let far = || {
        pair("near", "far");
        ip(&format!("link set far address {FAR}"));
        ip("address add 10.9.0.9/24 dev far");
        offloads_off("far");
    };
    ip("link delete near");
    // A neighbor that learns from what nobody asked for.
    std::fs::write("/proc/sys/net/ipv4/conf/default/arp_accept", "1").unwrap();
    far();
    pair("wnear", "wfar");
    ip("address add 10.8.0.9/24 dev wfar");
    ip("address add 10.7.0.9/24 dev wfar");
    ip("link set lo up");
    offloads_off("wfar");
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[eal]\nhuge = false\n[workers]\nidle = \"adaptive\"\n[limits]\nconnections = 100\n\
         [privileges]\nsandbox = \"off\"\n\
         [service]\nsocket = {:?}\n\
         [[port]]\nname = \"lan\"\ndevice = \"{kind}:near\"\naddresses = [\"10.9.0.1/24\", \"10.9.0.2/24\"]\n\
         retry = \"1s\"\n\
         [[port]]\nname = \"wan\"\ndevice = \"{kind}:wnear\"\naddresses = [\"10.7.0.1/24\", \"10.8.0.1/24\"]\n\
         [[flow]]\nname = \"f\"\nproto = \"udp\"\nlisten = \"10.9.0.1:5001\"\ntarget = \"10.8.0.9:7000\"\n\
         from = [\"10.9.0.0/24\"]\n\
         [[flow]]\nname = \"second\"\nproto = \"udp\"\nlisten = \"10.9.0.2:5001\"\ntarget = \"10.7.0.9:7000\"\n\
         from = [\"10.9.0.0/24\"]\n",
        folder.path().join("s2ds.sock")
    );
    let main = options().main_core;
    let placement = Placement::on_cores(main, &[main], 2);
    let server = Server::start(Config::parse(&text, "test.toml").unwrap(), &placement, Vec::new()).unwrap();
    let peer = Peer { pid: 1, uid: 0, gid: 0 };
    let show = |name: &str| match server
        .gateway()
        .handle(Request::PortShow { name: name.to_owned(), all: false }, &peer)
    {
        Ok(Reply::Port { port }) => *port,
        other => panic!("{other:?}"),
    };

    let bind = |address: &str| {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    };
    let (target, second, client) = (bind("10.8.0.9:7000"), bind("10.7.0.9:7000"), bind("10.9.0.9:4000"));
    // A datagram there and back; those that are lost are sent again.
    let passes_by = |listen: &str, target: &UdpSocket, number: u32| {
        until("a datagram there and back", || {
            let mut buffer = [0; 8];
            client.send_to(&number.to_be_bytes(), listen).ok()?;
            let (_, source) = target.recv_from(&mut buffer).ok()?;
            target.send_to(&buffer[..4], source).ok()?;
            let (length, _) = client.recv_from(&mut buffer).ok()?;
            (buffer[..length] == number.to_be_bytes()).then_some(source)
        })
    };
    let passes = |number| passes_by("10.9.0.1:5001", &target, number);
    let source = passes(0);
    // By the second addresses of both ports, which are in another network at one and in the same at the other.
    assert_eq!(source.ip().to_string(), "10.8.0.1");
    assert_eq!(passes_by("10.9.0.2:5001", &second, 5).ip().to_string(), "10.7.0.1");
    let mac = show("lan").port.mac;
    assert_eq!(
        (show("lan").port.link.as_str(), show("lan").device.interface.as_deref()),
        ("up", Some("near"))
    );

    ip("link set far down");
    until("the link down", || {
        (show("lan").port.link == "down" && show("lan").device.link.changes == 1).then_some(())
    });
    ip("link set far up");
    until("the link up", || (show("lan").device.link.changes == 2).then_some(()));
    // Nobody asks for the second address, which the kernel forgot with the link.
    let announced = || {
        let known = Command::new("ip").args(["neigh", "show", "10.9.0.2", "dev", "far"]).output().unwrap();
        String::from_utf8(known.stdout).unwrap().contains(&mac).then_some(())
    };
    until("an announcement on the new link", announced);
    assert_eq!((show("wan").device.link.changes, passes(1)), (0, source));

    for round in 1..=AF_XDP_RETURNS {
        ip("link delete near");
        until("the failure", || show("lan").port.failure);
        assert_eq!(show("wan").port.link, "up");
        let lost = || server.gateway().stats().drops["port_failed"];
        let before = lost();
        until("a loss by name", || {
            target.send_to(b"lost", source).unwrap();
            (lost() > before).then_some(())
        });
        // The other port goes on: it answers.
        assert!(
            Command::new("ping").args(["-c1", "-W10", "-q", "10.8.0.1"]).output().unwrap().status.success()
        );

        far();
        until("the return", || show("lan").port.failure.is_none().then_some(()));
        until("an announcement by the device that came back", announced);
        assert_eq!(passes(round * 10), source, "the connection is another");
        let shown = Command::new("ip").args(["link", "show", "near"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(show("lan").port.mac == mac && shown.contains(&mac), "{mac} is not in {shown}");
    }

    let stats = until("a ledger that balances", || {
        let stats = server.gateway().stats();
        (stats.received == stats.sent + stats.held + stats.drops.values().sum::<u64>()).then_some(stats)
    });
    assert!(stats.received > 0);
    assert!(server.stop());
}

/// The kernel leaves checksums to the devices otherwise, and a veth has none that computes them.
fn offloads_off(interface: &str) {
    let off = ["tx", "off", "rx", "off", "gso", "off", "gro", "off", "tso", "off"];
    let status = Command::new("ethtool").arg("-K").arg(interface).args(off).status().unwrap();
    assert!(status.success(), "ethtool -K {interface}");
}

#[test]
fn an_af_packet_interface_goes_and_comes_back() {
    an_interface_goes_and_comes_back("af_packet");
}

#[test]
fn an_af_xdp_interface_goes_and_comes_back() {
    an_interface_goes_and_comes_back("af_xdp");
}

#[test]
fn a_missing_capability_is_named() {
    // A process keeps what it has: start this program again with less.
    let less = Command::new("setpriv")
        .arg("--bounding-set=-net_raw")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "without_cap_net_raw", "--ignored"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&less.stdout);
    assert!(less.status.success(), "{said}{}", String::from_utf8_lossy(&less.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "a_missing_capability_is_named runs it with less rights"]
fn without_cap_net_raw() {
    let eal = eal();
    let pool = Mempool::new(&eal, "lo", 255, 0, data_room_for(1500), None).unwrap();
    let error = Port::open(&eal, settings(Device::AfPacket("lo".into())), &pool).unwrap_err().to_string();
    assert!(error.contains("the process lacks CAP_NET_RAW; run as root"), "{error}");
}
