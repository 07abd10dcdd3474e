//! A small virtual machine: this machine's programs under a kernel and NICs that are not its own.
//!
//! [`Packages`] are QEMU and a kernel that `scripts/nic-guest.sh` has unpacked. An [`Image`] is the guest's file system, made
//! of this machine's files. A [`Machine`] says what QEMU emulates. [`Guest::boot`] starts it, without KVM, in the network
//! namespace given; from then on commands run in the guest by [`Guest::run`], devices are changed by [`Guest::qmp`], and what
//! goes over the cables is on a [`Guest::wire`], a tap or a vhost-user socket.
//!
//! QEMU ends with the guest's owner, however that goes.
#![forbid(unsafe_code)]

mod console;
mod image;
mod machine;
mod packages;
mod qmp;
mod wire;

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

pub use console::Said;
pub use image::{Image, VFIO, VIRTIO_NET};
pub use machine::{Backend, Machine, Model, Nic};
pub use packages::Packages;
pub use qmp::Qmp;

use crate::topology::{Netns, Process};
use console::Console;
use wire::Wire;

/// How long QEMU may take to open its sockets.
const QEMU: Duration = Duration::from_secs(20);
/// How long the guest may take to boot.
const BOOT: Duration = Duration::from_secs(120);
/// How long a command in the guest may take that only looks or changes something.
const COMMAND: Duration = Duration::from_secs(30);
/// Bytes of a file that one command carries: a serial port has no room for more.
const CHUNK: usize = 1024;

/// A running guest. Dropping it ends QEMU.
#[derive(Debug)]
pub struct Guest {
    qemu: Process,
    console: Console,
    /// QEMU's monitor.
    pub qmp: Qmp,
    wires: Vec<Option<Wire>>,
    machine: Machine,
    dir: PathBuf,
}

impl Guest {
    /// Boots `image` on `machine` in the namespace `netns`, and waits until commands can be run.
    pub fn boot(netns: &Netns, packages: &Packages, machine: &Machine, image: &Image) -> Result<Guest> {
        let dir = netns.dir().join(format!("guest-{}", netns.name()));
        fs::create_dir(&dir).with_context(|| format!("make the directory {}", dir.display()))?;
        let file = dir.join("image");
        image.write(&file)?;
        let wire = |(i, nic): (usize, &Nic)| match nic.backend {
            Backend::Frames => Wire::new(&machine::wire_path(&dir, i)).map(Some),
            _ => Ok(None),
        };
        let wires = machine.nics.iter().enumerate().map(wire).collect::<Result<Vec<_>>>()?;
        let args = machine.arguments(&packages.kernel(), &file, &dir, &wires);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut qemu = netns.spawn_with(&packages.qemu(), &args, &[])?;
        // A guest that writes to nobody is not heard: the console first.
        let console = Console::new(connect(&mut qemu, &dir.join("console"))?)?;
        let qmp = Qmp::new(connect(&mut qemu, &dir.join("qmp"))?)?;
        wires.iter().flatten().try_for_each(Wire::connect)?;
        let mut guest = Guest { qemu, console, qmp, wires, machine: machine.clone(), dir };
        let end = Instant::now() + BOOT;
        loop {
            match guest.console.greeting(Instant::now() + Duration::from_secs(1)) {
                Ok(Some(_)) => break,
                Ok(None) => guest.alive()?,
                // It ends a moment after its sockets do.
                Err(e) => {
                    let ended = guest.qemu.wait(QEMU);
                    guest.alive()?;
                    return Err(e.context(format!("QEMU runs ({ended:?})")));
                }
            }
            ensure!(Instant::now() < end, "the guest did not boot within {BOOT:?}: {}", guest.kernel_said());
        }
        // QEMU has read it.
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        Ok(guest)
    }

    /// Fails when QEMU has ended.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.qemu.ended()? {
            bail!("QEMU has ended ({status}): {}\n{}", self.qemu.said(), self.kernel_said());
        }
        Ok(())
    }

    /// The last lines that the guest's kernel wrote, for error messages.
    #[must_use]
    pub fn kernel_said(&self) -> String {
        let bytes = fs::read(self.dir.join("kernel.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Runs a shell command in the guest to its end, whatever its exit status.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Said> {
        self.alive()?;
        match self.console.run(command, limit)? {
            Some(said) => Ok(said),
            None => {
                self.alive()?;
                bail!("in the guest, `{command}` did not end within {limit:?}: {}", self.kernel_said())
            }
        }
    }

    /// Runs a quick shell command in the guest and returns what it wrote; another exit status than 0 is an error.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        let Said { status, text } = self.run(command, COMMAND)?;
        ensure!(status == 0, "in the guest, `{command}` ended with {status}: {text}");
        Ok(text)
    }

    /// Writes a file in the guest.
    pub fn write(&mut self, path: &str, content: &str) -> Result<()> {
        self.ok(&format!(": >{path}"))?;
        for chunk in content.as_bytes().chunks(CHUNK) {
            self.ok(&format!("echo {} | base64 -d >>{path}", STANDARD.encode(chunk)))?;
        }
        Ok(())
    }

    /// Starts a program in the guest that goes on running, under a name to ask for it by.
    pub fn start(&mut self, name: &str, command: &str) -> Result<()> {
        self.ok(&format!(
            "rm -f /run/{name}.pid /run/{name}.log /run/{name}.status; {{ sh -c 'echo $$ >/run/{name}.pid; exec {command}' >/run/{name}.log 2>&1; \
             echo $? >/run/{name}.status; }} </dev/null &"
        ))?;
        self.ok(&format!("until [ -s /run/{name}.pid ]; do usleep 10000; done")).map(drop)
    }

    /// The exit status of a program that was started; none while it runs. One that a signal ended has 128 and more.
    pub fn ended(&mut self, name: &str) -> Result<Option<i32>> {
        let text = self.ok(&format!("cat /run/{name}.status 2>/dev/null; true"))?;
        let status = text.trim();
        if status.is_empty() { Ok(None) } else { status.parse().map(Some).context("an exit status") }
    }

    /// Waits for the end of a program that was started.
    pub fn wait(&mut self, name: &str, limit: Duration) -> Result<i32> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended(name)? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "in the guest, {name} did not end within {limit:?}: {}",
                self.said(name)?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal, such as `TERM`, to a program that was started.
    pub fn signal(&mut self, name: &str, signal: &str) -> Result<()> {
        self.ok(&format!("kill -{signal} $(cat /run/{name}.pid)")).map(drop)
    }

    /// What a program that was started has written.
    pub fn said(&mut self, name: &str) -> Result<String> {
        self.ok(&format!("cat /run/{name}.log"))
    }

    /// The far end of the cable of a NIC with [`Backend::Frames`], by the NIC's place in [`Machine::nics`]: every datagram
    /// is a frame. It blocks, and sending fails when QEMU makes no room for a frame in 10 seconds.
    pub fn wire(&self, nic: usize) -> Result<&UnixDatagram> {
        let wire = self.wires.get(nic).and_then(Option::as_ref);
        wire.map(|w| &w.socket).with_context(|| format!("NIC {nic} has no wire"))
    }

    /// A NIC's MAC address.
    pub fn mac(&self, nic: usize) -> Result<[u8; 6]> {
        Ok(self.machine.nics.get(nic).with_context(|| format!("there is no NIC {nic}"))?.mac)
    }

    /// A NIC's PCI address in the guest.
    pub fn pci(&mut self, nic: usize) -> Result<String> {
        let port = self.machine.port_address(nic);
        let listed = self.ok(&format!("cd /sys/bus/pci/devices/{port} && ls -d 0000:*:*.0; true"))?;
        Ok(listed.lines().next().with_context(|| format!("NIC {nic} is not plugged in"))?.to_owned())
    }

    /// Binds NICs to vfio-pci and returns their PCI addresses.
    pub fn give_to_programs(&mut self, nics: impl IntoIterator<Item = usize>) -> Result<Vec<String>> {
        let mut addresses = Vec::new();
        for nic in nics {
            let address = self.pci(nic)?;
            self.ok(&format!(
                "cd /sys/bus/pci && echo vfio-pci >devices/{address}/driver_override && \
                 {{ [ ! -e devices/{address}/driver ] || echo {address} >devices/{address}/driver/unbind; }} && \
                 echo {address} >drivers_probe && [ -e drivers/vfio-pci/{address} ]"
            ))
            .with_context(|| format!("vfio-pci does not take {address}: {}", self.kernel_said()))?;
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Plugs a NIC's cable in or pulls it.
    pub fn set_link(&mut self, nic: usize, up: bool) -> Result<()> {
        self.qmp.call("set_link", json!({ "name": machine::id(nic), "up": up })).map(drop)
    }

    /// Asks the guest to let go of a NIC, as somebody does who presses the button of its slot. See [`Guest::unplugged`].
    pub fn unplug(&mut self, nic: usize) -> Result<()> {
        self.qmp.call("device_del", json!({ "id": machine::id(nic) })).map(drop)
    }

    /// Whether a NIC that was to be unplugged has gone, after at most `limit`.
    pub fn unplugged(&mut self, nic: usize, limit: Duration) -> Result<bool> {
        self.qmp.event("DEVICE_DELETED", |data| data["device"] == machine::id(nic).as_str(), limit)
    }

    /// Plugs a NIC that has gone in again.
    pub fn plug(&mut self, nic: usize) -> Result<()> {
        let device =
            self.machine.nics.get(nic).with_context(|| format!("there is no NIC {nic}"))?.device(nic);
        // In words for people: those for programs want each property's type.
        let line = format!("device_add {device}");
        let said = self.qmp.call("human-monitor-command", json!({ "command-line": line }))?;
        ensure!(said.as_str().is_none_or(str::is_empty), "QEMU refuses `{line}`: {said}");
        Ok(())
    }
}

fn connect(qemu: &mut Process, path: &Path) -> Result<UnixStream> {
    let end = Instant::now() + QEMU;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(e) => {
                if let Some(status) = qemu.ended()? {
                    bail!("QEMU has ended ({status}): {}", qemu.said());
                }
                ensure!(Instant::now() < end, "QEMU does not open {}: {e}; {}", path.display(), qemu.said());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
