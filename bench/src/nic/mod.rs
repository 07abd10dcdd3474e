//! The relay on real PCI drivers: s2ds in a virtual machine, on emulated NICs bound to vfio-pci behind an emulated IOMMU.
//!
//! One guest has four NICs of each kind. Two have cables whose far ends are sockets of this process, where [`frames`] sends
//! and compares whole frames; two are taps in network namespaces, where [`streams`] has Linux on both sides. A forwarder at a
//! time runs in the guest: on the first pair, on a VLAN and with large packets, on the taps with two workers, and
//! at last with a third port whose device is unplugged ([`removal`]).
//!
//! [`vhost`] is the other way round: there s2ds runs on this machine, and the guest is what it relays for.
//!
//! Everything is functional. Nothing here is quick: the guest's processors are translated ones.
#![forbid(unsafe_code)]

mod frames;
mod peers;
mod placement;
mod relay;
mod removal;
mod report;
mod streams;
mod vhost;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};

pub use report::{Check, Outcome, Report};

use crate::guest::{Backend, Guest, Image, Machine, Model, Nic, Packages, VFIO};
use crate::topology::{Netns, Workdir, find_binary};
use frames::Frames;
use peers::Peers;
use relay::TARGET_HOST;
use report::Found;
use streams::Streams;

/// NICs of each kind: two with frames, two with taps.
const NICS: usize = 4;
/// What the drivers of all kinds need.
const DRIVERS: &[&str] = &["bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_vmxnet3", "net_virtio"];

/// Runs every check on these kinds of NIC. An error means that there was no guest to try anything in.
pub fn run(models: &[Model]) -> Result<Report> {
    let began = Instant::now();
    let packages = Packages::find()?;
    ensure!(
        Path::new("/dev/net/tun").exists(),
        "this machine has no /dev/net/tun, which taps need; load the kernel module with `modprobe tun`"
    );
    let mut report = Report::new(models, packages.versions()?);
    let inside: Vec<Model> = models.iter().copied().filter(|m| *m != Model::Vhost).collect();
    if !inside.is_empty() {
        in_guest(&packages, &inside, &mut report)?;
    }
    if models.contains(&Model::Vhost) {
        vhost::run(&packages, &mut report);
    }
    report.seconds = began.elapsed().as_secs();
    Ok(report)
}

/// The kinds of NIC that the relay drives in the guest.
fn in_guest(packages: &Packages, models: &[Model], report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let dir = Arc::new(Workdir::new()?);
    let netns = Netns::new("qemu", Arc::clone(&dir))?;
    let machine = Machine {
        memory: 1536,
        hugepages: 256,
        processors: 3,
        two_nodes: true,
        iommu: true,
        nics: models.iter().enumerate().flat_map(|(kind, model)| nics(kind, *model)).collect(),
        ..Machine::default()
    };
    let mut guest = Guest::boot(&netns, packages, &machine, &image(packages)?)?;
    eprintln!("the guest has booted after {:.1} s", began.elapsed().as_secs_f64());
    let peers: Result<Vec<Peers>> = (0..models.len())
        .map(|kind| {
            let taps = [tap(kind, 2), tap(kind, 3)];
            Peers::new(&dir, &netns, [&taps[0], &taps[1]], TARGET_HOST)
        })
        .collect();
    for (kind, (model, peers)) in models.iter().zip(&peers?).enumerate() {
        let kind = Kind { model: *model, first: kind * NICS, peers, dir: &dir };
        match guest.give_to_programs(kind.first..kind.first + NICS) {
            Ok(devices) => kind.run(&mut guest, &devices, report),
            Err(e) => {
                let failed = Err(e);
                Check::ALL.iter().for_each(|check| report.add(*model, *check, &failed));
            }
        }
    }
    Ok(())
}

fn image(packages: &Packages) -> Result<Image> {
    let mut image = Image::new(packages)?;
    image.modules(VFIO)?;
    image.drivers(DRIVERS)?;
    for program in ["s2ds", "s2ctl"] {
        image.program(&find_binary(program)?)?;
    }
    Ok(image)
}

fn tap(kind: usize, nic: usize) -> String {
    format!("tap{kind}n{nic}")
}

fn nics(kind: usize, model: Model) -> impl Iterator<Item = Nic> {
    (0..NICS).map(move |n| {
        // Only a tap has several queues on virtio; the others bring their own.
        let queues = if model == Model::Virtio { 2 } else { 1 };
        let (backend, options) = match n {
            0 | 1 => (Backend::Frames, ""),
            _ => (
                Backend::Tap { name: tap(kind, n), queues },
                if model == Model::Virtio { "rss=on,hash=on" } else { "" },
            ),
        };
        // Virtio tells its driver the largest packet.
        let mtu = if model == Model::Virtio && n < 2 { "host_mtu=9000" } else { "" };
        let options = [options, mtu].into_iter().filter(|o| !o.is_empty()).collect::<Vec<_>>().join(",");
        Nic { model, mac: [0x52, 0x54, 0, 0, kind as u8, n as u8 + 1], backend, options }
    })
}

/// One kind of NIC.
struct Kind<'a> {
    model: Model,
    /// Place of its first NIC among the guest's.
    first: usize,
    peers: &'a Peers,
    dir: &'a Arc<Workdir>,
}

type Checks<'c, S> = &'c [(Check, &'c dyn Fn(&mut S) -> Result<Found>)];

impl Kind<'_> {
    fn run(&self, guest: &mut Guest, devices: &[String], report: &mut Report) {
        let (first, dir) = (self.first, self.dir);
        let pair = [first, first + 1];
        let plain: Checks<Frames> = &[
            (Check::Neighbors, &frames::neighbors),
            (Check::Relay, &frames::relay),
            (Check::Checksums, &frames::checksums),
            (Check::Multicast, &frames::multicast),
            (Check::Ledger, &frames::ledger),
            (Check::Placement, &placement::placement),
        ];
        self.session(report, Frames::plain(guest, dir, (pair, &devices[..2])), plain, |f, report| {
            if let Ok(port) = f.relay.port("lan") {
                report.drivers.insert(self.model, port.driver);
            }
            f.relay.stop()
        });

        if let Err(e) = self.tagged(guest, devices, report) {
            report.add(self.model, Check::Jumbo, &Err(e));
            let small = Frames::tagged(guest, dir, (pair, devices), false);
            self.session(report, small, &[(Check::Vlan, &frames::vlan)], |f, _| f.relay.stop());
        }

        let checks: Checks<Streams> = &[
            (Check::Streams, &streams::streams),
            (Check::Queues, &streams::queues),
            (Check::Link, &streams::link),
            (Check::Restart, &streams::restart),
        ];
        let started = Streams::start(guest, self.peers, self.model, (first + 2, &devices[2..]));
        self.session(report, started, checks, |s, _| s.relay.stop());

        // The last one of the four goes.
        let three = [&devices[..2], &devices[3..]].concat();
        let started = Frames::plain(guest, dir, (pair, &three));
        let removal = |f: &mut Frames| removal::removal(f, first + 3);
        self.session(report, started, &[(Check::Removal, &removal)], |f, _| f.relay.stop());
    }

    /// The checks on ports of a VLAN and of large packets. An error means that there are no such ports.
    fn tagged(&self, guest: &mut Guest, devices: &[String], report: &mut Report) -> Result<()> {
        let large = Frames::tagged(guest, self.dir, ([self.first, self.first + 1], devices), true)?;
        let checks: Checks<Frames> = &[(Check::Vlan, &frames::vlan), (Check::Jumbo, &frames::jumbo)];
        self.session(report, Ok(large), checks, |f, _| f.relay.stop());
        Ok(())
    }

    /// Runs checks on what has been started, and ends it; one that did not start has failed all of them. How it ends counts for
    /// the last.
    fn session<S>(
        &self,
        report: &mut Report,
        started: Result<S>,
        checks: Checks<S>,
        end: impl FnOnce(&mut S, &mut Report) -> Result<()>,
    ) {
        let mut subject = match started {
            Ok(subject) => subject,
            Err(e) => {
                let failed = Err(e.context("the relay did not start"));
                checks.iter().for_each(|(check, _)| report.add(self.model, *check, &failed));
                return;
            }
        };
        for (check, run) in checks {
            let came = run(&mut subject);
            report.add(self.model, *check, &came);
        }
        if let (Err(e), Some((last, _))) = (end(&mut subject, report), checks.last()) {
            report.add(self.model, *last, &Err(e.context("at the end")));
        }
    }
}
