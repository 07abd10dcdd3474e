//! From the configuration's [`Device`] to an Ethernet device that EAL knows, and back.

use std::collections::BTreeSet;
use std::ffi::{CString, c_int};
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::eal::Eal;
use super::error::{DpdkError, errno_text};
use super::lookup::{self, Interface};
use super::port::PortSettings;
use super::sockets::Before;
use super::vhost;
use crate::config::Device;
use crate::pools::data_room_for;
use crate::wire::Mac;

/// What was wrong and what to do, before the port's name is put to it.
#[derive(Debug)]
pub(super) struct Fault {
    problem: String,
    mend: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { problem: problem.into(), mend: mend.into() }
    }

    pub(super) fn of(self, settings: &PortSettings) -> DpdkError {
        DpdkError::Port {
            port: settings.name.clone(),
            device: settings.device.to_string(),
            problem: self.problem,
            mend: self.mend,
        }
    }
}

/// The name under which EAL finds a device, and the driver's arguments.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    bus: &'static str,
    name: String,
    args: String,
}

/// An Ethernet device that is ours. Dropping it stops, closes and detaches it.
#[derive(Debug)]
pub(super) struct Attached {
    bus: &'static str,
    name: CString,
    port_id: Option<u16>,
    started: bool,
    /// Flow rules were made.
    pub(super) has_rules: bool,
    vhost: Option<vhost::Served>,
    /// Of a kernel interface, the sockets there were before it was plugged in.
    before: Option<Before>,
    _eal: Arc<Eal>,
}

impl Attached {
    /// Plugs the device in.
    pub(super) fn attach(eal: &Arc<Eal>, settings: &PortSettings) -> Result<Self, Fault> {
        if let Device::Mac(mac) = settings.device {
            return Self::by_mac(eal, settings, mac);
        }
        check(settings)?;
        Self::plug(eal, settings, place(settings)?)
    }

    /// Finds the PCI device with this MAC address. Those that the kernel does not know are plugged in one after the other to be
    /// asked, and unplugged again.
    fn by_mac(eal: &Arc<Eal>, settings: &PortSettings, mac: [u8; 6]) -> Result<Self, Fault> {
        let at = |address: &str| Place { bus: "pci", name: address.to_owned(), args: String::new() };
        let sighting = lookup::sight(Path::new("/sys"), mac);
        if let Some(Interface { name, pci, driver }) = &sighting.interface {
            if lookup::is_usable(driver) {
                return Self::plug(eal, settings, at(pci));
            }
            return Err(Fault::new(
                format!("it is {pci} (interface {name}), bound to the kernel's driver {driver}"),
                format!("bind it with `dpdk-devbind.py -b vfio-pci {pci}` (the kernel then lets go of it)"),
            ));
        }
        let mut seen = Vec::new();
        for address in &sighting.candidates {
            match Self::plug(eal, settings, at(address)) {
                Ok(device) if device.mac() == Some(mac) => return Ok(device),
                Ok(device) => {
                    let has =
                        device.mac().map_or_else(|| "no MAC address".to_owned(), |mac| Mac(mac).to_string());
                    seen.push(format!("{address} has {has}"));
                }
                Err(fault) => seen.push(format!("{address}: {}", fault.problem)),
            }
        }
        let looked = match seen.len() {
            0 => "and none is bound to vfio-pci or uio_pci_generic".to_owned(),
            _ => seen.join(", "),
        };
        Err(Fault::new(
            format!("no PCI network device has this MAC address ({looked})"),
            "correct it, or bind its device with dpdk-devbind.py",
        ))
    }

    fn plug(eal: &Arc<Eal>, settings: &PortSettings, place: Place) -> Result<Self, Fault> {
        let nul = || Fault::new("its text contains a NUL byte", "remove it");
        let name = CString::new(place.name).map_err(|_| nul())?;
        let args = CString::new(place.args).map_err(|_| nul())?;
        let bus = CString::new(place.bus).map_err(|_| nul())?;
        // Two ports that name one device in different ways, or a port that is closing still.
        if !claims().insert(name.clone()) {
            return Err(in_use());
        }
        let mut attached = Self {
            bus: place.bus,
            name,
            port_id: None,
            started: false,
            has_rules: false,
            vhost: None,
            before: Before::look(&settings.device),
            _eal: Arc::clone(eal),
        };
        // EAL has plugged in the PCI devices it was allowed when it started.
        if place.bus == "pci" && attached.find() {
            return Ok(attached);
        }
        if attached.find() {
            return Err(attached.not_ours());
        }
        // SAFETY: C strings that EAL copies.
        let err =
            unsafe { dpdk_sys::rte_eal_hotplug_add(bus.as_ptr(), attached.name.as_ptr(), args.as_ptr()) };
        if err == -libc::EEXIST {
            return Err(attached.not_ours());
        }
        if err < 0 {
            return Err(refused(settings, err));
        }
        if !attached.find() {
            return Err(Fault::new(
                "it is no Ethernet device",
                "name a DPDK network device, such as net_null0",
            ));
        }
        Ok(attached)
    }

    /// What its queues receive through, in order, once they are set up; none when it does not tell.
    pub(super) fn sockets(&self, queues: u16) -> Vec<RawFd> {
        self.before.as_ref().map(|before| before.opened_since(queues)).unwrap_or_default()
    }

    /// Somebody else plugged it in: it is not to be detached on the way out.
    fn not_ours(self) -> Fault {
        claims().remove(&self.name);
        std::mem::forget(self);
        in_use()
    }

    /// The device's MAC address now.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        let mut mac = dpdk_sys::rte_ether_addr::default();
        // SAFETY: a place for the answer; a port that is not there is refused.
        let err = unsafe { dpdk_sys::rte_eth_macaddr_get(self.port_id(), &raw mut mac) };
        (err == 0).then_some(mac.addr_bytes)
    }

    /// Takes over a port that `rte_eth_from_rings` made.
    pub(super) fn from_rings(eal: &Arc<Eal>, name: CString, port_id: u16) -> Self {
        claims().insert(name.clone());
        Self {
            bus: "vdev",
            name,
            port_id: Some(port_id),
            started: false,
            has_rules: false,
            vhost: None,
            before: None,
            _eal: Arc::clone(eal),
        }
    }

    /// DPDK's number of the port.
    pub(super) fn port_id(&self) -> u16 {
        self.port_id.unwrap_or(u16::MAX)
    }

    /// DPDK's bus, and the device's name there.
    pub(super) fn place(&self) -> (&'static str, String) {
        (self.bus, self.name.to_string_lossy().into_owned())
    }

    /// Starts the configured device.
    pub(super) fn start(&mut self) -> Result<(), c_int> {
        // SAFETY: the port is ours and not started.
        let err = unsafe { dpdk_sys::rte_eth_dev_start(self.port_id()) };
        self.started = err == 0;
        if err < 0 { Err(err) } else { Ok(()) }
    }

    /// Lets virtual machines come to a vhost port that runs; nothing to any other.
    pub(super) fn admit_guests(&mut self, device: &Device) -> Result<(), Fault> {
        if let Device::Vhost(socket) = device {
            self.vhost = Some(vhost::Served::open(socket, self.port_id())?);
        }
        Ok(())
    }

    /// Destroys the flow rules.
    pub(super) fn flush_rules(&mut self) {
        if std::mem::take(&mut self.has_rules) {
            // SAFETY: the port is ours. Failure leaves nothing that could be done better here.
            unsafe { dpdk_sys::s2_flow_flush(self.port_id()) };
        }
    }

    fn find(&mut self) -> bool {
        let mut id = 0;
        // SAFETY: a C string and a place for the answer.
        let found = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(self.name.as_ptr(), &raw mut id) } == 0;
        self.port_id = found.then_some(id);
        found
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.flush_rules();
        drop(self.vhost.take());
        let bus = if self.bus == "pci" { c"pci" } else { c"vdev" };
        // SAFETY: the port is ours and its queues are gone. Failure leaves nothing that could be done better here.
        unsafe {
            if let Some(id) = self.port_id {
                if self.started {
                    dpdk_sys::rte_eth_dev_stop(id);
                }
                dpdk_sys::rte_eth_dev_close(id);
            }
            dpdk_sys::rte_eal_hotplug_remove(bus.as_ptr(), self.name.as_ptr());
        }
        claims().remove(&self.name);
    }
}

/// Names of the devices that ports have.
static CLAIMS: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());

fn claims() -> MutexGuard<'static, BTreeSet<CString>> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_use() -> Fault {
    Fault::new("another port uses it", "give each port a device of its own")
}

/// Whether the kernel owns the interface and its MTU.
pub(super) fn kernel_interface(device: &Device) -> Option<&str> {
    match device {
        Device::AfPacket(interface) | Device::AfXdp(interface) => Some(interface),
        _ => None,
    }
}

/// The kernel interface that the device is nothing without: when it goes, so does the device.
#[must_use]
pub fn device_interface(device: &Device) -> Option<&str> {
    match device {
        Device::Tap(interface) => Some(interface),
        other => kernel_interface(other),
    }
}

/// Whether the device's frames have a size of their own, beside what the driver says to DPDK: a kernel interface keeps the MTU
/// its owner gave it, which is known to suffice; net_memif speaks of 1518 bytes, but goes by the size of its ring's buffers.
pub(super) fn sizes_frames_itself(device: &Device) -> bool {
    kernel_interface(device).is_some() || matches!(device, Device::Memif(_))
}

/// What drivers tell badly or not at all: absent devices and missing rights.
fn check(settings: &PortSettings) -> Result<(), Fault> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_NET_RAW: u32 = 13;
    const CAP_IPC_LOCK: u32 = 14;
    const CAP_SYS_ADMIN: u32 = 21;
    let need = |capability: u32, name: &str| {
        if has_capability(capability) {
            return Ok(());
        }
        Err(Fault::new(
            format!("the process lacks {name}"),
            format!("run as root, in a user namespace (unshare -Urn), or with AmbientCapabilities={name}"),
        ))
    };
    match &settings.device {
        Device::AfPacket(interface) => {
            check_interface(interface, settings.mtu)?;
            need(CAP_NET_RAW, "CAP_NET_RAW")?;
            // Starting sets the interface's promiscuous flag.
            need(CAP_NET_ADMIN, "CAP_NET_ADMIN")
        }
        Device::AfXdp(interface) => {
            check_interface(interface, settings.mtu)?;
            need(CAP_NET_RAW, "CAP_NET_RAW")?;
            need(CAP_NET_ADMIN, "CAP_NET_ADMIN")?;
            // libxdp finds the program it loaded by its number.
            need(CAP_SYS_ADMIN, "CAP_SYS_ADMIN")?;
            // Packet memory that the kernel writes to is locked.
            if locks_at_will() { Ok(()) } else { need(CAP_IPC_LOCK, "CAP_IPC_LOCK") }
        }
        Device::Tap(_) if !Path::new("/dev/net/tun").exists() => {
            Err(Fault::new("this machine has no /dev/net/tun", "load the kernel module with `modprobe tun`"))
        }
        Device::Tap(_) => need(CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        Device::Pci(address) => check_pci(Path::new("/sys/bus/pci"), address),
        Device::Pcap(file) => fs::File::open(file).map(drop).map_err(|e| {
            Fault::new(format!("the capture file cannot be read ({e})"), "name a pcap file that exists")
        }),
        Device::Memif(path) => check_folder(path),
        Device::Vhost(socket) => check_folder(&socket.path).and_then(|()| vhost::check(socket)),
        Device::Mac(_) | Device::Vdev(_) => Ok(()),
    }
}

fn check_folder(socket: &Path) -> Result<(), Fault> {
    match socket.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Fault::new(
            format!("the socket's folder {} does not exist", folder.display()),
            "make it first",
        )),
        _ => Ok(()),
    }
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps >> bit & 1 != 0)
}

/// Whether the process may lock all the memory it has (`ulimit -l unlimited`).
fn locks_at_will() -> bool {
    let limits = fs::read_to_string("/proc/thread-self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max locked memory"));
    line.and_then(|l| l.split_whitespace().next()) == Some("unlimited")
}

fn check_interface(interface: &str, mtu: u16) -> Result<(), Fault> {
    let Some(have) = interface_mtu(interface) else {
        return Err(Fault::new(
            format!("there is no interface {interface} in this network namespace"),
            "create it, or correct the name (`ip link` lists them)",
        ));
    };
    if have < c_int::from(mtu) {
        return Err(Fault::new(
            format!("interface {interface} has MTU {have}, and the port wants {mtu}"),
            format!("run `ip link set dev {interface} mtu {mtu}`, or lower the port's mtu"),
        ));
    }
    Ok(())
}

/// Asks the kernel about an interface of this thread's network namespace (which /sys may not show), or has it changed.
fn interface_ioctl(
    interface: &str,
    what: libc::Ioctl,
    fill: impl FnOnce(&mut libc::ifreq),
) -> std::io::Result<libc::ifreq> {
    // SAFETY: all zero is a valid ifreq. The kernel reads and writes it alone, and the socket is closed again.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name.iter_mut().take(room).zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        fill(&mut request);
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let done = match libc::ioctl(socket, what, &raw mut request) {
            0 => Ok(request),
            _ => Err(std::io::Error::last_os_error()),
        };
        libc::close(socket);
        done
    }
}

/// The MTU of an interface of this thread's network namespace.
#[must_use]
pub fn interface_mtu(interface: &str) -> Option<c_int> {
    let answer = interface_ioctl(interface, libc::SIOCGIFMTU, |_| ()).ok()?;
    // SAFETY: the kernel answered with the MTU.
    Some(unsafe { answer.ifr_ifru.ifru_mtu })
}

/// The kernel's number of an interface: one that is made anew has another.
#[must_use]
pub fn interface_index(interface: &str) -> Option<c_int> {
    let answer = interface_ioctl(interface, libc::SIOCGIFINDEX, |_| ()).ok()?;
    // SAFETY: the kernel answered with the index.
    Some(unsafe { answer.ifr_ifru.ifru_ifindex })
}

/// Whether an interface is up and has a carrier.
pub(super) fn interface_runs(interface: &str) -> Option<bool> {
    let answer = interface_ioctl(interface, libc::SIOCGIFFLAGS, |_| ()).ok()?;
    // SAFETY: the kernel answered with the flags.
    let flags = c_int::from(unsafe { answer.ifr_ifru.ifru_flags });
    let both = libc::IFF_UP | libc::IFF_RUNNING;
    Some(flags & both == both)
}

/// Gives a kernel interface that was made anew the MAC address it had: not every driver in DPDK can.
pub(super) fn give_mac(settings: &PortSettings, mac: [u8; 6]) -> Result<(), Fault> {
    let Some(interface) = kernel_interface(&settings.device) else { return Ok(()) };
    // Opening it tells better what is wrong with one that is not there.
    let Ok(has) = interface_ioctl(interface, libc::SIOCGIFHWADDR, |_| ()) else { return Ok(()) };
    // SAFETY: the kernel answered with an address.
    let has = unsafe { has.ifr_ifru.ifru_hwaddr };
    if has.sa_data.iter().zip(mac).all(|(a, b)| *a as u8 == b) {
        return Ok(());
    }
    let fill = |request: &mut libc::ifreq| {
        let mut address = has;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
    };
    interface_ioctl(interface, libc::SIOCSIFHWADDR, fill).map(drop).map_err(|e| {
        Fault::new(
            format!(
                "interface {interface} came back with another MAC address and is not given {} ({e})",
                Mac(mac)
            ),
            format!("run `ip link set dev {interface} address {}`", Mac(mac)),
        )
    })
}

fn check_pci(sys: &Path, address: &str) -> Result<(), Fault> {
    let folder = sys.join("devices").join(address);
    if !folder.is_dir() {
        return Err(Fault::new(
            "this machine has no such PCI device",
            "correct the address (`dpdk-devbind.py --status-dev net` lists them)",
        ));
    }
    let driver = lookup::driver(&folder);
    if driver.as_deref().is_some_and(lookup::is_usable) {
        return Ok(());
    }
    Err(Fault::new(
        match driver {
            Some(driver) => format!("it is bound to the kernel's driver {driver}"),
            None => "it is bound to no driver".to_owned(),
        },
        format!("bind it with `dpdk-devbind.py -b vfio-pci {address}` (the kernel then lets go of it)"),
    ))
}

fn place(settings: &PortSettings) -> Result<Place, Fault> {
    let (i, queues) = (settings.index, settings.queues);
    let vdev = |driver: &str, args: String| Place { bus: "vdev", name: format!("{driver}{i}"), args };
    Ok(match &settings.device {
        Device::Pci(address) => Place { bus: "pci", name: address.clone(), args: String::new() },
        Device::Mac(_) => return Err(Fault::new("its place is not known", "name its PCI address")),
        Device::AfPacket(interface) => vdev("net_af_packet", af_packet(interface, queues, settings.mtu)),
        Device::AfXdp(interface) => vdev("net_af_xdp", af_xdp(interface, queues)),
        Device::Tap(name) => vdev("net_tap", format!("iface={name}")),
        Device::Memif(path) => {
            let role = if listens(path) { "client" } else { "server" };
            let bsize = data_room_for(settings.mtu);
            vdev(
                "net_memif",
                format!("role={role},socket={},socket-abstract=no,bsize={bsize}", path.display()),
            )
        }
        Device::Vhost(socket) => vdev("net_vhost", vhost::args(socket, queues)),
        Device::Pcap(file) => {
            let sent = file.with_extension("tx.pcap");
            vdev("net_pcap", format!("rx_pcap={},tx_pcap={}", file.display(), sent.display()))
        }
        Device::Vdev(raw) => {
            let (name, args) = raw.split_once(',').unwrap_or((raw, ""));
            if name.is_empty() {
                return Err(Fault::new("it names no driver", "write it like vdev:net_null0,size=64"));
            }
            Place { bus: "vdev", name: name.to_owned(), args: args.to_owned() }
        }
    })
}

/// Whether another process serves this memif socket: the first to come listens, the second calls. A socket that somebody
/// left behind is taken away, because it would keep both from listening.
fn listens(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC;
    let connected = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).and_then(|socket| {
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        // Hear its greeting out: a server (DPDK 22.11) that greets somebody who has gone sometimes never answers the next
        // caller, who would be us. Silence is no refusal.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
        _ = recv(socket.as_raw_fd(), &mut [0; 128], MsgFlags::empty());
        Ok(())
    });
    if connected == Err(Errno::ECONNREFUSED) && fs::metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        // Failure shows when the driver cannot listen there.
        let _ = fs::remove_file(path);
    }
    connected.is_ok()
}

/// Arguments of net_af_packet. The driver takes the frames of the kernel's ring to lie without gaps, so a block must be a
/// multiple both of the page and of the frame.
fn af_packet(interface: &str, queues: u16, mtu: u16) -> String {
    const PAGE: u32 = 4096;
    const RING: u32 = 4 << 20;
    let frame = u32::from(data_room_for(mtu));
    let block = (1..=4).map(|n| n * frame).find(|b| b % PAGE == 0).unwrap_or(4 * frame);
    let count = (RING / block) * (block / frame);
    format!("iface={interface},qpairs={queues},blocksz={block},framesz={frame},framecnt={count}")
}

/// Arguments of net_af_xdp. Its preferred busy polling is a system call for each poll that finds nothing, which has a NIC's driver
/// run on the worker's core. A virtual interface has no such driver: what it gets comes from the sender's core.
fn af_xdp(interface: &str, queues: u16) -> String {
    let hardware = Path::new("/sys/class/net").join(interface).join("device").exists();
    let busy = if hardware { "" } else { ",busy_budget=0" };
    format!("iface={interface},start_queue=0,queue_count={queues}{busy}")
}

/// The driver has told details on stderr.
fn refused(settings: &PortSettings, err: c_int) -> Fault {
    let problem = format!("its driver refuses it ({})", errno_text(err));
    match (&settings.device, -err) {
        (_, libc::EPERM | libc::EACCES) => {
            Fault::new(problem, "run as root, or give the process the capability it lacks")
        }
        (_, libc::EBUSY | libc::EADDRINUSE) => {
            Fault::new(problem, "end the other program that uses the device")
        }
        (Device::AfXdp(_), _) => Fault::new(
            problem,
            "check that the interface has as many queues and is not used by another AF_XDP program",
        ),
        (Device::Vdev(_), libc::ENOENT | libc::ENODEV | libc::EINVAL) => {
            Fault::new(problem, "check the driver's name and arguments, and that its package is installed")
        }
        _ => Fault::new(problem, "the lines above tell why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_frames_hold_the_mtu_and_tile_their_blocks() {
        for mtu in [576u16, 1280, 1500, 2000, 4000, 9000, 9600] {
            let args = af_packet("veth0", 2, mtu);
            let value = |key: &str| -> u32 {
                let found = args.split(',').find_map(|a| a.strip_prefix(key)).unwrap();
                found.trim_start_matches('=').parse().unwrap()
            };
            let (block, frame, count) = (value("blocksz"), value("framesz"), value("framecnt"));
            assert!(frame >= u32::from(mtu) + 88, "{args}");
            assert_eq!((block % 4096, block % frame, frame % 16), (0, 0, 0), "{args}");
            assert_eq!(count % (block / frame), 0, "{args}");
            assert!(count >= 256, "{args}");
        }
    }

    #[test]
    fn a_pci_device_is_absent_or_with_the_wrong_driver() {
        let sys = std::env::temp_dir().join(format!("s2-pci-{}", std::process::id()));
        let device = sys.join("devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        let problem =
            |address: &str| check_pci(&sys, address).err().map(|f| format!("{}; {}", f.problem, f.mend));
        assert!(problem("0000:02:00.0").unwrap().contains("no such PCI device"));
        assert!(problem("0000:01:00.0").unwrap().contains("bound to no driver"));
        for (driver, fits) in [("ixgbe", false), ("vfio-pci", true), ("mlx5_core", true)] {
            let _ = fs::remove_file(device.join("driver"));
            std::os::unix::fs::symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
            assert_eq!(problem("0000:01:00.0").is_none(), fits, "{driver}");
        }
        assert!(problem("0000:01:00.0").is_none());
        fs::remove_dir_all(&sys).unwrap();
    }
}
