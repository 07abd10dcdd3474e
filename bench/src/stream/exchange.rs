//! One connection's conversation over any reliable, ordered carrier.
//!
//! Sink: order, `up` bytes, end. Source: `down` bytes, verdict (received count and offset of the first wrong byte, or
//! all ones), end. Both directions run at once.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::pattern::Pattern;
use super::{Direction, Meter, Order, StreamError, broken};

/// Bytes handed to the carrier at once.
const CHUNK: usize = 128 * 1024;

/// The sink's side. Returns when every byte has gone both ways and been found right.
pub async fn sink<R, W>(
    mut r: R,
    mut w: W,
    order: Order,
    meter: &Meter,
    peer: SocketAddr,
) -> Result<(), StreamError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    w.write_all(&order.encode()).await.map_err(broken(Direction::Up, 0))?;
    let down = async {
        let wrong = receive(&mut r, order, Direction::Down, meter).await?;
        wrong.map_or(Ok(()), |offset| Err(StreamError::Differs { direction: Direction::Down, offset }))
    };
    let up = async {
        send(&mut w, order, Direction::Up, meter).await?;
        w.shutdown().await.map_err(broken(Direction::Up, order.up))
    };
    tokio::try_join!(down, up)?;
    let mut verdict = [0; 16];
    r.read_exact(&mut verdict).await.map_err(broken(Direction::Down, order.down))?;
    let (got, wrong) = verdict.split_at(8);
    let number = |b: &[u8]| b.iter().fold(0, |n: u64, b| n << 8 | u64::from(*b));
    match (number(got), number(wrong)) {
        (got, u64::MAX) if got == order.up => Ok(()),
        (got, u64::MAX) => Err(StreamError::Short { got, sent: order.up }),
        (_, offset) if offset < order.up => Err(StreamError::Differs { direction: Direction::Up, offset }),
        _ => Err(StreamError::Protocol(peer)),
    }
}

/// The source's side. Returns the order it has served.
pub async fn source<R, W>(mut r: R, mut w: W, meter: &Meter, peer: SocketAddr) -> Result<Order, StreamError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut bytes = [0; Order::LEN];
    r.read_exact(&mut bytes).await.map_err(broken(Direction::Up, 0))?;
    let order = Order::decode(&bytes).ok_or(StreamError::Protocol(peer))?;
    let ((), wrong) = tokio::try_join!(
        send(&mut w, order, Direction::Down, meter),
        receive(&mut r, order, Direction::Up, meter)
    )?;
    let mut verdict = [0; 16];
    verdict[..8].copy_from_slice(&order.up.to_be_bytes());
    verdict[8..].copy_from_slice(&wrong.unwrap_or(u64::MAX).to_be_bytes());
    w.write_all(&verdict).await.map_err(broken(Direction::Down, order.down))?;
    w.shutdown().await.map_err(broken(Direction::Down, order.down))?;
    Ok(order)
}

async fn send<W: AsyncWrite + Unpin>(
    w: &mut W,
    order: Order,
    direction: Direction,
    meter: &Meter,
) -> Result<(), StreamError> {
    let (total, pattern) = plan(order, direction);
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < total {
        let n = usize::try_from(total - at).unwrap_or(CHUNK).min(CHUNK);
        pattern.fill(at, &mut chunk[..n]);
        w.write_all(&chunk[..n]).await.map_err(broken(direction, at))?;
        meter.add(direction, n);
        at += n as u64;
    }
    w.flush().await.map_err(broken(direction, at))
}

/// Takes the direction's bytes, all of them even when one is wrong, and returns where the first wrong one is.
async fn receive<R: AsyncRead + Unpin>(
    r: &mut R,
    order: Order,
    direction: Direction,
    meter: &Meter,
) -> Result<Option<u64>, StreamError> {
    let (total, pattern) = plan(order, direction);
    let mut chunk = vec![0; CHUNK];
    let (mut at, mut wrong) = (0, None);
    while at < total {
        let room = usize::try_from(total - at).unwrap_or(CHUNK).min(CHUNK);
        let n = r.read(&mut chunk[..room]).await.map_err(broken(direction, at))?;
        if n == 0 {
            return Err(broken(direction, at)(io::ErrorKind::UnexpectedEof.into()));
        }
        if order.verify && wrong.is_none() {
            wrong = pattern.first_difference(at, &chunk[..n]);
        }
        meter.add(direction, n);
        at += n as u64;
    }
    Ok(wrong)
}

fn plan(order: Order, direction: Direction) -> (u64, Pattern) {
    let total = match direction {
        Direction::Down => order.down,
        Direction::Up => order.up,
    };
    (total, Pattern::new(order.seed_of(direction)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    /// A path between sink and source that flips one bit of the byte at `flip`, counted in either direction.
    async fn path(order: Order, flip_up: Option<u64>, flip_down: Option<u64>) -> Result<(), StreamError> {
        let (near, near_far) = tokio::io::duplex(1 << 16);
        let (far_near, far) = tokio::io::duplex(1 << 16);
        let (nr, nw) = tokio::io::split(near_far);
        let (fr, fw) = tokio::io::split(far_near);
        tokio::spawn(relay(nr, fw, flip_up));
        tokio::spawn(relay(fr, nw, flip_down));
        let serve = tokio::spawn(async move {
            let (r, w) = tokio::io::split(far);
            source(r, w, &Meter::default(), PEER).await
        });
        let (r, w) = tokio::io::split(near);
        let meter = Meter::default();
        let result = sink(r, w, order, &meter, PEER).await;
        if result.is_ok() {
            assert_eq!(serve.await.unwrap().unwrap(), order);
            assert_eq!((meter.down(), meter.up()), (order.down, order.up));
        }
        result
    }

    async fn relay(mut r: impl AsyncRead + Unpin, mut w: impl AsyncWrite + Unpin, flip: Option<u64>) {
        let (mut at, mut buffer) = (0, vec![0; 999]);
        while let Ok(n @ 1..) = r.read(&mut buffer).await {
            if let Some(flip) = flip.filter(|f| (at..at + n as u64).contains(f)) {
                buffer[(flip - at) as usize] ^= 4;
            }
            at += n as u64;
            w.write_all(&buffer[..n]).await.unwrap();
        }
        w.shutdown().await.unwrap();
    }

    const ORDER: Order = Order { seed: 3, down: 1_000_001, up: 500_003, verify: true };

    #[tokio::test]
    async fn a_clean_path_passes() {
        path(ORDER, None, None).await.unwrap();
        path(Order { down: 0, ..ORDER }, None, None).await.unwrap();
        path(Order { up: 0, down: 0, ..ORDER }, None, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_byte_is_named_in_either_direction() {
        let error = path(ORDER, None, Some(777_777)).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Differs { direction: Direction::Down, offset: 777_777 }),
            "{error}"
        );
        let error = path(ORDER, Some(Order::LEN as u64 + 99), None).await.unwrap_err();
        assert!(matches!(error, StreamError::Differs { direction: Direction::Up, offset: 99 }), "{error}");
    }

    #[tokio::test]
    async fn a_foreign_peer_is_refused() {
        let error = path(ORDER, Some(0), None).await.unwrap_err();
        assert!(matches!(error, StreamError::Broken { .. }), "{error}");
    }
}
