//! Reading over QUIC, with endpoint, connection and stream on this one thread.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, bail};
use quinn::{Connection as Quic, Endpoint, EndpointConfig, RecvStream, TokioRuntime, VarInt};
use tokio::time::timeout;

use super::super::order::Answer;
use super::super::parse::Parser;
use super::{ANSWER, Connection, Ended, LOOK, framed, parse_answer};
use crate::stream::quic::client_config;

/// Bytes asked for at once.
const READ: usize = 256 * 1024;

/// Carries one connection's order out. What it found is in `ended` even when it fails.
pub(super) fn fetch(connection: &Connection, ended: &mut Ended) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = open(connection, ended)?;
        let result = carry(connection, &endpoint, ended).await;
        endpoint.close(VarInt::from_u32(0), b"done");
        // So that the source hears of it.
        let _ = timeout(LOOK, endpoint.wait_idle()).await;
        result
    })
}

fn open(connection: &Connection, ended: &mut Ended) -> anyhow::Result<Endpoint> {
    let any = if connection.sink.to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let local = connection.sink.local.unwrap_or(any);
    let socket = UdpSocket::bind(SocketAddr::new(local, 0))
        .with_context(|| format!("cannot use the address {local}"))?;
    ended.granted = super::super::socket::set_buffers(&socket, connection.sink.socket_buffer)?;
    Ok(Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?)
}

async fn carry(connection: &Connection, endpoint: &Endpoint, ended: &mut Ended) -> anyhow::Result<()> {
    let to = connection.sink.to;
    let what =
        || format!("cannot connect to {to} over quic; is `s2bench source --proto quic` listening behind it?");
    let connecting = endpoint.connect_with(client_config()?, to, "s2bench").with_context(what)?;
    tokio::pin!(connecting);
    let quic: Quic = loop {
        match timeout(LOOK, &mut connecting).await {
            Ok(connected) => break connected.with_context(what)?,
            Err(_) if connection.stopped() => return Ok(()),
            Err(_) => (),
        }
    };
    let (mut up, mut down) = quic.open_bi().await.with_context(what)?;
    up.write_all(&framed(&connection.order)?).await.with_context(what)?;
    let answer = async {
        let mut head = [0; 8];
        down.read_exact(&mut head).await?;
        let mut text = vec![0; parse_answer(&head, to)?];
        down.read_exact(&mut text).await?;
        anyhow::Ok(serde_json::from_slice(&text)?)
    };
    let answer = timeout(ANSWER, answer)
        .await
        .with_context(|| format!("the source did not answer within {ANSWER:?}"))?
        .context("the source's answer cannot be read")?;
    let begin = match answer {
        Answer::Start(begin) => begin,
        Answer::Refused(why) => bail!("the source refuses: {why}"),
    };
    let mut counting = connection.begin(&begin);
    let result = receive(connection, &mut counting, &mut down).await;
    let (closing, result) = match result {
        Ok(closing) => (closing, Ok(())),
        Err(e) => (None, Err(e)),
    };
    counting.finish(closing, ended);
    result
}

async fn receive(
    connection: &Connection,
    counting: &mut super::Counting<'_>,
    stream: &mut RecvStream,
) -> anyhow::Result<Option<super::Closing>> {
    let mut parser = Parser::new(connection.message);
    let mut buffer = vec![0; READ];
    loop {
        if connection.stopped() {
            return Ok(None);
        }
        let got = match timeout(LOOK, stream.read(&mut buffer)).await {
            Ok(Ok(Some(n))) => n,
            Ok(Ok(None)) => bail!("the source closed before the stream's end; has it been stopped?"),
            Ok(Err(e)) => return Err(e).context("the stream broke"),
            Err(_) => 0,
        };
        let now = counting.clock.now();
        if let Some(closing) = parser.push(&buffer[..got], now, &mut counting.tally)? {
            return Ok(Some(closing));
        }
        counting.look(now)?;
    }
}
