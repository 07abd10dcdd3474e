//! The page, Markdown, CSV and JSON, of what looks like a real comparison and of what nobody would wish for.

use std::path::{Path, PathBuf};

use bench::report::{Input, Summary, json, markdown, page};
use bench::result::{Label, Run, Series, Stall};

use crate::fixture::{comparison, empty, known, path, series};

/// A place for files to look at, in target/.
fn place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

fn core_result() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results/core-2026-11-23.json")
}

fn rendered(input: &Input) -> String {
    let html = page(input, &Summary::of(&input.series));
    whole(&html);
    html
}

/// The SVGs of a page.
fn svgs(html: &str) -> Vec<&str> {
    html.match_indices("<svg").map(|(at, _)| html[at..].split_inclusive("</svg>").next().unwrap()).collect()
}

/// What must hold of every page: no script, nothing from elsewhere, tags that close, no figure that is none.
fn whole(html: &str) {
    for foreign in ["http:", "https:", "//", "<script", "<link", "<img", "<iframe", "@import", "url(", "src="]
    {
        assert!(!html.contains(foreign), "the page has {foreign}");
    }
    for wrong in ["NaN", "inf ", "Infinity"] {
        assert!(!html.contains(wrong), "the page says {wrong}");
    }
    // Void elements of HTML, by which it is no XML.
    let xml = html.replacen("<!DOCTYPE html>", "", 1);
    let xml = [
        "<meta charset=\"utf-8\">",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
    ]
    .iter()
    .fold(xml, |xml, void| xml.replacen(void, "", 1));
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, _) =
            tag.split_once('>').unwrap_or_else(|| panic!("an open < before {:?}", &tag[..tag.len().min(60)]));
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop().as_deref(), Some(name), "tags that cross"),
            (false, false) => open.push(name.to_owned()),
            (false, true) => (),
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

#[test]
fn a_comparison_has_every_plot_and_every_approach() {
    let mut input = Input::read(&[core_result()]).unwrap();
    input.series.push(comparison(5));
    let html = rendered(&input);
    std::fs::write(place("comparison.html"), &html).unwrap();
    let svgs = svgs(&html);
    // Throughput; added; 3 distributions; 6 over time; processor and cycles of 2 streams; the core's.
    assert_eq!(svgs.len(), 1 + 1 + 3 + 6 + 4 + 1);
    let names =
        ["direct", "nftables", "haproxy", "nginx", "stunnel", "socat", "naive", "s2ds-af_xdp-adaptive"];
    for name in names {
        assert!(svgs[0].contains(&format!(">\n{name}\n<")), "{name} is not in the plot of throughput");
        assert!(html.contains(&format!("{name} --config")), "the settings of {name} are missing");
    }
    for part in [
        "5 ms, 10.0 Gbit/s",
        "119 ms, 10.0 Gbit/s, 0.001 % loss",
        "99.99",
        "10 stalls",
        "PowerEdge R7515",
        "not_for_us 18,000",
        "cannot carry udp",
        "AMD EPYC 7313P",
        "evaluation on FABRIC, 2022",
        "Mathis",
        ">projected<",
        ">published<",
        ">measured<",
        "72.2 Gbit/s",
        "light-source",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    assert!(!html.contains("A quick run"));
}

#[test]
fn names_are_text_whatever_they_hold() {
    let evil = "<script>alert('1')</script>&\"\u{1}\u{7}]]>";
    let long = "x".repeat(5000);
    let mut runs: Vec<Run> = comparison(1).runs.into_iter().take(22).collect();
    for (n, run) in runs.iter_mut().enumerate() {
        let name = if n % 2 == 0 { evil } else { &long };
        let approach = run.start.approach.as_mut().unwrap();
        (approach.name, approach.version) = (format!("{name}{n}"), evil.to_owned());
        approach.settings.push(evil.into());
        run.start.profile = evil.to_owned();
        run.start.path.as_mut().unwrap().preset = Some(name.into());
        run.start.path.as_mut().unwrap().by = evil.into();
        run.start.host.cpu = evil.into();
        run.start.parameters.insert(evil.into(), evil.into());
        run.end.limited_by = vec![evil.into()];
        run.end.error = Some(evil.into());
        for gateway in &mut run.end.gateways {
            gateway.gateway = evil.into();
            gateway.drops.insert(evil.into(), u64::MAX);
        }
    }
    let input = Input { series: vec![Series { title: evil.into(), ..series(runs) }], ..Input::default() };
    let html = page(&input, &Summary::of(&input.series));
    std::fs::write(place("evil.html"), &html).unwrap();
    whole(&html);
    assert!(html.contains("&lt;script&gt;"));
    assert!(svgs(&html).iter().all(|svg| !svg.chars().any(|c| c.is_control() && c != '\n')));
    let text = markdown(&Summary::of(&input.series));
    assert!(!text.contains("<script") && !text.chars().any(|c| c.is_control() && c != '\n'));
    assert_eq!(read_back(&bench::report::csv(&input).unwrap())[0]["approach_version"], evil);
}

#[test]
fn extreme_and_missing_figures_are_drawn_without_harm() {
    let path = path("metro", 5.0, 0.0);
    let mut runs =
        vec![empty("direct", "bulk", &path, 1), empty("s2ds-af_xdp-poll", "light-source", &path, 1)];
    let mut huge = known("haproxy", "bulk", 1, 1e300, 3_000_000_000_000);
    huge.end.stalls = vec![Stall { socket: 0, start: -1e18, seconds: 1e30 }];
    huge.end.cpu.relay = Some(1e-300);
    huge.intervals = comparison(1).runs.remove(0).intervals;
    huge.intervals[0].sum.bits_per_second = f64::MAX;
    huge.end.sum_received.packets = u64::MAX;
    huge.end.sum_received.lost_packets = u64::MAX;
    let mut odd = known("odd", "bulk", 1, -5.0, 1);
    odd.start.path.as_mut().unwrap().rtt_ms = -3.0;
    odd.start.connections = 0;
    odd.end.delay.hdr = "no base64".into();
    let mut unknown = known("unknown", "bulk", 1, 0.0, 1);
    (unknown.start.path, unknown.start.approach, unknown.start.round) = (None, None, None);
    runs.extend([huge, odd, unknown]);
    let html = rendered(&Input { series: vec![series(runs)], ..Input::default() });
    assert!(html.contains("unknown path") && html.contains("unnamed"));
}

#[test]
fn nothing_and_partial_runs_make_a_page_that_says_so() {
    let html = rendered(&Input { series: vec![series(Vec::new())], ..Input::default() });
    assert!(html.contains("there are no runs") && svgs(&html).is_empty());

    let mut half = comparison(1);
    half.runs.truncate(9);
    for run in &mut half.runs {
        run.end.partial = true;
        run.start.label = Label::Quick;
        run.end.error = Some("interrupted".into());
    }
    (half.partial, half.error) = (true, Some("Ctrl-C".into()));
    let html = rendered(&Input { series: vec![half], ..Input::default() });
    std::fs::write(place("partial.html"), &html).unwrap();
    for part in ["is partial: Ctrl-C", "A quick run", "1 partial", "haproxy: interrupted", ">quick<"] {
        assert!(html.contains(part), "{part} is missing");
    }
}

fn read_back(text: &str) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_reader(text.as_bytes()).deserialize().map(Result::unwrap).collect()
}

#[test]
fn csv_has_a_line_a_run_and_columns_that_stay() {
    let mut all = comparison(1);
    all.title = "one, \"two\"\nthree".into();
    all.runs[0].end.error = Some("a, b".into());
    let input = Input { series: vec![all.clone()], ..Input::default() };
    let lines = read_back(&bench::report::csv(&input).unwrap());
    assert_eq!(lines.len(), all.runs.len());
    let (first, run) = (&lines[0], &all.runs[0]);
    assert_eq!((first["series"].as_str(), first["error"].as_str()), ("one, \"two\"\nthree", "a, b"));
    assert_eq!(first["delay_p999"], run.end.delay.p999.to_string());
    assert_eq!(first["bits_per_second"].parse::<f64>().unwrap(), run.end.sum_received.bits_per_second);
    assert_eq!(
        (first["label"].as_str(), first["carrier"].as_str(), first["cpu_relay_seconds"].as_str()),
        ("measured", "tcp", "")
    );
    let ours = lines.iter().find(|l| l["approach"] == "s2ds-af_xdp-poll").unwrap();
    assert_eq!((ours["gateway_received"].as_str(), ours["gateway_dropped"].as_str()), ("4000000", "2002"));
    // Who reads it counts on these.
    for column in [
        "approach",
        "path",
        "rtt_ms",
        "profile",
        "round",
        "partial",
        "pdv_p999",
        "ipdv_p999",
        "cycles_per_packet",
    ] {
        assert!(first.contains_key(column), "{column} is missing");
    }
}

#[test]
fn json_is_read_again_as_what_it_was() {
    let (one, mut two) = (comparison(1), comparison(1));
    two.partial = true;
    let input = Input { series: vec![one.clone(), two], ..Input::default() };
    let file = place("again.json");
    bench::result::write(&file, &json(&input, &Summary::of(&input.series))).unwrap();
    let value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(value["runs"][0]["end"]["sum_received"]["bits_per_second"].is_f64());
    assert_eq!(value["summary"]["goals"][0]["measure"], "goodput");
    let again = Input::read(&[file]).unwrap();
    assert_eq!(again.series[0].runs.len(), one.runs.len() * 2);
    let (was, is) = (&one.runs[0], &again.series[0].runs[0]);
    assert!(
        was.start == is.start
            && was.end.delay.hdr == is.end.delay.hdr
            && was.intervals.len() == is.intervals.len()
    );
    assert!(again.series[0].partial);
}

#[test]
fn markdown_has_goals_approaches_and_who_is_ahead() {
    let input = Input { series: vec![comparison(2)], ..Input::default() };
    let text = markdown(&Summary::of(&input.series));
    for part in ["## Goals", "## Where a peer is ahead", "| s2ds-af\\_xdp-poll |", "## Not run", "Measured."]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    // Every line of a table has as many cells as its heading.
    for table in text.split("\n\n").filter(|t| t.starts_with('|')) {
        let cells: Vec<usize> = table.lines().map(|l| l.replace("\\|", "").matches('|').count()).collect();
        assert!(cells.iter().all(|n| *n == cells[0]), "{table}");
    }
}
