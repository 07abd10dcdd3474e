//! vhost ports with a guest's half of virtio at the other end: DPDK's own virtio driver in testpmd, which needs no virtual machine.
//! It sends back what it gets. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dpdk_common;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpdk_common::{eal, frame, options, pool, settings};
use forwarder::config::Device;
use forwarder::dpdk::{Guest, Mbuf, Mempool, Port, PortSettings, Queue};
use forwarder::io::{Burst, PacketBuf, TxBatch};
use forwarder::pools::data_room_for;
use forwarder::wire::checksum;

/// How long the other process may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// Feature bits (virtio 1.2 section 5.1.3).
const CSUM: u64 = 1 << 0;
const MTU: u64 = 1 << 3;
const MRG_RXBUF: u64 = 1 << 15;
const MQ: u64 = 1 << 22;
const RING_PACKED: u64 = 1 << 34;
/// With one of these a guest sends frames that are to be segmented: GSO, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO, HOST_USO.
const SEGMENTED_LATER: u64 = 1 << 6 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 56;

fn vhost(socket: &Path, options: &str) -> Device {
    format!("vhost:{}{options}", socket.display()).parse().unwrap()
}

/// testpmd on a virtio device behind `socket`. Ends with its owner.
struct Peer(Child);

impl Peer {
    fn start(socket: &Path, device: &str, arguments: &[&str]) -> Peer {
        let vdev = format!("net_virtio_user0,path={}{device}", socket.display());
        let core = options().main_core;
        let log = std::fs::File::create(socket.with_extension("testpmd")).unwrap();
        let child = Command::new("dpdk-testpmd")
            .args([
                "--lcores",
                &format!("0@{core},1@{core}"),
                "--no-huge",
                "-m",
                "96",
                "--no-pci",
                "--no-telemetry",
            ])
            .args(["--file-prefix", &format!("s2-vhost-{}", std::process::id()), "--vdev", &vdev, "--"])
            .args(["--total-num-mbufs=4096", "--no-mlockall"])
            .args(arguments)
            // It goes on until it can read a line.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dpdk-testpmd, of Debian's package dpdk (`make deps`)");
        Peer(child)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An Ethernet frame of a length that no kernel and no driver has an opinion on.
fn numbered(n: u8, len: usize) -> Vec<u8> {
    let head = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    head.into_iter().chain((0..len - 14).map(|i| n.wrapping_add(i as u8))).collect()
}

/// Sends a frame until one comes back that `fits`: a guest that begins anew loses what it had. Returns what came.
fn echo_of(queue: &mut Queue, pool: &Mempool, bytes: &[u8], fits: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut batch = TxBatch::<Mbuf>::new();
    let (mut back, mut tries) = (None, 0);
    until("the guest sends a frame back", || {
        if tries % 100 == 0 && batch.is_empty() {
            batch.push(frame(pool, bytes));
        }
        tries += 1;
        queue.tx(&mut batch);
        let mut burst = Burst::<Mbuf>::new();
        queue.rx(&mut burst);
        assert!(burst.iter().all(|f| f.head().len() == f.frame_len()), "in one buffer");
        back = burst.iter().map(|f| f.head().to_vec()).find(|f| fits(f));
        back.is_some()
    });
    back.unwrap()
}

/// The frame comes back as it was.
fn echo(queue: &mut Queue, pool: &Mempool, bytes: &[u8]) {
    echo_of(queue, pool, bytes, |back| back == bytes);
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn guests_come_and_go_with_every_kind_of_ring() {
    let folder = folder();
    let socket = folder.path().join("vm.sock");
    // Left behind by a program that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    let eal = eal();
    let pool = pool(&eal, 1023);
    let wanted = PortSettings { queues: 2, ..settings(vhost(&socket, "")) };
    let (port, mut queues) = Port::open(&eal, wanted, &pool).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o660);
    for (device, arguments, features, pairs) in [
        (",mrg_rxbuf=1", &[][..], MRG_RXBUF, 1),
        (",mrg_rxbuf=0", &[][..], 0, 1),
        (",packed_vq=1", &[][..], MRG_RXBUF | RING_PACKED, 1),
        (",queues=2", &["--rxq=2", "--txq=2"][..], MRG_RXBUF | MQ, 2),
    ] {
        assert!(port.guest().is_none() && !port.link().unwrap().up, "{device}: nobody is there");
        let mut early = TxBatch::<Mbuf>::new();
        early.push(frame(&pool, &numbered(0, 60)));
        assert_eq!(queues[0].tx(&mut early), 0, "{device}: nobody takes a frame");
        drop(early);

        let peer = Peer::start(&socket, device, arguments);
        // It begins anew once, with other features.
        let kinds = MRG_RXBUF | RING_PACKED | MQ | SEGMENTED_LATER;
        let wanted = |g: Guest| g.queue_pairs == pairs && g.features & kinds == features && g.mtu.is_none();
        until(device, || port.guest().is_some_and(wanted) && port.link().unwrap().up);
        for (n, len) in [60, 61, 590, 1514, 1518].into_iter().enumerate() {
            echo(&mut queues[0], &pool, &numbered(n as u8, len));
        }
        // A second queue is the guest's to enable, and nobody else's to use.
        let mut batch = TxBatch::<Mbuf>::new();
        batch.push(frame(&pool, &numbered(9, 60)));
        if pairs == 2 {
            echo(&mut queues[1], &pool, &numbered(7, 80));
        } else {
            assert_eq!(queues[1].tx(&mut batch), 0, "{device}: the guest has one pair");
        }
        drop(batch);
        // Killed, with frames on their way.
        let mut batch = TxBatch::<Mbuf>::new();
        batch.extend((0..30).map(|n| frame(&pool, &numbered(n, 1000))));
        queues[0].tx(&mut batch);
        drop((peer, batch));
        until("the guest has gone", || port.guest().is_none() && !port.link().unwrap().up);
        let mut rest = Burst::<Mbuf>::new();
        queues[0].rx(&mut rest);
        drop(rest);
    }
    drop((port, queues));
    assert_eq!(pool.available(), pool.count());
    assert!(!socket.exists(), "the socket stays");
    assert_eq!(
        std::fs::read_dir(folder.path())
            .unwrap()
            .filter(|e| {
                let name = e.as_ref().unwrap().file_name();
                name.to_string_lossy().contains("sock")
            })
            .count(),
        0,
        "something of the socket stays"
    );
}

#[test]
fn the_guest_may_listen_and_be_called_again() {
    let folder = folder();
    let socket = folder.path().join("vm.sock");
    let eal = eal();
    let pool = pool(&eal, 1023);
    let (port, mut queues) = Port::open(&eal, settings(vhost(&socket, ",client")), &pool).unwrap();
    assert!(!socket.exists(), "whoever calls makes no socket");
    for n in 0..2 {
        let peer = Peer::start(&socket, ",server=1", &[]);
        until("the guest is there", || port.guest().is_some_and(|g| g.queue_pairs == 1));
        assert_eq!(port.guest().unwrap().features & SEGMENTED_LATER, 0);
        echo(&mut queues[0], &pool, &numbered(n, 100));
        drop(peer);
        until("the guest has gone", || port.guest().is_none());
        std::fs::remove_file(&socket).unwrap();
    }
    drop((port, queues));
    assert_eq!(pool.available(), pool.count());
}

#[test]
fn large_frames_take_several_of_the_guests_buffers_and_one_of_ours() {
    let folder = folder();
    let socket = folder.path().join("vm.sock");
    let eal = eal();
    let pool = Mempool::new(&eal, "jumbo", 511, 0, data_room_for(9000), None).unwrap();
    let wanted = PortSettings { mtu: 9000, ..settings(vhost(&socket, "")) };
    let (port, mut queues) = Port::open(&eal, wanted, &pool).unwrap();
    let _peer = Peer::start(&socket, ",mrg_rxbuf=1", &["--max-pkt-len=9018", "--enable-scatter"]);
    until("the guest is there", || port.guest().is_some_and(|g| g.queue_pairs == 1 && g.merges_buffers()));
    for (n, len) in [60, 4000, 9014].into_iter().enumerate() {
        echo(&mut queues[0], &pool, &numbered(n as u8, len));
    }
}

/// The relay changes a checksum by what it changes in the packet, so it needs whole ones. testpmd leaves them to its device.
#[test]
fn checksums_left_to_the_device_are_whole_when_a_worker_sees_them() {
    let folder = folder();
    let socket = folder.path().join("vm.sock");
    let eal = eal();
    let pool = pool(&eal, 1023);
    let (port, mut queues) = Port::open(&eal, settings(vhost(&socket, "")), &pool).unwrap();
    // TX offloads of UDP and TCP checksums.
    let _peer = Peer::start(&socket, "", &["--forward-mode=csum", "--tx-offloads=0xc"]);
    until("the guest leaves checksums to us", || port.guest().is_some_and(|g| g.features & CSUM != 0));
    let mut id = 0;
    for (protocol, at, header) in [(6u8, 16, 20), (17, 6, 8)] {
        for len in [0usize, 1, 100, 1401] {
            id += 1;
            let mut sent = numbered(3, 14 + 20 + header + len);
            sent[12..14].copy_from_slice(&[8, 0]);
            let total = (20 + header + len) as u16;
            let [high, low] = total.to_be_bytes();
            let ip = [0x45, 0, high, low, 0, id, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            sent[14..34].copy_from_slice(&ip);
            let sum = checksum::sum(&sent[14..34]).finish();
            sent[24..26].copy_from_slice(&sum.to_be_bytes());
            if protocol == 6 {
                sent[46] = 5 << 4;
            } else {
                sent[38..40].copy_from_slice(&((8 + len) as u16).to_be_bytes());
            }
            // Nobody's checksum; csum mode leaves a datagram alone that has none.
            sent[34 + at..36 + at].copy_from_slice(&[0xde, 0xad]);
            let back = echo_of(&mut queues[0], &pool, &sent, |back| {
                back.get(12..14) == Some(&[8, 0]) && back[19] == id
            });
            let l4 = &back[34..];
            assert_eq!(l4.len(), header + len);
            let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            let whole = checksum::pseudo_v4(src, dst, protocol, l4.len() as u16).plus(l4);
            assert!(whole.is_valid(), "protocol {protocol}, {len} bytes: {:02x?}", &l4[..header]);
            assert_ne!(l4[at..at + 2], [0xde, 0xad]);
        }
    }
}

/// A message of the vhost-user protocol; its answer's payload.
fn message(stream: &mut UnixStream, request: u32, payload: &[u8]) {
    let mut bytes = Vec::new();
    for word in [request, 1, payload.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(payload);
    stream.write_all(&bytes).unwrap();
}

#[test]
fn what_is_offered_is_what_can_be_carried() {
    const GET_FEATURES: u32 = 1;
    const SET_FEATURES: u32 = 2;
    let folder = folder();
    let socket = folder.path().join("vm.sock");
    let eal = eal();
    let pool = pool(&eal, 255);
    let (port, queues) = Port::open(&eal, settings(vhost(&socket, "")), &pool).unwrap();
    let offered = |stream: &mut UnixStream| {
        message(stream, GET_FEATURES, &[]);
        let mut answer = [0; 20];
        stream.read_exact(&mut answer).unwrap();
        u64::from_ne_bytes(answer[12..].try_into().unwrap())
    };
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let features = offered(&mut stream);
    assert_eq!(features & SEGMENTED_LATER, 0, "{features:#x}");
    let carried = CSUM | MTU | MRG_RXBUF | MQ | RING_PACKED;
    assert_eq!(features & carried, carried, "{features:#x}");
    // One that takes what was not offered is shown the door.
    message(&mut stream, SET_FEATURES, &(features | 1 << 11).to_ne_bytes());
    let gone = stream.read(&mut [0; 20]);
    assert!(matches!(gone, Ok(0)) || gone.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(port.guest().is_none());
    // The next one finds the port as it was.
    let mut next = UnixStream::connect(&socket).unwrap();
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(offered(&mut next), features);
    drop((next, port, queues));
    assert!(!socket.exists());
}

#[test]
fn a_socket_has_the_group_asked_for() {
    let folder = folder();
    let socket = folder.path().join("vm.sock");
    let eal = eal();
    let pool = pool(&eal, 255);
    // One that this process may give files to.
    let own = nix::unistd::Group::from_gid(nix::unistd::getgid()).unwrap().unwrap();
    let device = vhost(&socket, &format!(",group={}", own.name));
    let (port, queues) = Port::open(&eal, settings(device), &pool).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().gid(), own.gid.as_raw());
    // A second one would take it away.
    let rival = PortSettings { index: 1, ..settings(vhost(&socket, "")) };
    let error = Port::open(&eal, rival, &pool).expect_err("two ports on a socket").to_string();
    assert!(error.contains("another program listens on it"), "{error}");
    assert!(socket.exists());
    drop((port, queues));
    assert!(!socket.exists());
    assert_eq!(Arc::strong_count(&pool), 1);
}
