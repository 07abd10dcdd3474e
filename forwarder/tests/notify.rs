//! What s2ds tells the service manager, which the test is. Needs root.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod s2ds_common;

use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use common::packet::Packet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s2ds_common::{PATIENCE, S2ds, config, privately};

/// The socket that NOTIFY_SOCKET names.
struct Manager(UnixDatagram);

impl Manager {
    /// The next message with `word` in it. Those before it may not have `not`.
    fn hears(&self, word: &str, not: &str) -> String {
        let end = Instant::now() + PATIENCE;
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            let mut text = [0; 4096];
            let n = self.0.recv(&mut text).unwrap_or_else(|e| panic!("{word} was not told: {e}"));
            let text = String::from_utf8_lossy(&text[..n]).into_owned();
            if text.contains(word) {
                return text;
            }
            assert!(not.is_empty() || !text.contains(not), "{text}");
            assert!(Instant::now() < end, "{word} was not told");
        }
    }

    /// Messages with `word` that come in a while.
    fn counts(&self, word: &str, looks: u32) -> usize {
        self.0.set_read_timeout(Some(WATCHDOG)).unwrap();
        let mut found = 0;
        for _ in 0..looks {
            let mut text = [0; 4096];
            if let Ok(n) = self.0.recv(&mut text) {
                found += usize::from(String::from_utf8_lossy(&text[..n]).contains(word));
            }
        }
        found
    }
}

/// What `WatchdogSec=` would be. Long enough for a worker to turn on a busy machine between two looks.
const WATCHDOG: Duration = Duration::from_secs(8);

fn managed(folder: tempfile::TempDir, text: &str) -> (Manager, S2ds) {
    let socket = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&socket).unwrap());
    // As the service manager's: anybody may write to it, and its folder is open.
    std::fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    let usec = WATCHDOG.as_micros().to_string();
    let env = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", &usec)];
    let s2ds = S2ds::start_in(folder, text, &[], &env);
    (manager, s2ds)
}

#[test]
fn the_manager_hears_of_start_and_stop() {
    privately(|| {
        let folder = tempfile::tempdir().unwrap();
        let text = config(folder.path(), "vdev:net_null0,no-rx=1", "[privileges]\nuser = \"nobody\"");
        let (manager, s2ds) = managed(folder, &text);
        let ready = manager.hears("READY=1", "STOPPING");
        assert!(ready.contains("STATUS=ready; workers on cores "), "{ready}");
        assert!(s2ds.said().contains("s2ds: ready"));
        manager.hears("WATCHDOG=1", "STOPPING");
        kill(Pid::from_raw(s2ds.pid().cast_signed()), Signal::SIGTERM).unwrap();
        let stopping = manager.hears("STOPPING=1", "");
        assert!(stopping.contains("STATUS=SIGTERM: stopping"), "{stopping}");
    });
}

#[test]
fn the_manager_hears_why_there_is_no_start() {
    privately(|| {
        let folder = tempfile::tempdir().unwrap();
        let text = config(folder.path(), "af_packet:absent", "");
        let (manager, mut s2ds) = managed(folder, &text);
        let why = manager.hears("STATUS=", "READY=1");
        assert!(why.contains("there is no interface absent"), "{why}");
        assert_eq!(s2ds.wait().code(), Some(1));
    });
}

/// A worker is held up in the kernel: what it sends goes to a pipe that nobody reads.
#[test]
fn a_worker_that_stands_still_starves_the_watchdog() {
    privately(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // The same frames arrive for ever, and what they are sent as is recorded in the pipe.
        let mut packet = Packet::udp(0, "10.0.0.2:4000", "10.0.0.1:5000", &[7; 1200]);
        packet.mac.0 = PCAP_MAC;
        std::fs::write(path("lan.pcap"), recording(&vec![packet.build(); 8])).unwrap();
        std::fs::write(path("wan.pcap"), recording(&[])).unwrap();
        nix::unistd::mkfifo(
            &path("wan.tx.pcap"),
            nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
        )
        .unwrap();
        // Open both ways, so that neither end waits for the other to open it.
        let mut pipe = File::options().read(true).write(true).open(path("wan.tx.pcap")).unwrap();
        let wan = format!(
            "[[port]]\nname = \"wan\"\ndevice = \"pcap:{}\"\naddresses = [\"10.1.0.1/24\"]\n\
             [[neighbor]]\nport = \"wan\"\naddress = \"10.1.0.2\"\nmac = \"02:00:00:00:00:09\"\n\
             [[flow]]\nname = \"f\"\nproto = \"udp\"\nlisten = \"10.0.0.1:5000\"\ntarget = \"10.1.0.2:6000\"\n\
             from = [\"10.0.0.0/24\"]\n",
            path("wan.pcap").display()
        );
        let lan = "vdev:net_pcap0,rx_pcap=FOLDER/lan.pcap,infinite_rx=1,tx_pcap=/dev/null";
        let text = config(folder.path(), lan, "") + &wan;
        let (manager, s2ds) = managed(folder, &text);
        manager.hears("READY=1", "");
        let still = manager.hears("stand still", "");
        assert!(still.contains("STATUS=workers that stand still: 0"), "{still}");
        assert_eq!(manager.counts("WATCHDOG=1", 3), 0, "the watchdog was fed for a worker that stands still");

        // Somebody reads, as long as something comes: it goes on.
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while pipe.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        let fed = manager.hears("WATCHDOG=1", "stand still");
        assert!(fed.contains("STATUS=all workers turn"), "{fed}");
        assert!(s2ds.said().contains("the service manager's watchdog is fed no more"), "{}", s2ds.said());
    });
}

/// MAC address of the first port over a recording: DPDK's driver gives it.
const PCAP_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x00];

/// A capture file of Ethernet frames, in the format of libpcap 2.4.
fn recording(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1]);
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap();
        file.extend(words(&[0, 0, len, len]));
        file.extend(frame);
    }
    file
}
