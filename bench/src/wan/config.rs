//! What a WAN is to be: a file, or the command line for one link.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use forwarder::config::{Device, Idle};
use serde::Deserialize;
use toml::Spanned;

use super::preset::Preset;
use super::shape::{Asked, Shape};
use crate::size;

/// Most links of one WAN: each takes two of DPDK's 32 ports.
pub const MAX_LINKS: usize = 16;
/// Packet memory that is taken without being asked for, in bytes.
const MEMORY: u64 = 2 << 30;

/// A WAN.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Chooses the fate of packets.
    pub seed: u64,
    /// Cores of the workers, among which the links are dealt out; none: the last one this process may use.
    pub cores: Vec<usize>,
    /// What a worker does when nothing is to do.
    pub idle: Idle,
    /// Packet memory from hugepages.
    pub huge: bool,
    /// Most packet memory, in bytes.
    pub memory: u64,
    /// The links.
    pub links: Vec<Link>,
}

/// A link between two devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its ends.
    pub ends: [Device; 2],
    /// The path it stands for.
    pub preset: Option<Preset>,
    /// What it does from `a` to `b` and from `b` to `a`.
    pub directions: [Shape; 2],
}

/// Names of the directions, in the order of [`Link::directions`].
pub const DIRECTIONS: [&str; 2] = ["a_to_b", "b_to_a"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "one")]
    seed: u64,
    #[serde(default)]
    cores: Vec<usize>,
    #[serde(default)]
    idle: Resting,
    #[serde(default)]
    huge: bool,
    memory: Option<String>,
    #[serde(rename = "link")]
    links: Vec<Spanned<LinkTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkTable {
    name: Option<String>,
    a: String,
    b: String,
    preset: Option<Preset>,
    #[serde(default)]
    each: Asked,
    #[serde(default)]
    a_to_b: Asked,
    #[serde(default)]
    b_to_a: Asked,
}

fn one() -> u64 {
    1
}

/// The file's word for [`Idle`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resting {
    /// Gives the core away while nothing is near its time.
    #[default]
    Adaptive,
    /// Takes the core whole; the most precise.
    Poll,
}

impl From<Resting> for Idle {
    fn from(resting: Resting) -> Idle {
        match resting {
            Resting::Adaptive => Idle::Adaptive,
            Resting::Poll => Idle::Poll,
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, has a key that is not known, or asks for what cannot be; the message names file, line and mend.
    pub fn load(path: &Path) -> Result<Config> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str) -> Result<Config> {
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(text, span.start));
            // Its own text draws the place.
            anyhow!("{name}:{line}: {}\n{}", e.message(), e.to_string().trim_end())
        })?;
        let mut links = Vec::new();
        for (number, table) in file.links.iter().enumerate() {
            let at = format!("{name}:{}: link {}", line_of(text, table.span().start), number + 1);
            let table = table.get_ref();
            let directions = [&table.a_to_b, &table.b_to_a].map(|own| own.or(&table.each));
            let name = table.name.clone().unwrap_or_else(|| format!("link-{}", number + 1));
            let link = Link::new(name, [&table.a, &table.b], table.preset, &directions);
            links.push(link.map_err(|e| anyhow!("{at}: {e}"))?);
        }
        let config = Config {
            seed: file.seed,
            cores: file.cores,
            idle: file.idle.into(),
            huge: file.huge,
            memory: file
                .memory
                .map_or(Ok(MEMORY), |m| size::parse(&m))
                .map_err(|e| anyhow!("{name}: memory: {e}"))?,
            links,
        };
        config.check().with_context(|| name.to_owned())?;
        Ok(config)
    }

    /// One link that does the same in both directions.
    ///
    /// # Errors
    /// It asks for what cannot be.
    pub fn single(ends: [&str; 2], preset: Option<Preset>, asked: &Asked) -> Result<Config> {
        let link = Link::new("link-1".to_owned(), ends, preset, &[asked.clone(), asked.clone()]);
        Ok(Config {
            seed: one(),
            cores: Vec::new(),
            idle: Idle::Adaptive,
            huge: false,
            memory: MEMORY,
            links: vec![link.map_err(anyhow::Error::msg)?],
        })
    }

    /// Checks what no link can know.
    ///
    /// # Errors
    /// Too few or too many links, a device or a name twice.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.links.is_empty(), "there is no link; write a table [[link]] with its ends a and b");
        if self.links.len() > MAX_LINKS {
            bail!(
                "{} links are more than {MAX_LINKS}; run a second s2bench wan for the others",
                self.links.len()
            );
        }
        let mut seen: Vec<String> = Vec::new();
        for link in &self.links {
            for text in link.ends.iter().map(Device::to_string).chain([link.name.clone()]) {
                ensure!(
                    !seen.contains(&text),
                    "{text} is there twice; give each link a name and devices of its own"
                );
                seen.push(text);
            }
        }
        Ok(())
    }
}

impl Link {
    fn new(
        name: String,
        ends: [&str; 2],
        preset: Option<Preset>,
        asked: &[Asked; 2],
    ) -> Result<Link, String> {
        let end = |(key, text): (&str, &str)| text.parse::<Device>().map_err(|e| format!("{key}: {e}"));
        let [a, b] = ends;
        let ends = [end(("a", a))?, end(("b", b))?];
        let shape = |at: usize| asked[at].shape(preset).map_err(|e| format!("{}: {e}", DIRECTIONS[at]));
        Ok(Link { name, ends, preset, directions: [shape(0)?, shape(1)?] })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b] = &self.ends;
        let [there, back] = &self.directions;
        write!(f, "{}: {a} and {b}", self.name)?;
        if let Some(preset) = self.preset {
            write!(f, ", {}", preset.name())?;
        }
        match there == back {
            true => write!(f, ": {there} each way"),
            false => write!(f, ": {there} there, {back} back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::units::{Queue, Rate, Share, Time};

    const EXAMPLE: &str = include_str!("../../../docs/wan.example.toml");

    fn refused(text: &str) -> String {
        format!("{:#}", Config::parse(text, "wan.toml").unwrap_err())
    }

    #[test]
    fn the_example_is_read_and_shows_every_key() {
        let config = Config::parse(EXAMPLE, "wan.example.toml").unwrap();
        assert_eq!((config.links.len(), config.seed, config.idle), (3, 7, Idle::Poll));
        let [dallas, lossy, plain] = &config.links[..] else { panic!("{config:?}") };
        assert_eq!(dallas.preset, Some(Preset::StarlightDallas));
        assert_eq!(dallas.directions[0].delay, Time(10_000_000));
        assert_eq!(dallas.directions[0].rate, Some(Rate(10_000_000_000)));
        assert_eq!(
            dallas.directions.each_ref().map(|d| d.queue),
            [Queue::Time(Time(5_000_000)), Queue::Packets(64)]
        );
        assert_eq!(lossy.directions.each_ref().map(|d| d.loss), [Share(0.0001), Share(0.0)]);
        assert_eq!(plain.directions[0], plain.directions[1]);
        // Every key that a direction has is shown, so that the example is the reference.
        let all = Asked {
            delay: Some(Time(1)),
            jitter: Some(Time(1)),
            distribution: Some(Default::default()),
            jitter_reorders: Some(true),
            rate: Some(Rate(1000)),
            overhead: Some(1),
            queue: Some(Queue::Packets(1)),
            loss: Some(Share(0.0)),
            burst_loss: "1% 1%".parse().ok(),
            reorder: Some(Share(0.0)),
            reorder_ahead: Some(Time(1)),
            reorder_back: Some(Time(1)),
            duplicate: Some(Share(0.0)),
            corrupt: Some(Share(0.0)),
            mtu: Some(1),
            down: vec!["1s for 1s".parse().unwrap()],
            packets: Some(1),
        };
        for key in toml::Table::try_from(&all).unwrap().keys() {
            assert!(EXAMPLE.contains(&format!("{key} = ")), "{key} is not in the example");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_file_place_and_mend() {
        let link = "[[link]]\na = \"af_packet:x\"\nb = \"af_packet:y\"\n";
        for (text, place, word) in [
            (format!("{link}each = {{ dely = '1ms' }}\n"), "wan.toml:4", "expected one of"),
            (format!("sed = 1\n{link}"), "wan.toml:1", "expected one of"),
            (format!("{link}preset = 'moon'\n"), "wan.toml:4", "starlight-dallas"),
            (format!("{link}each = {{ delay = '10' }}\n"), "wan.toml:4", "write it like"),
            (format!("{link}each = {{ loss = '101%' }}\n"), "wan.toml:4", "from 0% to 100%"),
            (format!("{link}each = {{ rate = '0' }}\n"), "wan.toml:4", "write it like"),
            (
                format!("{link}each = {{ delay = '1ms', jitter = '2ms' }}\n"),
                "wan.toml:1: link 1: a_to_b",
                "raise the delay",
            ),
            (format!("{link}b_to_a = {{ queue = '1ms' }}\n"), "wan.toml:1: link 1: b_to_a", "give rate"),
            (format!("{link}each = {{ distribution = 'normal' }}\n"), "wan.toml:1: link 1", "give jitter"),
            (format!("{link}each = {{ reorder = '1%' }}\n"), "wan.toml:1: link 1", "give delay"),
            (format!("{link}each = {{ reorder_back = '1ms' }}\n"), "wan.toml:1: link 1", "give its share"),
            (
                format!("{link}each = {{ delay = '1ms', reorder = '1%', reorder_ahead = '2ms' }}\n"),
                "wan.toml:1: link 1",
                "lower it",
            ),
            (
                "[[link]]\na = 'eth0'\nb = 'af_packet:y'\n".to_owned(),
                "wan.toml:1: link 1: a",
                "af_packet:IFACE",
            ),
            ("[[link]]\na = 'af_packet:x'\n".to_owned(), "wan.toml:1", "missing field `b`"),
            ("seed = 1\n".to_owned(), "wan.toml:1", "missing field `link`"),
            ("link = []\n".to_owned(), "wan.toml", "write a table [[link]]"),
            (format!("{link}{link}"), "wan.toml", "there twice"),
            (format!("memory = '5X'\n{link}"), "wan.toml: memory", "write K, M, G"),
            ("seed = \n".to_owned(), "wan.toml:1", ""),
        ] {
            let error = refused(&text);
            assert!(error.starts_with(place) && error.contains(word), "{text}: {error}");
        }
        let many: String =
            (0..17).map(|n| format!("[[link]]\na = 'af_packet:x{n}'\nb = 'af_packet:y{n}'\n")).collect();
        assert!(refused(&many).contains("run a second s2bench wan"));
    }

    #[test]
    fn a_direction_takes_what_it_does_not_say_from_each_and_from_the_preset() {
        let config = Config::parse(
            "[[link]]\na = 'af_packet:x'\nb = 'af_packet:y'\npreset = 'metro'\n\
             each = { rate = '1G', reorder = '1%', reorder_back = '1ms' }\n\
             b_to_a = { delay = '7ms', rate = '2G', reorder_ahead = '2ms' }\n",
            "x",
        )
        .unwrap();
        let [there, back] = &config.links[0].directions;
        assert_eq!(
            (there.delay, there.rate, there.reorder.by),
            (Time(2_500_000), Some(Rate(1_000_000_000)), 1_000_000)
        );
        assert_eq!(
            (back.delay, back.rate, back.reorder.by),
            (Time(7_000_000), Some(Rate(2_000_000_000)), -2_000_000)
        );
    }

    #[test]
    fn room_follows_from_rate_and_delay() {
        let room = |text: &str| {
            let asked: Asked = toml::from_str(text).unwrap();
            asked.shape(None).unwrap().room(1500)
        };
        // 10 Gbit/s and 10 ms are 12.5 MB; the queue holds 20 ms, twice that; 37.5 MB in frames of 1538 bytes, twice.
        assert_eq!(room("delay = '10ms'\nrate = '10G'"), 48765);
        assert_eq!(room("delay = '10ms'\nrate = '10G'\nqueue = '10 packets'"), 16265);
        assert_eq!(room(""), 4096);
        assert_eq!(room("packets = 7\nrate = '1T'\ndelay = '1s'"), 7);
        assert_eq!(room("rate = '2T'\ndelay = '80000s'"), u32::MAX);
    }
}
