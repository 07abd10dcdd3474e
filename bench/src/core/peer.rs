//! DPDK's testpmd as a peer: the same kind of device, the same core, its own count of cycles.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a peer forwards in one round.
const TIME: Duration = Duration::from_millis(1500);

/// A forwarding mode of testpmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// Receives and sends.
    #[value(name = "testpmd-io")]
    Io,
    /// Swaps MAC addresses, IP addresses and ports.
    #[value(name = "testpmd-5tswap")]
    FiveTupleSwap,
}

impl Peer {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Io => "testpmd io",
            Peer::FiveTupleSwap => "testpmd 5tswap",
        }
    }

    /// Runs it once on `core`; returns cycles a packet as testpmd counts them.
    pub fn run(self, core: usize, huge: bool) -> Result<f64> {
        let mode = match self {
            Peer::Io => "io",
            Peer::FiveTupleSwap => "5tswap",
        };
        // lcore 0 only reads commands and sleeps; it may share the core with anybody.
        let lcores = format!("0@0,1@{core}");
        let memory: &[&str] =
            if huge { &["--in-memory"] } else { &["--no-huge", "--no-shconf", "-m", "256"] };
        let mut child = Command::new("dpdk-testpmd")
            .args(memory)
            .args(["--no-pci", "--no-telemetry", "--lcores", &lcores, "--vdev", "net_ring0", "--"])
            .args(["-i", "--nb-cores=1", "--burst=32", "--total-num-mbufs=8192"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(
                "dpdk-testpmd cannot be started; it comes with Debian's package dpdk: run `make deps`",
            )?;
        let mut stdin = child.stdin.take().context("testpmd has no input")?;
        let begin = format!("set record-core-cycles on\nset fwd {mode}\nstart tx_first\n");
        let spoken = stdin.write_all(begin.as_bytes()).and_then(|()| {
            std::thread::sleep(TIME);
            stdin.write_all(b"stop\nquit\n")
        });
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figure =
            text.split("CPU cycles/packet=").nth(1).and_then(|t| t.split_whitespace().next()?.parse().ok());
        match (spoken, figure) {
            (Ok(()), Some(cycles)) => Ok(cycles),
            _ => bail!(
                "testpmd did not tell its cycles; it wrote: {text} {}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
}
