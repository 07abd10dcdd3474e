//! Claims held against virtual time: exact where nothing is left to chance, else within bounds that follow from the number of
//! packets and a fixed seed.

use forwarder::io::memory::HeapBuf;
use proptest::prelude::*;

use super::*;
use crate::wan::shape::{Asked, Spread};
use crate::wan::units::{Outage, Queue, Rate, Share, Time};

const MS: u64 = 1_000_000;

fn asked(of: impl FnOnce(&mut Asked)) -> Asked {
    let mut asked = Asked { packets: Some(200_000), ..Asked::default() };
    of(&mut asked);
    asked
}

fn direction(of: impl FnOnce(&mut Asked)) -> Direction<HeapBuf> {
    Direction::new(asked(of).shape(None).unwrap(), 7, 0, 1500)
}

/// A frame of `len` bytes with a number behind its Ethernet header.
fn frame(number: u32, len: usize) -> HeapBuf {
    let mut frame = HeapBuf::new(len);
    assert!(frame.resize(len));
    frame.head_mut()[12..14].copy_from_slice(&[0x08, 0x00]);
    frame.head_mut()[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &HeapBuf) -> u32 {
    u32::from_be_bytes(frame.head()[14..18].try_into().unwrap())
}

fn copy(frame: &HeapBuf) -> Option<HeapBuf> {
    Some(HeapBuf::from_frame(frame.head()))
}

/// Offers frames of `len` bytes, one every `gap` ns, and takes all out at the time each is due: number and time.
fn carry(direction: &mut Direction<HeapBuf>, frames: u32, len: usize, gap: u64) -> Vec<(u32, u64)> {
    let mut out = Vec::new();
    let mut take = |direction: &mut Direction<HeapBuf>, until: u64| {
        while let Some(due) = direction.next_due().filter(|due| *due <= until) {
            let early = due.checked_sub(1).and_then(|early| direction.take(early));
            assert!(early.is_none(), "released before its time");
            let held = direction.take(due).unwrap();
            assert_eq!(held.due, due);
            out.push((number(&held.packet), due));
        }
    };
    for n in 0..frames {
        let now = u64::from(n) * gap;
        take(direction, now);
        direction.offer(frame(n, len), now, copy);
    }
    take(direction, u64::MAX);
    assert_eq!(unaccounted(direction), 0);
    out
}

fn unaccounted<B: PacketBuf>(direction: &Direction<B>) -> i64 {
    let c = direction.counts();
    let known = c.released + direction.held() + c.dropped.iter().sum::<u64>();
    (c.received + c.duplicated) as i64 - known as i64
}

fn dropped(direction: &Direction<HeapBuf>, reason: Reason) -> u64 {
    direction.counts().dropped[reason as usize]
}

/// That a count of `n` tries of odds `p` is within five standard deviations of its mean: a fair coin fails once in 1.7 million.
#[track_caller]
fn assert_binomial(count: u64, n: u64, p: f64) {
    let (mean, sd) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    assert!((count as f64 - mean).abs() <= 5.0 * sd, "{count} of {n} where {mean} +- {sd} are expected");
}

#[test]
fn a_delay_is_exact_and_keeps_order() {
    let mut d = direction(|a| a.delay = Some(Time(10 * MS)));
    let out = carry(&mut d, 1000, 60, 3);
    let wanted: Vec<_> = (0..1000).map(|n| (n, 10 * MS + u64::from(n) * 3)).collect();
    assert_eq!(out, wanted);
    // Those that come at one time leave in the order they came.
    let out = carry(&mut direction(|a| a.delay = Some(Time(5))), 100, 60, 0);
    assert_eq!(out, (0..100).map(|n| (n, 5)).collect::<Vec<_>>());
}

#[test]
fn a_direction_that_is_asked_for_nothing_is_a_wire() {
    let mut d = direction(|_| {});
    assert_eq!(carry(&mut d, 100, 1514, 7), (0..100).map(|n| (n, u64::from(n) * 7)).collect::<Vec<_>>());
    assert_eq!(d.counts().dropped, [0; 5]);
}

#[test]
fn rate_and_delay_add_up() {
    // 1000 bytes and 24 at 8.192 Mbit/s take a millisecond; twice as much is offered, and 3 ms may wait.
    let mut d = direction(|a| {
        a.delay = Some(Time(20 * MS));
        a.rate = Some(Rate(8_192_000));
        a.queue = Some(Queue::Time(Time(3 * MS)));
    });
    let out = carry(&mut d, 1000, 1000, MS / 2);
    assert_eq!(out.len() as u64 + dropped(&d, Reason::Queue), 1000);
    // Back to back, from the first to the last, each a millisecond after the other.
    for (n, (_, due)) in out.iter().enumerate() {
        assert_eq!(*due, 21 * MS + n as u64 * MS);
    }
    // Half the packets pass, and those that waited in the end.
    assert_eq!(out.len(), 503);
    let longest = out.iter().map(|(n, due)| due - 21 * MS - u64::from(*n) * MS / 2).max();
    assert_eq!(longest, Some(3 * MS));
}

#[test]
fn losses_are_binomial() {
    for p in [0.0001, 0.01, 0.3, 1.0] {
        let mut d = direction(|a| a.loss = Some(Share(p)));
        let out = carry(&mut d, 100_000, 60, 100);
        assert_binomial(dropped(&d, Reason::Loss), 100_000, p);
        assert_eq!(out.len() as u64 + dropped(&d, Reason::Loss), 100_000);
    }
}

#[test]
fn bursts_have_the_mean_loss_and_length_of_gilbert_and_elliott() {
    let bursts: crate::wan::units::BurstLoss = "1% 25%".parse().unwrap();
    let mut d = direction(|a| a.burst_loss = Some(bursts));
    let n = 200_000u32;
    let out = carry(&mut d, n, 60, 100);
    let mut arrived = vec![false; n as usize];
    out.iter().for_each(|(number, _)| arrived[*number as usize] = true);
    let lost = dropped(&d, Reason::Loss) as f64;
    let begins = (1..arrived.len()).filter(|i| !arrived[*i] && arrived[i - 1]).count() as f64;
    // The chain's loss has a variance larger than a coin's, by (2 - p - r) / (p + r).
    let (p, r) = (0.01, 0.25);
    let mean = f64::from(n) * bursts.mean();
    let sd = (mean * (1.0 - bursts.mean()) * (2.0 - p - r) / (p + r)).sqrt();
    assert!((lost - mean).abs() < 5.0 * sd, "{lost} lost where {mean} +- {sd} are expected");
    // A burst's length is geometric: mean 1/r, deviation sqrt(1-r)/r.
    let sd = (1.0f64 - r).sqrt() / r / begins.sqrt();
    assert!((lost / begins - bursts.burst()).abs() < 5.0 * sd, "bursts of {}", lost / begins);
}

#[test]
fn the_good_state_loses_by_its_own_share() {
    let mut d = direction(|a| a.burst_loss = Some("50% 50% 20% 10%".parse().unwrap()));
    carry(&mut d, 100_000, 60, 100);
    // With p + r = 1 the states follow each other by chance alone, and the losses are a coin's.
    assert_binomial(dropped(&d, Reason::Loss), 100_000, 0.15);
}

#[test]
fn duplicates_follow_right_behind_and_are_counted() {
    let mut d = direction(|a| {
        a.delay = Some(Time(MS));
        a.duplicate = Some(Share(0.05));
    });
    let out = carry(&mut d, 50_000, 60, 100);
    assert_binomial(d.counts().duplicated, 50_000, 0.05);
    assert_eq!(out.len() as u64, 50_000 + d.counts().duplicated);
    assert_eq!(out.windows(2).filter(|w| w[0] == w[1]).count() as u64, d.counts().duplicated);
    assert_eq!(d.counts().reordered, 0);
}

#[test]
fn a_copy_that_cannot_be_had_is_a_named_drop() {
    let mut d = direction(|a| a.duplicate = Some(Share(1.0)));
    d.offer(frame(0, 60), 0, |_| None);
    assert_eq!((d.counts().duplicated, dropped(&d, Reason::Memory), d.held()), (1, 1, 1));
    assert_eq!(unaccounted(&d), 0);
}

#[test]
fn corruption_flips_one_bit_behind_the_header_and_keeps_the_length() {
    let mut d = direction(|a| a.corrupt = Some(Share(0.1)));
    let original = frame(0, 1000);
    let mut flipped = std::collections::BTreeSet::new();
    for now in 0..20_000 {
        d.offer(frame(0, 1000), now, copy);
        let got = d.take(now).unwrap().packet;
        assert_eq!(got.frame_len(), 1000);
        let differs = |i: &usize| got.head()[*i] != original.head()[*i];
        let bits: Vec<usize> = (0..1000).filter(differs).collect();
        assert!(bits.len() <= 1 && bits.iter().all(|at| *at >= 14), "{bits:?}");
        if let Some(at) = bits.first() {
            assert_eq!((got.head()[*at] ^ original.head()[*at]).count_ones(), 1);
            flipped.insert(*at);
        }
    }
    assert_binomial(d.counts().corrupted, 20_000, 0.1);
    assert!(flipped.len() > 800, "{} places of 986", flipped.len());
    // A frame without a body has nothing to flip.
    flip(&mut [0; 14], 3);
    flip(&mut [], 3);
}

#[test]
fn some_jump_ahead_or_are_held_back() {
    let ahead = |a: &mut Asked| {
        a.delay = Some(Time(10 * MS));
        a.reorder = Some(Share(0.02));
        a.reorder_ahead = Some(Time(4 * MS));
    };
    let mut d = direction(ahead);
    let out = carry(&mut d, 20_000, 60, MS / 10);
    assert_binomial(d.counts().displaced, 20_000, 0.02);
    let early = out.iter().filter(|(n, due)| *due == u64::from(*n) * MS / 10 + 6 * MS).count() as u64;
    let usual = out.iter().filter(|(n, due)| *due == u64::from(*n) * MS / 10 + 10 * MS).count() as u64;
    assert_eq!((early, early + usual), (d.counts().displaced, 20_000));
    // By RFC 4737 those are reordered that come after a later one: here the overtaken, 39 a jump, save where jumps are close.
    assert!(d.counts().reordered > 20 * d.counts().displaced, "{:?}", d.counts());

    let mut d = direction(|a| {
        a.delay = Some(Time(10 * MS));
        a.reorder = Some(Share(0.02));
        a.reorder_back = Some(Time(2 * MS));
    });
    let out = carry(&mut d, 20_000, 60, MS / 10);
    let late = out.iter().filter(|(n, due)| *due == u64::from(*n) * MS / 10 + 12 * MS).count() as u64;
    assert_eq!(late, d.counts().displaced);
    assert!(out.windows(2).filter(|w| w[0].0 > w[1].0).count() > 0);
    // Nearly each of those was passed by others; only those at the very end, or behind another, were not.
    assert!(d.counts().reordered * 10 > d.counts().displaced * 9, "{:?}", d.counts());
}

#[test]
fn jitter_has_its_mean_and_size_and_reorders_only_when_told() {
    for (spread, sd) in [(Spread::Uniform, 2.0 / 3f64.sqrt()), (Spread::Normal, 2.0), (Spread::Pareto, 2.0)] {
        let shape = |reorders| {
            move |a: &mut Asked| {
                a.delay = Some(Time(20 * MS));
                a.jitter = Some(Time(2 * MS));
                a.distribution = Some(spread);
                a.jitter_reorders = Some(reorders);
            }
        };
        let n = 100_000;
        let mut d = direction(shape(true));
        // Far apart, so that what is measured is the draw.
        let delays: Vec<f64> = carry(&mut d, n, 60, MS / 100)
            .iter()
            .map(|(n, due)| (due - u64::from(*n) * MS / 100) as f64 / MS as f64)
            .collect();
        let mean = delays.iter().sum::<f64>() / f64::from(n);
        let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!((mean - 20.0).abs() < 5.0 * sd / f64::from(n).sqrt(), "{spread:?}: mean {mean}");
        // The Pareto's fourth moment is infinite, so its sample variance is not sharp.
        let slack = if spread == Spread::Pareto { 0.3 } else { 0.02 };
        assert!((variance.sqrt() / sd - 1.0).abs() < slack, "{spread:?}: deviation {}", variance.sqrt());
        assert!(d.counts().reordered > 0);
        let least = delays.iter().copied().fold(f64::INFINITY, f64::min);
        match spread {
            Spread::Uniform => assert!((18.0..18.01).contains(&least)),
            Spread::Normal => assert!(least < 14.0),
            Spread::Pareto => assert!(least > 18.8, "{least}"),
        }

        let mut d = direction(shape(false));
        let out = carry(&mut d, n, 60, MS / 100);
        assert_eq!(d.counts().reordered, 0);
        assert!(out.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
    }
}

#[test]
fn the_mtu_is_the_ip_packet_whatever_the_tags() {
    let mut d = Direction::new(asked(|_| {}).shape(None).unwrap(), 1, 0, 1400);
    let offer = |d: &mut Direction<HeapBuf>, len: usize, tags: &[[u8; 2]]| {
        let mut frame = frame(0, len);
        for (i, tag) in tags.iter().enumerate() {
            frame.head_mut()[12 + 4 * i..14 + 4 * i].copy_from_slice(tag);
        }
        let before = dropped(d, Reason::Mtu);
        d.offer(frame, 0, copy);
        dropped(d, Reason::Mtu) == before
    };
    let (c, s) = ([0x81, 0x00], [0x88, 0xa8]);
    assert!(offer(&mut d, 1414, &[]) && !offer(&mut d, 1415, &[]));
    assert!(offer(&mut d, 1418, &[c]) && !offer(&mut d, 1419, &[c]));
    assert!(offer(&mut d, 1422, &[s, c]) && !offer(&mut d, 1423, &[s, c]));
    assert!(!offer(&mut d, 1426, &[c, c, c]), "a third tag is a part of the packet");
    assert_eq!(unaccounted(&d), 0);
}

#[test]
fn a_link_is_down_when_its_schedule_says() {
    let down = "10ms for 5ms every 20ms".parse::<Outage>().unwrap();
    let mut d = direction(|a| {
        a.delay = Some(Time(MS));
        a.down = vec![down];
    });
    let out = carry(&mut d, 100, 60, MS);
    let gone: Vec<u32> = (0..100).filter(|n| !out.iter().any(|(o, _)| o == n)).collect();
    let wanted: Vec<u32> = (0..100).filter(|n| *n >= 10 && (n - 10) % 20 < 5).collect();
    assert_eq!(gone, wanted);
    assert_eq!(dropped(&d, Reason::Down), 25);
    // What was under way when it went down arrives.
    assert!(out.contains(&(9, 10 * MS)));
}

#[test]
fn what_there_is_no_room_for_is_a_named_drop() {
    let mut d = direction(|a| {
        a.delay = Some(Time(MS));
        a.packets = Some(10);
    });
    for n in 0..25 {
        d.offer(frame(n, 60), 0, copy);
    }
    assert_eq!((d.held(), dropped(&d, Reason::Memory), unaccounted(&d)), (10, 15, 0));
}

/// All harms at once.
fn everything(a: &mut Asked) {
    a.delay = Some(Time(5 * MS));
    a.jitter = Some(Time(MS));
    a.distribution = Some(Spread::Pareto);
    a.loss = Some(Share(0.05));
    a.burst_loss = Some("2% 30%".parse().unwrap());
    a.reorder = Some(Share(0.05));
    a.duplicate = Some(Share(0.05));
    a.corrupt = Some(Share(0.05));
}

#[test]
fn a_seed_is_a_fate_and_another_is_another() {
    let run = |seed, path| {
        let mut d = Direction::new(asked(everything).shape(None).unwrap(), seed, path, 1500);
        carry(&mut d, 5000, 100, 1000)
    };
    assert_eq!(run(1, 0), run(1, 0));
    assert_ne!(run(1, 0), run(2, 0));
    assert_ne!(run(1, 0), run(1, 1));
}

#[test]
fn the_clock_does_not_change_whom_chance_meets() {
    let lost = |gap, more: fn(&mut Asked)| {
        let mut d = direction(|a| {
            a.loss = Some(Share(0.1));
            more(a);
        });
        let out = carry(&mut d, 5000, 1000, gap);
        (0..5000).filter(|n| !out.iter().any(|(o, _)| o == n)).collect::<Vec<u32>>()
    };
    let plain = lost(1000, |_| {});
    assert_eq!(lost(77, |_| {}), plain);
    // One harm more leaves the others as they were.
    assert_eq!(lost(1000, |a| a.duplicate = Some(Share(0.5))), plain);
    // A queue that overflows loses others besides, and no other fates.
    let with_queue = lost(1000, |a| {
        a.rate = Some(Rate(4_000_000_000));
        a.queue = Some(Queue::Packets(10));
    });
    assert!(plain.len() < with_queue.len() && plain.iter().all(|n| with_queue.contains(n)));
}

proptest! {
    #[test]
    fn every_packet_is_accounted_for(
        seed in any::<u64>(),
        shares in proptest::array::uniform4(0.0..1.0f64),
        (delay, jitter, room) in (0..20 * MS, 0.0..1.0f64, 1..200u32),
        rate in proptest::option::of(1_000_000..10_000_000_000u64),
        queue in prop_oneof![
            (1..100u32).prop_map(Queue::Packets),
            (1..100_000u64).prop_map(Queue::Bytes),
            (0..10 * MS).prop_map(|t| Queue::Time(Time(t))),
        ],
        reorders in any::<bool>(),
        steps in proptest::collection::vec((0..2 * MS, 20..2000usize, any::<bool>()), 1..300),
    ) {
        let asked = Asked {
            delay: Some(Time(delay + 1)),
            jitter: Some(Time(((delay as f64) * jitter) as u64 + 1)),
            jitter_reorders: Some(reorders),
            rate: rate.map(Rate),
            queue: rate.map(|_| queue),
            loss: Some(Share(shares[0])),
            duplicate: Some(Share(shares[1])),
            corrupt: Some(Share(shares[2])),
            reorder: Some(Share(shares[3])),
            down: vec!["10ms for 1ms every 7ms".parse().unwrap()],
            packets: Some(room),
            ..Asked::default()
        };
        let mut d = Direction::new(asked.shape(None).unwrap(), seed, 0, 1500);
        let (mut now, mut last, mut taken) = (0, 0, 0u64);
        for (n, (gap, len, takes)) in (0..).zip(&steps) {
            now += gap;
            d.offer(frame(n, *len), now, |f| (n % 3 > 0).then(|| copy(f)).flatten());
            prop_assert!(d.held() <= u64::from(room));
            while let Some(held) = takes.then(|| d.take(now)).flatten() {
                prop_assert!(held.due <= now);
                last = held.due.max(last);
                taken += 1;
            }
            prop_assert_eq!(unaccounted(&d), 0);
            prop_assert_eq!(d.counts().released, taken);
        }
        let mut before = 0;
        while let Some(held) = d.take(u64::MAX) {
            prop_assert!(held.due >= before);
            before = held.due;
        }
        prop_assert_eq!((d.held(), unaccounted(&d)), (0, 0));
        prop_assert_eq!(d.counts().received, steps.len() as u64);
    }
}
