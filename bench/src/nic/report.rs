//! What was found: a table, check by kind of NIC.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::guest::Model;

/// Declares the checks with their titles and what each asks for.
macro_rules! checks {
    ($($(#[doc = $doc:literal])+ $check:ident = $title:literal,)+) => {
        /// What is tried on every kind of NIC.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Check { $($(#[doc = $doc])+ $check,)+ }

        impl Check {
            /// All, in the order of the table.
            pub const ALL: &'static [Check] = &[$(Check::$check,)+];

            /// Its name in the table.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Check::$check => $title,)+ }
            }

            /// What it asks for.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Check::$check => concat!($($doc),+),)+ }
            }
        }
    };
}

checks! {
    /// ARP requests and neighbor solicitations are answered with the NIC's own address, and the relay finds its next hops by both.
    Neighbors = "ARP and ND",
    /// TCP and UDP over IPv4 and IPv6 pass both ways, alone and in bursts, and every frame is the one that RFC 3022's
    /// arithmetic gives, compared whole.
    Relay = "exact frames",
    /// Every checksum that leaves is right by software that is not the relay's; a wrong one of TCP or UDP stays as wrong as it
    /// came, and a wrong one of IPv4 ends the packet.
    Checksums = "checksums",
    /// Frames sent to each port are frames received, frames received are sent, held or dropped, and nothing was lost in the device.
    Ledger = "counters and ledger",
    /// The NIC is on the second of two NUMA nodes: the rule for `cores = "auto"` takes workers there, packets lie in that node's
    /// hugepages, and `s2ctl preflight` finds nothing amiss.
    Placement = "NUMA node",
    /// Without promiscuous mode solicitations to the groups of the port's own addresses arrive; frames to other groups and
    /// stations do not, or are dropped and counted where the driver can only let all groups in.
    Multicast = "multicast filter",
    /// A port that is one VLAN of its device: tagged frames pass exactly, others are dropped and counted.
    Vlan = "VLAN",
    /// Packets of 9000 bytes pass both ways, compared whole.
    Jumbo = "jumbo, 9000 bytes",
    /// Linux on both sides, its own offloads on, exchanges megabytes by TCP and datagrams by UDP, over IPv4 and IPv6, and
    /// compares every byte. The clients' device is named by its MAC address.
    Streams = "Linux peers",
    /// Two workers with a queue each: many connections, and where STEERING says `rss` no packet of either direction is handed over.
    Queues = "RSS, return traffic",
    /// The cable is pulled in the middle of a transfer and plugged in again: the port shows it, and the transfer goes on.
    Link = "link down and up",
    /// SIGTERM ends the forwarder with status 0, and another one starts on the same devices and relays.
    Restart = "stop and start",
    /// A device is unplugged while the forwarder runs: it says so, goes on between its other ports, and ends with status 0.
    Removal = "removal",
}

/// What came of a check that did not fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Found {
    /// It holds; what was seen.
    Holds(String),
    /// It cannot be tried; why.
    NotHere(String),
}

/// The outcome of one check on one kind of NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// None where it cannot be tried.
    pub ok: Option<bool>,
    /// What was seen, or why not.
    pub told: String,
}

/// What a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kinds of NIC that were tried.
    pub nics: Vec<Model>,
    /// Each kind's driver in DPDK.
    pub drivers: BTreeMap<Model, String>,
    /// QEMU, the guest's kernel and what else the guest is made with.
    pub packages: Vec<String>,
    /// Outcomes by kind and check.
    pub outcomes: BTreeMap<Model, BTreeMap<Check, Outcome>>,
    /// Seconds it took.
    pub seconds: u64,
}

impl Report {
    pub(super) fn new(nics: &[Model], packages: Vec<String>) -> Report {
        let wanted = ["qemu-system-x86_", "linux-image-", "busybox-static_"];
        let packages = packages.into_iter().filter(|p| wanted.iter().any(|w| p.starts_with(w))).collect();
        let (drivers, outcomes) = (BTreeMap::new(), BTreeMap::new());
        Report { nics: nics.to_vec(), drivers, packages, outcomes, seconds: 0 }
    }

    /// Adds what came of a check. Of several outcomes of one the first failure counts, else the first.
    pub(super) fn add(&mut self, model: Model, check: Check, came: &anyhow::Result<Found>) {
        let outcome = match came {
            Ok(Found::Holds(told)) => Outcome { ok: Some(true), told: told.clone() },
            Ok(Found::NotHere(why)) => Outcome { ok: None, told: why.clone() },
            Err(e) => Outcome { ok: Some(false), told: format!("{e:#}") },
        };
        let (word, told) = (outcome.word(), &outcome.told);
        eprintln!("{word:4} {model:8} {:23} {}", check.title(), told.replace('\n', "\n       "));
        let outcomes = self.outcomes.entry(model).or_default();
        match outcomes.get(&check) {
            Some(before) if before.ok == Some(false) || outcome.ok != Some(false) => {}
            _ => drop(outcomes.insert(check, outcome)),
        }
    }

    /// Whether nothing failed and every check has an outcome on every kind of NIC.
    #[must_use]
    pub fn held(&self) -> bool {
        self.nics.iter().all(|nic| {
            Check::ALL.iter().all(|check| self.outcome(*nic, *check).is_some_and(|o| o.ok != Some(false)))
        })
    }

    fn outcome(&self, nic: Model, check: Check) -> Option<&Outcome> {
        self.outcomes.get(&nic)?.get(&check)
    }

    fn word(&self, nic: Model, check: Check) -> &'static str {
        self.outcome(nic, check).map_or("FAIL", Outcome::word)
    }

    /// The page that tells: the table, what each check asks for, what was seen.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "# The relay on real drivers\n\n\
             Generated by `make nic-test PAGE=docs/nic-test.md`: s2ds in a virtual machine, on DPDK's own drivers\n\
             of emulated NICs. What this shows and what not is told in\n[operations.md](operations.md#real-drivers-in-a-virtual-machine).\n\n",
        );
        let mut row = |cells: &mut dyn Iterator<Item = String>| {
            let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        };
        let names = self.nics.iter().map(|n| n.name().to_owned());
        row(&mut std::iter::once(String::new()).chain(names));
        row(&mut std::iter::repeat_n("---".to_owned(), self.nics.len() + 1));
        let drivers = self.nics.iter().map(|n| self.drivers.get(n).cloned().unwrap_or_default());
        row(&mut std::iter::once("driver".to_owned()).chain(drivers));
        for check in Check::ALL {
            let words = self.nics.iter().map(|n| self.word(*n, *check).to_owned());
            row(&mut std::iter::once(check.title().to_owned()).chain(words));
        }
        text += "\n";
        for check in Check::ALL {
            let _ = writeln!(text, "**{}.** {}\n", check.title(), check.meaning().trim());
            // What was seen alike is told once.
            let mut told: Vec<(String, Vec<&str>)> = Vec::new();
            for nic in &self.nics {
                let seen =
                    self.outcome(*nic, *check).map_or("it was not tried", |o| &o.told).replace('\n', " ");
                match told.iter_mut().find(|(text, _)| *text == seen) {
                    Some((_, names)) => names.push(nic.name()),
                    None => told.push((seen, vec![nic.name()])),
                }
            }
            for (seen, names) in told {
                let _ = writeln!(text, "- {}: {seen}", names.join(", "));
            }
            text += "\n";
        }
        let _ = writeln!(text, "Made with {}.", self.packages.join(", "));
        text
    }
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self.ok {
            Some(true) => "ok",
            Some(false) => "FAIL",
            None => "n.a.",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:24}", "")?;
        self.nics.iter().try_for_each(|nic| write!(f, "{nic:10}"))?;
        writeln!(f)?;
        for check in Check::ALL {
            write!(f, "{:24}", check.title())?;
            self.nics.iter().try_for_each(|nic| write!(f, "{:10}", self.word(*nic, *check)))?;
            writeln!(f)?;
        }
        for check in Check::ALL {
            for nic in &self.nics {
                match self.outcome(*nic, *check) {
                    Some(o) if o.ok == Some(true) => {}
                    Some(o) => writeln!(f, "{} {nic}, {}: {}", o.word(), check.title(), o.told)?,
                    None => writeln!(f, "FAIL {nic}, {}: it was not tried", check.title())?,
                }
            }
        }
        write!(f, "{} seconds; {}", self.seconds, self.packages.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_failure_counts_whatever_else_came_and_so_does_what_was_not_tried() {
        let mut report = Report::new(&[Model::Igb], vec!["linux-image-1".into(), "libslirp0_1".into()]);
        assert_eq!(report.packages, ["linux-image-1"]);
        assert!(!report.held());
        for check in Check::ALL {
            report.add(Model::Igb, *check, &Ok(Found::Holds("seen".into())));
        }
        report.add(Model::Igb, Check::Vlan, &Ok(Found::NotHere("why".into())));
        assert!(report.held());
        assert!(report.markdown().contains("| VLAN | ok |\n"));
        report.add(Model::Igb, Check::Vlan, &Err(anyhow!("broken")));
        report.add(Model::Igb, Check::Vlan, &Ok(Found::Holds("seen".into())));
        assert!(!report.held());
        assert!(report.markdown().contains("| VLAN | FAIL |\n"));
        assert!(report.to_string().contains("FAIL igb, VLAN: broken"));
    }
}
