//! One report from result files.
