//! What drivers and EAL tell unasked: links that change, devices that go.
//!
//! DPDK calls back on its interrupt thread, where a device must be neither closed nor asked. The callbacks only put an [`Event`] into
//! a channel, for the one thread that waits at its end.
//!
//! A device that is pulled out of a machine is noticed in two ways. vfio asks the program to let go of it, and keeps the device until
//! then. Of devices bound to uio the kernel only tells (a uevent, for which EAL's monitor listens), and their registers are gone: EAL's
//! hotplug handler puts plain memory in the place of the ones that a worker may still touch.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::eal::Eal;
use super::error::errno_text;

/// Something that happened to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The link of DPDK's port went up or down.
    Link(u16),
    /// DPDK's port cannot go on.
    Broken(u16, &'static str),
    /// The device with this name on its bus goes away.
    Removed(String),
}

/// Where the callbacks put events. They are DPDK's for as long as the process lives, and so is this.
static SINK: Mutex<Option<Sender<Event>>> = Mutex::new(None);

/// The end of the channel.
#[derive(Debug)]
pub struct Events {
    receiver: Receiver<Event>,
    _eal: Arc<Eal>,
}

impl Events {
    /// Listens from now on, in place of whoever listened before. Beside it sentences about what will not be heard.
    #[must_use]
    pub fn listen(eal: &Arc<Eal>) -> (Self, Vec<String>) {
        let (sender, receiver) = mpsc::channel();
        let first = SINK.lock().unwrap_or_else(PoisonError::into_inner).replace(sender).is_none();
        let mut deaf = Vec::new();
        let mut done = |err: c_int, what: &str| {
            if err < 0 {
                deaf.push(format!("{what} are not heard of ({})", errno_text(err)));
            }
        };
        if first {
            for (event, what) in [
                (dpdk_sys::RTE_ETH_EVENT_INTR_LSC, "changes of links"),
                (dpdk_sys::RTE_ETH_EVENT_INTR_RMV, "removals of devices"),
                (dpdk_sys::RTE_ETH_EVENT_INTR_RESET, "resets of virtual functions"),
            ] {
                // SAFETY: the function lives for ever and uses no argument.
                let err = unsafe {
                    let all = dpdk_sys::S2_ETH_ALL as u16;
                    dpdk_sys::rte_eth_dev_callback_register(all, event, Some(on_port), std::ptr::null_mut())
                };
                done(err, what);
            }
            // SAFETY: as above; null stands for every device.
            let err = unsafe {
                dpdk_sys::rte_dev_event_callback_register(
                    std::ptr::null(),
                    Some(on_device),
                    std::ptr::null_mut(),
                )
            };
            done(err, "removals of PCI devices");
            if eal.hardware() {
                // SAFETY: EAL runs; both only change its own state.
                let err = unsafe { dpdk_sys::rte_dev_event_monitor_start() };
                done(err, "removals of devices bound to uio");
                // SAFETY: as above.
                done(unsafe { dpdk_sys::rte_dev_hotplug_handle_enable() }, "surprise removals");
            }
        }
        (Self { receiver, _eal: Arc::clone(eal) }, deaf)
    }

    /// Waits for the next event, as long as that.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<Event> {
        self.receiver.recv_timeout(patience).ok()
    }
}

/// Tells of the removal of a device as EAL does, for tests on machines that have none to pull out.
pub fn pretend_removal(device: &str) {
    if let Ok(device) = CString::new(device) {
        // SAFETY: a C string that is only read. Without callbacks nothing is done.
        unsafe { dpdk_sys::rte_dev_event_callback_process(device.as_ptr(), dpdk_sys::RTE_DEV_EVENT_REMOVE) };
    }
}

fn tell(event: Event) {
    if let Some(sink) = &*SINK.lock().unwrap_or_else(PoisonError::into_inner) {
        // Nobody listens any more: the forwarder stops.
        _ = sink.send(event);
    }
}

/// DPDK's callback for events of ports.
unsafe extern "C" fn on_port(
    port: u16,
    event: dpdk_sys::rte_eth_event_type,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    tell(match event {
        dpdk_sys::RTE_ETH_EVENT_INTR_RMV => {
            Event::Broken(port, "its driver tells that the device was removed")
        }
        dpdk_sys::RTE_ETH_EVENT_INTR_RESET => Event::Broken(port, "its driver asks for a reset"),
        _ => Event::Link(port),
    });
    0
}

/// EAL's callback for devices that come and go.
unsafe extern "C" fn on_device(name: *const c_char, event: dpdk_sys::rte_dev_event_type, _: *mut c_void) {
    if event == dpdk_sys::RTE_DEV_EVENT_REMOVE && !name.is_null() {
        // SAFETY: EAL passes the device's name as a C string.
        tell(Event::Removed(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()));
    }
}
