//! Sending over UDP: many datagrams in one call, through the socket that orders come in on.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use super::super::clock::Clock;
use super::super::datagram::{HEAD, Head, Kind};
use super::super::message::HEADER;
use super::super::order::{Answer, Order};
use super::super::pace::{Outgoing, Outlet};
use super::{Runs, lock};

/// Datagrams handed to the kernel at once, and when they have a pace.
const BATCH: usize = 64;
const PACED: usize = 16;
/// A sink that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a full socket may stay full, in milliseconds.
const FULL: u16 = 10_000;
/// Answers are repeated this often until the schedule begins: none of the first messages shall come before them.
const REPEAT: Duration = Duration::from_millis(10);
const REPEATS: u32 = 8;
/// Before a closing is repeated, and how long it is.
const PATIENCE: Duration = Duration::from_millis(100);
const FAREWELL: Duration = Duration::from_secs(5);
/// A session is remembered for so long after its end: its order may come once more.
const FORGET: Duration = Duration::from_secs(30);

/// Who is told how a stream ended: its bytes, or why it broke.
type Note = Arc<dyn Fn(SocketAddr, io::Result<u64>) + Send + Sync>;

/// What comes in on a source's socket and belongs to the emulator.
pub(crate) struct Listener {
    socket: Arc<UdpSocket>,
    runs: Arc<Runs>,
    note: Note,
    sessions: Mutex<HashMap<(SocketAddr, u64), Arc<Session>>>,
}

/// What a source knows of one sink.
struct Session {
    answer: OnceLock<Vec<u8>>,
    heard: Mutex<Instant>,
    over: AtomicBool,
    done: Mutex<bool>,
    changed: Condvar,
}

impl Listener {
    /// `socket` is non-blocking.
    pub(crate) fn new(socket: UdpSocket, runs: Arc<Runs>, note: Note) -> Listener {
        Listener { socket: Arc::new(socket), runs, note, sessions: Mutex::default() }
    }

    /// Takes a datagram; false when it is none of the emulator's.
    pub(crate) fn take(&self, bytes: &[u8], from: SocketAddr) -> bool {
        let Some((head, part)) = Head::parse(bytes) else { return false };
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get(&(from, head.run)) {
            *lock(&session.heard) = Instant::now();
            match head.kind {
                Kind::Order => {
                    if let Some(answer) = session.answer.get() {
                        // One that gets lost is asked for again.
                        let _ = self.socket.send_to(answer, from);
                    }
                }
                Kind::Done => {
                    *lock(&session.done) = true;
                    session.changed.notify_all();
                }
                _ => (),
            }
            return true;
        }
        if head.kind != Kind::Order {
            return true;
        }
        let order = match serde_json::from_slice::<Order>(part) {
            Ok(order) if order.run == head.run => order,
            _ => return false,
        };
        sessions.retain(|_, s| !s.over.load(Ordering::Relaxed) || lock(&s.heard).elapsed() < FORGET);
        let session = Arc::new(Session {
            answer: OnceLock::new(),
            heard: Mutex::new(Instant::now()),
            over: AtomicBool::new(false),
            done: Mutex::new(false),
            changed: Condvar::new(),
        });
        sessions.insert((from, head.run), Arc::clone(&session));
        drop(sessions);
        let (socket, runs, note) = (Arc::clone(&self.socket), Arc::clone(&self.runs), Arc::clone(&self.note));
        let thread = std::thread::Builder::new().name("source".to_owned()).spawn({
            let note = Arc::clone(&note);
            move || {
                note(from, serve(&socket, from, &order, &runs, &session));
                session.over.store(true, Ordering::Relaxed);
            }
        });
        if let Err(e) = thread {
            note(from, Err(e));
        }
        true
    }
}

fn serve(
    socket: &UdpSocket,
    to: SocketAddr,
    order: &Order,
    runs: &Runs,
    session: &Session,
) -> io::Result<u64> {
    let joined = runs.join(order);
    let answer = match &joined {
        Ok(joined) => joined.answer(),
        Err(why) => Answer::Refused(why.clone()),
    };
    let answer = Head::alone(Kind::Answer, order.run, &serde_json::to_vec(&answer)?);
    let answer = session.answer.get_or_init(|| answer);
    for _ in 0..REPEATS {
        // As above.
        let _ = socket.send_to(answer, to);
        std::thread::sleep(REPEAT);
    }
    let joined = joined.map_err(io::Error::other)?;
    let mut outlet = Udp {
        socket,
        to: SockaddrStorage::from(to),
        run: order.run,
        part: order.profile.datagram.into(),
        session,
        headers: MultiHeaders::preallocate(BATCH, None),
        pace: order.profile.pace.map(|pace| Pace { bits: pace.0, clock: Clock::new(true), next: 0 }),
    };
    let closing = joined.send(&mut outlet)?;
    let text = serde_json::to_vec(&closing)?;
    let end = Instant::now() + FAREWELL;
    let mut done = lock(&session.done);
    while !*done {
        if Instant::now() > end {
            return Err(io::Error::other("the sink did not take the closing; has it gone?"));
        }
        for datagram in Head::parts(Kind::End, order.run, &text, outlet.part) {
            let _ = socket.send_to(&datagram, to);
        }
        done = session.changed.wait_timeout(done, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
    }
    Ok(closing.bytes)
}

struct Udp<'s> {
    socket: &'s UdpSocket,
    to: SockaddrStorage,
    run: u64,
    part: usize,
    session: &'s Session,
    headers: MultiHeaders<SockaddrStorage>,
    pace: Option<Pace>,
}

/// Keeps datagrams apart.
struct Pace {
    /// A second.
    bits: u64,
    clock: Clock,
    /// When the next may leave.
    next: u64,
}

impl Pace {
    /// Waits for the turn of the next `bytes`. Time that was lost within a message is made up for; time before it is not.
    fn wait(&mut self, bytes: usize, first: bool) {
        let now = self.clock.now();
        if first {
            self.next = self.next.max(now);
        }
        self.clock.sleep_until(self.next);
        self.next += (bytes as u128 * 8_000_000_000 / u128::from(self.bits)) as u64;
    }
}

impl Udp<'_> {
    /// Sends what fits into one call and returns how many that were; none when the socket is full.
    fn call(&mut self, datagrams: &[[IoSlice<'_>; 3]]) -> io::Result<Option<usize>> {
        let addresses = vec![Some(self.to); datagrams.len()];
        let none: [ControlMessage<'_>; 0] = [];
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            datagrams,
            &addresses,
            none,
            MsgFlags::MSG_DONTWAIT,
        );
        match sent {
            Ok(sent) => Ok(Some(sent.count())),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => Ok(Some(0)),
            Err(e @ (Errno::EMSGSIZE | Errno::EINVAL | Errno::EBADF | Errno::EACCES)) => Err(e.into()),
            // The path refuses this one, as it might lose it later: a datagram lost.
            Err(_) => Ok(Some(1)),
        }
    }
}

impl Outlet for Udp<'_> {
    fn send(&mut self, batch: &[Outgoing<'_>]) -> io::Result<bool> {
        self.alive()?;
        let parts: Vec<_> = batch.iter().flat_map(|m| parts(m, self.part, self.run)).collect();
        let datagrams: Vec<_> = parts
            .iter()
            .map(|(head, header, payload)| [IoSlice::new(head), IoSlice::new(header), IoSlice::new(payload)])
            .collect();
        let (mut at, mut full) = (0, false);
        while at < datagrams.len() {
            let most = if self.pace.is_some() { PACED } else { BATCH };
            let next = &datagrams[at..datagrams.len().min(at + most)];
            if let Some(pace) = &mut self.pace {
                pace.wait(next.iter().map(|[_, a, b]| a.len() + b.len()).sum(), at == 0);
                full |= at > 0;
            }
            match self.call(next)? {
                Some(sent) => at += sent,
                None => {
                    full = true;
                    let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
                    if poll(&mut fds, PollTimeout::from(FULL)).is_ok_and(|ready| ready == 0) {
                        return Err(io::Error::other("the interface takes nothing"));
                    }
                }
            }
        }
        Ok(full)
    }

    fn alive(&mut self) -> io::Result<()> {
        if *lock(&self.session.done) {
            return Err(io::Error::other("the sink stopped"));
        }
        if lock(&self.session.heard).elapsed() > SILENCE {
            return Err(io::Error::other(format!("the sink said nothing for {SILENCE:?}")));
        }
        Ok(())
    }
}

/// A message's datagrams: their headers, and their parts of the message's header and payload.
fn parts<'m>(
    message: &'m Outgoing<'_>,
    part: usize,
    run: u64,
) -> impl Iterator<Item = ([u8; HEAD], &'m [u8], &'m [u8])> {
    let total = HEADER + message.payload.len();
    (0..total).step_by(part).map(move |offset| {
        let end = (offset + part).min(total);
        let head =
            Head { kind: Kind::Data, run, seq: message.seq, offset: offset as u32, total: total as u32 };
        // A part is larger than a message's header, which so is in the first one.
        let header = if offset == 0 { &message.header[..] } else { &[] };
        (head.encode(), header, &message.payload[offset.max(HEADER) - HEADER..end - HEADER])
    })
}
