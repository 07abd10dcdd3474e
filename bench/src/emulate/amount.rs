//! Amounts, times and rates as profiles and the command line have them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::size;

/// Most messages a second.
const MOST_RATE: f64 = 1e8;

/// A number of bytes: a number, or a text such as `"4Mi"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub struct Bytes(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "give a number, or a text such as \"4Mi\"")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for Bytes {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Bytes, String> {
        match value {
            NumberOrText::Number(n) => Ok(Bytes(n)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        size::parse(text).map(Bytes)
    }
}

/// Bits a second: a number, or a text such as `"2G"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText")]
pub struct Bits(pub u64);

impl TryFrom<NumberOrText> for Bits {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Bits, String> {
        Bytes::try_from(value).map(|Bytes(n)| Bits(n))
    }
}

/// A time as people write it: `"100ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

impl Time {
    /// Of at most a day.
    pub(super) fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        humantime::parse_duration(text)
            .map(Time)
            .map_err(|e| format!("{text:?} is no time: {e}; write it like \"100ms\""))
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Time, String> {
        text.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> String {
        time.to_string()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// How fast: `"1000/s"`, `"2G"` or `"max"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rate {
    /// Messages a second.
    Messages(f64),
    /// Bits of messages a second.
    Bits(u64),
    /// As fast as possible.
    Max,
}

impl Rate {
    /// Nanoseconds from one burst to the next, as a fraction.
    pub(super) fn period(self, message: u64, burst: u64) -> Result<(u64, u64), String> {
        let too_much = || format!("rate = \"{self}\" is more than can be counted; give less, or \"max\"");
        let period = match self {
            Rate::Max => None,
            // Thousandths of a message.
            Rate::Messages(n) => {
                let den = (n * 1e3).round() as u64;
                burst.checked_mul(1_000_000_000_000).map(|num| (num, den))
            }
            Rate::Bits(bits) => burst
                .checked_mul(message)
                .and_then(|bytes| bytes.checked_mul(8_000_000_000))
                .map(|num| (num, bits)),
        };
        let (num, den) = period.ok_or_else(too_much)?;
        if den == 0 {
            return Err(format!("rate = \"{self}\" sends nothing; give at least \"0.001/s\""));
        }
        if burst as f64 * 1e9 * den as f64 / num as f64 > MOST_RATE {
            return Err(too_much());
        }
        Ok((num, den))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        let wrong =
            || format!("{text:?} is no rate; write \"1000/s\" (messages), \"2G\" (bits a second) or \"max\"");
        match text.strip_suffix("/s") {
            Some(number) => match number.trim().parse::<f64>() {
                Ok(n) if n.is_finite() && n >= 0.0 => Ok(Rate::Messages(n)),
                _ => Err(wrong()),
            },
            None => size::parse(text).map(Rate::Bits).map_err(|_| wrong()),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Rate, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Messages(n) => write!(f, "{n}/s"),
            Rate::Bits(n) => write!(f, "{n}"),
            Rate::Max => f.write_str("max"),
        }
    }
}
