//! DPDK's example l3fwd with exact match as a peer. Debian ships it as source (package dpdk-doc); it is built once, in the
//! user's cache directory.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use forwarder::dpdk::{self, Eal, EalOptions};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::frames;
use super::peer::Peer;
use super::replay::{self, CONNECTIONS, capture};
use super::row::{Figure, Settings};
use crate::topology::Workdir;

const EXAMPLES: &str = "/usr/share/dpdk/examples";
/// Goes up when [`EDITS`] or [`FLAGS`] change, so that what was built before is not taken.
const EDITION: u32 = 1;
/// The instruction set that our own programs are compiled for; DPDK's default for its users is older.
const FLAGS: &str = "LDFLAGS=-march=x86-64-v3";
/// What l3fwd asks of devices and virtual ones do not have, and its table made as large as ours instead of 4 Mi entries, which
/// needs more memory and is slower: file, text, replacement.
const EDITS: [(&str, &str, &str); 4] = [
    ("main.c", ".mq_mode = RTE_ETH_MQ_RX_RSS", ".mq_mode = RTE_ETH_MQ_RX_NONE"),
    ("main.c", ".offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM", ".offloads = 0"),
    ("main.c", ".rss_hf = RTE_ETH_RSS_IP", ".rss_hf = 0"),
    ("l3fwd.h", "(1024*1024*4)", "(1024*64)"),
];
/// Packets that circulate, as many as testpmd starts with.
const BURST: u32 = 32;
/// The smallest share of the packets that must leave by the port that the rules name.
const HITS: f64 = 0.98;

/// The built program, or where to build it.
fn program() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache =
        cache.or_else(home).context("l3fwd has no place to be built in; set HOME or XDG_CACHE_HOME")?;
    let version = crate::host::text_of("pkg-config", &["--modversion", "libdpdk"]);
    let dir = cache.join("scistream").join(format!("l3fwd-{version}-{EDITION}"));
    let program = dir.join("l3fwd/build/l3fwd-shared");
    if !program.is_file() {
        build(&dir)?;
    }
    Ok(program)
}

/// Copies the source beside `dir`, edits and builds it, and moves it there when that went well.
fn build(dir: &Path) -> Result<()> {
    let examples = Path::new(EXAMPLES);
    ensure!(
        examples.join("l3fwd/main.c").is_file(),
        "{EXAMPLES}/l3fwd is not there to be built; it comes with Debian's package dpdk-doc: run `make deps`"
    );
    let mut work = dir.as_os_str().to_owned();
    work.push(format!(".{}", std::process::id()));
    let work = PathBuf::from(work);
    let built = copy(&examples.join("common"), &work.join("common"))
        .and_then(|()| copy(&examples.join("l3fwd"), &work.join("l3fwd")))
        .and_then(|()| edit(&work.join("l3fwd")))
        .and_then(|()| make(&work.join("l3fwd")));
    // Another run may have been faster: its result is as good.
    let moved = built.map(|()| fs::rename(&work, dir).is_ok() || dir.is_dir());
    let _ = fs::remove_dir_all(&work);
    ensure!(moved?, "l3fwd was built but cannot be moved to {}; empty that directory", dir.display());
    Ok(())
}

/// Copies the files of a directory and of those in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("{} cannot be copied to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let (path, to) = (entry.with_context(failed)?.path(), to);
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).with_context(failed)?;
        }
    }
    Ok(())
}

fn edit(source: &Path) -> Result<()> {
    for (file, text, replacement) in EDITS {
        let path = source.join(file);
        let old = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        ensure!(
            old.contains(text),
            "l3fwd's {file} has no `{text}` to edit: this DPDK differs from 22.11; adapt EDITS in bench/src/core/l3fwd.rs"
        );
        fs::write(&path, old.replace(text, replacement))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn make(source: &Path) -> Result<()> {
    let output = Command::new("make")
        .arg("-C")
        .arg(source)
        .args(["shared", FLAGS])
        .output()
        .context("make cannot be started; run `make deps`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(6).collect();
        bail!(
            "l3fwd does not build ({}): {}; `make deps` installs the compiler and libdpdk-dev",
            output.status,
            last.into_iter().rev().collect::<Vec<_>>().join("; ")
        );
    }
    Ok(())
}

/// Rules that route the connections' packets to port `to`, one a connection, and a rule for IPv6, without which it does not start.
fn rules(dir: &Path, connections: u32, to: u16) -> Result<[String; 2]> {
    let mut text = String::new();
    for n in 0..connections {
        let (client, client_port, listen, listen_port) = frames::ends(n);
        text += &format!("R{listen} {client} {listen_port} {client_port} 0x11 {to}\n");
    }
    let (v4, v6) = (dir.join("ipv4.rules"), dir.join("ipv6.rules"));
    fs::write(&v4, text).and_then(|()| fs::write(&v6, format!("Rfd01::1 fd10::1 1 1 0x11 {to}\n")))?;
    Ok([format!("--rule_ipv4={}", v4.display()), format!("--rule_ipv6={}", v6.display())])
}

/// Cycles a packet of 32 packets of one connection that circulate over one net_ring port.
///
/// They come out of a second device, a capture file that is a FIFO: when they are through, the lcore that reads it sleeps in the
/// kernel. Its send queue is one of its own (queue 1), so the other lcore polls that one, too, and sends on queue 0. Packets
/// that find no rule would go back to where they came from, so those that circulate have found theirs.
pub(super) fn hot(settings: &Settings) -> Result<Figure> {
    let program = program()?;
    let dir = Workdir::new()?;
    let (fifo, empty) = (dir.path().join("seed"), dir.path().join("empty.pcap"));
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).context("a FIFO cannot be made")?;
    fs::write(&empty, capture(1, 0))?;
    // Open for both, so that it waits for nobody and never ends.
    let mut seed = fs::OpenOptions::new().read(true).write(true).open(&fifo)?;
    seed.write_all(&capture(1, BURST))?;
    // As many receive queues as lcores: net_pcap has as many send queues.
    let pcap = format!("net_pcap0,rx_pcap={},rx_pcap={}", fifo.display(), empty.display());
    let devices = ["net_ring0".to_owned(), pcap];
    let lcores = format!("0@{},1@{}", settings.core, settings.other_core());
    let [v4, v6] = rules(dir.path(), 1, 0)?;
    let arguments = ["-p", "3", "--config=(0,0,0),(0,1,0),(1,0,1)", &v4, &v6];
    let mut peer = start(&program, settings, &lcores, &devices, &arguments, dir)?;
    let rate = peer.rate(0, 0, settings)?;
    // Killed: asked to stop, it would wait for the lcore that sleeps.
    drop(peer);
    let hz = tsc_hz(settings)?;
    Ok(Figure::of(hz / rate.per_second).with("mpps", rate.per_second / 1e6).with("sent", rate.sent))
}

/// Million packets a second of processor time, of the file's packets. They leave by another device of the same kind, which
/// only those do that find their rule.
pub(super) fn replay(settings: &Settings) -> Result<Figure> {
    let program = program()?;
    let dir = Workdir::new()?;
    let empty = dir.path().join("empty.pcap");
    fs::write(&empty, capture(1, 0))?;
    let file = replay::write(dir.path())?;
    let devices = [replay::device(&file), format!("net_pcap1,rx_pcap={}", empty.display())];
    let [v4, v6] = rules(dir.path(), CONNECTIONS, 1)?;
    let arguments = ["-p", "3", "--config=(0,0,0)", &v4, &v6];
    let mut peer = start(&program, settings, &format!("0@{}", settings.core), &devices, &arguments, dir)?;
    let rate = peer.rate(0, 1, settings)?;
    ensure!(
        rate.sent > HITS,
        "only {:.0} % of the packets found their rule in l3fwd's table",
        100.0 * rate.sent
    );
    Ok(Figure::of(rate.per_second / 1e6).with("sent", rate.sent))
}

fn start(
    program: &Path,
    settings: &Settings,
    lcores: &str,
    devices: &[String],
    arguments: &[&str],
    dir: Workdir,
) -> Result<Peer> {
    // Virtual devices do not tell what kind of packet they received, so l3fwd looks for itself, as our parser does.
    let arguments = [arguments, &["--lookup=em", "--parse-ptype", "--no-numa"]].concat();
    Peer::start("l3fwd", program, settings, lcores, devices, &arguments, dir)
}

/// The rate of the clock that cycles are counted in. EAL tells; it needs little for that.
fn tsc_hz(settings: &Settings) -> Result<f64> {
    let options =
        EalOptions { huge: false, memory_mb: 16, main_core: settings.core, ..EalOptions::default() };
    let eal = Eal::init(&options)?;
    Ok(dpdk::tsc_hz(&eal) as f64)
}
