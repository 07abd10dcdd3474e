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
    /// 48 ms: across the United States, as from Chicago to the west coast.
    #[value(alias = "48ms")]
    #[serde(alias = "48ms")]
    Continental,
    /// 119 ms: from the middle of the United States to Europe, as from Chicago to Geneva.
    #[value(alias = "119ms")]
    #[serde(alias = "119ms")]
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

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn a_path_has_the_same_name_everywhere() {
        for preset in Preset::ALL {
            assert_eq!(Preset::from_str(preset.name(), false), Ok(preset));
            assert_eq!(serde_json::to_value(preset).unwrap(), preset.name());
        }
        assert_eq!(Preset::ALL.map(|p| p.rtt().to_string()), ["5ms", "20ms", "48ms", "119ms"]);
        assert_eq!(Preset::from_str("119ms", false), Ok(Preset::Transatlantic));
    }
}
