//! The relay on real PCI drivers.
#![forbid(unsafe_code)]

use crate::guest::*;
use crate::topology::{Netns, Workdir};
use anyhow::Result;
use std::sync::Arc;

#[derive(Debug, serde::Serialize)]
pub struct Report {}
impl Report {
    pub fn held(&self) -> bool {
        true
    }
    pub fn markdown(&self) -> String {
        String::new()
    }
}
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

pub fn run(models: &[Model]) -> Result<Report> {
    let packages = Packages::find()?;
    let mut image = Image::new(&packages)?;
    image.modules(VFIO)?;
    image.tool("ip")?;
    image.program(&crate::topology::find_binary("s2ds")?)?;
    image.program(&crate::topology::find_binary("s2ctl")?)?;
    image.drivers(&["bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_vmxnet3", "net_virtio"])?;
    let dir = Arc::new(Workdir::new()?);
    let ns = Netns::new("qemu", dir)?;
    let mut nics = vec![];
    for (i, m) in Model::ALL.into_iter().enumerate() {
        for j in 0..2 {
            nics.push(Nic {
                model: m,
                mac: [0x52, 0x54, 0, 0, i as u8, j],
                backend: Backend::Frames,
                options: String::new(),
            });
        }
    }
    let t = std::time::Instant::now();
    let mut g = Guest::boot(
        &ns,
        &packages,
        &Machine { nics, iommu: true, hugepages: 160, processors: 3, memory: 1536, ..Machine::default() },
        &image,
    )?;
    eprintln!("booted {:?}", t.elapsed());
    eprintln!("{}", g.ok("ls / /modules; ls /sys/bus/pci/devices; ls /sys/bus/pci/drivers; free")?);
    let a = g.give_to_programs(0..8)?;
    eprintln!("{a:?}");
    for i in [0, 2, 4, 6] {
        let cfg = format!(
            "[workers]\ncores=[1]\nidle=\"adaptive\"\n[[port]]\nname=\"lan\"\ndevice=\"{}\"\naddresses=[\"10.71.0.1/24\",\"fd71::1/64\"]\n[[port]]\nname=\"wan\"\ndevice=\"{}\"\naddresses=[\"10.72.0.1/24\",\"fd72::1/64\"]\n[service]\nsocket=\"/run/s2ds.sock\"\nmode=\"0600\"\n",
            a[i],
            a[i + 1]
        );
        g.write("/run/s2ds.toml", &cfg)?;
        let t = std::time::Instant::now();
        g.start("s2ds", "s2ds --config /run/s2ds.toml")?;
        let said = g.run("for i in $(seq 100); do s2ctl --socket /run/s2ds.sock port list && break; [ -s /run/s2ds.status ] && break; sleep 0.2; done; cat /run/s2ds.log", std::time::Duration::from_secs(60))?;
        eprintln!("{:?} {}", t.elapsed(), said.text);
        g.signal("s2ds", "TERM")?;
        eprintln!("{}", g.wait("s2ds", std::time::Duration::from_secs(10))?);
    }
    Ok(Report {})
}
