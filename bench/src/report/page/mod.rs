//! The report as one page that needs nothing else: no script, no other file.

mod headlines;
mod paths;
mod sections;
mod verdicts;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::grid::Grid;
use super::input::Input;
use super::summary::Summary;
use crate::result::Label;

/// The page.
#[must_use]
pub fn page(input: &Input, summary: &Summary) -> String {
    let title = "SciStream gateway: streams through each approach";
    let label = sections::label(&summary.groups.iter().collect::<Vec<_>>());
    let html = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (title) }
                    p.sub { (sections::subtitle(input)) }
                }
                @if label == Label::Quick {
                    p.alarm { "A quick run: it shows that everything works. Its figures mean nothing and judge nothing." }
                }
                @if !summary.warnings.is_empty() {
                    ul.alarm { @for warning in &summary.warnings { li { (warning) } } }
                }
                (headlines::headlines(input, summary))
                (verdicts::goals(summary))
                (sections::throughput(summary))
                (sections::jitter(input, summary))
                (sections::over_time(input, summary))
                (sections::cost(input, summary))
                (sections::projection(input))
                (paths::arithmetic(input, summary))
                (paths::ledger(input))
                (sections::tables(summary))
                (sections::settings(input))
                (sections::hosts(input))
                (sections::legend())
            }
        }
    };
    // HTML has no way to write control characters.
    html.into_string().chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// The word for where figures come from.
fn badge(label: Label) -> Markup {
    let word = match label {
        Label::Measured => "measured",
        Label::Quick => "quick",
        Label::Projected => "projected",
        Label::Published => "published",
    };
    html! { span class={ "badge " (word) } { (word) } }
}

/// A plot with what it shows and where it comes from.
fn plot(label: Label, caption: &str, svg: &str) -> Markup {
    html! {
        figure {
            figcaption { (badge(label)) " " (caption) }
            (PreEscaped(svg))
        }
    }
}

/// A table, with classes for what its cells say.
fn table(grid: &Grid) -> Markup {
    let right = |n: usize| grid.heading.get(n).is_some_and(|name| name.starts_with('>'));
    html! {
        div.wide {
            table {
                thead { tr {
                    @for (n, name) in grid.heading.iter().enumerate() {
                        th.n[right(n)] { (name.trim_start_matches('>')) }
                    }
                } }
                tbody {
                    @for row in &grid.rows {
                        tr.ours[row.first().is_some_and(|name| super::summary::is_ours(name))] {
                            @for (n, cell) in row.iter().enumerate() { td.n[right(n)] { (cell) } }
                        }
                    }
                }
            }
        }
    }
}
