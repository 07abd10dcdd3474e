//! Which cells a series has, when the user chooses some of what they are made of, or nothing.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::measure::Cell;
use super::path::Path;
use crate::emulate::profile;
use crate::stream::Carrier;

/// The profile that is sent at a pace: for delay and jitter.
pub const PACED: &str = "steady";
/// The profile that is sent as fast as it goes: for throughput.
pub const FAST: &str = "bulk";
/// The path with delay in a full set.
const FAR: &str = "starlight-dallas";

/// What the user chose; empty: the default.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Names of profiles.
    pub profiles: Vec<String>,
    /// A file with further profiles.
    pub file: Option<PathBuf>,
    /// What carries them.
    pub carriers: Vec<Carrier>,
    /// Names of paths.
    pub paths: Vec<String>,
    /// Further options of `s2bench wan`, for every path with a WAN.
    pub wan: String,
    /// The default paths are none but the direct one.
    pub quick: bool,
}

impl Choice {
    /// Every profile over every carrier over every path. By default a profile without a pace is not sent in datagrams: without
    /// a window it would measure how fast they can be lost.
    ///
    /// # Errors
    /// A path or profile of that name does not exist, the profiles' file is wrong, or nothing is left.
    pub fn cells(&self, mtu: u16) -> Result<Vec<Cell>> {
        for profile in &self.profiles {
            profile::named(profile, self.file.as_deref())?;
        }
        let or = |chosen: &[String], default: &[&str]| match chosen {
            [] => default.iter().map(|&name| name.to_owned()).collect(),
            chosen => chosen.to_vec(),
        };
        let carriers = match &self.carriers[..] {
            [] => vec![Carrier::Tcp, Carrier::Udp],
            chosen => chosen.to_vec(),
        };
        let mut cells = Vec::new();
        for path in or(&self.paths, if self.quick { &["none"] } else { &["none", FAR] }) {
            let path = Path::find(&path, &self.wan, mtu)?;
            for carrier in &carriers {
                for profile in or(&self.profiles, &[PACED, FAST]) {
                    if *carrier == Carrier::Udp && profile == FAST && self.profiles.is_empty() {
                        continue;
                    }
                    cells.push(Cell { path: path.clone(), carrier: *carrier, profile });
                }
            }
        }
        ensure!(!cells.is_empty(), "nothing is left to compare");
        Ok(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(choice: &Choice) -> Vec<String> {
        choice.cells(1500).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_quick_set_has_no_wan() {
        let quick = Choice { quick: true, ..Choice::default() };
        let paced = format!("{PACED} over tcp, path none");
        assert_eq!(
            names(&quick),
            [paced.clone(), format!("{FAST} over tcp, path none"), paced.replace("tcp", "udp")]
        );
    }

    #[test]
    fn the_default_profiles_are_one_with_a_pace_and_one_without() {
        let pace = |name| profile::named(name, None).unwrap().bits_per_second().unwrap();
        assert!(pace(PACED).is_some() && pace(FAST).is_none());
        let unknown = Choice { profiles: vec!["nothing".into()], ..Choice::default() };
        assert!(unknown.cells(1500).unwrap_err().to_string().contains("no profile \"nothing\""));
    }

    #[test]
    fn what_is_chosen_is_combined() {
        let choice = Choice {
            profiles: vec![FAST.into()],
            carriers: vec![Carrier::Udp, Carrier::Quic],
            paths: vec!["none".into()],
            ..Choice::default()
        };
        assert_eq!(
            names(&choice),
            [format!("{FAST} over udp, path none"), format!("{FAST} over quic, path none")]
        );
    }
}
