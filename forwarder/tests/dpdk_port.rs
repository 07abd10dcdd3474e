//! Ports over rings and over drivers that need no hardware. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dpdk_common;

use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_common::{eal, frame, pool, settings};
use forwarder::config::Device;
use forwarder::dpdk::{DpdkIo, Eal, Mbuf, Mempool, Port, PortSettings};
use forwarder::io::{BURST, Burst, PacketBuf, PacketIo, TxBatch};
use forwarder::pools::data_room_for;
use forwarder::wire::Tags;

fn vdev(text: &str) -> Device {
    Device::Vdev(text.to_owned())
}

fn refusal(eal: &Arc<Eal>, settings: PortSettings, pool: &Arc<Mempool>) -> String {
    let ports = [settings.name.clone(), settings.device.to_string()];
    let error = Port::open(eal, settings, pool).expect_err("the port opened").to_string();
    assert!(ports.iter().all(|word| error.contains(word)), "names neither port nor device: {error}");
    assert!(error.contains("; "), "has no mend: {error}");
    error
}

#[test]
fn frames_pass_a_ring_port_both_ways() {
    let eal = eal();
    let pool = pool(&eal, 255);
    let (port, queues, mut far) = Port::from_rings(settings(vdev("rings")), 64, &pool).unwrap();
    let mut io = DpdkIo::new(queues, Arc::clone(&pool));
    assert_eq!((port.index(), port.driver()), (0, "net_ring"));

    let mut batch = TxBatch::<Mbuf>::new();
    batch.extend((0..40u8).map(|i| frame(&pool, &[i; 60])));
    assert_eq!((far[0].send(&mut batch), batch.len()), (40, 0));

    // A burst that is not empty takes only what fits.
    let mut burst = Burst::<Mbuf>::new();
    burst.push(frame(&pool, b"held"));
    assert_eq!(io.rx(0, &mut burst), BURST - 1);
    assert_eq!((burst[0].head(), burst[1].head()), (&b"held"[..], &[0; 60][..]));
    assert_eq!(burst[31].head(), [30; 60]);
    io.free(&mut burst);
    assert!(burst.is_empty());
    assert_eq!(io.rx(0, &mut burst), 9);
    assert_eq!(io.rx(0, &mut Burst::new()), 0);
    assert_eq!(io.rx(5, &mut Burst::new()), 0, "a port that is not there");

    batch.extend(burst.drain(..));
    batch.push(io.alloc().unwrap());
    assert_eq!((io.tx(0, &mut batch), batch.len()), (10, 0));
    let mut out = ArrayVec::<Mbuf, 100>::new();
    assert_eq!(far[0].recv(&mut out), 10);
    assert_eq!((out[0].head(), out[9].frame_len()), (&[31; 60][..], 0));
    drop(out);
    assert_eq!(pool.available(), pool.count());
    let stats = port.stats();
    assert_eq!((stats.received, stats.sent, stats.missed, stats.no_buffer), (40, 10, 0, 0));
}

#[test]
fn the_unsent_tail_stays_in_order() {
    let eal = eal();
    let pool = pool(&eal, 255);
    // A ring of 8 holds 7.
    let (_port, queues, mut far) = Port::from_rings(settings(vdev("rings")), 8, &pool).unwrap();
    let mut io = DpdkIo::new(queues, Arc::clone(&pool));
    let mut batch = TxBatch::<Mbuf>::new();
    batch.extend((0..20u8).map(|i| frame(&pool, &[i; 60])));
    let mut seen = Vec::new();
    for taken in [7, 7, 6, 0] {
        assert_eq!(io.tx(0, &mut batch), taken);
        if taken == 7 {
            assert_eq!(io.tx(0, &mut batch), 0, "the ring is full");
        }
        let mut out = ArrayVec::<Mbuf, 16>::new();
        assert_eq!(far[0].recv(&mut out), taken);
        seen.extend(out.iter().map(|f| f.head()[0]));
        let rest: Vec<u8> = batch.iter().map(|f| f.head()[0]).collect();
        assert_eq!(rest, (seen.len() as u8..20).collect::<Vec<_>>());
    }
    assert_eq!(seen, (0..20).collect::<Vec<u8>>());
    assert_eq!(pool.available(), pool.count());
}

#[test]
fn dropping_in_any_order_loses_no_mbuf() {
    let eal = eal();
    let pool = pool(&eal, 255);
    let fill = |far: &mut forwarder::dpdk::RingPair| {
        let mut batch = TxBatch::<Mbuf>::new();
        batch.extend((0..5u8).map(|i| frame(&pool, &[i; 60])));
        far.send(&mut batch);
    };
    for order in 0..3 {
        let wanted = PortSettings { queues: 2, ..settings(vdev("rings")) };
        let (port, mut queues, mut far) = Port::from_rings(wanted, 64, &pool).unwrap();
        assert_eq!((queues.len(), far.len()), (2, 2));
        fill(&mut far[0]);
        fill(&mut far[1]);
        let mut back = TxBatch::<Mbuf>::new();
        assert_eq!(queues[1].rx(&mut back), 5);
        assert_eq!(queues[1].tx(&mut back), 5);
        assert_eq!(pool.available(), pool.count() - 10);
        match order {
            0 => drop((port, queues, far)),
            1 => drop((far, queues, port)),
            _ => {
                // A queue dies on its worker's thread.
                drop((far, port));
                std::thread::spawn(move || drop(queues)).join().unwrap();
            }
        }
        assert_eq!(pool.available(), pool.count(), "order {order}");
    }
    assert_eq!(Arc::strong_count(&pool), 1);
}

#[test]
fn several_ports_keep_apart() {
    let eal = eal();
    let pool = pool(&eal, 255);
    let wanted = |index| PortSettings { index, name: format!("p{index}"), ..settings(vdev("rings")) };
    let (first, q0, mut far0) = Port::from_rings(wanted(0), 64, &pool).unwrap();
    let taken = Port::from_rings(wanted(0), 64, &pool).unwrap_err().to_string();
    assert!(taken.contains("an index of its own"), "{taken}");
    let (second, q1, mut far1) = Port::from_rings(wanted(1), 64, &pool).unwrap();
    // The queues may come in any order.
    let mut io = DpdkIo::new(q1.into_iter().chain(q0).collect(), Arc::clone(&pool));
    let mut batch = TxBatch::<Mbuf>::new();
    batch.push(frame(&pool, b"to the second"));
    assert_eq!(io.tx(1, &mut batch), 1);
    let mut out = Burst::<Mbuf>::new();
    assert_eq!((far0[0].recv(&mut out), far1[0].recv(&mut out)), (0, 1));
    assert_ne!(first.settings().name, second.settings().name);
}

#[test]
fn a_null_device_receives_and_sends() {
    let eal = eal();
    let pool = pool(&eal, 511);
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    let wanted = PortSettings {
        multicast: vec![all_nodes],
        tags: vec![Tags::one(Some(5)), Tags { outer: Some(7), inner: Some(5) }],
        ..settings(vdev("net_null0,size=64"))
    };
    let (port, mut queues) = Port::open(&eal, wanted.clone(), &pool).unwrap();
    assert_eq!(port.driver(), "net_null");
    assert!(port.link().unwrap().up);
    assert_eq!(port.mac()[0] & 1, 0, "a unicast address");
    let mut batch = TxBatch::<Mbuf>::new();
    assert!(queues[0].rx(&mut batch) > 0);
    assert_eq!(batch[0].frame_len(), 64);
    let got = batch.len();
    assert_eq!(queues[0].tx(&mut batch), got);
    assert_eq!(pool.available(), pool.count());

    // In use while any queue lives, free afterwards.
    drop(port);
    assert!(refusal(&eal, wanted.clone(), &pool).contains("another port uses it"));
    assert!(queues[0].rx(&mut batch) > 0, "the refusal left the first one alone");
    drop((batch, queues));
    let (port, queues) = Port::open(&eal, wanted, &pool).unwrap();
    assert_eq!((port.numa_node().unwrap_or(0) >= 0, queues.len()), (true, 1));
}

#[test]
fn a_capture_file_is_received_and_what_is_sent_is_captured() {
    let folder = std::env::temp_dir().join(format!("s2-pcap-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("in.pcap");
    // Classic pcap, little-endian, microseconds, Ethernet; one frame of 60 bytes.
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1, 0, 0, 60, 60] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([7; 60]);
    std::fs::write(&file, bytes).unwrap();

    let eal = eal();
    let pool = pool(&eal, 511);
    let (port, mut queues) = Port::open(&eal, settings(Device::Pcap(file)), &pool).unwrap();
    let mut batch = TxBatch::<Mbuf>::new();
    assert_eq!(queues[0].rx(&mut batch), 1);
    assert_eq!(batch[0].head(), [7; 60]);
    assert_eq!(queues[0].tx(&mut batch), 1);
    drop((port, queues));
    let sent = std::fs::read(folder.join("in.tx.pcap")).unwrap();
    assert!(sent.ends_with(&[7; 60]));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_refusal_is_a_sentence_and_leaves_nothing() {
    let eal = eal();
    let pool = pool(&eal, 511);
    let with = |device: Device| settings(device);
    let null = || settings(vdev("net_null3"));
    let nowhere = || std::path::PathBuf::from("/nonexistent/s");
    let cases = [
        (with(Device::Pci("ffff:7f:1f.7".to_owned())), "no such PCI device"),
        (with(Device::AfPacket("no-such-if".to_owned())), "no interface no-such-if"),
        (with(Device::AfXdp("no-such-if".to_owned())), "no interface no-such-if"),
        (with(Device::Pcap(nowhere())), "cannot be read (No such file"),
        (with(Device::Memif(nowhere())), "folder /nonexistent does not exist"),
        (with("vhost:/nonexistent/s".parse().unwrap()), "folder /nonexistent does not exist"),
        (with(vdev("net_no_such_driver0")), "its driver refuses it"),
        (with(vdev(",size=64")), "names no driver"),
        (with(vdev("net_null\0")), "NUL"),
        (PortSettings { mtu: 9000, ..null() }, "does not fit into packet buffers of 2048 bytes"),
        (PortSettings { queues: 2000, ..null() }, "2000 queues are wanted and the device has"),
    ];
    for (wanted, problem) in cases {
        let error = refusal(&eal, wanted, &pool);
        assert!(error.contains(problem), "{problem:?} not in: {error}");
    }
    // The last two had plugged the device in.
    Port::open(&eal, null(), &pool).unwrap();
    assert_eq!((pool.available(), Arc::strong_count(&pool)), (pool.count(), 1));
}

#[test]
fn large_frames_fit_their_pool() {
    let eal = eal();
    let pool = Mempool::new(&eal, "jumbo", 255, 0, data_room_for(9000), None).unwrap();
    let wanted = PortSettings { mtu: 9000, ..settings(vdev("rings")) };
    let (_port, mut queues, mut far) = Port::from_rings(wanted, 64, &pool).unwrap();
    let mut batch = TxBatch::<Mbuf>::new();
    batch.push(frame(&pool, &[9; 9018]));
    assert_eq!(far[0].send(&mut batch), 1);
    assert_eq!(queues[0].rx(&mut batch), 1);
    assert_eq!(batch[0].frame_len(), 9018);
}

#[test]
fn sockets_of_memif_and_vhost_come_and_go() {
    let folder = std::env::temp_dir().join(format!("s2-sockets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (memif, vhost) = (folder.join("memif.sock"), folder.join("vhost.sock"));
    // Left behind by a program that was killed.
    drop(std::os::unix::net::UnixListener::bind(&memif).unwrap());
    let eal = eal();
    let pool = pool(&eal, 1023);
    for (device, path, driver) in [
        (Device::Memif(memif.clone()), &memif, "net_memif"),
        (format!("vhost:{}", vhost.display()).parse().unwrap(), &vhost, "net_vhost"),
    ] {
        let (port, mut queues) = Port::open(&eal, settings(device), &pool).unwrap();
        assert_eq!(port.driver(), driver);
        assert!(path.exists());
        assert!(!port.link().unwrap().up, "{driver}: nobody has connected");
        assert_eq!(queues[0].rx(&mut Burst::<Mbuf>::new()), 0);
        drop((port, queues));
        assert!(!path.exists(), "{driver} left its socket behind");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A queue leaves its worker, and comes back, only when the worker attends to it.
#[test]
fn queues_are_exchanged_between_two_bursts() {
    let eal = eal();
    let pool = pool(&eal, 255);
    let (port, queues, mut far) = Port::from_rings(settings(vdev("rings")), 64, &pool).unwrap();
    let mut io = DpdkIo::new(queues, Arc::clone(&pool));
    let desk = io.desk();
    let mut arrive = || {
        let mut batch = TxBatch::<Mbuf>::new();
        batch.push(frame(&pool, &[7; 60]));
        assert_eq!(far[0].send(&mut batch), 1);
    };
    arrive();
    desk.order(0, None);
    assert!(desk.collect().is_none() && !io.is_failed(0));
    assert_eq!(io.rx(0, &mut Burst::new()), 1, "the order waits");

    io.attend();
    let Some((0, Some(queue))) = desk.collect() else { panic!("the queue was not put away") };
    arrive();
    let mut batch = TxBatch::<Mbuf>::new();
    batch.push(io.alloc().unwrap());
    assert!(io.is_failed(0));
    assert_eq!((io.rx(0, &mut Burst::new()), io.tx(0, &mut batch), batch.len()), (0, 0, 1));
    io.attend();
    assert!(desk.collect().is_none(), "nothing was ordered");

    desk.order(0, Some(queue));
    io.attend();
    assert!(matches!(desk.collect(), Some((0, None))));
    assert_eq!((io.rx(0, &mut Burst::new()), io.tx(0, &mut batch)), (1, 1));
    // Of a device that the worker does not have nothing comes back.
    desk.order(7, None);
    io.attend();
    assert!(matches!(desk.collect(), Some((7, None))));
    drop((io, port, batch));
    assert!(Arc::strong_count(&pool) > 1, "the far ends hold it");
}
