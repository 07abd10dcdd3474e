//! The life of a device, as far as it can be told without one: its link goes up and down, it fails, opening it is tried again.
//! What happens is given, with the time; what is to be said about it comes back as a sentence for the log.

use std::time::{Duration, Instant};

use crate::api::PortFailure;
use crate::config::Retry;
use crate::dpdk::Link;

/// Where a device is in its life.
#[derive(Debug)]
pub(super) struct Life {
    /// Name of its first port.
    port: String,
    retry: Retry,
    /// Whether its link was up when last heard of.
    up: Option<bool>,
    changes: u64,
    changed: Option<Instant>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    why: String,
    since: Instant,
    tries: u64,
    next: Option<Instant>,
    refusal: Option<String>,
}

impl Life {
    pub(super) fn new(port: &str, retry: Retry) -> Self {
        Self { port: port.to_owned(), retry, up: None, changes: 0, changed: None, failed: None }
    }

    /// The link is so now. What is heard first is no change.
    pub(super) fn link(&mut self, now: Instant, link: Option<Link>) -> Option<String> {
        let link = link?;
        let before = self.up.replace(link.up)?;
        if before == link.up {
            return None;
        }
        self.changes += 1;
        self.changed = Some(now);
        Some(match (link.up, link.speed) {
            (true, Some(speed)) => format!("port {}: link up, {speed} Mbit/s", self.port),
            (true, None) => format!("port {}: link up", self.port),
            (false, _) => format!("port {}: link down", self.port),
        })
    }

    /// The device cannot go on.
    pub(super) fn fail(&mut self, now: Instant, why: String) -> String {
        let next = self.pause().map(|pause| now + pause);
        let then = match self.retry {
            Retry::Every(pause) => {
                format!("opening it is tried again every {}", humantime::format_duration(pause))
            }
            Retry::Off => {
                "it stays out of use (retry = \"off\"); start s2ds again when it is mended".to_owned()
            }
        };
        let line = format!("port {} failed: {why}; other ports go on; {then}", self.port);
        self.up = None;
        self.failed = Some(Failed { why, since: now, tries: 0, next, refusal: None });
        line
    }

    fn pause(&self) -> Option<Duration> {
        match self.retry {
            Retry::Every(pause) => Some(pause),
            Retry::Off => None,
        }
    }

    /// Is it time to try again?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.failed.as_ref().and_then(|f| f.next).is_some_and(|next| next <= now)
    }

    /// It was tried and did not open. Said when the reason is another than the last time.
    pub(super) fn refused(&mut self, now: Instant, why: String) -> Option<String> {
        let next = self.pause().map(|pause| now + pause);
        let failed = self.failed.as_mut()?;
        failed.tries += 1;
        failed.next = next;
        let before = failed.refusal.replace(why.clone());
        (before.as_ref() != Some(&why)).then_some(why)
    }

    /// It is open again.
    pub(super) fn reopened(&mut self, now: Instant) -> String {
        let away = self.failed.take().map_or(Duration::ZERO, |f| now.saturating_duration_since(f.since));
        let away = humantime::format_duration(Duration::from_secs(away.as_secs()));
        format!("port {} is back in use after {away}", self.port)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// What is told of it while it is out of use.
    pub(super) fn failure(&self, now: Instant) -> Option<PortFailure> {
        let failed = self.failed.as_ref()?;
        Some(PortFailure {
            why: failed.why.clone(),
            ago: now.saturating_duration_since(failed.since).as_secs(),
            tries: failed.tries,
            retry_in: failed.next.map(|next| next.saturating_duration_since(now).as_secs()),
            refusal: failed.refusal.clone(),
        })
    }

    /// How often the link changed, and how many seconds ago it last did.
    pub(super) fn changes(&self, now: Instant) -> (u64, Option<u64>) {
        (self.changes, self.changed.map(|at| now.saturating_duration_since(at).as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Link = Link { up: true, speed: Some(10_000), full_duplex: true, autoneg: true };
    const DOWN: Link = Link { up: false, speed: None, full_duplex: false, autoneg: false };

    #[test]
    fn changes_of_the_link_are_counted_and_told() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut life = Life::new("lan", Retry::default());
        assert_eq!(life.link(at(0), Some(UP)), None, "the first that is heard");
        assert_eq!(life.link(at(1), Some(UP)), None);
        assert_eq!(life.changes(at(1)), (0, None));
        assert_eq!(life.link(at(2), Some(DOWN)).unwrap(), "port lan: link down");
        assert_eq!(life.link(at(3), None), None, "a driver that does not tell");
        assert_eq!(life.link(at(5), Some(UP)).unwrap(), "port lan: link up, 10000 Mbit/s");
        assert_eq!(life.changes(at(9)), (2, Some(4)));
    }

    #[test]
    fn a_failed_device_is_tried_by_its_policy() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut life = Life::new("wan", Retry::Every(Duration::from_secs(10)));
        assert!(!life.is_due(at(100)) && life.failure(at(100)).is_none());
        let line = life.fail(at(100), "interface x is gone".to_owned());
        assert_eq!(
            line,
            "port wan failed: interface x is gone; other ports go on; opening it is tried again every 10s"
        );
        assert!(life.has_failed() && !life.is_due(at(109)) && life.is_due(at(110)));
        assert_eq!(life.refused(at(110), "no x".to_owned()).as_deref(), Some("no x"));
        assert!(!life.is_due(at(119)) && life.is_due(at(120)));
        assert_eq!(life.refused(at(120), "no x".to_owned()), None, "said already");
        assert_eq!(life.refused(at(130), "x is small".to_owned()).as_deref(), Some("x is small"));
        let failure = life.failure(at(133)).unwrap();
        assert_eq!((failure.ago, failure.tries, failure.retry_in), (33, 3, Some(7)));
        assert_eq!(failure.refusal.as_deref(), Some("x is small"));
        assert_eq!(life.reopened(at(140)), "port wan is back in use after 40s");
        assert!(!life.has_failed() && life.failure(at(141)).is_none());
    }

    #[test]
    fn without_policy_it_stays_out_of_use() {
        let start = Instant::now();
        let mut life = Life::new("wan", Retry::Off);
        assert!(life.fail(start, "gone".to_owned()).contains("stays out of use"));
        assert!(!life.is_due(start + Duration::from_secs(1_000_000)));
        assert_eq!(life.failure(start).unwrap().retry_in, None);
    }
}
