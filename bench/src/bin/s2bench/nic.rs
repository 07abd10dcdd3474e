//! `s2bench nic-test`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bench::guest::Model;
use bench::{nic, topology};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Tries these alone.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NIC,...")]
    nic: Vec<Model>,
    /// Writes the results as JSON, to a file or in place of the table.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Writes the table as a Markdown page.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    topology::enter_user_namespace().map_err(anyhow::Error::msg)?;
    let nics = if args.nic.is_empty() { Model::ALL.to_vec() } else { args.nic.clone() };
    let report = nic::run(&nics)?;
    let write = |file: &PathBuf, text: String| {
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    let json = || serde_json::to_string_pretty(&report);
    match &args.json {
        Some(file) if file.as_os_str() == "-" => println!("{}", json()?),
        Some(file) => write(file, json()? + "\n")?,
        None => {}
    }
    if args.json.as_ref().is_none_or(|f| f.as_os_str() != "-") {
        println!("{report}");
    }
    if let Some(file) = &args.markdown {
        write(file, report.markdown())?;
    }
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
