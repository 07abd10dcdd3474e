//! Starting EAL, packet memory and worker threads. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dpdk_common;

use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_common::{eal, frame, options, pool, settings};
use forwarder::config::Device;
use forwarder::dpdk::{
    Eal, EalOptions, Mbuf, Mempool, PoolSettings, Port, PortSettings, WorkerThread, rdtsc, telemetry, tsc_hz,
};
use forwarder::pools::{self, data_room_for};
use forwarder::topology::Machine;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

fn refusal(options: &EalOptions) -> String {
    Eal::init(options).expect_err("EAL started").to_string()
}

#[test]
fn starts_once() {
    let eal = eal();
    assert!(tsc_hz(&eal) > 1_000_000);
    assert!(rdtsc() < rdtsc());
    assert!(refusal(&options()).contains("was started before"));
    drop(eal);
    assert!(refusal(&options()).contains("was started before"));
}

#[test]
fn a_core_that_is_not_there_is_named_with_those_that_are() {
    let error = refusal(&EalOptions { main_core: 1000, ..options() });
    assert!(error.contains("main core 1000") && error.contains("may use (0"), "{error}");
    // Nothing was started: a better try succeeds.
    Eal::init(&options()).unwrap();
}

#[test]
fn a_hugepage_shortage_tells_both_mends() {
    let error = refusal(&EalOptions { huge: true, memory_mb: 1 << 30, ..options() });
    assert!(error.contains("MiB of hugepages are needed"), "{error}");
    assert!(error.contains("/proc/sys/vm/nr_hugepages") && error.contains("huge = false"), "{error}");
    Eal::init(&options()).unwrap();
}

/// More hugepages of 2 MiB than there were, while it lives.
struct Reserved(u64);

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Reserved {
    /// None, with the reason printed, where that needs rights this process lacks. Continuous integration has them.
    fn more(pages: u64) -> Option<Self> {
        let before: u64 = std::fs::read_to_string(NR_HUGEPAGES).unwrap().trim().parse().unwrap();
        match std::fs::write(NR_HUGEPAGES, (before + pages).to_string()) {
            Ok(()) => Some(Self(before)),
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "{NR_HUGEPAGES} cannot be written: {e}");
                eprintln!("skipped: {NR_HUGEPAGES} cannot be written ({e}); run as root");
                None
            }
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        std::fs::write(NR_HUGEPAGES, self.0.to_string()).unwrap();
    }
}

#[test]
fn hugepages_are_used_where_there_are_some() {
    let memory_mb = pools::memory_mb(8191, data_room_for(1500), true);
    let Some(_reserved) = Reserved::more(64) else { return };
    // Where there is one node, all pages are on it.
    let machine = Machine::here().unwrap();
    let node = machine.nodes.first().map(|n| n.id).filter(|_| machine.nodes.len() == 1);
    let node_mb = node.map(|node| (node, memory_mb)).into_iter().collect();
    let eal = Eal::init(&EalOptions { huge: true, memory_mb, node_mb, ..options() }).unwrap();
    let pool = Mempool::new(&eal, "huge", 8191, 256, data_room_for(1500), node).unwrap();
    assert_eq!(pool.available(), 8191);
}

/// The affinity of a process does not bind it; its cpuset does.
#[test]
fn the_main_core_may_lie_outside_of_the_affinity() {
    let cores: Vec<usize> = Machine::here().unwrap().permitted().iter().collect();
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    let mut only = CpuSet::new();
    only.set(first).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
    let _eal = Eal::init(&EalOptions { main_core: last, ..options() }).unwrap();
    let on = sched_getaffinity(Pid::from_raw(0)).unwrap();
    assert_eq!((0..CpuSet::count()).filter(|c| on.is_set(*c) == Ok(true)).collect::<Vec<_>>(), [last]);
}

/// Pools that were made together are freed with the last of them: mbufs of the one may wait in a port over the other.
#[test]
fn pools_made_together_outlive_each_others_packets() {
    let eal = eal();
    let named = |name: &str| PoolSettings { name: name.to_owned(), count: 127, numa_node: None };
    let make = || Mempool::together(&eal, &["a", "b"].map(named), 0, data_room_for(1500));
    let [a, b] = <[_; 2]>::try_from(make().unwrap()).unwrap();
    let wanted = PortSettings { one_pool: false, ..settings(Device::Vdev("rings".to_owned())) };
    let (port, mut queues, ends) = Port::from_rings(wanted, 64, &b).unwrap();
    let mut batch = ArrayVec::<Mbuf, 1>::new();
    batch.push(frame(&a, &[0; 60]));
    assert_eq!(queues[0].tx(&mut batch), 1);
    drop((a, b));
    drop((queues, port, ends));
    assert_eq!(Arc::strong_count(&eal), 1, "a pool was left behind");
    make().unwrap();

    let taken = ["c", "d", "c"].map(named);
    let error = Mempool::together(&eal, &taken, 0, data_room_for(1500)).unwrap_err().to_string();
    assert!(error.contains("another pool has this name"), "{error}");
    assert_eq!(Arc::strong_count(&eal), 1, "those made before were left behind");
}

#[test]
fn a_wrong_eal_option_is_repeated() {
    let error = refusal(&EalOptions { args: vec!["--no-such-option".to_owned()], ..options() });
    assert!(error.contains("--no-such-option") && error.contains("[eal] args"), "{error}");
}

#[test]
fn eal_leaves_stdout_to_us() {
    // EAL prints its usage when it refuses an option.
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_wrong_eal_option_is_repeated", "--nocapture"])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert!(again.status.success() && out.contains("1 passed"), "{out}{err}");
    assert!(err.contains("Usage") && !out.contains("Usage"), "{out}");
}

#[test]
fn an_option_with_a_nul_is_refused() {
    let error = refusal(&EalOptions { args: vec!["--file-prefix=a\0b".to_owned()], ..options() });
    assert!(error.contains("NUL"), "{error}");
}

#[test]
fn a_pool_counts_its_mbufs() {
    let eal = eal();
    let pool = pool(&eal, 127);
    assert_eq!((pool.count(), pool.available()), (127, 127));
    let one = pool.alloc().unwrap();
    assert_eq!(pool.available(), 126);

    // In bulk: all that are wanted, or none.
    let mut many = ArrayVec::<Mbuf, 100>::new();
    assert_eq!(pool.alloc_bulk(&mut many), 100);
    let mut more = ArrayVec::<Mbuf, 100>::new();
    assert_eq!((pool.alloc_bulk(&mut more), pool.available()), (0, 26));

    let rest: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((rest.len(), pool.available()), (26, 0));
    drop((one, many, rest));
    assert_eq!(pool.available(), 127);
}

/// Tries with exactly the memory that is said to be needed, without hugepages.
fn memory_suffices(count: u32, mtu: u16) {
    let room = data_room_for(mtu);
    let memory_mb = pools::memory_mb(count, room, false);
    let eal = Eal::init(&EalOptions { memory_mb, ..options() }).unwrap();
    Mempool::new(&eal, "exact", count, 256, room, None).unwrap();
}

#[test]
fn the_memory_foretold_suffices_for_small_buffers() {
    memory_suffices(65_535, 1500);
}

#[test]
fn the_memory_foretold_suffices_for_large_buffers() {
    memory_suffices(32_767, 9000);
}

#[test]
fn a_pool_that_cannot_be_had_says_why() {
    let eal = eal();
    let first = pool(&eal, 63);
    let error = |name: &str, count: u32| {
        Mempool::new(&eal, name, count, 0, data_room_for(1500), None).expect_err("pool made").to_string()
    };
    assert!(error("test", 63).contains("another pool has this name"));
    assert!(
        error("huge", 10_000_000).contains("do not fit into the memory"),
        "{}",
        error("huge", 10_000_000)
    );
    drop(first);
    pool(&eal, 63);
}

#[test]
fn an_mbuf_may_outlive_its_pool_and_eal() {
    let eal = eal();
    let pool = pool(&eal, 63);
    let mut frame = pool.alloc().unwrap();
    drop((pool, eal));
    use forwarder::io::PacketBuf;
    assert!(frame.resize(3));
    frame.head_mut().copy_from_slice(b"abc");
    assert_eq!(frame.head(), b"abc");
}

#[test]
fn worker_threads_get_a_cache_and_give_it_back() {
    let eal = eal();
    let pool = Mempool::new(&eal, "cached", 1023, 64, data_room_for(1500), None).unwrap();
    assert!(
        WorkerThread::register(&eal).unwrap_err().to_string().contains("registered already"),
        "EAL's own thread"
    );
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let worker = WorkerThread::register(&eal).unwrap();
                assert!(WorkerThread::register(&eal).unwrap_err().to_string().contains("registered already"));
                for _ in 0..100 {
                    drop((0..32).map(|_| pool.alloc().unwrap()).collect::<Vec<_>>());
                }
                drop(worker);
                WorkerThread::register(&eal).unwrap();
            });
        }
    });
    assert_eq!(pool.available(), pool.count());
    assert_eq!(Arc::strong_count(&pool), 1);
}

/// One call over the telemetry socket, as `dpdk-telemetry.py` does it.
fn ask(eal: &Eal, command: &str) -> String {
    use nix::sys::socket::MsgFlags;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
    use std::os::fd::AsRawFd;
    let path = eal.runtime_dir().join("dpdk_telemetry.v2");
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    send(socket.as_raw_fd(), command.as_bytes(), MsgFlags::empty()).unwrap();
    let got = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    String::from_utf8(buffer[..got].to_vec()).unwrap()
}

#[test]
fn telemetry_answers_and_survives_a_panic() {
    let prefix = format!("--file-prefix=s2test{}", std::process::id());
    let eal = Eal::init(&EalOptions { args: vec![prefix], ..options() }).unwrap();
    telemetry::register(&eal, "/scistream/stats", "Counters.", || {
        vec![("rx".to_owned(), u64::MAX), ("tcp-flow.x".to_owned(), 7)]
    })
    .unwrap();
    telemetry::register(&eal, "/scistream/broken", "Panics.", || panic!("on purpose")).unwrap();
    let twice = telemetry::register(&eal, "/scistream/stats", "Again.", Vec::new).unwrap_err().to_string();
    assert!(twice.contains("registered already"), "{twice}");
    assert!(telemetry::register(&eal, "no-slash", "Bad.", Vec::new).is_err());

    let stats: serde_json::Value = serde_json::from_str(&ask(&eal, "/scistream/stats")).unwrap();
    assert_eq!(stats["/scistream/stats"], serde_json::json!({"rx": u64::MAX, "tcp_flow_x": 7}));
    let broken: serde_json::Value = serde_json::from_str(&ask(&eal, "/scistream/broken")).unwrap();
    assert_eq!(broken["/scistream/broken"], serde_json::Value::Null);
    assert!(ask(&eal, "/scistream/stats").contains("tcp_flow_x"), "telemetry is alive after the panic");
    std::fs::remove_dir_all(eal.runtime_dir()).unwrap();
}
