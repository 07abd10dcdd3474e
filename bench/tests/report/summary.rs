//! The summary and its verdicts, of runs whose figures are known.

use bench::report::{Added, Figure, Judged, Summary, Verdict};
use bench::result::{Label, Omitted, Quiet, Run, Series};
use bench::stream::Carrier;

use crate::fixture::{comparison, empty, flat, known, path, series};

const PACED: &str = "light-source";
const FAST: &str = "bulk";

/// Runs of a profile by approach: per round the p99.9 of the variation in nanoseconds, at 1 Gbit/s.
fn paced(approaches: &[(&str, &[u64])]) -> Vec<Run> {
    let each = approaches.iter().flat_map(|(name, rounds)| {
        rounds.iter().zip(1..).map(|(ns, round)| known(name, PACED, round, 1e9, *ns))
    });
    each.collect()
}

fn goal<'a>(summary: &'a Summary, peer: &str) -> &'a Judged {
    summary.goals.iter().find(|g| g.peer == peer).unwrap()
}

/// Within what a histogram of three digits keeps.
fn near(found: f64, wanted: f64) -> bool {
    (found / wanted - 1.0).abs() < 0.005
}

#[test]
fn figures_are_best_and_median_over_rounds() {
    let mut runs: Vec<Run> =
        [3e9, 1e9, 2e9].iter().zip(1..).map(|(r, n)| known("haproxy", FAST, n, *r, 50_000)).collect();
    for (run, lost) in runs.iter_mut().zip([10, 0, 20]) {
        run.end.sum_received.lost_packets = lost;
        run.end.sum_received.late = 1;
        run.end.stall_count = 2;
        run.end.stall_seconds = 0.5;
        run.end.cpu.relay = Some(run.end.sum_received.bytes as f64 / 1e9 * 0.7);
    }
    runs[0].end.limited_by.push("the sink".into());
    let summary = Summary::of(&[series(runs)]);
    let row = summary.groups[0].row("haproxy").unwrap();
    assert_eq!(row.goodput, Some(Figure { best: 3e9, median: 2e9 }));
    assert_eq!((row.rounds, row.partial, row.lost, row.late, row.stalls), (3, 0, 30, 3, 6));
    assert!(near(row.lost_percent, 30.0 * 100.0 / 3030.0) && near(row.stall_seconds, 1.5));
    assert!(near(row.cpu_per_gb.unwrap().median, 0.7));
    assert!(
        near(row.variation_p999.unwrap().median, 50_000.0) && near(row.jitter_p999.unwrap().best, 25_000.0)
    );
    assert_eq!(row.added, None, "the direct route did not run");
    let text = summary.to_string();
    for part in ["metro, tcp, bulk, 4 connections", "3.00 Gbit/s", "2.00 Gbit/s", "50.0 \u{b5}s", "the sink"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn what_a_relay_adds_is_the_difference_of_one_round() {
    // Disturbed alike in round 2: the difference is free of it.
    let pairs = [(120_000.0, 20_000.0), (920_000.0, 820_000.0), (125_000.0, 21_000.0)];
    let Some(Added::Resolved(figure)) = Added::of(&pairs) else { panic!("{:?}", Added::of(&pairs)) };
    assert_eq!(figure, Figure { best: 100_000.0, median: 100_000.0 });
    // The direct route was noisier: no win, only a bound.
    assert_eq!(Added::of(&[(10.0, 50.0), (12.0, 40.0), (11.0, 60.0)]), Some(Added::Below(40.0)));
    // A difference that is smaller than what the direct route strays is none.
    assert_eq!(Added::of(&[(104.0, 100.0), (205.0, 200.0), (305.0, 300.0)]), Some(Added::Below(100.0)));
    assert_eq!(Added::of(&[]), None);
}

#[test]
fn the_jitter_goal_is_a_tenth_of_each_peers() {
    let direct: &[u64] = &[20_000, 20_000, 20_000];
    let mut runs = paced(&[
        ("direct", direct),
        ("haproxy", &[220_000, 220_000, 220_000]),
        ("naive", &[1_020_000, 1_020_000, 1_020_000]),
        ("s2ds-af_packet-poll", &[50_000, 50_000, 50_000]),
        ("s2ds-af_xdp-poll", &[60_000, 40_000, 60_000]),
    ]);
    let summary = Summary::of(&[series(runs.clone())]);
    let haproxy = goal(&summary, "haproxy");
    assert_eq!(haproxy.ours.as_deref(), Some("s2ds-af_packet-poll"));
    assert!(near(haproxy.ratio.unwrap(), 0.15) && haproxy.all.len() == 2);
    assert!(matches!(haproxy.verdict, Verdict::Missed { by } if near(by, 1.5)), "{haproxy:?}");
    assert_eq!(goal(&summary, "naive").verdict, Verdict::Met);
    assert_eq!(summary.ahead, []);

    // A quick run judges nothing, and nobody is ahead in it.
    runs[0].start.label = Label::Quick;
    let quick = Summary::of(&[series(runs)]);
    assert!(quick.goals.iter().all(|g| g.verdict == Verdict::Quick) && quick.ahead.is_empty());
}

#[test]
fn jitter_is_judged_with_and_without_the_machines_hiccups() {
    const MEASURE: &str = "relay-added p99.9 jitter without hiccups";
    // By hiccups alone, everybody's looks like 2 ms.
    let mut runs = paced(&[
        ("direct", &[1_900_000, 2_000_000]),
        ("haproxy", &[2_100_000, 1_900_000]),
        ("s2ds-af_xdp-poll", &[2_000_000, 2_100_000]),
    ]);
    let quiet =
        |ns: u64| Quiet { hiccups: 9, met: 200, delay: flat(ns), variation: flat(ns), ..Quiet::default() };
    for (run, ns) in runs.iter_mut().zip([100_000, 102_000, 300_000, 302_000, 110_000, 112_000]) {
        run.end.quiet = Some(quiet(ns));
    }
    let summary = Summary::of(&[series(runs)]);
    let row = summary.groups[0].row("haproxy").unwrap();
    assert!(
        near(row.quiet_p999.unwrap().best, 300_000.0) && near(row.met_percent.unwrap(), 40_000.0 / 40_400.0)
    );
    let of =
        |measure: &str| summary.goals.iter().find(|g| g.measure == measure && g.peer == "haproxy").unwrap();
    assert!(matches!(of("relay-added p99.9 jitter").verdict, Verdict::Unresolved { .. }));
    let judged = of(MEASURE);
    assert!(matches!(judged.verdict, Verdict::Met) && judged.ratio.unwrap() < 0.06, "{judged:?}");
    let text = summary.to_string();
    for part in [MEASURE, "QUIET PDV P99.9", "301 \u{b5}s"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn what_noise_hides_is_no_win() {
    let noisy: &[u64] = &[100_000, 60_000, 140_000];
    let ours: &[u64] = &[90_000, 70_000, 100_000];
    let of = |haproxy: &[u64]| {
        let runs = paced(&[("direct", noisy), ("haproxy", haproxy), ("s2ds-af_xdp-poll", ours)]);
        Summary::of(&[series(runs)])
    };
    // Ours is below 40 us; a peer that adds 100 us leaves open whether that is a tenth.
    let open = of(&[200_000, 160_000, 240_000]);
    let judged = goal(&open, "haproxy");
    assert!(matches!(judged.verdict, Verdict::Unresolved { .. }) && judged.at_most, "{judged:?}");
    assert!(judged.ratio_text().starts_with("< 0.4"), "{}", judged.ratio_text());
    // A peer that adds a millisecond does not.
    assert_eq!(goal(&of(&[1_100_000, 1_060_000, 1_140_000]), "haproxy").verdict, Verdict::Met);
    // A peer within the noise judges nothing.
    assert!(matches!(goal(&of(noisy), "haproxy").verdict, Verdict::Unresolved { .. }));
    let text = open.to_string();
    assert!(text.contains("< 40.0 \u{b5}s") && text.contains("not resolved"), "{text}");
    assert!(!text.contains("-10"), "a negative share is shown:\n{text}");
}

#[test]
fn a_peer_that_is_ahead_is_named() {
    let mut runs = Vec::new();
    for (name, rate, cpu) in
        [("direct", 9e9, 0.1), ("haproxy", 6e9, 0.4), ("socat", 2e9, 1.5), ("s2ds-af_packet-poll", 4e9, 0.8)]
    {
        let mut run = known(name, FAST, 1, rate, 10_000);
        run.end.cpu.relay = Some(run.end.sum_received.bytes as f64 / 1e9 * cpu);
        runs.push(run);
    }
    let summary = Summary::of(&[series(runs)]);
    assert!(matches!(goal(&summary, "haproxy").verdict, Verdict::Missed { by } if near(by, 1.5)));
    assert_eq!(goal(&summary, "socat").verdict, Verdict::Met);
    let Verdict::NotMeasured { reason } = &goal(&summary, "nginx").verdict else { panic!() };
    assert_eq!(reason, "nginx did not run here");
    let ahead: Vec<String> = summary.ahead.iter().map(ToString::to_string).collect();
    let place = "metro, tcp, bulk, 4 connections: haproxy is ahead of s2ds-af_packet-poll in";
    let wanted = [
        format!("{place} goodput, 6.00 Gbit/s against 4.00 Gbit/s, 1.50 x"),
        format!("{place} processor time a GB, 0.400 s against 0.800 s, 2.00 x"),
    ];
    assert_eq!(ahead, wanted);
}

#[test]
fn partial_runs_are_marked_and_count_only_alone() {
    let mut runs = paced(&[
        ("direct", &[20_000, 20_000]),
        ("haproxy", &[220_000, 90_000]),
        ("s2ds-af_packet-poll", &[21_000, 21_000]),
    ]);
    runs[3].end.partial = true;
    runs[3].end.error = Some("the sink died".into());
    let summary = Summary::of(&[series(runs.clone())]);
    let row = summary.groups[0].row("haproxy").unwrap();
    assert_eq!((row.rounds, row.partial), (1, 1));
    assert!(near(row.variation_p999.unwrap().best, 220_000.0));
    assert!(
        summary.to_string().contains("1 + 1 partial")
            && summary.to_string().contains("haproxy: the sink died")
    );

    runs[2].end.partial = true;
    let summary = Summary::of(&[series(runs)]);
    let row = summary.groups[0].row("haproxy").unwrap();
    assert!(row.rounds == 0 && near(row.variation_p999.unwrap().best, 90_000.0) && row.added.is_none());
    assert!(
        matches!(&goal(&summary, "haproxy").verdict, Verdict::NotMeasured { reason } if reason.contains("ran its time"))
    );
}

#[test]
fn nothing_is_no_figure() {
    let none = Summary::of(&[]);
    assert!(none.groups.is_empty() && none.to_string().contains("there are no runs"));
    let runs =
        ["direct", "haproxy", "s2ds-af_packet-poll"].map(|n| empty(n, PACED, &path("metro", 5.0, 0.0), 1));
    let summary = Summary::of(&[series(runs.into())]);
    let row = summary.groups[0].row("haproxy").unwrap();
    assert!(
        row.delay_p99.is_none() && row.added.is_none() && row.cpu_per_gb.is_none() && row.cycles.is_none()
    );
    let text = summary.to_string();
    assert!(text.contains("not measured: needs the direct route") && !text.contains("NaN"), "{text}");
}

#[test]
fn clocks_that_differ_have_no_delays() {
    let mut run = known("real", PACED, 1, 1e9, 30_000);
    run.start.same_clock = false;
    let summary = Summary::of(&[series(vec![run])]);
    let row = &summary.groups[0].rows[0];
    assert!(row.delay_p50.is_none() && row.variation_p999.is_some());
    assert_eq!(summary.goals, [], "there is nothing of ours");
}

#[test]
fn what_does_not_fit_together_is_told() {
    let mut runs = paced(&[("direct", &[1000, 1000]), ("haproxy", &[1000])]);
    runs[1].start.host.machine = "another".into();
    runs[2].start.parameters.insert("message".into(), 7.into());
    runs[0].start.host.load = Some(1.5);
    let broken = Series { partial: true, error: Some("Ctrl-C".into()), ..series(runs) };
    let summary = Summary::of(&[broken]);
    assert_eq!(summary.groups.len(), 2, "other parameters are another profile");
    let notes = summary.warnings.join("\n");
    for part in [
        "is partial: Ctrl-C",
        "2 machines",
        "2 different sets of parameters",
        "mean over the minute before, was 1.5",
    ] {
        assert!(notes.contains(part), "{part} is missing in {notes}");
    }
}

#[test]
fn a_whole_comparison_has_all_in_it() {
    let mut all = comparison(2);
    all.omitted.push(Omitted {
        approach: "haproxy".into(),
        profile: PACED.into(),
        carrier: Carrier::Quic,
        why: "cannot carry quic".into(),
    });
    // The same omission of two files is one.
    let summary = Summary::of(&[all.clone(), Series { runs: Vec::new(), ..all }]);
    assert_eq!((summary.groups.len(), summary.omitted.len()), (6, 4));
    assert!(summary.groups.iter().all(|g| g.rows.len() == 11));
    assert_eq!(summary.goals.len(), 3 * 2 + 3 * 5);
    let text = summary.to_string();
    assert!(text.contains("cannot carry quic") && text.contains("where a peer is ahead"), "{text}");
    println!("{text}");
}
