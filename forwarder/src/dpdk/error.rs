use std::ffi::CStr;

/// What DPDK could not do; each message is a sentence that ends with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DpdkError {
    /// The environment abstraction layer did not start.
    #[error("DPDK cannot start: {problem}; {mend}")]
    Eal {
        /// What was wrong.
        problem: String,
        /// What to do.
        mend: String,
    },
    /// A mempool was not made.
    #[error("packet memory \"{pool}\" cannot be had: {problem}; {mend}")]
    Pool {
        /// The pool's name.
        pool: String,
        /// What was wrong.
        problem: String,
        /// What to do.
        mend: String,
    },
    /// A port was not opened; its device is as it was before.
    #[error("port \"{port}\" (device {device}) cannot be opened: {problem}; {mend}")]
    Port {
        /// The port's name in the configuration.
        port: String,
        /// `device` from the configuration.
        device: String,
        /// What was wrong.
        problem: String,
        /// What to do.
        mend: String,
    },
    /// A thread could not be made known to EAL.
    #[error("a worker thread cannot be registered with DPDK: {problem}; run fewer workers in this process")]
    Thread {
        /// What was wrong.
        problem: String,
    },
    /// A telemetry command was not registered.
    #[error(
        "the telemetry command {path} cannot be registered: {problem}; give each command its own short path"
    )]
    Telemetry {
        /// The command.
        path: String,
        /// What was wrong.
        problem: String,
    },
}

/// DPDK's text for an errno, positive or negative.
pub(super) fn errno_text(errno: i32) -> String {
    // SAFETY: rte_strerror takes any value and returns a NUL-terminated string, static or of this thread.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(errno.abs())) };
    text.to_string_lossy().into_owned()
}

/// `rte_errno` of this thread.
pub(super) fn last_errno() -> i32 {
    // SAFETY: reads a thread-local integer.
    unsafe { dpdk_sys::s2_errno() }
}
