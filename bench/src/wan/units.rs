//! What people write in a file or on the command line: times, rates, shares, queues, bursts of loss, outages.
//!
//! Each is a text with its unit, the same in both places, and says what it should have been when it is not that.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Gives types that are texts to people the same form in files and results.
macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )+};
}
as_text!(Time, Rate, Share, Queue, BurstLoss, Outage);

/// A number, with or without decimals, and the unit behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

/// A time in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Longest time there is: a day.
    pub const MOST: Time = Time(86_400_000_000_000);

    /// The time in seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let wrong = || format!("{text:?} is not a time; write it like 10ms, 250us or 1.5s, at most 86400s");
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let factor = match unit {
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "min" => 60e9,
            _ if number == 0.0 && unit.is_empty() => 1.0,
            _ => return Err(wrong()),
        };
        let time = Time((number * factor).round() as u64);
        if time > Time::MOST { Err(wrong()) } else { Ok(time) }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = match self.0 {
            0 => return f.write_str("0ms"),
            ns if ns < 1_000 => (1.0, "ns"),
            ns if ns < 1_000_000 => (1e3, "us"),
            ns if ns < 1_000_000_000 => (1e6, "ms"),
            _ => (1e9, "s"),
        };
        write!(f, "{}{unit}", self.0 as f64 / factor)
    }
}

/// Bits a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!(
                "{text:?} is not a rate in bits a second; write it like 500M, 2.5G or 100G, from 1k to 2T"
            )
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let factor = match unit {
            "" | "bit" => 1.0,
            "k" | "K" | "kbit" => 1e3,
            "M" | "Mbit" => 1e6,
            "G" | "Gbit" => 1e9,
            "T" | "Tbit" => 1e12,
            _ => return Err(wrong()),
        };
        let rate = (number * factor).round() as u64;
        if (1_000..=2_000_000_000_000).contains(&rate) { Ok(Rate(rate)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = match self.0 {
            bits if bits < 1_000_000 => (1e3, "k"),
            bits if bits < 1_000_000_000 => (1e6, "M"),
            bits if bits < 1_000_000_000_000 => (1e9, "G"),
            _ => (1e12, "T"),
        };
        write!(f, "{}{unit}", self.0 as f64 / factor)
    }
}

/// A share of the packets, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let wrong = || {
            format!("{text:?} is not a share of packets; write it in percent, from 0% to 100%, like 0.01%")
        };
        match split(text) {
            Some((number, "%")) if number <= 100.0 => Ok(Share(number / 100.0)),
            Some((0.0, "")) => Ok(Share(0.0)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was read as 0.1 % is not to be told as 0.1000000001 %.
        write!(f, "{}%", (self.0 * 1e14).round() / 1e12)
    }
}

/// How much may wait for its turn at the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// So many bytes, as the rate counts them.
    Bytes(u64),
    /// So many packets, beside the one that is being sent.
    Packets(u32),
    /// So long.
    Time(Time),
}

impl FromStr for Queue {
    type Err = String;

    fn from_str(text: &str) -> Result<Queue, String> {
        let wrong = || {
            format!(
                "{text:?} is not the size of a queue; write it like \"1000 packets\" (at most 1000000), \"256Ki bytes\" \
                 or \"20ms\""
            )
        };
        if let Some(number) = text.strip_suffix("packets").or(text.strip_suffix("packet")) {
            let packets = number.trim().parse().ok().filter(|n| (1..=1_000_000).contains(n));
            return packets.map(Queue::Packets).ok_or_else(wrong);
        }
        if let Some(number) = text.strip_suffix("bytes").or(text.strip_suffix('B')) {
            let bytes = crate::size::parse(number.trim()).ok().filter(|n| *n > 0);
            return bytes.map(Queue::Bytes).ok_or_else(wrong);
        }
        text.parse().map(Queue::Time).map_err(|_| wrong())
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Queue::Bytes(n) => write!(f, "{n} bytes"),
            Queue::Packets(n) => write!(f, "{n} packets"),
            Queue::Time(t) => write!(f, "{t}"),
        }
    }
}

/// Loss in bursts after Gilbert and Elliott: a chain of a good and a bad state that takes a step with every packet.
///
/// The names are those of the literature and of netem: with E. N. Gilbert, "Capacity of a Burst-Noise Channel" (1960), and
/// E. O. Elliott, "Estimates of Error Rates for Codes on Burst-Noise Channels" (1963), k and h are the shares that pass in
/// the good and in the bad state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BurstLoss {
    /// From good to bad.
    pub p: Share,
    /// From bad to good.
    pub r: Share,
    /// 1-h: lost in the bad state.
    pub lost_in_bad: Share,
    /// 1-k: lost in the good state.
    pub lost_in_good: Share,
}

impl BurstLoss {
    /// The share that is lost in the long run.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let (p, r) = (self.p.0, self.r.0);
        (p * self.lost_in_bad.0 + r * self.lost_in_good.0) / (p + r)
    }

    /// Steps that the chain stays in the bad state, in the mean.
    #[must_use]
    pub fn burst(&self) -> f64 {
        1.0 / self.r.0
    }
}

impl FromStr for BurstLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<BurstLoss, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} is no Gilbert-Elliott loss: {why}; write p and r, and 1-h (100%) and 1-k (0%) where they differ, \
                 like \"0.1% 25%\" or \"0.1% 25% 70% 0.01%\""
            )
        };
        let words = text.split([' ', ',']).filter(|w| !w.is_empty());
        let shares: Vec<Share> =
            words.map(str::parse).collect::<Result<_, _>>().map_err(|e: String| wrong(&e))?;
        let (p, r, rest) = match shares[..] {
            [p, r, ref rest @ ..] if rest.len() <= 2 => (p, r, rest),
            _ => return Err(wrong("it takes two to four shares")),
        };
        if p.0 == 0.0 || r.0 == 0.0 {
            return Err(wrong("with p or r of 0 the chain never leaves a state"));
        }
        let rest = |at: usize, or: f64| rest.get(at).copied().unwrap_or(Share(or));
        Ok(BurstLoss { p, r, lost_in_bad: rest(0, 1.0), lost_in_good: rest(1, 0.0) })
    }
}

impl fmt::Display for BurstLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.p, self.r, self.lost_in_bad, self.lost_in_good)
    }
}

/// When a link is down, counted from when the WAN begins to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The first time.
    pub at: Time,
    /// How long.
    pub length: Time,
    /// From one time to the next; none: once only.
    pub every: Option<Time>,
}

impl Outage {
    /// Is it down `now` nanoseconds after the beginning?
    #[must_use]
    pub fn covers(&self, now: u64) -> bool {
        let Some(since) = now.checked_sub(self.at.0) else { return false };
        self.every.map_or(since, |every| since % every.0) < self.length.0
    }
}

impl FromStr for Outage {
    type Err = String;

    fn from_str(text: &str) -> Result<Outage, String> {
        let wrong = |why: &str| {
            format!(
                "{text:?} is no outage: {why}; write it like \"10s for 500ms\" or \"10s for 500ms every 60s\""
            )
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (at, length, every) = match words[..] {
            [at, "for", length] => (at, length, None),
            [at, "for", length, "every", every] => (at, length, Some(every)),
            _ => return Err(wrong("the words are others")),
        };
        let time = |text: &str| text.parse::<Time>().map_err(|e| wrong(&e));
        let outage = Outage { at: time(at)?, length: time(length)?, every: every.map(time).transpose()? };
        if outage.length.0 == 0 {
            return Err(wrong("it has no length"));
        }
        if outage.every.is_some_and(|every| every <= outage.length) {
            return Err(wrong("it begins again before it ends"));
        }
        Ok(outage)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.at, self.length)?;
        self.every.map_or(Ok(()), |every| write!(f, " every {every}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads texts, prints them as they were, and refuses others with a word about the form.
    fn check<T: FromStr<Err = String> + fmt::Display>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(text.parse::<T>().unwrap_or_else(|e| panic!("{e}")).to_string(), *text);
        }
        for text in bad {
            let Err(error) = text.parse::<T>() else { panic!("{text:?} was taken") };
            assert!(error.contains("write it") || error.contains("write p and r"), "{error}");
        }
    }

    #[test]
    fn texts_read_as_they_print() {
        check::<Time>(
            &["10ms", "59.5ms", "250us", "1.5s", "1ns", "0ms"],
            &["", "10", "ms", "-1ms", "1h", "1e3ms", "100000s", "1.2.3ms", "infs", "NaNms"],
        );
        check::<Rate>(&["500M", "2.5G", "100G", "1.6T", "64k"], &["0", "10", "3T", "1X", "-1G", "fast"]);
        check::<Share>(&["0%", "0.01%", "100%", "12.5%"], &["100.1%", "1", "0.5", "-1%", "%", "1%%"]);
        check::<Queue>(
            &["1000 packets", "262144 bytes", "20ms"],
            &["", "20", "0 packets", "1000001 packets", "x bytes", "0 bytes"],
        );
        check::<BurstLoss>(
            &["0.1% 25% 100% 0%", "1% 10% 70% 0.01%"],
            &["", "1%", "0% 1%", "1% 0%", "1% 2% 3% 4% 5%", "1 2"],
        );
        check::<Outage>(
            &["10s for 500ms", "0ms for 1s every 2s"],
            &["", "10s", "10s for", "10s for 0ms", "1s for 2s every 2s", "x for y", "1s for 1s each 4s"],
        );
        assert_eq!("256Ki bytes".parse(), Ok(Queue::Bytes(262_144)));
        assert_eq!(
            "0.1%, 25%".parse::<BurstLoss>().map(|b| b.to_string()).as_deref(),
            Ok("0.1% 25% 100% 0%")
        );
        assert_eq!("0".parse(), Ok(Share(0.0)));
    }

    #[test]
    fn an_outage_covers_its_times() {
        let down = |text: &str, ms: u64| text.parse::<Outage>().unwrap().covers(ms * 1_000_000);
        assert_eq!([9, 10, 14, 15, 110].map(|t| down("10ms for 5ms", t)), [false, true, true, false, false]);
        let often = [9, 10, 14, 15, 29, 30, 34, 35].map(|t| down("10ms for 5ms every 20ms", t));
        assert_eq!(often, [false, true, true, false, false, true, true, false]);
    }

    #[test]
    fn the_chain_of_gilbert_and_elliott_has_its_means() {
        let chain: BurstLoss = "1% 25% 100% 0%".parse().unwrap();
        assert!((chain.mean() - 0.01 / 0.26).abs() < 1e-12 && (chain.burst() - 4.0).abs() < 1e-12);
        let noisy: BurstLoss = "1% 3% 50% 10%".parse().unwrap();
        assert!((noisy.mean() - (0.005 + 0.003) / 0.04).abs() < 1e-12);
    }
}
