//! Paths that exist, by name.

use super::units::Time;

/// A path between real places, known by the round-trip time that somebody published. Rate, loss and jitter are not part of it:
/// they are the user's question, not the path's property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// 5 ms: two sites of a metropolitan area.
    Metro,
    /// 20 ms: StarLight in Chicago to Dallas.
    StarlightDallas,
    /// 48 ms: across the United States.
    #[value(name = "continental")]
    Continental,
    /// 119 ms: from the United States to Europe.
    #[value(name = "transatlantic")]
    Transatlantic,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 4] =
        [Preset::Metro, Preset::StarlightDallas, Preset::Continental, Preset::Transatlantic];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Preset::Metro => "metro",
            Preset::StarlightDallas => "starlight-dallas",
            Preset::Continental => "continental",
            Preset::Transatlantic => "transatlantic",
        }
    }

    /// Round-trip time.
    #[must_use]
    pub fn rtt(self) -> Time {
        Time(match self {
            Preset::Metro => 5_000_000,
            Preset::StarlightDallas => 20_000_000,
            Preset::Continental => 48_000_000,
            Preset::Transatlantic => 119_000_000,
        })
    }

    /// Delay of each direction: half of the round trip.
    #[must_use]
    pub fn one_way(self) -> Time {
        Time(self.rtt().0 / 2)
    }
}
