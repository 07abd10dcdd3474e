//! An access switch: untagged towards a host, tagged towards its gateway.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::{Netns, TopologyError, Workdir};

const LIMIT: Duration = Duration::from_secs(20);

/// Joins `host` and `gateway` by a switch that tags with `vlan` what goes to the gateway, and passes to the host only
/// what is so tagged.
///
/// A VLAN sub-interface of the host would do, were it in every kernel. Programs of tc are; they cannot tag what the
/// host's own stack hands to its interface in large segments, so they sit one hop away.
pub(super) fn join(
    gateway: &Netns,
    host: &Netns,
    vlan: u16,
    mtu: u16,
    dir: Arc<Workdir>,
) -> Result<Netns, TopologyError> {
    let switch = Netns::new("switch", dir)?;
    gateway.join("lan", &switch, "trunk", mtu)?;
    switch.join("access", host, "eth0", mtu)?;
    switch.silence("trunk")?;
    switch.silence("access")?;

    let (source, object) = (switch.dir().join("vlan.c"), switch.dir().join("vlan.o"));
    fs::write(&source, include_str!("vlan.c")).map_err(TopologyError::io("write vlan.c"))?;
    let (source, object) = (source.to_string_lossy(), object.to_string_lossy());
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let defines = [
        format!("-DVID={vlan}"),
        format!("-DACCESS={}", index(&switch, "access")?),
        format!("-DTRUNK={}", index(&switch, "trunk")?),
    ];
    let mut args = vec!["-O2", "-target", "bpf", &include, "-c", &source, "-o", &object];
    args.extend(defines.iter().map(String::as_str));
    switch.output("clang", &args, LIMIT)?;
    for (device, section) in [("access", "tc"), ("trunk", "classifier")] {
        switch.output("tc", &["qdisc", "add", "dev", device, "clsact"], LIMIT)?;
        let filter = ["filter", "add", "dev", device, "ingress", "bpf", "da", "obj", &object, "sec", section];
        switch.output("tc", &filter, LIMIT)?;
    }
    Ok(switch)
}

/// Number of an interface.
fn index(netns: &Netns, device: &str) -> Result<u32, TopologyError> {
    let said = netns.output("ip", &["-o", "link", "show", "dev", device], LIMIT)?.stdout;
    let number = said.split(':').next().and_then(|n| n.trim().parse().ok());
    number.ok_or_else(|| {
        TopologyError::io(format!("find {device} in {said:?}"))(std::io::ErrorKind::InvalidData.into())
    })
}
