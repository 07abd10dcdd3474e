use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, dup, dup2_stdout};

use super::error::{DpdkError, errno_text, last_errno};
use super::hugepages;
use crate::config::Device;
use crate::topology::Machine;

/// How EAL is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalOptions {
    /// Hugepages, kept private to this process (`--in-memory`); false takes ordinary memory (`--no-huge`).
    pub huge: bool,
    /// Packet memory needed, in MiB. Without hugepages all of it is taken at start; with them so much must be free.
    pub memory_mb: usize,
    /// How much of that must lie on which NUMA node, in MiB. Only hugepages can be had so.
    pub node_mb: Vec<(i32, usize)>,
    /// Core of EAL's own threads and of the calling thread. Workers bring their own threads.
    pub main_core: usize,
    /// PCI addresses EAL may touch; it leaves every other device alone.
    pub pci: Vec<String>,
    /// Further EAL options, configuration's first, command line's last. They win over the ones chosen here.
    pub args: Vec<String>,
}

impl EalOptions {
    /// PCI addresses EAL may touch for these devices when it starts. A device that is named by its MAC address is plugged in later,
    /// which takes the PCI bus: EAL has it when it may touch any device, be it one that is none.
    pub fn pci_of<'a>(devices: impl Iterator<Item = &'a Device>) -> Vec<String> {
        const NONE: &str = "0000:00:00.0";
        let address = |device: &Device| match device {
            Device::Pci(address) => Some(address.clone()),
            Device::Mac(_) => Some(NONE.to_owned()),
            _ => None,
        };
        let mut allowed: Vec<String> = devices.filter_map(address).collect();
        allowed.dedup();
        allowed
    }
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            huge: true,
            memory_mb: 256,
            node_mb: Vec::new(),
            main_core: 0,
            pci: Vec::new(),
            args: Vec::new(),
        }
    }
}

/// The running environment abstraction layer, one a process and only once. Dropping the last handle cleans it up.
#[derive(Debug)]
pub struct Eal {
    hardware: bool,
    huge: bool,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts EAL on the calling thread and pins that thread to the main core.
    ///
    /// # Errors
    /// The main core is not available, there are too few free hugepages, an option is refused, or EAL was started before.
    pub fn init(options: &EalOptions) -> Result<Arc<Self>, DpdkError> {
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(eal_error(
                "EAL was started before in this process, and starts only once",
                "start another process",
            ));
        }
        let started = Self::start(options);
        if matches!(started, Err(Refused::BeforeEal(_))) {
            STARTED.store(false, Ordering::SeqCst);
        }
        started.map_err(|(Refused::BeforeEal(e) | Refused::ByEal(e))| e)
    }

    /// May devices reach packet memory by themselves (DMA)? True unless EAL runs without PCI devices.
    pub(super) fn hardware(&self) -> bool {
        self.hardware
    }

    /// Is memory taken from hugepages? Only those have a NUMA node that EAL knows.
    pub(super) fn huge(&self) -> bool {
        self.huge
    }

    /// The folder of EAL's sockets, `dpdk_telemetry.v2` among them.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        // SAFETY: EAL runs; the path is a C string of its own.
        let path = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
        PathBuf::from(OsStr::from_bytes(path.to_bytes()))
    }

    fn start(options: &EalOptions) -> Result<Arc<Self>, Refused> {
        let argv = arguments(options);
        if argv.iter().any(|a| a == "--in-memory") {
            hugepages::check(Path::new("/"), options).map_err(Refused::BeforeEal)?;
        }
        let strings: Vec<CString> = argv
            .iter()
            .map(|a| CString::new(a.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| {
            Refused::BeforeEal(eal_error("an EAL option contains a NUL byte", "remove it from [eal] args"))
        })?;
        if argv.iter().any(|a| a == "--lcores") {
            pin(options.main_core).map_err(Refused::BeforeEal)?;
        }

        // EAL reorders the vector and keeps pointers into the strings: neither is ever freed.
        let strings: &'static [CString] = Vec::leak(strings);
        let mut pointers: Vec<*mut c_char> = strings.iter().map(|s| s.as_ptr().cast_mut()).collect();
        pointers.push(std::ptr::null_mut());
        let pointers: &'static mut [*mut c_char] = Vec::leak(pointers);
        let count = c_int::try_from(strings.len()).unwrap_or(c_int::MAX);
        // SAFETY: argv has `count` NUL-terminated strings and a final null, all alive for ever; EAL does not write into
        // the strings. STARTED lets only one thread ever get here.
        let outcome = with_stdout_on_stderr(|| unsafe {
            dpdk_sys::s2_log_to_stderr();
            dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr())
        });
        if outcome >= 0 {
            let says = |option: &str| argv.iter().any(|a| a == option);
            return Ok(Arc::new(Self { hardware: !says("--no-pci"), huge: !says("--no-huge") }));
        }
        let errno = last_errno();
        let (problem, mend) = match errno {
            libc::EINVAL => (
                format!("EAL refused its options `{}`", argv[1..].join(" ")),
                "correct [eal] args or the options before `--`; the lines above name the one".to_owned(),
            ),
            libc::EACCES | libc::EPERM => (
                format!("permission denied ({})", errno_text(errno)),
                "run as root, or give the program CAP_IPC_LOCK, CAP_NET_RAW and CAP_NET_ADMIN".to_owned(),
            ),
            libc::ENOMEM => (
                format!("{} MiB of memory cannot be had", options.memory_mb),
                "free memory or hugepages, or lower the number of packet buffers".to_owned(),
            ),
            _ => (
                format!("EAL failed with `{}`", errno_text(errno)),
                "the lines above tell at which step; run with EAL option --log-level=debug for more"
                    .to_owned(),
            ),
        };
        Err(Refused::ByEal(DpdkError::Eal { problem, mend }))
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // SAFETY: the last handle goes, and everything made from EAL (ports, pools, rings, threads) holds one.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// Whether the mistake was found before EAL was touched, so that starting can be tried again.
enum Refused {
    BeforeEal(DpdkError),
    ByEal(DpdkError),
}

pub(super) fn eal_error(problem: impl Into<String>, mend: impl Into<String>) -> DpdkError {
    DpdkError::Eal { problem: problem.into(), mend: mend.into() }
}

/// Telemetry warns at every start that it has no commands of an interface long gone.
const QUIET_TELEMETRY: &str = "--log-level=lib.telemetry:error";

/// EAL's command line. What the operator says about cores or memory replaces what would be chosen here.
fn arguments(options: &EalOptions) -> Vec<String> {
    let says = |names: &[&str]| {
        options.args.iter().any(|a| {
            names.iter().any(|n| match n.strip_prefix("--") {
                Some(_) => a == n || a.strip_prefix(n).is_some_and(|rest| rest.starts_with('=')),
                None => a.starts_with(n) && !a.starts_with("--"),
            })
        })
    };
    let mut argv = ["s2ds", "--log-level=warning", QUIET_TELEMETRY].map(str::to_owned).to_vec();
    if !says(&["-l", "-c", "--lcores"]) {
        // lcore 0 whatever the core, because lcore numbers end at 127 and cores need not.
        argv.extend(["--lcores".to_owned(), format!("0@{}", options.main_core)]);
    }
    if !says(&["--in-memory", "--no-huge", "--huge-dir", "--huge-unlink", "--socket-mem", "--proc-type"]) {
        if options.huge {
            argv.push("--in-memory".to_owned());
        } else {
            // No shared configuration: several forwarders share a machine, and nothing stays behind.
            argv.extend(["--no-huge".to_owned(), "--no-shconf".to_owned()]);
            if !says(&["-m"]) {
                argv.extend(["-m".to_owned(), options.memory_mb.to_string()]);
            }
        }
    }
    if !says(&["-a", "-b", "--allow", "--block", "--no-pci"]) {
        if options.pci.is_empty() {
            argv.push("--no-pci".to_owned());
        }
        argv.extend(options.pci.iter().flat_map(|address| ["-a".to_owned(), address.clone()]));
    }
    argv.extend(options.args.iter().cloned());
    argv
}

/// EAL's control threads take over the affinity of the thread that starts it: narrow it so that they stay off workers. The core need
/// not be in that affinity: isolated ones are not.
fn pin(core: usize) -> Result<(), DpdkError> {
    let mut only = CpuSet::new();
    only.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only)).map_err(|e| {
        let may_use = Machine::here().map(|m| m.permitted().to_string()).unwrap_or_default();
        eal_error(
            format!(
                "its main core {core} is not among the cores this process may use ({may_use}): {}",
                e.desc()
            ),
            "choose one of those, or widen the process's cpuset",
        )
    })
}

/// EAL prints its usage to stdout, which belongs to our caller.
fn with_stdout_on_stderr<T>(run: impl FnOnce() -> T) -> T {
    let saved = dup(std::io::stdout()).ok().filter(|_| dup2_stdout(std::io::stderr()).is_ok());
    let result = run();
    if let Some(saved) = saved {
        // SAFETY: null flushes every stream of C, stdout among them, while it still leads to stderr.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        // Failure leaves stdout on stderr, where it is at least seen.
        let _ = dup2_stdout(saved);
    }
    result
}

/// The processor's time-stamp counter, in ticks of [`tsc_hz`].
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { dpdk_sys::s2_rdtsc() }
}

/// Ticks of [`rdtsc`] in a second. EAL must have started, which the argument proves.
#[must_use]
pub fn tsc_hz(_eal: &Eal) -> u64 {
    // SAFETY: EAL has calibrated the clock.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments after those that are always there.
    fn chosen(options: &EalOptions) -> Vec<String> {
        let mut argv = arguments(options);
        assert_eq!(argv[..3], ["s2ds", "--log-level=warning", QUIET_TELEMETRY]);
        argv.split_off(3)
    }

    #[test]
    fn defaults_give_way_to_the_operators_options() {
        let plain = chosen(&EalOptions { huge: false, memory_mb: 64, main_core: 3, ..EalOptions::default() });
        assert_eq!(plain, ["--lcores", "0@3", "--no-huge", "--no-shconf", "-m", "64", "--no-pci"]);
        let args = ["-l2", "--huge-dir=/mnt/huge", "-a", "0000:01:00.0"].map(str::to_owned).to_vec();
        let own = chosen(&EalOptions { args, ..EalOptions::default() });
        assert_eq!(own, ["-l2", "--huge-dir=/mnt/huge", "-a", "0000:01:00.0"]);
        // `--log-level` must not pass for `-l`.
        let args = vec!["--log-level=debug".to_owned()];
        let log = chosen(&EalOptions { args, ..EalOptions::default() });
        assert_eq!(log, ["--lcores", "0@0", "--in-memory", "--no-pci", "--log-level=debug"]);
    }

    #[test]
    fn only_the_named_pci_devices_are_touched() {
        let argv = chosen(&EalOptions { pci: vec!["0000:02:00.0".to_owned()], ..EalOptions::default() });
        assert_eq!(argv[3..], ["-a", "0000:02:00.0"]);
    }
}
