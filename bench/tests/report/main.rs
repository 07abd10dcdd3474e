//! Reports, from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;
mod fixture;
mod page;
mod summary;
