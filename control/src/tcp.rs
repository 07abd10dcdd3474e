//! What a path allows one TCP connection: window and loss arithmetic. Seconds, bytes, bits a second; loss as a share of packets.
//!
//! Sources: RFC 7323 (window scale, timestamps); M. Mathis, J. Semke, J. Mahdavi, T. Ott: The Macroscopic Behavior of the TCP
//! Congestion Avoidance Algorithm, ACM SIGCOMM CCR 27(3), 1997 (Reno); RFC 9438 (CUBIC).
#![forbid(unsafe_code)]

/// TCP's largest window, in bytes: 65,535 shifted by 14 (RFC 7323, section 2.3).
pub const LARGEST_WINDOW: f64 = 65_535.0 * 16_384.0;
/// Bytes of an IPv4 packet that are no TCP payload: both headers and the timestamps option (RFC 7323).
pub const HEADERS: u16 = 52;
/// The same of an IPv6 packet.
pub const HEADERS_V6: u16 = 72;
/// Mathis' constant for Reno with an acknowledgement for each segment, at random loss: the root of 3/2.
pub const MATHIS: f64 = 1.224_744_871;
/// CUBIC's mean window in segments is this times (RTT / loss)^(3/4), with C = 0.4 and beta = 0.7 (RFC 9438, section 5.1).
pub const CUBIC: f64 = 1.054;

/// Bytes on the way at this rate: the bandwidth-delay product.
#[must_use]
pub fn bandwidth_delay(rate: f64, rtt: f64) -> f64 {
    rate / 8.0 * rtt
}

/// Most bits a second of a connection that can have so many bytes on the way.
#[must_use]
pub fn window_rate(window: f64, rtt: f64) -> f64 {
    window.min(LARGEST_WINDOW) * 8.0 / rtt
}

/// Most bits a second of one Reno connection at this loss: MSS / RTT x C / sqrt(p).
#[must_use]
pub fn reno_rate(segment: u16, rtt: f64, loss: f64) -> f64 {
    f64::from(segment) * 8.0 / rtt * MATHIS / loss.sqrt()
}

/// The loss at which one Reno connection just keeps this rate.
#[must_use]
pub fn reno_loss(segment: u16, rtt: f64, rate: f64) -> f64 {
    (f64::from(segment) * 8.0 / rtt * MATHIS / rate).powi(2)
}

/// The loss at which one CUBIC connection just keeps this rate. Where Reno would bear more, CUBIC does as Reno does (RFC 9438,
/// section 4.3).
#[must_use]
pub fn cubic_loss(segment: u16, rtt: f64, rate: f64) -> f64 {
    let window = segments(segment, rtt, rate);
    let cubic = rtt * (CUBIC / window).powf(4.0 / 3.0);
    cubic.max(reno_loss(segment, rtt, rate))
}

/// Segments on the way at this rate.
#[must_use]
pub fn segments(segment: u16, rtt: f64, rate: f64) -> f64 {
    bandwidth_delay(rate, rtt) / f64::from(segment)
}

/// Seconds until Reno has this rate again after one loss: it halves its window and adds a segment each round trip.
#[must_use]
pub fn reno_recovery(segment: u16, rtt: f64, rate: f64) -> f64 {
    segments(segment, rtt, rate) / 2.0 * rtt
}

/// Seconds until CUBIC has this rate again after one loss: K of RFC 9438, section 4.2, from beta = 0.7 of the window.
#[must_use]
pub fn cubic_recovery(segment: u16, rtt: f64, rate: f64) -> f64 {
    (segments(segment, rtt, rate) * 0.3 / 0.4).cbrt().min(reno_recovery(segment, rtt, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn about(value: f64, wanted: f64) {
        assert!((value / wanted - 1.0).abs() < 0.01, "{value} is not about {wanted}");
    }

    #[test]
    fn windows_bound_rates() {
        about(bandwidth_delay(100e9, 0.020), 250e6);
        about(window_rate(250e6, 0.020), 100e9);
        // 1 GiB of window: 179 Gbit/s at 48 ms, however large the buffer is.
        about(window_rate(f64::MAX, 0.048), 179e9);
    }

    #[test]
    fn cubic_agrees_with_the_table_of_its_rfc() {
        // RFC 9438, table 1 (RTT 0.1 s): loss 1e-6 gives a mean window of 6,000 segments or so, 1e-8 of 187,000 or so.
        for (loss, window) in [(1e-5, 1_054.0), (1e-6, 5_927.0), (1e-8, 187_400.0)] {
            let rate = window * 1460.0 * 8.0 / 0.1;
            about(cubic_loss(1460, 0.1, rate), loss);
        }
        // A short path: Reno bears more, and CUBIC does as Reno.
        assert_eq!(cubic_loss(1448, 0.001, 1e9), reno_loss(1448, 0.001, 1e9));
    }

    #[test]
    fn recovery_takes_what_the_window_takes() {
        // 10 Gbit/s, 100 ms, 1500 bytes: 83,333 segments, half of them in round trips.
        about(reno_recovery(1500, 0.1, 10e9), 4167.0);
        about(cubic_recovery(1500, 0.1, 10e9), (83_333.0f64 * 0.75).cbrt());
        about(cubic_recovery(1500, 0.001, 1e9), reno_recovery(1500, 0.001, 1e9));
    }
}
