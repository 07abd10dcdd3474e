//! Reading over UDP: many datagrams in one call, put together again.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};

use super::super::datagram::{HEAD, Head, Kind, Reassembly};
use super::super::message::{HEADER, Header, checksum};
use super::super::order::{Answer, Begin, Closing};
use super::super::tally::Tally;
use super::{ANSWER, Connection, Counting, Ended, LOOK};

/// Datagrams taken at once.
const BATCH: usize = 64;
/// Before an order is repeated.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often the source hears that there still is a sink.
const HERE: Duration = Duration::from_millis(500);
/// After the closing, what is still under way may come for so long.
const LINGER: Duration = Duration::from_millis(300);
/// Most bytes of a closing.
const MOST_CLOSING: usize = 1 << 20;

/// Carries one connection's order out. What it found is in `ended` even when it fails.
pub(super) fn fetch(connection: &Connection, ended: &mut Ended) -> anyhow::Result<()> {
    let mut socket = Socket::open(connection, ended)?;
    let Some(begin) = ask(&mut socket, connection)? else { return Ok(()) };
    let mut counting = connection.begin(&begin);
    let part = usize::from(connection.sink.profile.datagram);
    let mut messages = Reassembly::new(part, connection.message as usize);
    let mut closings = Reassembly::new(part, MOST_CLOSING);
    let result = receive(&mut socket, connection, &mut counting, &mut messages, &mut closings);
    // The source need not go on; it repeats its closing until one of these arrives.
    for _ in 0..3 {
        socket.send(Kind::Done, &[]);
    }
    let (closing, result) = match result {
        Ok(closing) => (closing, Ok(())),
        Err(e) => (None, Err(e)),
    };
    ended.overflowed = socket.overflowed();
    counting.finish(closing, ended);
    result
}

/// Repeats the order until it is answered; none when the sink is stopped before.
fn ask(socket: &mut Socket, connection: &Connection) -> anyhow::Result<Option<Begin>> {
    let order = serde_json::to_vec(&connection.order)?;
    let give_up = Instant::now() + ANSWER;
    let mut next = Instant::now();
    loop {
        if connection.stopped() {
            return Ok(None);
        }
        if Instant::now() > give_up {
            bail!(
                "no answer from {} over udp within {ANSWER:?}; is `s2bench source --proto udp` listening behind it?",
                connection.sink.to
            );
        }
        if Instant::now() >= next {
            socket.send(Kind::Order, &order);
            next = Instant::now() + PATIENCE;
        }
        let mut answer = None;
        socket.receive(|head, part| {
            if head.kind == Kind::Answer {
                answer = Some(serde_json::from_slice(part));
            }
        })?;
        match answer.transpose().context("the source's answer cannot be read")? {
            Some(Answer::Start(begin)) => return Ok(Some(begin)),
            Some(Answer::Refused(why)) => bail!("the source refuses: {why}"),
            None => (),
        }
    }
}

fn receive(
    socket: &mut Socket,
    connection: &Connection,
    counting: &mut Counting<'_>,
    messages: &mut Reassembly,
    closings: &mut Reassembly,
) -> anyhow::Result<Option<Closing>> {
    let mut closing: Option<Closing> = None;
    let (mut last, mut here) = (Instant::now(), Instant::now());
    loop {
        if connection.stopped() {
            return Ok(closing);
        }
        if here.elapsed() >= HERE {
            here = Instant::now();
            socket.send(Kind::Here, &[]);
        }
        let clock = counting.clock;
        let tally = &mut counting.tally;
        // Of all that one call brings: they were there when it returned.
        let mut now = None;
        let mut ends = false;
        socket.receive(|head, part| {
            let now = *now.get_or_insert_with(|| clock.now());
            match head.kind {
                Kind::Data => {
                    if let Some(whole) = messages.take(&head, part) {
                        count(&head, &whole, now, tally);
                    }
                }
                Kind::End => {
                    ends = true;
                    if closing.is_none()
                        && let Some(whole) = closings.take(&head, part)
                    {
                        closing = serde_json::from_slice(&whole).ok();
                    }
                }
                _ => (),
            }
        })?;
        counting.look(now.unwrap_or_else(|| clock.now()))?;
        if closing.is_some() {
            if ends {
                socket.send(Kind::Done, &[]);
            }
            if now.is_none() && last.elapsed() > LINGER {
                return Ok(closing);
            }
        }
        if now.is_some() {
            last = Instant::now();
        }
    }
}

/// A whole message came; right or not.
fn count(head: &Head, whole: &[u8], now: u64, tally: &mut Tally) {
    let right = whole.split_first_chunk::<HEADER>().and_then(|(header, payload)| {
        let (parsed, wanted) = Header::decode(header)?;
        let fits = parsed.length as usize == whole.len() && parsed.seq == head.seq;
        (fits && checksum(crc32fast::hash(payload), parsed.length, header) == wanted).then_some(parsed)
    });
    match right {
        Some(header) => tally.arrived(&header, now),
        None => tally.corrupt(head.seq, now),
    }
}

struct Socket {
    socket: UdpSocket,
    run: u64,
    size: usize,
    buffer: Vec<u8>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Socket {
    fn open(connection: &Connection, ended: &mut Ended) -> anyhow::Result<Socket> {
        let to = connection.sink.to;
        let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let local = connection.sink.local.unwrap_or(any);
        let socket = UdpSocket::bind(SocketAddr::new(local, 0))
            .with_context(|| format!("cannot use the address {local}"))?;
        ended.granted = super::super::socket::set_buffers(&socket, connection.sink.socket_buffer)?;
        socket.connect(to).with_context(|| format!("cannot reach {to}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        let size = HEAD + usize::from(connection.sink.profile.datagram).max(2048);
        Ok(Socket {
            socket,
            run: connection.order.run,
            size,
            buffer: vec![0; size * BATCH],
            headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// What gets lost is repeated, or does not matter.
    fn send(&self, kind: Kind, bytes: &[u8]) {
        let _ = self.socket.send(&Head::alone(kind, self.run, bytes));
    }

    /// Waits for datagrams for a while, and takes those of this run that are there.
    fn receive(&mut self, mut take: impl FnMut(Head, &[u8])) -> anyhow::Result<()> {
        let mut lengths = [0; BATCH];
        let received = {
            let mut slices: Vec<_> =
                self.buffer.chunks_mut(self.size).map(|b| [IoSliceMut::new(b)]).collect();
            let fd = self.socket.as_raw_fd();
            recvmmsg(fd, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)
                .map(|got| got.zip(&mut lengths).map(|(message, length)| *length = message.bytes).count())
        };
        let count = match received.map_err(io::Error::from) {
            Ok(count) => count,
            // Nothing came, or an earlier datagram met nobody, who may still come.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(());
            }
            Err(e) => return Err(e).context("the socket failed"),
        };
        for (bytes, length) in self.buffer.chunks(self.size).zip(lengths).take(count) {
            if let Some((head, part)) = Head::parse(&bytes[..length]).filter(|(h, _)| h.run == self.run) {
                take(head, part);
            }
        }
        Ok(())
    }

    /// Datagrams that found this socket's buffer full.
    fn overflowed(&self) -> u64 {
        let file = if self.socket.local_addr().is_ok_and(|a| a.is_ipv6()) { "udp6" } else { "udp" };
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let inode = std::fs::metadata(format!("/proc/thread-self/fd/{}", self.socket.as_raw_fd()))
            .map_or(0, |m| m.ino());
        drops(&table, inode)
    }
}

/// The drops that a table of /proc/net/udp has for a socket.
fn drops(table: &str, inode: u64) -> u64 {
    let row = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    row.filter(|r| r.get(9).and_then(|i| i.parse().ok()) == Some(inode))
        .find_map(|r| r.last()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_socket() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  397: 0100007F:14B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 63711 2 00000000bb 0
  412: 0100007F:D3C1 0100007F:14B5 01 00000000:00034500 00:00000000 00000000     0        0 63712 2 00000000aa 8731\n";
        assert_eq!(drops(table, 63_712), 8731);
        assert_eq!(drops(table, 63_711), 0);
        assert_eq!(drops(table, 1), 0);
        // The real table has this form.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        let inode = std::fs::metadata(format!("/proc/thread-self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        assert!(own.lines().any(|l| l.split_whitespace().nth(9) == Some(&inode.to_string())), "{own}");
    }
}
