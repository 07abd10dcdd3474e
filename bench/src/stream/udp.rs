//! Streams in plain datagrams: paced, numbered, counted, compared, never repeated.
//!
//! A datagram is a header of 24 bytes - kind, run, number, in network byte order - and a body. The sink repeats its order
//! until it is accepted; each side repeats the end of its data, with the count it sent, until the other answers with what
//! it got. Data that is lost stays lost and is counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::pattern::Pattern;
use super::{Carrier, Direction, Meter, Order, StreamError};

/// Smallest and largest body of a data datagram, in bytes.
pub const BODY: std::ops::RangeInclusive<u16> = 64..=65_000;

const HEADER: usize = 24;
/// Before something unanswered is repeated.
const PATIENCE: Duration = Duration::from_millis(100);
/// A source forgets a sink that has been silent for so long.
const FORGET: Duration = Duration::from_secs(10);
/// Most datagrams of one direction of one order, which bounds what a source remembers of it.
const MOST: u64 = 1 << 28;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Order = 1,
    Accept,
    Data,
    End,
    Verdict,
}

/// How datagrams are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a data datagram's body.
    pub body: u16,
    /// Pace of each direction, bits of body a second.
    pub rate: u64,
}

/// What became of one direction's datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Datagrams {
    /// Sent.
    pub sent: u64,
    /// Arrived, each counted once.
    pub received: u64,
    /// Arrived again.
    pub duplicates: u64,
    /// Arrived after one with a higher number.
    pub reordered: u64,
}

impl Datagrams {
    /// Adds another stream's.
    #[must_use]
    pub fn plus(self, other: Datagrams) -> Datagrams {
        Datagrams {
            sent: self.sent + other.sent,
            received: self.received + other.received,
            duplicates: self.duplicates + other.duplicates,
            reordered: self.reordered + other.reordered,
        }
    }

    /// Percent of what was sent that did not arrive.
    #[must_use]
    pub fn lost(&self) -> f64 {
        100.0 * (self.sent - self.received.min(self.sent)) as f64 / self.sent.max(1) as f64
    }
}

/// A datagram taken apart.
#[derive(Debug)]
struct Datagram<'a> {
    kind: Kind,
    run: u64,
    number: u64,
    body: &'a [u8],
}

impl Datagram<'_> {
    fn parse(bytes: &[u8]) -> Option<Datagram<'_>> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let kind = [Kind::Order, Kind::Accept, Kind::Data, Kind::End, Kind::Verdict]
            .into_iter()
            .find(|k| *k as u8 == header[0])?;
        Some(Datagram { kind, run: number(&header[8..16]), number: number(&header[16..]), body })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out[0] = self.kind as u8;
        out[8..16].copy_from_slice(&self.run.to_be_bytes());
        out[16..24].copy_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(self.body);
        out
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// One direction of an order, cut into datagrams.
#[derive(Debug, Clone, Copy)]
struct Plan {
    direction: Direction,
    bytes: u64,
    shape: Shape,
    pattern: Pattern,
}

impl Plan {
    fn new(order: Order, shape: Shape, direction: Direction) -> Plan {
        let bytes = match direction {
            Direction::Down => order.down,
            Direction::Up => order.up,
        };
        Plan { direction, bytes, shape, pattern: Pattern::new(order.seed_of(direction)) }
    }

    fn count(&self) -> u64 {
        self.bytes.div_ceil(self.shape.body.into())
    }

    /// First byte and length of a datagram's body.
    fn part(&self, number: u64) -> (u64, usize) {
        let body = u64::from(self.shape.body);
        let at = number * body;
        (at, (self.bytes - at).min(body) as usize)
    }
}

/// What one side has received.
#[derive(Debug)]
struct Tally {
    plan: Plan,
    verify: bool,
    seen: Vec<bool>,
    next: u64,
    got: Datagrams,
    wrong: Option<u64>,
}

impl Tally {
    fn new(plan: Plan, verify: bool) -> Tally {
        let count = plan.count();
        Tally {
            plan,
            verify,
            seen: vec![false; count as usize],
            next: 0,
            got: Datagrams { sent: count, ..Datagrams::default() },
            wrong: None,
        }
    }

    fn take(&mut self, data: &Datagram<'_>, meter: &Meter) {
        let Some(seen) = usize::try_from(data.number).ok().and_then(|n| self.seen.get_mut(n)) else {
            self.wrong.get_or_insert(self.plan.bytes);
            return;
        };
        if std::mem::replace(seen, true) {
            self.got.duplicates += 1;
            return;
        }
        self.got.received += 1;
        self.got.reordered += u64::from(data.number < self.next);
        self.next = self.next.max(data.number + 1);
        meter.add(self.plan.direction, data.body.len());
        let (at, len) = self.plan.part(data.number);
        let wrong = if data.body.len() == len { None } else { Some(at) };
        let differs = || self.verify.then(|| self.plan.pattern.first_difference(at, data.body)).flatten();
        self.wrong = self.wrong.or(wrong).or_else(differs);
    }
}

/// Sends all data of a plan at its pace, then its end until the other side's answer makes the caller drop the task.
async fn send(socket: &UdpSocket, to: SocketAddr, run: u64, plan: Plan, meter: Arc<Meter>) {
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    let count = plan.count();
    let mut next = 0;
    let mut body = vec![0; plan.shape.body.into()];
    while next < count {
        tick.tick().await;
        let due =
            plan.shape.rate as u128 * start.elapsed().as_micros() / 8_000_000 / u128::from(plan.shape.body);
        while next < count && u128::from(next) <= due {
            let (at, len) = plan.part(next);
            plan.pattern.fill(at, &mut body[..len]);
            let data = Datagram { kind: Kind::Data, run, number: next, body: &body[..len] };
            meter.add(plan.direction, len);
            // A datagram that cannot be sent is one lost; the tally of the other side shows it.
            let _ = socket.send_to(&data.encode(), to).await;
            next += 1;
        }
    }
    let end = Datagram { kind: Kind::End, run, number: count, body: &[] }.encode();
    let give_up = Instant::now() + FORGET;
    while Instant::now() < give_up {
        let _ = socket.send_to(&end, to).await;
        sleep(PATIENCE).await;
    }
}

/// A task that ends with its owner.
struct Task(tokio::task::JoinHandle<()>);

impl Task {
    fn send(socket: &Arc<UdpSocket>, to: SocketAddr, run: u64, plan: Plan, meter: &Arc<Meter>) -> Task {
        let (socket, meter) = (socket.clone(), meter.clone());
        Task(tokio::spawn(async move { send(&socket, to, run, plan, meter).await }))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Fetches one order and returns what became of its datagrams, down and up.
pub async fn fetch(
    local: SocketAddr,
    to: SocketAddr,
    order: Order,
    shape: Shape,
    meter: &Arc<Meter>,
) -> Result<(Datagrams, Datagrams), StreamError> {
    let bind =
        |e: std::io::Error| StreamError::Bind { address: local, carrier: Carrier::Udp, why: e.to_string() };
    let broken = |why| StreamError::Broken { direction: Direction::Down, bytes: meter.down(), why };
    let socket = Arc::new(UdpSocket::bind(local).await.map_err(bind)?);
    // Distinct for every run that a source can remember.
    let run = order.seed ^ u64::from(socket.local_addr().map_err(bind)?.port()) << 48;
    let mut body = order.encode().to_vec();
    body.extend_from_slice(&u64::from(shape.body).to_be_bytes());
    body.extend_from_slice(&shape.rate.to_be_bytes());
    let ask = Datagram { kind: Kind::Order, run, number: 0, body: &body }.encode();

    let mut tally = Tally::new(Plan::new(order, shape, Direction::Down), order.verify);
    let mut upload = None;
    let mut verdict: Option<Datagrams> = None;
    let mut ended = false;
    let mut buffer = vec![0; 1 << 16];
    while !ended || verdict.is_none() {
        if upload.is_none() {
            socket.send_to(&ask, to).await.map_err(broken)?;
        }
        let (n, from) = match timeout(PATIENCE, socket.recv_from(&mut buffer)).await {
            Ok(received) => received.map_err(broken)?,
            Err(_) => continue,
        };
        let Some(datagram) = Datagram::parse(&buffer[..n]).filter(|d| d.run == run && from == to) else {
            continue;
        };
        match datagram.kind {
            Kind::Data => tally.take(&datagram, meter),
            Kind::End => {
                ended = true;
                let answer = Datagram { kind: Kind::Verdict, run, number: tally.got.received, body: &[] };
                socket.send_to(&answer.encode(), to).await.map_err(broken)?;
            }
            Kind::Verdict => verdict = Some(read_verdict(&datagram, order, shape)?),
            Kind::Accept | Kind::Order => {}
        }
        // Whatever comes first shows that the order has arrived.
        if upload.is_none() {
            upload = Some(Task::send(&socket, to, run, Plan::new(order, shape, Direction::Up), meter));
        }
    }
    match tally.wrong {
        Some(offset) => Err(StreamError::Differs { direction: Direction::Down, offset }),
        None => Ok((tally.got, verdict.unwrap_or_default())),
    }
}

fn read_verdict(datagram: &Datagram<'_>, order: Order, shape: Shape) -> Result<Datagrams, StreamError> {
    let field = |at: usize| datagram.body.get(at..at + 8).map_or(0, number);
    let sent = Plan::new(order, shape, Direction::Up).count();
    match field(16) {
        0 => Ok(Datagrams { sent, received: datagram.number, duplicates: field(0), reordered: field(8) }),
        offset => Err(StreamError::Differs { direction: Direction::Up, offset: offset - 1 }),
    }
}

/// A source's memory of one sink.
struct Session {
    run: u64,
    order: Order,
    tally: Tally,
    sending: Option<Task>,
    last: Instant,
    ended: bool,
}

impl Session {
    fn verdict(&self) -> Vec<u8> {
        let got = self.tally.got;
        let wrong = self.tally.wrong.map_or(0, |offset| offset + 1);
        let body = [got.duplicates, got.reordered, wrong].map(u64::to_be_bytes).concat();
        Datagram { kind: Kind::Verdict, run: self.run, number: got.received, body: &body }.encode()
    }
}

fn read_order(body: &[u8]) -> Option<(Order, Shape)> {
    let (order, rest) = body.split_first_chunk::<{ Order::LEN }>()?;
    let order = Order::decode(order)?;
    let (size, rate) = rest.split_at_checked(8)?;
    let shape = Shape { body: u16::try_from(number(size)).ok()?, rate: number(rate) };
    let most = MOST * u64::from(shape.body);
    (BODY.contains(&shape.body) && shape.rate > 0 && order.down <= most && order.up <= most)
        .then_some((order, shape))
}

/// Serves orders until the socket fails; tells of every stream that ended. `other` gets datagrams of another form first, and
/// tells whether they were for it.
pub async fn serve(
    socket: UdpSocket,
    meter: &Arc<Meter>,
    mut done: impl FnMut(SocketAddr, Result<Order, StreamError>),
    other: impl Fn(&[u8], SocketAddr) -> bool,
) -> std::io::Error {
    let socket = Arc::new(socket);
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (n, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error that an earlier datagram met; it says nothing about the socket.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(e) => return e,
        };
        let Some(datagram) = Datagram::parse(&buffer[..n]) else {
            if other(&buffer[..n], from) {
                continue;
            }
            done(from, Err(StreamError::Protocol(from)));
            continue;
        };
        let run = datagram.run;
        if datagram.kind == Kind::Order {
            if sessions.get(&from).is_none_or(|s| s.run != run) {
                let Some((order, shape)) = read_order(datagram.body) else {
                    done(from, Err(StreamError::Protocol(from)));
                    continue;
                };
                sessions.retain(|_, s| s.last.elapsed() < FORGET);
                let tally = Tally::new(Plan::new(order, shape, Direction::Up), order.verify);
                let down = Plan::new(order, shape, Direction::Down);
                let sending = Some(Task::send(&socket, from, run, down, meter));
                sessions
                    .insert(from, Session { run, order, tally, sending, last: Instant::now(), ended: false });
            }
            let accept = Datagram { kind: Kind::Accept, run, number: 0, body: &[] };
            let _ = socket.send_to(&accept.encode(), from).await;
            continue;
        }
        let Some(session) = sessions.get_mut(&from).filter(|s| s.run == run) else { continue };
        session.last = Instant::now();
        match datagram.kind {
            Kind::Data => session.tally.take(&datagram, meter),
            Kind::Verdict => session.sending = None,
            Kind::End => {
                let _ = socket.send_to(&session.verdict(), from).await;
                if !std::mem::replace(&mut session.ended, true) {
                    let wrong = session.tally.wrong;
                    let result = wrong.map_or(Ok(session.order), |offset| {
                        Err(StreamError::Differs { direction: Direction::Up, offset })
                    });
                    done(from, result);
                }
            }
            Kind::Order | Kind::Accept => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { body: 1000, rate: 400_000_000 };

    /// Source and sink joined by a path that treats every datagram as `fate` says: how often it arrives, and changed how.
    async fn path(
        order: Order,
        fate: impl Fn(u64, &mut Vec<u8>) -> usize + Send + 'static,
    ) -> Result<(Datagrams, Datagrams), StreamError> {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let source = UdpSocket::bind(local).await.unwrap();
        let source_at = source.local_addr().unwrap();
        let (near, far) = (UdpSocket::bind(local).await.unwrap(), UdpSocket::bind(local).await.unwrap());
        let near_at = near.local_addr().unwrap();
        let between = tokio::spawn(async move {
            let (mut client, mut n) = (near_at, 0);
            let (mut a, mut b) = (vec![0; 2000], vec![0; 2000]);
            loop {
                let (mut datagram, down) = tokio::select! {
                    r = near.recv_from(&mut a) => { let (n, from) = r.unwrap(); client = from; (a[..n].to_vec(), false) }
                    r = far.recv_from(&mut b) => (b[..r.unwrap().0].to_vec(), true),
                };
                n += 1;
                for _ in 0..fate(n, &mut datagram) {
                    if down {
                        near.send_to(&datagram, client).await.unwrap();
                    } else {
                        far.send_to(&datagram, source_at).await.unwrap();
                    }
                }
            }
        });
        let meter = Arc::new(Meter::default());
        let serving =
            tokio::spawn(
                async move { serve(source, &Arc::new(Meter::default()), |_, _| (), |_, _| false).await },
            );
        let result = timeout(Duration::from_secs(20), fetch(local, near_at, order, SHAPE, &meter)).await;
        serving.abort();
        between.abort();
        result.unwrap()
    }

    // So few datagrams that they fit a socket's receive buffer (about 90), however late its reader comes.
    const ORDER: Order = Order { seed: 9, down: 60_500, up: 30_001, verify: true };

    #[tokio::test]
    async fn what_is_lost_and_doubled_is_counted() {
        let (down, up) = path(ORDER, |_, _| 1).await.unwrap();
        assert_eq!(down, Datagrams { sent: 61, received: 61, ..Datagrams::default() });
        assert_eq!(up, Datagrams { sent: 31, received: 31, ..Datagrams::default() });

        // Every fifth is lost, orders, ends and verdicts too; every third comes twice.
        let fate = |n, _: &mut Vec<u8>| if n % 5 == 0 { 0 } else { 1 + usize::from(n % 3 == 0) };
        let (down, up) = path(ORDER, fate).await.unwrap();
        assert!(down.received < down.sent && down.duplicates > 0, "{down:?}");
        assert!(up.received < up.sent && up.duplicates > 0, "{up:?}");
    }

    #[tokio::test]
    async fn a_changed_byte_is_named() {
        let change = |_, d: &mut Vec<u8>| {
            if d[0] == Kind::Data as u8 && number(&d[16..24]) == 7 && d.len() == HEADER + 1000 {
                d[HEADER + 3] ^= 1;
            }
            1
        };
        let error = path(Order { up: 0, ..ORDER }, change).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Differs { direction: Direction::Down, offset: 7003 }),
            "{error}"
        );
        let error = path(Order { down: 0, ..ORDER }, change).await.unwrap_err();
        assert!(matches!(error, StreamError::Differs { direction: Direction::Up, offset: 7003 }), "{error}");
    }

    #[test]
    fn orders_that_would_exhaust_the_source_are_refused() {
        let body = |order: Order, size: u64, rate: u64| {
            [&order.encode()[..], &size.to_be_bytes(), &rate.to_be_bytes()].concat()
        };
        assert!(read_order(&body(ORDER, 1000, 1)).is_some());
        assert!(read_order(&body(Order { up: u64::MAX, ..ORDER }, 1000, 1)).is_none());
        assert!(read_order(&body(ORDER, 1, 1)).is_none());
        assert!(read_order(&body(ORDER, 1000, 0)).is_none());
        assert!(read_order(&body(ORDER, 1000, 1)[..40]).is_none());
    }
}
