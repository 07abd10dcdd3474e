//! What result files say: who did how well, whether our goals are met, and by how much not.
//!
//! [`Summary`] is the pure middle of it: runs in, figures and verdicts out. It prints itself as tables; what makes a page, a
//! Markdown file, CSV or JSON of it stands beside it.

mod arithmetic;
pub mod figure;
mod figures;
mod goals;
mod grid;
mod input;
mod markdown;
mod page;
mod plots;
mod sheet;
mod summary;
pub mod text;

pub use arithmetic::Arithmetic;
pub use figure::Figure;
pub use goals::{Ahead, Judged, Verdict};
pub use grid::Grid;
pub use input::{Core, CoreRow, CoreStart, Input};
pub use markdown::markdown;
pub use page::page;
pub use sheet::{csv, json};
pub use summary::{Added, Group, Row, Setting, Summary, is_ours};
