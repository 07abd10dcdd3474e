//! The command `s2bench naive`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bench::compare::naive::Naive;
use bench::size;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Address and port to connect to for each connection.
    #[arg(long, value_name = "ADDR:PORT")]
    target: SocketAddr,
    /// Bytes of the ring of each direction of a connection.
    #[arg(long, value_parser = ring, default_value = "40960", value_name = "SIZE")]
    ring: usize,
    /// How long a thread sleeps that finds its ring full or empty.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10us", value_name = "TIME")]
    sleep: Duration,
}

fn ring(text: &str) -> Result<usize, String> {
    match size::parse(text)?.try_into() {
        Ok(bytes @ 1..=0x4000_0000) => Ok(bytes),
        _ => Err("a ring has 1 B to 1 GiB".to_owned()),
    }
}

/// Serves until a signal ends it.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let naive = Naive { listen: args.listen, target: args.target, ring: args.ring, sleep: args.sleep };
    let listener = naive.bind()?;
    eprintln!("listening on {}, relaying to {}", listener.local_addr()?, args.target);
    naive.serve(&listener)?;
    Ok(ExitCode::SUCCESS)
}
