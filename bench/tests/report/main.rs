//! Reports, from outside.

mod fixture;
mod summary;
