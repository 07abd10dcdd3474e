//! The `device` of a port: one text, a form for each kind of driver.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::wire::Mac;

/// What is behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A PCI function, `0000:81:00.0` (the domain `0000:` may be left out when written, and is put in).
    Pci(String),
    /// The PCI function that has this MAC address: `mac:52:54:00:12:34:56`.
    Mac([u8; 6]),
    /// A kernel interface over AF_PACKET: `af_packet:IFACE`.
    AfPacket(String),
    /// A kernel interface over AF_XDP: `af_xdp:IFACE`.
    AfXdp(String),
    /// A TAP interface to create: `tap:NAME`.
    Tap(String),
    /// Shared memory with another process: `memif:SOCKET`.
    Memif(PathBuf),
    /// A virtual machine's virtio NIC over vhost-user: `vhost:SOCKET[,client][,group=GROUP]`.
    Vhost(VhostSocket),
    /// Packets from a capture file: `pcap:FILE`.
    Pcap(PathBuf),
    /// DPDK's own device text, passed on as it is: `vdev:net_null0,size=64`.
    Vdev(String),
}

/// The socket by which a virtual machine's monitor (QEMU) and the forwarder agree on a virtio NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostSocket {
    /// Its name in the file system.
    pub path: PathBuf,
    /// The monitor listens there and the forwarder calls, again and again until it is answered. Else the forwarder listens.
    pub client: bool,
    /// Whose members may connect, beside root and the forwarder's own user. None leaves the group that the file gets from its
    /// directory. Only for a socket on which the forwarder listens.
    pub group: Option<String>,
}

impl VhostSocket {
    /// `SOCKET[,client][,group=GROUP]`; else what is wrong.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split(',');
        let path = PathBuf::from(parts.next().filter(|path| !path.is_empty()).ok_or("has no path")?);
        let mut socket = Self { path, client: false, group: None };
        for option in parts {
            match option.split_once('=') {
                None if option == "client" && !socket.client => socket.client = true,
                Some(("group", name)) if !name.is_empty() && socket.group.is_none() => {
                    socket.group = Some(name.to_owned());
                }
                _ => {
                    return Err(
                        "has something behind its path that is neither client nor group=GROUP, once each",
                    );
                }
            }
        }
        if socket.client && socket.group.is_some() {
            return Err("has client and group=, but who may use a socket is for the one who listens to say");
        }
        Ok(socket)
    }
}

impl fmt::Display for VhostSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.client {
            f.write_str(",client")?;
        }
        self.group.iter().try_for_each(|group| write!(f, ",group={group}"))
    }
}

/// A text that is no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} {defect}; write a PCI address such as \"0000:81:00.0\", or mac:ADDRESS, af_packet:IFACE, af_xdp:IFACE, \
     tap:NAME, memif:SOCKET, vhost:SOCKET, pcap:FILE or vdev:DPDK-DEVICE"
)]
pub struct DeviceError {
    text: String,
    defect: &'static str,
}

/// Longest interface name in Linux, without the terminating zero.
const IFNAME_MAX: usize = 15;

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let error = |defect| DeviceError { text: text.to_owned(), defect };
        if text.chars().any(char::is_control) {
            return Err(error("holds control characters"));
        }
        if let Some(address) = pci(text) {
            return Ok(Device::Pci(address));
        }
        let (kind, rest) = text.split_once(':').ok_or_else(|| error("is not a device"))?;
        let interface = || {
            let bad = |c: char| c.is_whitespace() || c == '/' || c == ',';
            if rest.is_empty() || rest.len() > IFNAME_MAX || rest.contains(bad) {
                return Err(error(
                    "does not name an interface (1 to 15 characters, no space, slash or comma)",
                ));
            }
            Ok(rest.to_owned())
        };
        // A comma would end the value inside DPDK's own device text.
        let path = || match rest {
            "" => Err(error("has no path")),
            _ if rest.contains(',') => Err(error("has a comma in its path, which DPDK cannot take")),
            _ => Ok(PathBuf::from(rest)),
        };
        match kind {
            "mac" => match rest.parse::<Mac>() {
                Ok(mac) if mac.is_unicast() => Ok(Device::Mac(mac.0)),
                Ok(_) => Err(error("is the MAC address of no single station")),
                Err(_) => Err(error("has no MAC address after mac:, such as 52:54:00:12:34:56")),
            },
            "af_packet" => interface().map(Device::AfPacket),
            "af_xdp" => interface().map(Device::AfXdp),
            "tap" => interface().map(Device::Tap),
            "memif" => path().map(Device::Memif),
            "vhost" => VhostSocket::parse(rest).map(Device::Vhost).map_err(error),
            "pcap" => path().map(Device::Pcap),
            "vdev" if !rest.is_empty() => Ok(Device::Vdev(rest.to_owned())),
            "vdev" => Err(error("has no DPDK device after vdev:")),
            _ => Err(error("is not a device")),
        }
    }
}

/// `[DDDD:]BB:DD.F` in full and lower case; none when it is not a PCI address.
fn pci(text: &str) -> Option<String> {
    let hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|b| b.is_ascii_hexdigit());
    let (slot, function) = text.rsplit_once('.')?;
    let mut parts = slot.rsplitn(3, ':');
    let (device, bus) = (parts.next()?, parts.next()?);
    let domain = parts.next().unwrap_or("0000");
    let valid = hex(domain, 4)
        && hex(bus, 2)
        && hex(device, 2)
        && u8::from_str_radix(device, 16).is_ok_and(|d| d < 32)
        && matches!(function.as_bytes(), [b'0'..=b'7']);
    valid.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

impl Device {
    /// Whether it is a NIC on the PCI bus: its link takes time to come up, and what it says of its speed is true.
    #[must_use]
    pub fn is_nic(&self) -> bool {
        matches!(self, Device::Pci(_) | Device::Mac(_))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Pci(address) => f.write_str(address),
            Device::Mac(mac) => write!(f, "mac:{}", Mac(*mac)),
            Device::AfPacket(name) => write!(f, "af_packet:{name}"),
            Device::AfXdp(name) => write!(f, "af_xdp:{name}"),
            Device::Tap(name) => write!(f, "tap:{name}"),
            Device::Memif(path) => write!(f, "memif:{}", path.display()),
            Device::Vhost(socket) => write!(f, "vhost:{socket}"),
            Device::Pcap(path) => write!(f, "pcap:{}", path.display()),
            Device::Vdev(text) => write!(f, "vdev:{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_and_prints_as_written() {
        for text in [
            "0000:81:00.0",
            "mac:52:54:00:ab:34:56",
            "af_packet:veth0",
            "af_xdp:eth1",
            "tap:s2tap0",
            "memif:/run/a.sock",
            "vhost:/run/b.sock",
            "vhost:/run/b.sock,client",
            "vhost:/run/b.sock,group=kvm",
            "pcap:/tmp/x.pcap",
            "vdev:net_null0,size=64",
        ] {
            let device: Device = text.parse().unwrap();
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("mac:52:54:00:AB:34:56".parse(), Ok(Device::Mac([0x52, 0x54, 0, 0xab, 0x34, 0x56])));
        assert_eq!("81:1f.7".parse(), Ok(Device::Pci("0000:81:1f.7".into())));
        assert_eq!("ABCD:0a:00.1".parse(), Ok(Device::Pci("abcd:0a:00.1".into())));
    }

    #[test]
    fn what_is_no_device_is_told_the_forms() {
        for text in [
            "",
            "eth0",
            "af_packet:",
            "af_packet:an-interface-too-long",
            "af_packet:a,qpairs=9",
            "tap:a b",
            "memif:",
            "pcap:/tmp/a,b",
            "vhost:",
            "vhost:,client",
            "vhost:/run/b.sock,server",
            "vhost:/run/b.sock,client,client",
            "vhost:/run/b.sock,group=",
            "vhost:/run/b.sock,client,group=kvm",
            "vdev:",
            "0000:81:20.0",
            "0000:81:00.8",
            "81:00",
            "usb:1",
            "mac:",
            "mac:52:54:00:12:34",
            "mac:52:54:00:12:34:5g",
            "mac:00:00:00:00:00:00",
            "mac:53:54:00:12:34:56",
            "tap:a\0b",
        ] {
            let error = text.parse::<Device>().expect_err(text).to_string();
            assert!(error.contains("af_packet:IFACE"), "{error}");
        }
    }
}
