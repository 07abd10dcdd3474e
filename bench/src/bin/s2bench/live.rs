//! The command `s2bench live`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bench::live::{Live, Options};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Lines of `s2bench sink --json-stream`: a file that grows, a FIFO, or - for stdin.
    #[arg(long, value_name = "FILE", required_unless_present = "gateway")]
    stream: Option<PathBuf>,
    /// A gateway's name and control socket; several are given from the producer's to the consumer's.
    #[arg(long, value_parser = gateway, value_name = "NAME=SOCKET")]
    gateway: Vec<(String, PathBuf)>,
    /// URL of the metrics of s2cs, such as http://127.0.0.1:9100/metrics.
    #[arg(long, value_name = "URL")]
    s2cs: Option<String>,
    /// Where to serve the page; at another address than a loopback one, whoever reaches it sees it.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR:PORT")]
    listen: SocketAddr,
}

fn gateway(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, socket)) if !name.is_empty() && !socket.is_empty() => {
            Ok((name.to_owned(), socket.into()))
        }
        _ => Err("write it like chicago=/run/scistream/s2ds.sock".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let options = Options {
        stream: args.stream.clone(),
        gateways: args.gateway.clone(),
        s2cs: args.s2cs.clone(),
        listen: args.listen,
    };
    let runtime = super::runtime()?;
    let result = runtime.block_on(async {
        let live = Live::start(&options).await?;
        let address = live.address()?;
        if !address.ip().is_loopback() {
            eprintln!("{address} is no loopback address: whoever reaches it sees this page");
        }
        let stopped = super::stopped(None)?;
        eprintln!("serving http://{address}/ until SIGINT or SIGTERM; ready");
        tokio::select! {
            done = live.serve() => done,
            () = stopped => Ok(()),
        }
    });
    // A question to s2cs may still be on its way; nobody waits for its answer.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}
