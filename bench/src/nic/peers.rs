//! Linux on the far ends of taps: echo servers behind one, clients behind the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::conformance::oracle::{Link, host, own};
use crate::topology::{Netns, Workdir};

/// Where clients are: 10.91.0.0/24, fd91::/64.
pub(super) const CLIENT: Link = Link { wire: 20, tags: &[] };
/// Where servers are: 10.92.0.0/24, fd92::/64.
pub(super) const SERVER: Link = Link { wire: 21, tags: &[] };
/// Last byte of the client's address; the server's is that of every flow's target.
const CLIENT_HOST: u8 = 16;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a connection may stand still, its retransmission timer backed off.
const STILL: Duration = Duration::from_secs(60);
/// How long an answer to a datagram is waited for, and how often it is asked for.
const DATAGRAM: Duration = Duration::from_secs(2);
const TRIES: usize = 4;
/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Two hosts.
pub(super) struct Peers {
    client: Netns,
    server: Netns,
}

impl Peers {
    /// Moves two taps out of the namespace `from` into one each and makes hosts of these.
    pub(super) fn new(dir: &Arc<Workdir>, from: &Netns, names: [&str; 2], target: u8) -> Result<Peers> {
        let host_on = |tap: &str, link: Link, n: u8| -> Result<Netns> {
            let netns = Netns::new(tap, Arc::clone(dir))?;
            from.ip(&format!("link set {tap} netns {}", netns.path().display()))?;
            netns.ip(&format!(
                "address add {}/24 dev {tap}\naddress add {}/64 dev {tap} nodad\nlink set {tap} up",
                host(link, n, true),
                host(link, n, false)
            ))?;
            let (v4, v6) = (own(link, true), own(link, false));
            netns.ip(&format!("route add default via {v4}\n-6 route add default via {v6}"))?;
            Ok(netns)
        };
        Ok(Peers {
            client: host_on(names[0], CLIENT, CLIENT_HOST)?,
            server: host_on(names[1], SERVER, target)?,
        })
    }

    /// Starts an echo server for both protocols.
    pub(super) fn echo(&self, at: SocketAddr) -> Result<Echo> {
        let tcp = self.server.run(move || TcpListener::bind(at))?.context("listen")?;
        let udp = self.server.run(move || UdpSocket::bind(at))?.context("listen")?;
        Echo::start(tcp, udp)
    }

    /// Opens a connection from the client.
    pub(super) fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.client.run(move || TcpStream::connect_timeout(&to, CONNECT))?;
        let stream = stream.with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(STILL)).context("set a time limit")?;
        stream.set_write_timeout(Some(STILL)).context("set a time limit")?;
        Ok(stream)
    }

    /// A socket of the client that sends to `to`.
    pub(super) fn datagrams(&self, to: SocketAddr) -> Result<UdpSocket> {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        let socket = self.client.run(move || {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let socket = socket.with_context(|| format!("send to {to}"))?;
        socket.set_read_timeout(Some(DATAGRAM)).context("set a time limit")?;
        Ok(socket)
    }
}

/// An echo server; dropping it ends it.
pub(super) struct Echo {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(tcp: TcpListener, udp: UdpSocket) -> Result<Echo> {
        let end = Arc::new(AtomicBool::new(false));
        tcp.set_nonblocking(true).context("set a socket to not block")?;
        udp.set_read_timeout(Some(LOOK)).context("set a time limit")?;
        let (stop, stop_too) = (Arc::clone(&end), Arc::clone(&end));
        let threads = vec![
            std::thread::spawn(move || {
                let mut streams = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((stream, _)) => {
                            let stop = Arc::clone(&stop);
                            streams.push(std::thread::spawn(move || echo_stream(stream, &stop)));
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
                streams.into_iter().for_each(|thread| drop(thread.join()));
            }),
            std::thread::spawn(move || {
                let mut buffer = [0; 9000];
                while !stop_too.load(Ordering::Relaxed) {
                    if let Ok((n, from)) = udp.recv_from(&mut buffer) {
                        // The client asks again for what is lost.
                        let _ = udp.send_to(&buffer[..n], from);
                    }
                }
            }),
        ];
        Ok(Echo { end, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Until the client closes; what goes wrong the client sees.
fn echo_stream(mut stream: TcpStream, end: &AtomicBool) {
    let limits = [
        stream.set_nonblocking(false),
        stream.set_read_timeout(Some(LOOK)),
        stream.set_write_timeout(Some(STILL)),
    ];
    if limits.iter().any(Result::is_err) {
        return;
    }
    let mut buffer = vec![0; 64 << 10];
    while !end.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// Byte `i` of what is exchanged.
fn byte(i: usize, seed: u8) -> u8 {
    (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ (i >> 16) as u8 ^ seed
}

/// Sends so many bytes, has them echoed meanwhile, and compares every one.
pub(super) fn exchange(stream: &TcpStream, bytes: usize, seed: u8) -> Result<()> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            let mut stream = stream;
            let all: Vec<u8> = (0..bytes).map(|i| byte(i, seed)).collect();
            stream.write_all(&all).context("send")
        });
        let (mut stream, mut buffer, mut have) = (stream, vec![0; 64 << 10], 0);
        while have < bytes {
            let room = buffer.len().min(bytes - have);
            let n =
                stream.read(&mut buffer[..room]).with_context(|| format!("receive after {have} bytes"))?;
            ensure!(n > 0, "the connection ended after {have} of {bytes} bytes");
            let wrong = buffer[..n].iter().zip(have..).find(|(b, i)| **b != byte(*i, seed));
            ensure!(wrong.is_none(), "byte {:?} of {bytes} was changed on the way", wrong.map(|w| w.1));
            have += n;
        }
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?
    })
}

/// Sends datagrams of many sizes one after the other and compares each one's echo. Returns how many had to be sent again.
pub(super) fn exchange_datagrams(socket: &UdpSocket, count: usize) -> Result<usize> {
    let mut again = 0;
    for n in 0..count {
        let size = 4 + n * 97 % 1400;
        let mut datagram: Vec<u8> = (0..size).map(|i| byte(i, n as u8)).collect();
        datagram[..4].copy_from_slice(&(n as u32).to_be_bytes());
        let mut buffer = [0; 9000];
        let mut tries = 0;
        'tries: loop {
            ensure!(tries < TRIES, "datagram {n} of {size} bytes was not echoed");
            again += usize::from(tries > 0);
            tries += 1;
            socket.send(&datagram).context("send a datagram")?;
            loop {
                match socket.recv(&mut buffer) {
                    Ok(m) if buffer[..m] == datagram[..] => break 'tries,
                    // An echo of one before, which was sent twice.
                    Ok(m) if m >= 4 && buffer[..4] < datagram[..4] => {}
                    Ok(m) => bail!("datagram {n} of {size} bytes came back changed, with {m} bytes"),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                    Err(e) => return Err(e).context("receive a datagram"),
                }
            }
        }
    }
    Ok(again)
}
