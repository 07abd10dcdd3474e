//! The procedures: one function each, over trials.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;

use super::burst::{BackToBack, BurstSearch};
use super::headers::Head;
use super::measure::{News, SearchSettings, Settings, Task};
use super::outcome::{Direction, Interval, Loss, Outcome, Purpose, Step, SumSent, Throughput};
use super::rate::{Rate, WIRE, wire_bits};
use super::search::{Found, Loads, Search, TOLERANCE, Trial, Verdict};
use super::session::{Brought, Session, Way};
use super::sizes::Mix;
use super::threads::End;

/// The session, what is known of the path, and what was found until now.
pub(super) struct Bench<'a> {
    pub(super) settings: &'a Settings,
    pub(super) session: Session,
    pub(super) line: Option<u64>,
    pub(super) ways: Vec<Way>,
    pub(super) outcome: Outcome,
    pub(super) began: Instant,
    pub(super) interrupted: &'a StopFlag,
    pub(super) watch: &'a mut dyn FnMut(News<'_>),
}

impl Bench<'_> {
    pub(super) fn stopped(&self) -> bool {
        self.interrupted.stopped()
    }

    fn warn(&mut self, warning: String) {
        if !self.outcome.end.warnings.contains(&warning) {
            self.outcome.end.warnings.push(warning);
        }
    }

    pub(super) fn check(&self, task: &Task) -> Result<()> {
        let rates: &[&Rate] = match task {
            Task::Run { rate, .. } => &[rate],
            Task::Throughput { search, .. } => &[&search.most],
            Task::Loss { most, .. } => &[most],
            Task::BackToBack { throughput, search, .. } => {
                let device = &self.settings.setup.tx;
                let mend = "say with --line-rate which rate the device under test sees, such as 100G";
                ensure!(self.line.is_some(), "bursts go at line rate, and {device} tells none; {mend}");
                &[throughput.as_ref().unwrap_or(&search.most)]
            }
        };
        for mix in &self.settings.sizes {
            for rate in rates {
                rate.frames(mix.mean(), self.line)?;
            }
        }
        let judges = !matches!(task, Task::Run { .. });
        ensure!(
            !judges || self.session.receiver().is_some(),
            "{} needs a device that receives: --rx",
            task.name()
        );
        Ok(())
    }

    /// Finds the next hop, and has everybody on the way learn the flows.
    pub(super) fn prepare(&mut self) -> Result<()> {
        let flows = &self.settings.flows;
        let dst = flows.dst.ip();
        let mac = match (self.settings.dst_mac, dst) {
            (Some(mac), _) => mac,
            (None, IpAddr::V4(group)) if group.is_multicast() => Mac::ipv4_multicast(group),
            (None, IpAddr::V6(group)) if group.is_multicast() => Mac::ipv6_multicast(group),
            _ => {
                let hop = self.settings.gateway.unwrap_or(dst);
                self.session.resolve(hop, flows.src.ip(), self.interrupted)?
            }
        };
        let to = self.session.receiver();
        let heads = flows.heads(Mac(self.session.ports()[0].mac()), mac);
        let there = Way { from: 0, to, heads };
        let smallest: Mix = flows.smallest().to_string().parse()?;
        let learned = self.session.learn(&there, &smallest, self.interrupted)?;
        let missing = learned.iter().filter(|seen| seen.is_none()).count();
        if to.is_some() && missing > 0 && !self.stopped() {
            let (tx, rx) =
                (&self.settings.setup.tx, self.settings.setup.rx.as_ref().unwrap_or(&self.settings.setup.tx));
            ensure!(
                missing < learned.len(),
                "none of the first packets of {} flows from {} to {} came from {tx} to {rx}; check that what is between \
                 forwards them there (a relay needs a flow that allows their source, and an answer for the address it sends \
                 to: --rx-address)",
                flows.count,
                flows.src,
                flows.dst
            );
            self.warn(format!("the first packets of {missing} of {} flows did not arrive", flows.count));
        }
        let mut back = None;
        if self.settings.bidirectional && !self.stopped() {
            ensure!(
                missing == 0,
                "--bidirectional needs every flow to pass, and {missing} of {} did not",
                flows.count
            );
            let heads = learned.iter().flatten().map(|frame| Head::back(frame)).collect::<Result<_>>()?;
            let way = Way { from: 1, to: Some(0), heads };
            let seen = self.session.learn(&way, &smallest, self.interrupted)?;
            ensure!(
                self.stopped() || seen.iter().any(Option::is_some),
                "no first packet came back; check that what is between lets answers pass"
            );
            back = Some(way);
        }
        self.ways = [Some(there), back].into_iter().flatten().collect();
        Ok(())
    }

    /// Runs and records a trial.
    fn trial(&mut self, purpose: Purpose, mix: &Mix, frames: Option<f64>, end: End) -> Result<Step> {
        let start = self.began.elapsed().as_secs_f64();
        let (mut intervals, watch) = (Vec::new(), &mut *self.watch);
        let mut each = |interval: Interval| {
            watch(News::Second(&interval));
            intervals.push(interval);
        };
        let settle = self.settings.settle;
        let brought = self.session.trial(&self.ways, mix, frames, end, settle, &mut each)?;
        let directions: Vec<Direction> =
            brought.into_iter().zip(["forward", "back"]).map(|(b, name)| direction(b, name, mix)).collect();
        let wire = (mix.mean() + WIRE as f64) * 8.0;
        let mut step = Step {
            purpose,
            frame_size: mix.to_string(),
            mean_frame_bytes: mix.mean(),
            start,
            offered_packets_per_second: frames,
            offered_bits_per_second: frames.map(|f| f * wire),
            verdict: Verdict::Passed,
            partial: self.stopped(),
            directions,
            intervals,
        };
        step.verdict = match frames {
            _ if step.lost() > 0 => Verdict::Lost,
            Some(frames) if step.sent() < frames * (1.0 - TOLERANCE) => Verdict::Short,
            _ => Verdict::Passed,
        };
        let sent = step.directions.iter().map(|d| d.sum_sent.packets).min().unwrap_or(0);
        if let End::Count(count) = end
            && sent < count
            && !step.partial
        {
            self.warn(format!(
                "{mix}: the device took {sent} of {count} packets and then no more; is its link up?"
            ));
        }
        let missed: u64 = step.directions.iter().map(|d| d.rx_missed).sum();
        if missed > 0 {
            self.warn(format!(
                "a receiving device lost {missed} frames because the receiver was too slow or had no buffers: these losses \
                 are the generator's own"
            ));
        }
        if step.directions.iter().filter_map(|d| d.sum_received.as_ref()).any(|f| f.corrupt > 0) {
            self.warn(
                "packets with a wrong checksum arrived; over AF_PACKET, check that offloads are off"
                    .to_owned(),
            );
        }
        (self.watch)(News::Trial(&step));
        self.outcome.steps.push(step.clone());
        if !self.stopped() {
            std::thread::sleep(self.settings.pause);
        }
        Ok(step)
    }

    pub(super) fn run(&mut self, mix: &Mix, rate: Rate, end: End) -> Result<()> {
        let frames = rate.frames(mix.mean(), self.line)?;
        let step = self.trial(Purpose::Run, mix, frames, end)?;
        if let Some(asked) = frames.filter(|f| step.sent() < f * (1.0 - TOLERANCE))
            && !self.stopped()
        {
            self.warn(format!(
                "{mix}: the generator sent {} of {} asked for",
                super::rate::frames(step.sent()),
                super::rate::frames(asked)
            ));
        }
        Ok(())
    }

    /// Searches the zero-loss rate. None when interrupted, or when nothing can be sent.
    fn search(&mut self, mix: &Mix, settings: &SearchSettings) -> Result<Option<(Option<Found>, usize)>> {
        let most = settings.most.frames(mix.mean(), self.line)?;
        let mut search = Search::new(most, settings.resolution / 100.0, settings.again);
        let mut trials = 0;
        while let Some(frames) = search.next() {
            let step = self.trial(Purpose::Throughput, mix, frames, End::After(settings.trial))?;
            if step.partial {
                return Ok(None);
            }
            if step.sent() <= 0.0 {
                self.warn(format!("{mix}: the device took no frame, so there is no rate to find"));
                return Ok(None);
            }
            search.tell(Trial { sent: step.sent(), verdict: step.verdict });
            trials += 1;
        }
        Ok(Some((search.found(), trials)))
    }

    pub(super) fn throughput(
        &mut self,
        mix: &Mix,
        settings: &SearchSettings,
        latency_trials: u32,
    ) -> Result<()> {
        let Some((found, trials)) = self.search(mix, settings)? else { return Ok(()) };
        let mut delay = Vec::new();
        if let Some(found) = found {
            for _ in 0..latency_trials {
                if self.stopped() {
                    break;
                }
                let step = self.trial(Purpose::Latency, mix, Some(found.rate), End::After(settings.trial))?;
                delay.extend(step.directions.into_iter().filter_map(|d| d.sum_received).map(|f| f.delay));
            }
            if found.limited {
                self.warn(format!(
                    "{mix}: the generator could not send more than {}; what was tried may be faster",
                    super::rate::frames(found.rate)
                ));
            }
        }
        let rate = found.map(|f| f.rate);
        let bits = |overhead: f64| rate.map(|r| r * (mix.mean() + overhead) * 8.0);
        self.outcome.end.throughput.push(Throughput {
            frame_size: mix.to_string(),
            packets_per_second: rate,
            bits_per_second: bits(WIRE as f64),
            l2_bits_per_second: bits(0.0),
            percent_of_line: bits(WIRE as f64).zip(self.line).map(|(bits, line)| bits * 100.0 / line as f64),
            limited_by_generator: found.is_some_and(|f| f.limited),
            trials,
            delay,
        });
        Ok(())
    }

    pub(super) fn loss(&mut self, mix: &Mix, trial: Duration, most: Rate, step: f64) -> Result<()> {
        // Without a line rate, what the generator sends at its fastest is all.
        let mut most = most.frames(mix.mean(), self.line)?;
        let mut loads = Loads::new(step);
        while let Some(percent) = loads.next() {
            let frames = most.map(|most| most * percent / 100.0);
            let step = self.trial(Purpose::Loss, mix, frames, End::After(trial))?;
            if step.partial {
                break;
            }
            if step.verdict == Verdict::Short {
                self.warn(format!(
                    "{mix}: the generator sent {} where {} were asked for",
                    super::rate::frames(step.sent()),
                    super::rate::frames(frames.unwrap_or_default())
                ));
            }
            most = most.or(Some(step.sent()));
            let sent: u64 = step.directions.iter().map(|d| d.sum_sent.packets).sum();
            self.outcome.end.loss.push(Loss {
                frame_size: mix.to_string(),
                offered_percent: percent,
                packets_per_second: step.sent(),
                lost_percent: if sent == 0 { 0.0 } else { step.lost() as f64 * 100.0 / sent as f64 },
            });
            loads.tell(step.lost() > 0);
        }
        Ok(())
    }

    pub(super) fn back_to_back(&mut self, mix: &Mix, task: &Task) -> Result<()> {
        let Task::BackToBack { searches, longest, resolution, throughput, search } = task else {
            return Ok(());
        };
        let line = Rate::Line.frames(mix.mean(), self.line)?.context("there is no line rate")?;
        let throughput = match throughput {
            Some(rate) => rate.frames(mix.mean(), self.line)?.unwrap_or(line),
            None => match self.search(mix, search)? {
                None => return Ok(()),
                Some((found, _)) => found.map_or(0.0, |f| f.rate),
            },
        };
        // RFC 9004, section 6.1: a device that keeps up with the line needs no buffer.
        if throughput >= line * (1.0 - TOLERANCE) {
            self.warn(format!(
                "{mix}: the throughput is the line rate, so there is no longest burst (RFC 9004, section 6.1)"
            ));
            return Ok(());
        }
        let most = ((longest.as_secs_f64() * line) as u64).max(1);
        let mut bursts = Vec::new();
        let mut slow = None;
        for _ in 0..*searches {
            let mut search = BurstSearch::new(most, *resolution);
            while let Some(frames) = search.next() {
                // The settle time after it lets the device's buffer run empty.
                let step = self.trial(Purpose::BackToBack, mix, Some(line), End::Count(frames))?;
                if step.partial {
                    return Ok(());
                }
                if step.sent() < line * (1.0 - TOLERANCE) {
                    slow = Some(slow.unwrap_or(f64::INFINITY).min(step.sent()));
                }
                search.tell(step.lost() > 0);
            }
            bursts.push(search.found());
        }
        if let Some(slow) = slow {
            self.warn(format!(
                "{mix}: bursts left the generator at {} instead of the line rate's {}: they were not back to back, and longer \
                 ones passed than would have",
                super::rate::frames(slow),
                super::rate::frames(line)
            ));
        }
        self.outcome.end.back_to_back.push(BackToBack::of(mix.to_string(), bursts, most, line, throughput));
        Ok(())
    }
}

fn direction(brought: Brought, name: &str, mix: &Mix) -> Direction {
    let Brought { sent, found, missed } = brought;
    let a_second = |n: f64| if sent.seconds > 0.0 { n / sent.seconds } else { 0.0 };
    let frames = sent.bytes as f64 * 8.0;
    let overhead = (sent.packets as usize * WIRE) as f64 * 8.0;
    let mean_wire = mix.sizes().iter().map(|s| wire_bits(*s)).sum::<u64>() as f64 / mix.sizes().len() as f64;
    Direction {
        direction: name.to_owned(),
        sum_sent: SumSent {
            packets: sent.packets,
            bytes: sent.bytes,
            seconds: sent.seconds,
            packets_per_second: a_second(sent.packets as f64),
            bits_per_second: a_second(frames + overhead),
            l2_bits_per_second: a_second(frames),
            unsent_packets: (sent.forfeited / mean_wire).round() as u64,
            cycles_per_packet: if sent.packets == 0 { 0.0 } else { sent.cycles as f64 / sent.packets as f64 },
        },
        sum_received: found,
        rx_missed: missed,
    }
}
