//! The guest's file system: an initramfs out of this machine's own files.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};

use super::Packages;
use crate::topology::find_tool;

/// What gives a PCI device to a program, in the order in which modules need each other.
pub const VFIO: &[&str] =
    &["irqbypass", "vfio", "iommufd", "vfio_virqfd", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci"];
/// The kernel's own driver of virtio NICs.
pub const VIRTIO_NET: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];
/// Where libraries are.
const LIBRARY_DIRS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"];

enum Entry {
    Dir,
    Link(String),
    File { bytes: Vec<u8>, mode: u32 },
}

/// An initramfs in the making. Paths in it are absolute.
pub struct Image {
    packages: Packages,
    entries: BTreeMap<PathBuf, Entry>,
    modules: usize,
}

impl Image {
    /// One that boots to where the host can ask for commands: busybox, all its applets, and the first process.
    pub fn new(packages: &Packages) -> Result<Image> {
        let mut image = Image { packages: packages.clone(), entries: BTreeMap::new(), modules: 0 };
        for dir in ["/proc", "/sys", "/dev", "/tmp", "/run", "/etc", "/root", "/var", "/modules"] {
            image.dir(Path::new(dir));
        }
        image.entries.insert("/var/run".into(), Entry::Link("/run".into()));
        // As on this machine, whose libraries are found by either name.
        for (dir, merged) in [("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/sbin", "usr/sbin")] {
            if fs::read_link(dir).is_ok_and(|to| to == Path::new(merged)) {
                image.dir(&Path::new("/").join(merged));
                image.entries.insert(dir.into(), Entry::Link(merged.into()));
            }
        }
        let busybox = packages.busybox();
        image.copy(&busybox, "/bin/busybox")?;
        let list = Command::new(&busybox).arg("--list").output().context("cannot run busybox")?;
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
            image.entries.insert(Path::new("/bin").join(applet), Entry::Link("busybox".into()));
        }
        image.file("/init", include_str!("init.sh"), 0o755);
        Ok(image)
    }

    /// Adds a file.
    pub fn file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>, mode: u32) {
        let path = path.as_ref();
        path.parent().into_iter().for_each(|dir| self.dir(dir));
        self.entries.insert(path.into(), Entry::File { bytes: content.into(), mode });
    }

    /// Adds a file of this machine.
    pub fn copy(&mut self, from: &Path, to: impl AsRef<Path>) -> Result<()> {
        let read = || -> io::Result<_> { Ok((fs::read(from)?, fs::metadata(from)?.permissions().mode())) };
        let (bytes, mode) = read().with_context(|| format!("cannot read {}", from.display()))?;
        self.file(to, bytes, mode & 0o777);
        Ok(())
    }

    /// Adds a program of this machine to `/usr/bin`, without its debugging information, and the libraries it is linked with.
    pub fn program(&mut self, from: &Path) -> Result<()> {
        let name = from.file_name().with_context(|| format!("{} is no program", from.display()))?;
        self.file(Path::new("/usr/bin").join(name), stripped(from)?, 0o755);
        self.libraries_of(from)
    }

    /// Adds an installed tool to `/usr/sbin`, which is looked at before busybox's own.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let from = find_tool(name)?;
        self.copy(&from, Path::new("/usr/sbin").join(name))?;
        self.libraries_of(&from)
    }

    /// Adds drivers of DPDK, such as `net_e1000`, from where this machine's DPDK looks for them.
    pub fn drivers(&mut self, names: &[&str]) -> Result<()> {
        let found = LIBRARY_DIRS.iter().find_map(|dir| {
            let versions = fs::read_dir(Path::new(dir).join("dpdk")).ok()?;
            versions
                .flatten()
                .map(|v| v.path())
                .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("pmds-")))
        });
        let dir = found.context("DPDK's drivers are not installed; `make deps` installs them")?;
        for name in names {
            let file = format!("librte_{name}.so");
            let files = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
            let found = files
                .flatten()
                .map(|f| f.path())
                .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&file)))
                .with_context(|| format!("{} has no driver {name}", dir.display()))?;
            self.shared(&found)?;
            self.libraries_of(&found)?;
        }
        Ok(())
    }

    /// Adds modules that the guest loads in this order. One that the kernel has not as a module is left away.
    pub fn modules(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            if let Some(file) = self.packages.module(name) {
                self.copy(&file, format!("/modules/{:03}-{name}.ko", self.modules))?;
                self.modules += 1;
            }
        }
        Ok(())
    }

    /// The libraries that a program or library names, and those that they name.
    fn libraries_of(&mut self, binary: &Path) -> Result<()> {
        let said = Command::new(find_tool("ldd")?).arg(binary).output().context("cannot run ldd")?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(!text.contains("not found"), "{} lacks libraries here: {text}", binary.display());
        for line in text.lines() {
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            path.map_or(Ok(()), |path| self.shared(Path::new(path)))?;
        }
        // The C library opens it when a thread is cancelled, and nobody names it.
        let late = LIBRARY_DIRS.iter().map(|dir| Path::new(dir).join("libgcc_s.so.1")).find(|p| p.exists());
        late.map_or(Ok(()), |late| self.shared(&late))
    }

    /// Adds a library, and the link by which it is found: were it there twice, EAL would load a driver twice and end.
    fn shared(&mut self, path: &Path) -> Result<()> {
        let real = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("cannot find the library {}", path.display()))
        };
        let (file, name) = (real(path)?, path.file_name().unwrap_or_default());
        let place = real(path.parent().unwrap_or(path))?.join(name);
        if place != file {
            self.dir(place.parent().unwrap_or(&place));
            self.entries.insert(place, Entry::Link(file.to_string_lossy().into_owned()));
        }
        if self.entries.contains_key(&file) { Ok(()) } else { self.copy(&file, &file) }
    }

    fn dir(&mut self, path: &Path) {
        for dir in path.ancestors().filter(|d| d.parent().is_some()) {
            self.entries.entry(dir.into()).or_insert(Entry::Dir);
        }
    }

    /// Writes it as the kernel reads it: a cpio archive of the `newc` kind, uncompressed, because the guest is slow.
    pub fn write(&self, to: &Path) -> Result<()> {
        let file = fs::File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut out = io::BufWriter::new(file);
        let mut number = 0;
        let mut add = |name: &str, mode: u32, content: &[u8]| -> io::Result<()> {
            number += 1;
            let (size, named) = (content.len() as u32, name.len() as u32 + 1);
            let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, named, 0];
            write!(out, "070701")?;
            fields.iter().try_for_each(|field| write!(out, "{field:08x}"))?;
            // Name and content each end at a multiple of four bytes; the header has 110.
            let padding = |n: usize| &[0u8; 4][..n.next_multiple_of(4) - n];
            out.write_all(name.as_bytes())?;
            out.write_all(&[0])?;
            out.write_all(padding(110 + name.len() + 1))?;
            out.write_all(content)?;
            out.write_all(padding(content.len()))
        };
        let mut all = || -> io::Result<()> {
            // Directories sort before what is in them.
            for (path, entry) in &self.entries {
                let name = path.to_string_lossy();
                let name = name.trim_start_matches('/');
                match entry {
                    Entry::Dir => add(name, 0o040_755, &[])?,
                    Entry::Link(to) => add(name, 0o120_777, to.as_bytes())?,
                    Entry::File { bytes, mode } => add(name, 0o100_000 | mode, bytes)?,
                }
            }
            add("TRAILER!!!", 0, &[])
        };
        all().with_context(|| format!("cannot write {}", to.display()))?;
        out.flush().with_context(|| format!("cannot write {}", to.display()))
    }
}

/// The content of a program without debugging information, which would fill the guest's memory.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let Ok(strip) = find_tool("strip") else {
        return fs::read(program).with_context(|| format!("cannot read {}", program.display()));
    };
    let to = std::env::temp_dir().join(format!("s2bench-stripped-{}", std::process::id()));
    let said = Command::new(strip).arg("--strip-debug").arg("-o").arg(&to).arg(program).output();
    let bytes = fs::read(&to);
    // It is not there when strip failed.
    let _ = fs::remove_file(&to);
    match said {
        Ok(said) if said.status.success() => bytes.with_context(|| format!("cannot read {}", to.display())),
        Ok(said) => bail!("strip {}: {}", program.display(), String::from_utf8_lossy(&said.stderr)),
        Err(e) => Err(e).context("cannot run strip"),
    }
}
