//! Rates, and what they mean on the wire.
//!
//! A frame is counted with its FCS, as RFC 2544 counts it: the smallest has 64 bytes. On the wire (layer 1) it takes 20 bytes
//! more, which are preamble, start delimiter and the shortest gap between frames (IEEE 802.3, clause 4). So 10 Gbit/s Ethernet
//! carries at most 14,880,952 frames of 64 bytes a second (RFC 2544, appendix B).

use std::fmt;
use std::str::FromStr;

/// Bytes that a frame takes on the wire beside itself: preamble and start delimiter (8), gap between frames (12).
pub const WIRE: usize = 20;
/// Bytes of the frame check sequence, which devices add and take off.
pub const FCS: usize = 4;

/// Bits that a frame of `size` bytes (FCS included) takes on the wire.
#[must_use]
pub fn wire_bits(size: usize) -> u64 {
    (size + WIRE) as u64 * 8
}

/// A rate as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the line: as fast as the device takes frames where it has no line rate.
    Line,
    /// In percent of the line rate.
    Percent(f64),
    /// Frames a second.
    Frames(f64),
    /// Bits a second on the wire (layer 1): frames, preambles and gaps.
    WireBits(f64),
    /// Bits a second of frames (layer 2), FCS included.
    FrameBits(f64),
}

/// A rate that cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RateError {
    /// Not a rate.
    #[error(
        "{0:?} is not a rate; write frames a second as 1.5Mpps, bits a second on the wire (preamble and gap included) as \
         10Gbps, bits a second of frames alone as 9.5Gbps-l2, a share of the line rate as 80%, or line"
    )]
    Form(String),
    /// More than the line carries.
    #[error(
        "{asked} is above the line rate: at {line} frames of {size} bytes go at {most:.0} pps at most; ask for less, or \
         correct --line-rate"
    )]
    AboveLine {
        /// What was asked for.
        asked: Rate,
        /// The line rate, as text.
        line: String,
        /// Mean size of the frames, in bytes.
        size: f64,
        /// Frames a second that the line carries.
        most: f64,
    },
    /// A share of an unknown line rate.
    #[error(
        "{0} of the line rate is asked for, and the device tells none; say what it is with --line-rate, such as 100G"
    )]
    NoLine(Rate),
}

impl Rate {
    /// Frames a second, for frames of `size` bytes (FCS included) on average; none: as fast as the device takes them. `line` is
    /// the line rate in bits a second, if there is one.
    ///
    /// # Errors
    /// It is above the line rate, or a share of one that is not known.
    pub fn frames(self, size: f64, line: Option<u64>) -> Result<Option<f64>, RateError> {
        let on_wire = (size + WIRE as f64) * 8.0;
        let most = line.map(|line| line as f64 / on_wire);
        let frames = match self {
            Rate::Line => return Ok(most),
            Rate::Percent(p) => most.ok_or(RateError::NoLine(self))? * p / 100.0,
            Rate::Frames(f) => f,
            Rate::WireBits(b) => b / on_wire,
            Rate::FrameBits(b) => b / (size * 8.0),
        };
        match (most, line) {
            // A rounded figure such as 14.88Mpps is not above it.
            (Some(most), Some(line)) if frames > most * 1.0005 => {
                Err(RateError::AboveLine { asked: self, line: bits(line as f64), size, most })
            }
            _ => Ok(Some(frames)),
        }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let error = || RateError::Form(text.to_owned());
        if text == "line" {
            return Ok(Rate::Line);
        }
        let (number, kind): (&str, fn(f64) -> Rate) = if let Some(n) = text.strip_suffix('%') {
            (n, Rate::Percent)
        } else if let Some(n) = text.strip_suffix("pps") {
            (n, Rate::Frames)
        } else if let Some(n) = text.strip_suffix("bps-l2") {
            (n, Rate::FrameBits)
        } else {
            (text.strip_suffix("bps").ok_or_else(error)?, Rate::WireBits)
        };
        let digits = number.trim_end_matches(['k', 'K', 'M', 'G', 'T']);
        let factor = match &number[digits.len()..] {
            "" => 1.0,
            "k" | "K" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            "T" => 1e12,
            _ => return Err(error()),
        };
        let number: f64 = digits.trim().parse().map_err(|_| error())?;
        if !(number.is_finite() && number > 0.0) || (text.ends_with('%') && (number > 100.0 || factor != 1.0))
        {
            return Err(error());
        }
        Ok(kind(number * factor))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Line => f.write_str("line"),
            Rate::Percent(p) => write!(f, "{p}%"),
            Rate::Frames(n) => write!(f, "{}pps", scaled(*n, "")),
            Rate::WireBits(n) => write!(f, "{}bps", scaled(*n, "")),
            Rate::FrameBits(n) => write!(f, "{}bps-l2", scaled(*n, "")),
        }
    }
}

/// Bits a second for people.
#[must_use]
pub fn bits(n: f64) -> String {
    format!("{}bit/s", scaled(n, " "))
}

/// Frames a second for people.
#[must_use]
pub fn frames(n: f64) -> String {
    format!("{}pps", scaled(n, " "))
}

/// A number with a decimal unit and up to four digits.
fn scaled(n: f64, space: &str) -> String {
    let (n, unit) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find_map(|(factor, unit)| (n >= factor).then_some((n / factor, unit)))
        .unwrap_or((n, ""));
    let digits = if n >= 100.0 { 1 } else { 3 };
    let text = format!("{n:.digits$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{space}{unit}")
}

/// A line rate in bits a second: `100G`, `25G`, `2.5G`.
///
/// # Errors
/// The text is none.
pub fn line(text: &str) -> Result<u64, String> {
    match format!("{text}bps").parse() {
        Ok(Rate::WireBits(n)) if n >= 1.0 => Ok(n as u64),
        _ => Err(format!("{text:?} is not a line rate; write it like 100G")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_G: Option<u64> = Some(10_000_000_000);

    #[test]
    fn line_rates_are_those_of_rfc_2544_appendix_b() {
        // Appendix B, Ethernet at 10 Mbit/s.
        for (size, most) in
            [(64.0, 14_880.0), (128.0, 8_445.0), (512.0, 2_349.0), (1024.0, 1_197.0), (1518.0, 812.0)]
        {
            let found = Rate::Line.frames(size, Some(10_000_000)).unwrap().unwrap();
            assert_eq!(found.floor(), most);
        }
    }

    #[test]
    fn the_layers_differ_by_preamble_and_gap() {
        let frames = |text: &str| text.parse::<Rate>().unwrap().frames(64.0, TEN_G).unwrap().unwrap();
        assert_eq!(frames("5Gbps").round(), 7_440_476.0);
        assert_eq!(frames("5Gbps-l2").round(), 9_765_625.0);
        assert_eq!(frames("1.5Mpps"), 1_500_000.0);
        assert_eq!(frames("50%"), frames("5Gbps"));
        assert_eq!(frames("100%"), frames("line"));
        assert_eq!(frames("14.88Mpps"), 14.88e6);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_the_reason() {
        let error = "15Mpps".parse::<Rate>().unwrap().frames(64.0, TEN_G).unwrap_err().to_string();
        assert!(error.contains("15Mpps is above the line rate") && error.contains("14880952 pps"), "{error}");
        let error = Rate::Percent(5.0).frames(64.0, None).unwrap_err().to_string();
        assert!(error.contains("--line-rate"), "{error}");
        assert_eq!(Rate::Line.frames(64.0, None), Ok(None));
        assert_eq!("20Mpps".parse::<Rate>().unwrap().frames(64.0, None), Ok(Some(2e7)));
        for wrong in ["", "10", "10G", "0pps", "-1pps", "101%", "1k%", "NaNpps", "infbps", "1Xpps", "lines"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        assert_eq!(line("2.5G"), Ok(2_500_000_000));
        assert!(line("fast").is_err() && line("0G").is_err());
    }

    #[test]
    fn rates_print_as_written() {
        for text in ["line", "80%", "1.5Mpps", "10Gbps", "9.5Gbps-l2", "250pps"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!(bits(1e10), "10 Gbit/s");
        assert_eq!(frames(14_880_952.4), "14.881 Mpps");
    }
}
