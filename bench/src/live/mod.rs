//! The page for the booth's monitor.
