//! Files that a report is made of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::core::Projected;
use crate::result::Series;

/// All that was read.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// Results of `s2bench compare` and `s2bench sink`.
    pub series: Vec<Series>,
    /// Results of `s2bench core`.
    pub cores: Vec<Core>,
}

/// A result of `s2bench core`, of which a report shows cycles and projection.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct Core {
    pub start: CoreStart,
    pub rows: Vec<CoreRow>,
    pub projection: Vec<Projected>,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct CoreStart {
    /// `measured` or `quick`.
    pub label: String,
    pub date: String,
    pub cpu: String,
    pub kernel: String,
    pub commit: String,
    pub dpdk: String,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CoreRow {
    /// Its name.
    pub name: String,
    /// What ran.
    pub title: String,
    /// `cycles` or another.
    pub unit: String,
    /// A figure a round.
    pub figures: Vec<f64>,
}

impl Input {
    /// Reads files, each of either kind.
    ///
    /// # Errors
    /// One cannot be read, is not JSON or is no result; the message names it, the place and what would be right. Partial results
    /// are no error.
    pub fn read(files: &[PathBuf]) -> Result<Input> {
        let mut input = Input::default();
        for (n, file) in files.iter().enumerate() {
            if files.iter().take(n).any(|before| before == file) {
                bail!("{} is given twice; its runs would count twice", file.display());
            }
            input.add(file)?;
        }
        Ok(input)
    }

    fn add(&mut self, file: &Path) -> Result<()> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        if text.trim().is_empty() {
            bail!("{} is empty; the run that should have written it did not end", file.display());
        }
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        let has = |key: &str| value.get(key).is_some();
        if has("runs") || has("intervals") {
            self.series.push(Series::read(file)?);
        } else if has("rows") && has("projection") {
            let wrong = || format!("{} looks like a result of `s2bench core`, but is none", file.display());
            self.cores.push(serde_json::from_str(&text).with_context(wrong)?);
        } else {
            bail!(
                "{} is no result that a report can be made of: give files of `s2bench compare --json`, `s2bench sink \
                 --profile ... --json` or `s2bench core --json`",
                file.display()
            );
        }
        Ok(())
    }

    /// All runs and omissions as one series, which reads back as these files do.
    #[must_use]
    pub fn together(&self) -> Series {
        let titles: Vec<&str> = self.series.iter().map(|s| s.title.as_str()).collect();
        let errors: Vec<&str> = self.series.iter().filter_map(|s| s.error.as_deref()).collect();
        Series {
            title: titles.join("; "),
            runs: self.series.iter().flat_map(|s| s.runs.clone()).collect(),
            omitted: self.series.iter().flat_map(|s| s.omitted.clone()).collect(),
            partial: self.series.iter().any(|s| s.partial),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }
}
