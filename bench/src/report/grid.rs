//! A table before anybody decided how it is written.

use forwarder::api::table::Table;

/// Rows under a heading. A column whose name begins with `>` is aligned to the right.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// Names of the columns.
    pub heading: Vec<&'static str>,
    /// Cells, as many a row as there are names.
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    /// A table with this heading.
    #[must_use]
    pub fn new(heading: &[&'static str]) -> Grid {
        Grid { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// For a terminal: columns in line, control characters shown.
    #[must_use]
    pub fn text(&self) -> String {
        let names: Vec<String> = self.heading.iter().map(|name| name.to_uppercase()).collect();
        let mut table = Table::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        self.rows.iter().for_each(|row| table.row(row.clone()));
        table.to_string()
    }

    /// As GitHub's Markdown has it; what a cell says is no markup.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let names = self.heading.iter().map(|name| plain(name.trim_start_matches('>')));
        let rules = self.heading.iter().map(|n| if n.starts_with('>') { "---:" } else { "---" }.to_owned());
        let mut out = line(names.collect()) + &line(rules.collect());
        out.extend(self.rows.iter().map(|row| line(row.iter().map(|cell| plain(cell)).collect())));
        out
    }
}

/// Text that Markdown and the HTML within it take for nothing but text.
#[must_use]
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '!' | '#' => out.extend(['\\', c]),
            // A line of a table is a line.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_breaks_its_table() {
        let mut grid = Grid::new(&["name", ">n"]);
        grid.row(["a|b<i>\nc_d".to_owned(), "1".to_owned()]);
        assert_eq!(grid.markdown(), "| name | n |\n| --- | ---: |\n| a\\|b&lt;i&gt; c\\_d | 1 |\n");
        assert!(grid.text().starts_with("NAME         N\n"), "{}", grid.text());
    }
}
