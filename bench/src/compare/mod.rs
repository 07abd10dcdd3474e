//! Approaches side by side.
