//! Reports, from outside.

mod command;
mod fixture;
mod page;
mod summary;
