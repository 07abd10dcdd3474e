//! Tables for people: what `s2ds --check` and `s2ctl` print.

use std::fmt;

/// Rows under a heading, columns as wide as their widest cell, two spaces between them.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with this heading. A column whose name begins with `>` is aligned to the right.
    pub fn new(heading: &[&str]) -> Self {
        let right = heading.iter().map(|name| name.starts_with('>')).collect();
        let names = heading.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![names], right }
    }

    /// Adds a row. Control characters in it are shown escaped, so that no cell can drive the terminal.
    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        let clean = |cell: String| match cell.chars().any(char::is_control) {
            true => cell.escape_debug().to_string(),
            false => cell,
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }
}

impl fmt::Display for Table {
    /// One line a row, each ended by a newline, without spaces at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = vec![0; self.right.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let pad = " ".repeat(width - cell.chars().count());
                let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.extend([before, cell, after, "  "]);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_control_characters_are_shown() {
        let mut table = Table::new(&["NAME", ">N", "X"]);
        table.row(["a".to_owned(), "1".to_owned(), String::new()]);
        table.row(["long\x1b".to_owned(), "100".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "NAME          N  X\na             1\nlong\\u{1b}  100  x\n");
    }
}
