//! `s2ctl preflight`: looks at the host, shows what was found, and mends what is safe.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;
use control::preflight::{self, Finding, Fix, Host, Question, Report, Severity, Told, fix};
use forwarder::api::DEFAULT_SOCKET;
use forwarder::api::table::Table;
use forwarder::config::Config;
use serde::Serialize;

use crate::args::{Cli, Preflight};
use crate::show;

/// Exit code when something keeps s2ds from working.
const PROBLEM: u8 = 11;

/// Everything that `--json` prints.
#[derive(Serialize)]
struct Output {
    #[serde(flatten)]
    report: Report,
    /// What `--fix` did, before the report.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fixes: Vec<Fix>,
}

pub(crate) fn run(args: &Preflight, socket: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let asks = args.fix && !args.yes;
    if asks && !io::stdin().is_terminal() {
        let message = "--fix asks before each change, and there is no terminal to ask on; add --yes";
        Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    }
    let config = args.config.as_deref().map(Config::load).transpose()?;
    let path = args
        .rtt
        .zip(args.rate)
        .map(|(rtt, mbits)| preflight::Path { rtt: rtt.as_secs_f64(), rate: mbits as f64 * 1e6 });
    let socket = match &config {
        Some(config) if socket == Path::new(DEFAULT_SOCKET) => config.service.socket.clone(),
        _ => socket.to_owned(),
    };
    let question = Question { config, path };
    let look = || -> anyhow::Result<(Host, Report)> {
        let host = Host::read(args.root.as_deref().unwrap_or(Path::new("/")))?;
        // Programs would speak of the machine, not of a made-up tree.
        let told = if args.root.is_some() { Told::default() } else { Told::ask(&host, &socket) };
        let report = preflight::check(&host, &question, &told);
        Ok((host, report))
    };
    let (host, mut report) = look()?;
    let mut fixes = Vec::new();
    if args.fix {
        if !json {
            say(&text(&report))?;
        }
        for finding in &report.findings {
            let Some(mend) = finding.safe_mend() else { continue };
            if !asks || agreed(finding, &mend.command)? {
                let fix = fix(&host.root, &finding.what, mend);
                if !json {
                    say(&format!("{}: {}\n  {}\n", fix.what, fix.result, fix.command))?;
                }
                fixes.push(fix);
            }
        }
        if !json && fixes.is_empty() {
            say("Nothing was changed.\n")?;
        } else if !json {
            say("\nAfter that:\n\n")?;
        }
        if !fixes.is_empty() {
            report = look()?.1;
        }
    }
    let worst = report.worst();
    let output = Output { report, fixes };
    if json {
        say(&(serde_json::to_string(&output)? + "\n"))?;
    } else if !args.fix || !output.fixes.is_empty() {
        say(&text(&output.report))?;
    }
    Ok(if worst == Severity::Problem { ExitCode::from(PROBLEM) } else { ExitCode::SUCCESS })
}

fn say(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

/// Asks on stderr, so that stdout holds what was found alone. Anything but yes is no.
fn agreed(finding: &Finding, command: &str) -> io::Result<bool> {
    let mut err = io::stderr();
    write!(
        err,
        "{}: {}, should be {}\n  {command}\nDo it? [y/N] ",
        finding.what, finding.is, finding.should
    )?;
    err.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Findings by subject, the path, and a line that sums up.
fn text(report: &Report) -> String {
    let mut table = Table::new(&["STATE", "SURE", "WHAT", "IS"]);
    for f in &report.findings {
        table.row([f.severity.to_string(), f.confidence.to_string(), f.what.clone(), f.is.clone()]);
    }
    let rows = table.to_string();
    let mut lines = rows.lines();
    let mut out = format!("  {}\n", lines.next().unwrap_or_default());
    let mut subject = None;
    for (finding, line) in report.findings.iter().zip(lines) {
        if subject.replace(finding.subject) != Some(finding.subject) {
            _ = writeln!(out, "{}", finding.subject);
        }
        _ = writeln!(out, "  {line}");
        details(finding, &mut out);
    }
    if let Some(path) = &report.path {
        _ = write!(out, "\n{}", show_path(path));
    }
    let count = |kind| report.summary.get(&kind).copied().unwrap_or(0);
    let [problems, warnings, unknown, ok] =
        [Severity::Problem, Severity::Warning, Severity::Unknown, Severity::Ok].map(count);
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let verdict = match problems {
        0 => "nothing keeps s2ds from working",
        _ => "s2ds does not work as it is",
    };
    let (p, w) = (plural(problems), plural(warnings));
    _ = writeln!(
        out,
        "\n{problems} problem{p}, {warnings} warning{w}, {unknown} unknown, {ok} ok: {verdict}"
    );
    out
}

/// What should be, why, and the commands, below a finding that is not as it should be.
fn details(finding: &Finding, out: &mut String) {
    let mut line = |name: &str, text: &str| {
        for (i, part) in text.lines().enumerate() {
            _ = writeln!(out, "           {:<10} {}", if i == 0 { name } else { "" }, clean(part));
        }
    };
    let mend = match finding.severity {
        Severity::Ok => return,
        Severity::Unknown => "tells",
        _ => {
            line("should be", &finding.should);
            "mend"
        }
    };
    line("because", &wrapped(&finding.why));
    if let Some(m) = &finding.mend {
        line(mend, &m.command);
        if m.safe {
            line("", "(--fix does it)");
        }
        m.lasting.iter().for_each(|l| line("for good", l));
    }
}

/// Names from /sys may hold anything; none of it shall drive the terminal.
fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Lines of about 100 characters.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        if width > 0 && width + word.len() > 100 {
            (out, width) = (out + "\n", 0);
        } else if width > 0 {
            (out, width) = (out + " ", width + 1);
        }
        out += word;
        width += word.len();
    }
    out
}

fn show_path(path: &preflight::PathFacts) -> String {
    let rate = |r: f64| format!("{} Gbit/s", three(r / 1e9));
    let bytes = |b: f64| show::bytes(b.min(u64::MAX as f64) as u64);
    let mut out = format!("A path of {} ms and {}\n", three(path.rtt_ms), rate(path.bits_per_second));
    let mut all = Table::new(&["QUANTITY", ">VALUE"]);
    let mut row = |name: &str, value: String| all.row([name.to_owned(), value]);
    row("on the way (bandwidth x delay)", bytes(path.bandwidth_delay));
    row("buffer that each end needs", bytes(path.buffer));
    row("one connection with this host's buffers, at most", path.here.map_or_else(|| "unknown".into(), rate));
    row("one connection with TCP's largest window, at most", rate(path.largest));
    row("connections that fill the path with that", path.connections.to_string());
    let names: Vec<String> = path.by_mtu.iter().map(|m| format!(">MTU {}", m.mtu)).collect();
    let mut heading = vec!["ONE CONNECTION WITH"];
    heading.extend(names.iter().map(String::as_str));
    let mut each = Table::new(&heading);
    let mut row = |name: &str, value: &dyn Fn(&preflight::ByMtu) -> String| {
        each.row(std::iter::once(name.to_owned()).chain(path.by_mtu.iter().map(value)));
    };
    row("segment (MSS), IPv4", &|m| m.mss.to_string());
    row("segment (MSS), IPv6", &|m| m.mss_v6.to_string());
    row("packets on the way", &|m| format!("{:.0}", m.packets));
    row("loss that Reno bears at this rate", &|m| one_in(m.reno_loss));
    row("loss that CUBIC bears at this rate", &|m| one_in(m.cubic_loss));
    row("until Reno is as fast again after a loss", &|m| seconds(m.reno_recovery));
    row("until CUBIC is as fast again after a loss", &|m| seconds(m.cubic_recovery));
    _ = write!(out, "{all}\n{each}");
    out
}

fn three(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn one_in(loss: f64) -> String {
    format!("{loss:.1e}")
}

fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{} ms", three(value * 1e3)) } else { format!("{} s", three(value)) }
}
