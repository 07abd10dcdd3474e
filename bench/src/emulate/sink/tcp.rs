//! Reading over TCP: large reads, each with the time at its end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::{Context, bail};
use tokio::time::timeout;

use super::super::order::Answer;
use super::super::parse::Parser;
use super::{ANSWER, Connection, Ended, LOOK, framed, parse_answer};

/// Bytes asked for at once.
const READ: usize = 256 * 1024;

/// Carries one connection's order out. What it found is in `ended` even when it fails.
pub(super) fn fetch(connection: &Connection, ended: &mut Ended) -> anyhow::Result<()> {
    let Some(mut stream) = connect(connection.sink.to, connection, ended)? else { return Ok(()) };
    stream.write_all(&framed(&connection.order)?)?;
    let begin = match answer(&mut stream, connection)? {
        Some(Answer::Start(begin)) => begin,
        Some(Answer::Refused(why)) => bail!("the source refuses: {why}"),
        None => return Ok(()),
    };
    let mut counting = connection.begin(&begin);
    let mut parser = Parser::new(connection.message);
    let mut buffer = vec![0; READ];
    let mut read = || loop {
        if connection.stopped() {
            return Ok(None);
        }
        let got = match stream.read(&mut buffer) {
            Ok(0) => bail!("the source closed before the stream's end; has it been stopped?"),
            Ok(n) => n,
            Err(e) if waited(&e) => 0,
            Err(e) => return Err(e).context("the stream broke"),
        };
        let now = counting.clock.now();
        if let Some(closing) = parser.push(&buffer[..got], now, &mut counting.tally)? {
            return Ok(Some(closing));
        }
        counting.look(now)?;
    };
    let (closing, result) = match read() {
        Ok(closing) => (closing, Ok(())),
        Err(e) => (None, Err(e)),
    };
    counting.finish(closing, ended);
    result
}

/// None when the sink is stopped before.
fn connect(to: SocketAddr, connection: &Connection, ended: &mut Ended) -> anyhow::Result<Option<TcpStream>> {
    let what =
        || format!("cannot connect to {to} over tcp; is `s2bench source --proto tcp` listening behind it?");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Tokio's socket, because the standard library's cannot be bound before it connects.
    let stream = runtime.block_on(async {
        let socket =
            if to.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        // Before connecting: the window's scale is agreed on then (RFC 7323, section 2.2).
        ended.granted = super::super::socket::set_buffers(&socket, connection.sink.socket_buffer)?;
        if let Some(local) = connection.sink.local {
            socket
                .bind(SocketAddr::new(local, 0))
                .with_context(|| format!("cannot use the address {local}"))?;
        }
        let (connecting, limit) = (socket.connect(to), Instant::now() + ANSWER);
        tokio::pin!(connecting);
        loop {
            match timeout(LOOK, &mut connecting).await {
                Ok(connected) => break anyhow::Ok(Some(connected.with_context(what)?.into_std()?)),
                Err(_) if connection.stopped() => break Ok(None),
                Err(e) if Instant::now() > limit => return Err(io::Error::from(e)).with_context(what),
                Err(_) => (),
            }
        }
    })?;
    if let Some(stream) = &stream {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
    }
    Ok(stream)
}

/// The source's answer; none when the sink is stopped before it comes.
fn answer(stream: &mut TcpStream, connection: &Connection) -> anyhow::Result<Option<Answer>> {
    let limit = Instant::now() + ANSWER;
    let Some(head) = exactly(stream, 8, limit, connection)? else { return Ok(None) };
    let Some(text) = exactly(stream, parse_answer(&head, connection.sink.to)?, limit, connection)? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(&text).context("the source's answer cannot be read")?))
}

fn exactly(
    stream: &mut TcpStream,
    length: usize,
    limit: Instant,
    connection: &Connection,
) -> anyhow::Result<Option<Vec<u8>>> {
    let (mut bytes, mut have) = (vec![0; length], 0);
    while have < length {
        match stream.read(&mut bytes[have..]) {
            Ok(0) => bail!("the source closed without an answer; are source and sink of the same release?"),
            Ok(n) => have += n,
            Err(e) if waited(&e) => {
                if connection.stopped() {
                    return Ok(None);
                }
                if Instant::now() > limit {
                    bail!("the source did not answer within {ANSWER:?}");
                }
            }
            Err(e) => return Err(e).context("the source's answer did not come"),
        }
    }
    Ok(Some(bytes))
}

fn waited(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
