//! What a PCI Express link carries.

use std::fmt;

use super::host::Root;

/// Share of a link's bits, after line coding, that is left for frames. TLP headers (24 to 28 bytes for each 256 bytes of payload,
/// the usual maximum payload size), acknowledgements and flow control take about 12 percent, descriptors some more: an estimate.
/// With it 8 GT/s x16 carries 100 Gbit/s and 16 GT/s x16 carries 200, as vendors sell them.
const LEFT_FOR_FRAMES: f64 = 0.85;

/// A link: how fast a lane is, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Transfers a second of a lane, in 10^9 (GT/s).
    pub speed: f64,
    /// Lanes.
    pub lanes: u32,
}

/// Speeds of PCIe's generations, in GT/s.
const GENERATIONS: [f64; 6] = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];

impl Link {
    pub(super) fn read(root: &Root, speed: &str, lanes: &str) -> Option<Self> {
        let speed = root.text(speed)?.split_whitespace().next()?.parse().ok()?;
        let lanes = root.number(lanes)?;
        // Devices of virtual machines say `Unknown` or 0 lanes, integrated ones 255.
        (speed > 0.0 && (1..=32).contains(&lanes)).then_some(Self { speed, lanes })
    }

    /// PCIe's generation.
    pub fn generation(self) -> usize {
        GENERATIONS.iter().position(|g| self.speed <= *g).map_or(GENERATIONS.len(), |i| i + 1)
    }

    /// Gbit/s after line coding: 8b/10b up to 5 GT/s, 128b/130b above (64 GT/s, with its fixed-size packets, is close to that).
    pub fn coded_gbits(self) -> f64 {
        let code = if self.speed > 5.0 { 128.0 / 130.0 } else { 0.8 };
        self.speed * f64::from(self.lanes) * code
    }

    /// Gbit/s of frames it carries one way: an estimate.
    pub fn usable_gbits(self) -> f64 {
        self.coded_gbits() * LEFT_FOR_FRAMES
    }

    /// Does it carry so many Gbit/s of frames one way?
    pub fn carries(self, gbits: f64) -> bool {
        self.usable_gbits() >= gbits
    }

    /// The links that just carry so many Gbit/s, `Gen3 x16 or Gen4 x8`.
    pub fn wanted(gbits: f64) -> String {
        let all = GENERATIONS.iter().skip(2).filter_map(|speed| {
            let mut lanes = [1, 2, 4, 8, 16].into_iter().map(|lanes| Link { speed: *speed, lanes });
            lanes.find(|l| l.carries(gbits))
        });
        let mut said: Vec<String> = Vec::new();
        for link in all.take(2) {
            said.push(format!("Gen{} x{}", link.generation(), link.lanes));
        }
        said.join(" or ")
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gen{} x{}, about {:.0} Gbit/s", self.generation(), self.lanes, self.usable_gbits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_carry_what_they_are_sold_for() {
        let link = |speed, lanes| Link { speed, lanes };
        for (speed, lanes, gbits, carries) in [
            (8.0, 16, 100.0, true),
            (16.0, 8, 100.0, true),
            (8.0, 8, 100.0, false),
            (8.0, 8, 50.0, true),
            (16.0, 16, 200.0, true),
            (8.0, 16, 200.0, false),
            (32.0, 16, 400.0, true),
            (5.0, 8, 25.0, true),
            (8.0, 4, 25.0, true),
            (2.5, 4, 10.0, false),
        ] {
            assert_eq!(link(speed, lanes).carries(gbits), carries, "{speed} GT/s x{lanes}, {gbits} Gbit/s");
        }
        // 8 GT/s x16: 126 Gbit/s after the code.
        assert!((link(8.0, 16).coded_gbits() - 126.0).abs() < 0.1);
        assert!((link(5.0, 8).coded_gbits() - 32.0).abs() < 0.1);
        assert_eq!(link(16.0, 8).to_string(), "Gen4 x8, about 107 Gbit/s");
    }

    #[test]
    fn what_is_needed_is_said() {
        for (gbits, wanted) in [
            (10.0, "Gen3 x2 or Gen4 x1"),
            (25.0, "Gen3 x4 or Gen4 x2"),
            (100.0, "Gen3 x16 or Gen4 x8"),
            (200.0, "Gen4 x16 or Gen5 x8"),
            (400.0, "Gen5 x16 or Gen6 x8"),
        ] {
            assert_eq!(Link::wanted(gbits), wanted);
        }
    }
}
