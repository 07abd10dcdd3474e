//! What a path allows, whoever relays: the window and loss arithmetic of [`control::tcp`], for a path of the results.

use control::tcp;
use serde::Serialize;

use crate::result::PathFacts;

/// What a path allows one TCP connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Arithmetic {
    /// Bytes on the way at the path's rate; none where the rate is not known.
    pub bandwidth_delay: Option<f64>,
    /// Most bits a second of a connection with the largest window; none without delay.
    pub window_bound: Option<f64>,
    /// Most bits a second of a connection with the buffers that were asked for; none when none were.
    pub buffer_bound: Option<f64>,
    /// TCP's payload in a packet, in bytes.
    pub segment: u16,
    /// Most bits a second of one Reno connection at the path's loss; none without loss.
    pub reno_bound: Option<f64>,
    /// Loss, in percent, at which one Reno connection just fills the path; none where rate or delay is not known.
    pub reno_loss_percent: Option<f64>,
}

impl Arithmetic {
    /// Of a path, with socket buffers of so many bytes.
    #[must_use]
    pub fn of(path: &PathFacts, buffer: Option<u64>) -> Arithmetic {
        let rtt = Some(path.rtt_ms / 1e3).filter(|s| s.is_finite() && *s > 0.0);
        let segment = path.mtu.saturating_sub(tcp::HEADERS);
        let loss = Some(path.loss_percent / 100.0).filter(|loss| *loss > 0.0 && loss.is_finite());
        let rate = path.bits_per_second.map(|b| b as f64);
        Arithmetic {
            bandwidth_delay: rate.zip(rtt).map(|(rate, rtt)| tcp::bandwidth_delay(rate, rtt)),
            window_bound: rtt.map(|rtt| tcp::window_rate(tcp::LARGEST_WINDOW, rtt)),
            buffer_bound: rtt.zip(buffer).map(|(rtt, bytes)| bytes as f64 * 8.0 / rtt),
            segment,
            reno_bound: rtt.zip(loss).map(|(rtt, loss)| tcp::reno_rate(segment, rtt, loss)),
            reno_loss_percent: rtt.zip(rate).map(|(rtt, rate)| tcp::reno_loss(segment, rtt, rate) * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(rtt_ms: f64, rate: Option<u64>, loss_percent: f64) -> PathFacts {
        PathFacts { rtt_ms, bits_per_second: rate, loss_percent, mtu: 1500, ..PathFacts::default() }
    }

    #[test]
    fn the_known_examples_come_out() {
        let of = |rtt| Arithmetic::of(&path(rtt, Some(100_000_000_000), 0.0), None);
        // 1 GiB of window: 179 Gbit/s at 48 ms, 72 at 119 ms.
        assert!((of(48.0).window_bound.unwrap() / 179e9 - 1.0).abs() < 0.01);
        assert!((of(119.0).window_bound.unwrap() / 72e9 - 1.0).abs() < 0.01);
        // 100 Gbit/s and 20 ms: 250 MB on the way.
        assert!((of(20.0).bandwidth_delay.unwrap() - 250e6).abs() < 1.0);
        assert_eq!((of(20.0).reno_bound, of(20.0).buffer_bound), (None, None));
    }

    #[test]
    fn loss_bounds_reno() {
        // 1448 bytes, 20 ms, one in 10^6: 1448 * 8 / 0.02 * 1.2247 * 1000.
        let a = Arithmetic::of(&path(20.0, Some(1_000_000_000), 1e-4), Some(1 << 20));
        assert_eq!(a.segment, 1448);
        assert!((a.reno_bound.unwrap() / 709.4e6 - 1.0).abs() < 1e-3, "{a:?}");
        // At the loss that just fills the path the bound is the path's rate.
        let at = path(20.0, Some(1_000_000_000), a.reno_loss_percent.unwrap());
        assert!((Arithmetic::of(&at, None).reno_bound.unwrap() / 1e9 - 1.0).abs() < 1e-9);
        assert!((a.buffer_bound.unwrap() / 419.4e6 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn a_path_without_delay_bounds_nothing() {
        for rtt in [0.0, -1.0] {
            let a = Arithmetic::of(&path(rtt, None, 1.0), Some(1));
            assert_eq!(
                (a.window_bound, a.reno_bound, a.buffer_bound, a.bandwidth_delay),
                (None, None, None, None)
            );
        }
    }
}
