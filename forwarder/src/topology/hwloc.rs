//! The same facts from hwloc, which knows of firmware that tells the kernel wrong, and takes an operator's correction
//! (`HWLOC_XMLFILE`).

use hwlocality::Topology;
use hwlocality::object::types::ObjectType;

use super::{CoreSet, Machine};

/// Replaces NUMA nodes and hyper-threads of the cores that hwloc knows by what it says of them.
pub(super) fn refine(mut machine: Machine) -> Machine {
    let Ok(topology) = Topology::new() else { return machine };
    for core in &mut machine.cores {
        let unit = topology.objects_with_type(ObjectType::PU).find(|o| o.os_index() == Some(core.id));
        let Some(unit) = unit else { continue };
        // Without NUMA in the kernel hwloc has one node all the same, which no memory can be asked of.
        let node = unit.nodeset().and_then(|set| set.first_set()).map(|n| usize::from(n) as i32);
        core.node = node.filter(|node| machine.nodes.iter().any(|n| n.id == *node));
        let mut above = std::iter::successors(unit.parent(), |o| o.parent());
        let physical = above.find(|o| o.object_type() == ObjectType::Core);
        if let Some(cpus) = physical.and_then(|o| o.cpuset()) {
            core.threads = cpus.iter_set().map(usize::from).collect::<CoreSet>();
        }
    }
    machine
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn hwloc_and_sys_agree() {
        let from_sys = Machine::read(Path::new("/")).unwrap();
        assert_eq!(refine(from_sys.clone()), from_sys);
    }
}
