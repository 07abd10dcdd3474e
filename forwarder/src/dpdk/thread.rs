use std::marker::PhantomData;
use std::sync::Arc;

use super::eal::Eal;
use super::error::{DpdkError, errno_text, last_errno};

/// Makes the calling thread known to EAL while it lives, which gives it a mempool cache. It stays on its thread.
///
/// The cache's mbufs count as available; they can be had by this thread only, until another one takes its number.
#[derive(Debug)]
pub struct WorkerThread {
    _eal: Arc<Eal>,
    _not_send: PhantomData<*const ()>,
}

impl WorkerThread {
    /// Registers the calling thread.
    ///
    /// # Errors
    /// The thread is registered already, or EAL has no number left (128 in usual builds).
    pub fn register(eal: &Arc<Eal>) -> Result<Self, DpdkError> {
        // SAFETY: EAL runs.
        unsafe {
            if dpdk_sys::s2_lcore_id() != u32::MAX {
                return Err(DpdkError::Thread { problem: "it is registered already".to_owned() });
            }
            if dpdk_sys::rte_thread_register() < 0 {
                return Err(DpdkError::Thread { problem: errno_text(last_errno()) });
            }
        }
        Ok(Self { _eal: Arc::clone(eal), _not_send: PhantomData })
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        // SAFETY: this thread is registered, and it is the same thread, because the guard is not Send.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}
