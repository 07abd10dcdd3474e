//! Paths between the gateways: none, or one that `s2bench wan` emulates.

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;

use crate::result::PathFacts;
use crate::wan::preset::Preset;
use crate::wan::shape::Asked;

/// Rate for which the kernel's buffers are made when a path has no limit of its own, in bits a second.
const RATE: f64 = 10e9;
/// What a TCP connection's buffer begins with, as Linux does by default: least and first.
const FIRST: &str = "4096 131072";

/// Options of `s2bench wan` that say what a link does.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Options {
    #[command(flatten)]
    asked: Asked,
}

/// A path.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    facts: PathFacts,
    wan: Option<Vec<String>>,
}

impl Path {
    /// The path of a name: `none`, or a preset of `s2bench wan`, which gets further `options`: `--rate 1G --loss 0.001%`.
    ///
    /// # Errors
    /// There is none of that name, or an option is wrong.
    pub fn find(name: &str, options: &str, mtu: u16) -> Result<Path> {
        if name == "none" {
            let facts = PathFacts { mtu, by: "none".into(), ..PathFacts::default() };
            return Ok(Path { facts, wan: None });
        }
        let Some(preset) = Preset::ALL.into_iter().find(|preset| preset.name() == name) else {
            let known = Preset::ALL.map(Preset::name).join(", ");
            bail!("there is no path {name:?}; there are none, {known}");
        };
        let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        let asked = Options::try_parse_from(&words)
            .map_err(|e| anyhow!("{}", e.render()))
            .context("what --wan gives to `s2bench wan` is wrong")?
            .asked;
        let shape = asked.shape(Some(preset)).map_err(anyhow::Error::msg)?;
        let kept = (1.0 - shape.loss.0) * (1.0 - shape.burst_loss.map_or(0.0, |bursts| bursts.mean()));
        let facts = PathFacts {
            preset: Some(name.to_owned()),
            rtt_ms: 2.0 * shape.delay.0 as f64 / 1e6,
            bits_per_second: shape.rate.map(|rate| rate.0),
            loss_percent: 100.0 * (1.0 - kept),
            mtu,
            by: "s2bench wan".into(),
        };
        let args = ["--preset".to_owned(), name.to_owned()].into_iter().chain(words).collect();
        Ok(Path { facts, wan: Some(args) })
    }

    /// What it is, for results.
    #[must_use]
    pub fn facts(&self) -> &PathFacts {
        &self.facts
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.facts.preset.as_deref().unwrap_or("none")
    }

    /// Arguments of `s2bench wan` besides its devices; none when the gateways are joined directly.
    #[must_use]
    pub fn wan(&self) -> Option<&[String]> {
        self.wan.as_deref()
    }

    /// Settings below `net/` of everybody who ends TCP on this path: room for twice what is under way in a round trip.
    /// Empty for a path without delay, where the system's own suffice.
    #[must_use]
    pub fn buffers(&self) -> Vec<(&'static str, String)> {
        if self.facts.rtt_ms == 0.0 {
            return Vec::new();
        }
        let rate = self.facts.bits_per_second.map_or(RATE, |rate| rate as f64);
        let bytes = (2.0 * rate / 8.0 * self.facts.rtt_ms / 1e3) as u64;
        let most = bytes.clamp(32 << 20, 1 << 30);
        ["ipv4/tcp_rmem", "ipv4/tcp_wmem"].map(|key| (key, format!("{FIRST} {most}"))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rtt_ms: f64, bits_per_second: Option<u64>) -> Path {
        let facts = PathFacts { rtt_ms, bits_per_second, ..PathFacts::default() };
        Path { facts, wan: None }
    }

    #[test]
    fn buffers_hold_twice_the_bandwidth_delay_product() {
        assert!(of(0.0, None).buffers().is_empty());
        let buffers = of(20.0, Some(100_000_000_000)).buffers();
        assert_eq!(buffers[0], ("ipv4/tcp_rmem", "4096 131072 500000000".to_owned()));
        // Never less than a system has that was set up for this, never more than TCP's largest window.
        assert!(of(1.0, None).buffers()[1].1.ends_with(" 33554432"));
        assert!(of(119.0, Some(400_000_000_000)).buffers()[1].1.ends_with(" 1073741824"));
    }

    #[test]
    fn an_unknown_path_is_told_those_that_are() {
        let error = Path::find("moon", "", 1500).unwrap_err().to_string();
        assert!(error.contains("moon") && error.contains("none, metro"), "{error}");
        let path = Path::find("starlight-dallas", "", 9000).unwrap();
        assert_eq!((path.facts().rtt_ms, path.facts().mtu, path.name()), (20.0, 9000, "starlight-dallas"));
        assert_eq!(path.wan().unwrap(), ["--preset", "starlight-dallas"]);
    }

    #[test]
    fn options_of_the_wan_become_facts() {
        let path = Path::find("metro", "--rate 1G --loss 0.5% --delay 3ms", 1500).unwrap();
        assert_eq!((path.facts().rtt_ms, path.facts().bits_per_second), (6.0, Some(1_000_000_000)));
        assert!((path.facts().loss_percent - 0.5).abs() < 1e-9, "{:?}", path.facts());
        assert_eq!(path.wan().unwrap()[2..], ["--rate", "1G", "--loss", "0.5%", "--delay", "3ms"]);
        let error = format!("{:#}", Path::find("metro", "--speed 1G", 1500).unwrap_err());
        assert!(error.contains("--wan") && error.contains("--speed"), "{error}");
        assert_eq!(Path::find("none", "--rate 1G", 1500).unwrap().wan(), None);
    }
}
