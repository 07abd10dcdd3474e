use super::*;
use crate::emulate::message::Kind;
use crate::emulate::schedule::{Scan, Schedule};
use crate::result::Distribution;

const MS: u64 = 1_000_000;
/// Where the clocks are at the schedule's zero.
const ZERO: u64 = 500 * SECOND;

/// A message a millisecond.
fn rules(duration: u64) -> Rules {
    let schedule = Schedule::Steps { burst: 1, num: MS, den: 1, scan: None };
    let share = Share { schedule, connection: 0, connections: 1 };
    Rules { share, duration, omit: 0, deadline: Some(5 * MS), stall: 20 * MS, same_clock: true }
}

fn header(seq: u64, due: u64) -> Header {
    Header { kind: Kind::Data, length: 100, seq, due, sent: due, connection: 0 }
}

/// Plays a trace of numbers and delays, each due at its millisecond.
fn play(rules: Rules, trace: impl IntoIterator<Item = (u64, u64)>, sent: Option<u64>) -> Found {
    let mut tally = Tally::new(rules, ZERO);
    let mut last = ZERO;
    for (seq, delay) in trace {
        let due = ZERO + seq * MS;
        last = last.max(due + delay);
        tally.arrived(&header(seq, due), last);
    }
    tally.finish(sent, last)
}

#[test]
fn a_trace_of_known_delays_has_their_percentiles() {
    // 1 to 10,000 us, each once, in an order without pattern; never out of order, as each is due later than the one before.
    let mut tally = Tally::new(Rules { deadline: Some(9_000_500), ..rules(100_000 * SECOND) }, ZERO);
    for n in 0..10_000u64 {
        let delay = (n * 7919 % 10_000 + 1) * 1000;
        let due = ZERO + n * SECOND;
        tally.arrived(&header(n, due), due + delay);
    }
    let found = tally.finish(Some(10_000), ZERO + 10_000 * SECOND);
    let mut h = histogram();
    found.delays.add_to(&mut h, 0);
    let d = Distribution::of(&h, 0);
    for (found, wanted) in [
        (d.min, 1),
        (d.p50, 5000),
        (d.p90, 9000),
        (d.p99, 9900),
        (d.p999, 9990),
        (d.p9999, 9999),
        (d.max, 10_000),
    ] {
        assert!((found as f64 / (f64::from(wanted) * 1000.0) - 1.0).abs() < 2e-3, "{found} for {wanted}");
    }
    assert_eq!(found.sums.late, 1000);
    assert_eq!((found.sums.packets, found.sums.lost_packets, found.sums.out_of_order), (10_000, 0, 0));
}

#[test]
fn loss_order_and_doubles_are_counted() {
    // 3 is lost, 5 comes after 6, 7 twice, and the last two never come.
    let order = [0, 1, 2, 4, 6, 5, 7, 7];
    let found = play(rules(10 * MS), order.map(|n| (n, 0)), Some(10));
    let sums = &found.sums;
    assert_eq!((sums.packets, sums.bytes, sums.lost_packets), (7, 700, 3));
    assert_eq!((sums.out_of_order, sums.duplicates, sums.corrupt), (1, 1, 0));
    assert!((sums.lost_percent - 30.0).abs() < 1e-9);
    assert!((sums.bits_per_second - 700.0 * 8.0 / 0.01).abs() < 1e-6, "{}", sums.bits_per_second);
}

#[test]
fn a_corrupt_message_is_neither_come_nor_lost() {
    let mut tally = Tally::new(rules(4 * MS), ZERO);
    tally.arrived(&header(0, ZERO), ZERO);
    tally.corrupt(1, ZERO + MS);
    // A number that cannot be: no gap of millions comes of it.
    tally.corrupt(1 << 50, ZERO + 2 * MS);
    tally.arrived(&header(3, ZERO + 3 * MS), ZERO + 3 * MS);
    let sums = tally.finish(Some(4), ZERO + 4 * MS).sums;
    assert_eq!((sums.packets, sums.corrupt, sums.lost_packets), (2, 2, 1));
}

#[test]
fn jitter_is_that_of_the_rfcs() {
    // Delays of 1 and 1.5 ms in turn: each differs by half a millisecond from the one before.
    let found = play(rules(SECOND), (0..1000).map(|n| (n, MS + n % 2 * MS / 2)), Some(1000));
    let d = Distribution::of(&found.jitter, 0);
    assert_eq!(d.count, 999);
    assert!([d.min, d.p50, d.max].iter().all(|v| (*v as f64 / 5e5 - 1.0).abs() < 1e-3), "{d:?}");
    // It converges to that; after 999 of them nothing is left of the start at 0.
    assert!((found.sums.jitter_ms - 0.5).abs() < 1e-9, "{}", found.sums.jitter_ms);
    // One step: a sixteenth of the difference.
    let found = play(rules(SECOND), [(0, 0), (1, 16_000)], Some(2));
    assert!((found.sums.jitter_ms - 0.001).abs() < 1e-12);
    // Across a loss there is no difference to take (RFC 5481), but RFC 3550 takes it.
    let found = play(rules(SECOND), [(0, 0), (2, 16_000)], Some(3));
    assert_eq!(found.jitter.len(), 0);
    assert!((found.sums.jitter_ms - 0.001).abs() < 1e-12);
}

#[test]
fn silence_with_messages_due_is_a_stall() {
    // Nothing for 50 ms, then all that was due at once.
    let trace = (0..10).map(|n| (n, 0)).chain((10..60).map(|n| (n, (59 - n) * MS))).chain([(60, 0)]);
    let found = play(rules(SECOND), trace, Some(61));
    assert_eq!(found.stalls.count, 1);
    let stall = found.stalls.longest[0];
    // From when the first missing one was due.
    assert!((stall.start - 0.010).abs() < 1e-9 && (stall.seconds - 0.049).abs() < 1e-9, "{stall:?}");
    // 43 of them came more than 5 ms late.
    assert_eq!(found.sums.late, 44);
}

#[test]
fn a_pause_of_the_schedule_is_no_stall() {
    let schedule =
        Schedule::Steps { burst: 1, num: MS, den: 1, scan: Some(Scan { bursts: 10, pause: SECOND }) };
    let share = Share { schedule, connection: 0, connections: 1 };
    let rules = Rules { share, ..rules(5 * SECOND) };
    let mut tally = Tally::new(rules, ZERO);
    for seq in 0..30 {
        let due = ZERO + share.due(seq).unwrap();
        tally.arrived(&header(seq, due), due + 1000);
    }
    assert_eq!(tally.silence(ZERO + 2500 * MS), Some((ZERO + 3030 * MS, 0)));
    // The source stops there, and 60 ms after the next was due the sink is stopped.
    let found = tally.finish(None, ZERO + 3090 * MS);
    assert_eq!(found.stalls.count, 1);
    assert!((found.stalls.seconds - 0.060).abs() < 1e-9, "{:?}", found.stalls);
}

#[test]
fn seconds_add_up_and_what_is_drained_belongs_to_the_last() {
    let mut tally = Tally::new(rules(2500 * MS), ZERO);
    for seq in 0..2500 {
        let due = ZERO + seq * MS;
        // The last ones take half a second longer.
        tally.arrived(&header(seq, due), due + if seq >= 2400 { 500 * MS } else { 0 });
    }
    let mut pieces = tally.take_closed();
    assert_eq!(pieces.len(), 2);
    let found = tally.finish(Some(2500), ZERO + 4 * SECOND);
    pieces.extend(found.pieces);
    let messages: Vec<_> = pieces.iter().map(|p| p.sums.packets).collect();
    assert_eq!(messages, [1000, 1000, 500]);
    let ends: Vec<_> = pieces.iter().map(|p| (p.sums.end * 1e3).round() as u64).collect();
    assert_eq!(ends, [1000, 2000, 2999]);
    assert_eq!(pieces.iter().map(|p| p.sums.bytes).sum::<u64>(), found.sums.bytes);
    assert_eq!(pieces[0].sums.delay_p99, Some(0));
}

#[test]
fn loss_is_told_in_the_second_it_shows_in() {
    let trace = (0..2000).filter(|n| !(990..1010).contains(n)).map(|n| (n, 0));
    let found = play(rules(2 * SECOND), trace, Some(2000));
    let lost: Vec<_> = found.pieces.iter().map(|p| p.sums.lost_packets).collect();
    assert_eq!(lost, [0, 20]);
    assert_eq!(found.sums.lost_packets, 20);
}

#[test]
fn clocks_that_differ_make_nothing_late() {
    let rules = Rules { same_clock: false, ..rules(SECOND) };
    let mut tally = Tally::new(rules, ZERO);
    for seq in 0..100 {
        // The source's clock is an hour ahead; every tenth message takes 6 ms longer.
        let late = if seq % 10 == 9 { 6 * MS } else { 0 };
        tally.arrived(&header(seq, ZERO + 3600 * SECOND + seq * MS), ZERO + seq * MS + late);
    }
    let found = tally.finish(Some(100), ZERO + SECOND);
    assert_eq!(found.sums.late, 10);
    assert_eq!(found.delays.least(), Some(-3_600_000_000_000));
}

#[test]
fn of_many_stalls_the_longest_stay() {
    let mut all = Stalls::default();
    for n in 0..250 {
        let stall = Stall { socket: n % 3, start: 0.0, seconds: f64::from(n) };
        all.merge(&Stalls { longest: vec![stall], count: 1, seconds: stall.seconds });
    }
    assert_eq!((all.count, all.longest.len()), (250, STALLS));
    assert_eq!((all.longest[0].seconds, all.longest[99].seconds), (249.0, 150.0));
    assert_eq!(all.seconds, f64::from(249 * 250 / 2));
}

#[test]
fn what_is_omitted_is_in_no_sum_and_its_intervals_say_so() {
    // In the first of three seconds every message takes 9 ms, 10 are lost, one comes twice and there is a stall; then 1 ms.
    let rules = Rules { omit: 1, ..rules(3 * SECOND) };
    let slow = (0..990u64).filter(|n| !(500..510).contains(n) && !(600..650).contains(n)).map(|n| (n, 9));
    let late = (600..650u64).map(|n| (n, 60));
    let trace: Vec<_> = slow.clone().take(590).chain(late).chain(slow.skip(590)).collect();
    let mut tally = Tally::new(rules, ZERO);
    let mut last = ZERO;
    for (seq, delay) in trace.iter().map(|(n, d)| (*n, d * MS)).chain((990..3000).map(|n| (n, MS))) {
        let due = ZERO + seq * MS;
        last = last.max(due + delay);
        tally.arrived(&header(seq, due), last);
        if seq == 700 {
            tally.arrived(&header(seq, due), last);
        }
    }
    assert_eq!(tally.received(), 2990);
    let found = tally.finish(Some(3000), last);
    let omitted: Vec<_> = found.pieces.iter().map(|p| (p.sums.omitted, p.sums.lost_packets)).collect();
    assert_eq!(omitted, [(true, 10), (false, 0), (false, 0)]);
    assert_eq!((found.pieces[0].sums.duplicates, found.pieces[0].sums.late > 900), (1, true));
    let sums = &found.sums;
    assert_eq!((sums.start, sums.lost_packets, sums.duplicates, sums.late), (1.0, 0, 0, 0));
    // Those due in the last millisecond of the first second came in the second one.
    assert_eq!(sums.packets, 2001);
    assert!((sums.seconds - 2.0).abs() < 0.01 && found.stalls.count == 0);
    let mut h = histogram();
    found.delays.add_to(&mut h, 0);
    assert_eq!(Distribution::of(&h, 0).max as u64 / MS, 1);
}

#[test]
fn stopped_before_its_sums_began_a_stream_has_found_nothing() {
    let found = play(Rules { omit: 2, ..rules(5 * SECOND) }, (0..1500).map(|n| (n, 0)), None);
    assert_eq!((found.sums.packets, found.sums.lost_packets, found.sums.seconds), (0, 0, 0.0));
}
