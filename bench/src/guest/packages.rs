//! What `scripts/nic-guest.sh` has unpacked: QEMU, a kernel, its modules, a busybox.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The directory it left them in.
#[derive(Debug, Clone)]
pub struct Packages(PathBuf);

impl Packages {
    /// Those in `S2_NIC_DIR`, else in `nic` of the directory that cargo builds the running program in.
    pub fn find() -> Result<Packages> {
        let dir = match std::env::var_os("S2_NIC_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => {
                let exe = std::env::current_exe().context("cannot find the running program")?;
                let built = exe.ancestors().skip(1).map(|dir| dir.join("nic"));
                built.take(3).find(|dir| dir.is_dir()).unwrap_or_else(|| PathBuf::from("target/nic"))
            }
        };
        ensure!(
            dir.join("complete").is_file(),
            "{} has no guest to boot; `scripts/nic-guest.sh` fetches it, and S2_NIC_DIR names another place",
            dir.display()
        );
        // QEMU need not share our working directory.
        Ok(Packages(std::fs::canonicalize(&dir).with_context(|| format!("cannot find {}", dir.display()))?))
    }

    /// The program that runs QEMU.
    #[must_use]
    pub fn qemu(&self) -> PathBuf {
        self.0.join("qemu")
    }

    /// The kernel's image.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.0.join("vmlinuz")
    }

    /// The static busybox.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.0.join("busybox")
    }

    /// A module of the kernel; none when it has none of that name, perhaps because it is built in.
    #[must_use]
    pub fn module(&self, name: &str) -> Option<PathBuf> {
        let file = self.0.join("modules").join(format!("{name}.ko"));
        file.is_file().then_some(file)
    }

    /// Versions of all packages, by their file names.
    pub fn versions(&self) -> Result<Vec<String>> {
        let file = self.0.join("complete");
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().skip(1).map(|line| line.replace("%3a", ":").replace(".deb", "")).collect())
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }
}
