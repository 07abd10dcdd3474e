//! `--fix`: writes what safe mends say, and looks whether it took.

use std::fs;

use serde::Serialize;

use super::finding::{Mend, Write};
use super::host::Root;

/// What became of a mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What was found.
    pub what: String,
    /// What was done, as root's shell would do it.
    pub command: String,
    /// Did every file take what was written?
    pub done: bool,
    /// What happened, in a sentence.
    pub result: String,
}

/// Writes a safe mend's texts below a root, each file read again after. A mend that is not safe does nothing.
pub fn fix(root: &Root, what: &str, mend: &Mend) -> Fix {
    let results: Vec<Result<(), String>> = mend.writes.iter().map(|w| write(root, w)).collect();
    let failed: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    let result = match (failed.first(), results.len()) {
        (Some(first), all) if all > 1 => {
            format!("{} of {all} files failed; the first: {first}", failed.len())
        }
        (Some(first), _) => (*first).clone(),
        (None, 0) => "nothing: it is for people to do".to_owned(),
        (None, 1) => "done".to_owned(),
        (None, all) => format!("done, {all} files"),
    };
    Fix {
        what: what.to_owned(),
        command: mend.command.clone(),
        done: failed.is_empty() && !results.is_empty(),
        result,
    }
}

/// The file must be there: a name with a mistake in it shall not become a new file.
fn write(root: &Root, write: &Write) -> Result<(), String> {
    let (path, text) = (root.at(&write.file), &write.text);
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).truncate(true).open(&path);
    let written =
        opened.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{text}\n").as_bytes()));
    written.map_err(|e| format!("{} cannot be written ({e}); run as root", write.file))?;
    let now = root.text(&write.file).unwrap_or_default();
    // A choice among words is marked with brackets; numbers may be parted by other white space.
    let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let took = words(&now) == words(text) || now.contains(&format!("[{text}]"));
    match took {
        true => Ok(()),
        false => Err(format!("{} is {now}, not {text}: the kernel gave what it could", write.file)),
    }
}
