//! The emulator of scientific streams.
