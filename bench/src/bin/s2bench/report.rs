//! The command `s2bench report`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bench::report::{self, Input, Summary};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Results of `s2bench compare --json`, `s2bench sink --profile ... --json` and `s2bench core --json`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Writes one page with plots, which needs no other file; "-" writes it to stdout.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Writes tables in Markdown.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    markdown: Option<PathBuf>,
    /// Writes CSV, a line a run.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    csv: Option<PathBuf>,
    /// Writes all runs, in iperf3's shape, and the summary as JSON.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let outputs = [&args.html, &args.markdown, &args.csv, &args.json];
    let given = || outputs.iter().filter_map(|o| o.as_deref());
    if given().filter(|o| *o == Path::new("-")).count() > 1 {
        bail!(
            "only one of --html, --markdown, --csv and --json can be written to stdout; give the others a file"
        );
    }
    for output in given() {
        if args.files.iter().any(|file| file == output) {
            bail!("{} is read and would be overwritten; give the output another name", output.display());
        }
    }
    let input = Input::read(&args.files)?;
    let summary = Summary::of(&input.series);
    if given().next().is_none() {
        // A page beside the first file, and the tables here.
        let beside = args.files.first().map(|f| f.with_file_name("report.html"));
        say(&summary.to_string())?;
        if let Some(file) = beside {
            put(&file, &report::page(&input, &summary))?;
            eprintln!("wrote {}", file.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.html {
        put(file, &report::page(&input, &summary))?;
    }
    if let Some(file) = &args.markdown {
        put(file, &report::markdown(&summary))?;
    }
    if let Some(file) = &args.csv {
        put(file, &report::csv(&input)?)?;
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&report::json(&input, &summary))?;
        put(file, &(text + "\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file whole or not at all; "-" is stdout.
fn put(file: &Path, text: &str) -> Result<()> {
    if file == Path::new("-") {
        return say(text);
    }
    bench::result::write_text(file, text)
}

/// To stdout; a reader that has gone, as `head` does, is no failure.
fn say(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("stdout cannot be written"),
    }
}
