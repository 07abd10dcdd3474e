//! A worker allocates nothing and frees nothing once it runs: every call of the allocator on its thread is counted.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::packet::{ACK, Body, FIN, Packet, SYN, arp, gw_mac, tcp};
use common::{Conn, LAN, PEER, Rig, TAG, WAN, flow, neighbors};
use forwarder::api::{FlowSpec, Proto, Reply, Request};
use forwarder::service::Handler;

struct Counting;

thread_local! {
    /// Calls on this thread since it was armed; none while it is not.
    static CALLS: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get().map(|n| n + 1)));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local cell without destructor.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator that `f` makes on this thread.
fn calls<T>(f: impl FnOnce() -> T) -> (u64, T) {
    CALLS.set(Some(0));
    let result = f();
    (CALLS.take().unwrap(), result)
}

#[test]
fn the_counter_counts() {
    assert_eq!(calls(|| ()).0, 0);
    // Allocated, grown, freed.
    let (n, v) = calls(|| {
        let mut v: Vec<u8> = Vec::with_capacity(1);
        v.reserve_exact(1000);
        v
    });
    assert_eq!((n, v.capacity()), (2, 1000));
    assert_eq!(calls(|| drop(v)).0, 1);
    assert_eq!(calls(|| std::hint::black_box(Arc::new(1))).0, 1);
    // Other threads' are not ours.
    let other = std::thread::spawn(|| std::hint::black_box(vec![1; 100]).len());
    let (n, ()) = calls(|| {
        while !other.is_finished() {
            std::thread::yield_now()
        }
    });
    assert_eq!((n, other.join().unwrap()), (0, 100));
}

fn udp() -> Body {
    Body::Udp { checksum: true }
}

/// Turns the worker until it has received everything, and fails when it allocated meanwhile.
#[track_caller]
fn turn(rig: &mut Rig, what: &str) {
    let worker = &mut rig.workers[0];
    let (n, ()) = calls(|| {
        while worker.turn() > 0 {}
        worker.turn();
    });
    assert_eq!(n, 0, "{what}");
}

#[track_caller]
fn send(rig: &mut Rig, port: u8, frame: &[u8], what: &str) {
    rig.inject_at(0, port, frame);
    turn(rig, what);
}

#[track_caller]
fn pass(rig: &mut Rig, ms: u64, what: &str) {
    rig.clock.advance(ms);
    turn(rig, what);
}

/// Asks while the worker, armed, turns on this thread.
#[track_caller]
fn ask(rig: &mut Rig, request: Request, what: &str) -> Reply {
    let gateway = Arc::clone(&rig.gateway);
    let done = Arc::new(AtomicBool::new(false));
    let asking = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let reply = gateway.handle(request, &PEER);
            done.store(true, Ordering::Release);
            reply
        }
    });
    let worker = &mut rig.workers[0];
    let (n, ()) = calls(|| {
        while !done.load(Ordering::Acquire) {
            worker.turn();
            std::thread::yield_now();
        }
    });
    assert_eq!(n, 0, "{what}");
    asking.join().unwrap().unwrap()
}

#[test]
fn a_worker_allocates_nothing() {
    let text = format!(
        "[timers]\nudp = 10\ntcp_transitory = 10\nneighbor = 5\n[limits]\nconnections = 300\nneighbors = 40\n{}\n{}",
        common::PORTS,
        neighbors()
    );
    let mut rig = Rig::with(&text, 1, 2048);
    let from = "10.0.0.0/24";
    rig.add(flow("udp", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", from));
    rig.add(flow("tcp", Proto::Tcp, "10.0.0.1:5000", "10.2.0.2:6000", from));
    let v6 = flow("v6", Proto::Udp, "[fd00::1]:5000", "[fd00:1::2]:6000", "fd00::/64");
    rig.add(FlowSpec { rate: Some(1), ..v6 });
    rig.add(flow("asked", Proto::Udp, "10.0.0.1:5001", "10.1.0.9:6000", from));
    rig.advance(1000);
    let u = rig.open(Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000");
    let t = rig.establish(LAN, "10.0.0.2:4000", "10.0.0.1:5000", TAG, "10.2.0.2:6000");
    let v6 = rig.open(Proto::Udp, LAN, "[fd00::2]:4000", "[fd00::1]:5000", WAN, "[fd00:1::2]:6000");

    for round in 0..3 {
        hot(&mut rig, &[&u, &t, &v6]);
        admissions(&mut rig);
        next_hops(&mut rig);
        drops(&mut rig, &u);
        // What a device does not take is held and then sent.
        rig.ios[0].set_tx_room(WAN, 3);
        for _ in 0..400 {
            send(&mut rig, LAN, &u.by_client(udp(), b"x").build(), "a full batch");
        }
        rig.ios[0].set_tx_room(WAN, usize::MAX);
        turn(&mut rig, "a batch that is sent late");
        rig.take_any();
        // Published and asked, while it turns.
        let spec = flow("new", Proto::Udp, "10.0.0.1:7000", "10.1.0.2:7000", from);
        ask(&mut rig, Request::FlowAdd { spec: spec.clone() }, "a flow added");
        send(
            &mut rig,
            LAN,
            &Packet::udp(LAN, "10.0.0.2:1", "10.0.0.1:7000", b"").build(),
            "its first packet",
        );
        let Reply::Connections { connections, .. } =
            ask(&mut rig, Request::ConnectionList { flow: None, limit: None }, "connections listed")
        else {
            panic!()
        };
        assert!(connections.len() >= 4, "round {round}: {connections:?}");
        ask(&mut rig, Request::FlowReplace { spec: spec.clone() }, "a flow replaced");
        let explain =
            Request::Explain { port: "lan".into(), proto: Proto::Udp, src: u.client, dst: u.listen };
        ask(&mut rig, explain, "a packet explained");
        ask(&mut rig, Request::Snapshot, "everything told");
        ask(&mut rig, Request::FlowDrain { name: "new".into() }, "a flow drained");
        ask(&mut rig, Request::FlowDelete { name: "new".into() }, "a flow deleted");
        send(&mut rig, LAN, &Packet::udp(LAN, "10.0.0.2:1", "10.0.0.1:7000", b"").build(), "cut");
        rig.take_any();
    }
    rig.balance();
}

fn hot(rig: &mut Rig, conns: &[&Conn]) {
    for conn in conns {
        let body = || if conn.proto == Proto::Tcp { tcp(ACK) } else { udp() };
        for _ in 0..50 {
            send(rig, conn.port, &conn.by_client(body(), b"hot").build(), "to the target");
            send(rig, conn.out, &conn.by_target(body(), b"hot").build(), "to the client");
        }
        if conn.client.is_ipv4() {
            let mut packet = conn.by_client(body(), b"options");
            packet.ip_options = vec![1, 1, 1, 0];
            send(rig, conn.port, &packet.build(), "options");
        }
        let burst: Vec<_> = (0..100).map(|_| conn.by_client(body(), b"hot").build()).collect();
        for frame in &burst {
            rig.inject_at(0, conn.port, frame);
        }
        turn(rig, "bursts");
    }
    rig.take_any();
}

/// Up to and beyond what the table holds, and gone again; the three that are hot stay.
fn admissions(rig: &mut Rig) {
    for n in 0..320 {
        let client = format!("10.0.0.3:{}", 10_000 + n);
        send(
            rig,
            LAN,
            &Packet::udp(LAN, &client, "10.0.0.1:5000", b"").build(),
            "udp admitted, or the table full",
        );
    }
    assert!(rig.drops()["conn_table_full"] > 0);
    pass(rig, 9_000, "nothing expires");
    for n in 0..320 {
        let client = format!("10.0.0.3:{}", 10_000 + n);
        send(rig, LAN, &Packet::tcp(LAN, &client, "10.0.0.1:5000", SYN | FIN, b"").build(), "malformed");
    }
    let hot = [("10.0.0.2:4000", "10.0.0.1:5000"), ("[fd00::2]:4000", "[fd00::1]:5000")];
    for (client, listen) in hot {
        send(rig, LAN, &Packet::udp(LAN, client, listen, b"").build(), "stays");
    }
    for _ in 0..20 {
        pass(rig, 110, "expiry");
    }
    for n in 0..100 {
        let client = format!("10.0.0.3:{}", 20_000 + n);
        send(rig, LAN, &Packet::tcp(LAN, &client, "10.0.0.1:5000", SYN, b"").build(), "tcp admitted");
    }
    rig.take_any();
}

fn next_hops(rig: &mut Rig) {
    for n in 0..80 {
        let frame = Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5001", &[n]).build();
        send(rig, LAN, &frame, "waits for a next hop, or cannot");
    }
    let answer = arp(WAN, gw_mac(WAN), 2, ([2, 9, 9, 9, 9, 9], [10, 1, 0, 9]), (gw_mac(WAN), [10, 1, 0, 1]));
    send(rig, WAN, &answer, "a next hop answers");
    for n in 60..120 {
        // More stations than the table holds.
        let asks = arp(LAN, [0xff; 6], 1, ([2, 8, 8, 8, 8, n], [10, 0, 0, n]), ([0; 6], [10, 0, 0, 1]));
        send(rig, LAN, &asks, "a station asks for us");
    }
    for _ in 0..40 {
        pass(rig, 200, "next hops age, are probed and forgotten");
        send(
            rig,
            LAN,
            &Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5001", b"").build(),
            "to one that is probed",
        );
        for conn in [("10.0.0.2:4000", "10.0.0.1:5000"), ("[fd00::2]:4000", "[fd00::1]:5000")] {
            send(rig, LAN, &Packet::udp(LAN, conn.0, conn.1, b"").build(), "stays");
        }
    }
    rig.take_any();
}

fn drops(rig: &mut Rig, conn: &Conn) {
    let good = conn.by_client(udp(), b"bad").build();
    for n in 0..good.len() {
        send(rig, LAN, &good[..n], "truncated");
        let mut bad = good.clone();
        bad[n] ^= 0x41;
        send(rig, LAN, &bad, "damaged");
    }
    let mut echo = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], gw_mac(LAN))
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut echo, b"ping")
        .unwrap();
    for _ in 0..300 {
        send(rig, LAN, &echo, "echo, answered or not");
    }
    rig.take_any();
}
