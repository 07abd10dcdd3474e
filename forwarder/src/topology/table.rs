//! The placement as a table for people.

use super::machine::Machine;
use super::{Placement, PortPlace, WorkerPlace};
use crate::api::table::Table;
use crate::config::Config;

/// A row for each device and worker: which queue, on which core, where the packets lie, and what is to be known of it.
#[must_use]
pub fn table(config: &Config, machine: &Machine, placement: &Placement) -> Table {
    let mut table = Table::new(&[
        "PORT",
        "DEVICE",
        ">NODE",
        ">QUEUE",
        ">WORKER",
        ">CORE",
        ">CORE NODE",
        "SIBLINGS",
        "ISOLATED",
        ">POOL NODE",
        "REMARK",
    ]);
    for ports in config.devices() {
        let Some(first) = ports.first() else { continue };
        let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        let index = usize::from(config.first_of_device(first));
        let port = placement.ports.get(index).copied().unwrap_or_default();
        for (number, worker) in placement.workers.iter().enumerate() {
            let siblings = machine.siblings(worker.core);
            table.row([
                names.join(", "),
                first.device.to_string(),
                node(port.node),
                number.to_string(),
                number.to_string(),
                worker.core.to_string(),
                node(worker.node),
                if siblings.is_empty() { "-".to_owned() } else { siblings.to_string() },
                isolated(machine, worker.core),
                node(port.pool),
                remarks(machine, placement, worker, port),
            ]);
        }
    }
    table
}

fn node(node: Option<i32>) -> String {
    node.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn isolated(machine: &Machine, core: usize) -> String {
    let is = if machine.isolated.contains(core) { "yes" } else { "no" };
    if machine.nohz_full.contains(core) { format!("{is}, nohz_full") } else { is.to_owned() }
}

fn remarks(machine: &Machine, placement: &Placement, worker: &WorkerPlace, port: PortPlace) -> String {
    let mut remarks = Vec::new();
    if let (Some(from), Some(to)) = (port.node, worker.node)
        && from != to
    {
        let far = machine.distance(from, to).map_or_else(String::new, |d| format!(" (distance {d})"));
        remarks.push(format!("crosses the interconnect{far}"));
    }
    let siblings = machine.siblings(worker.core);
    let mates = placement.workers.iter().enumerate().filter(|(_, w)| siblings.contains(w.core));
    remarks.extend(mates.map(|(number, _)| format!("hyper-thread beside worker {number}")));
    if placement.main == worker.core {
        remarks.push("also the main core".to_owned());
    } else if siblings.contains(placement.main) {
        remarks.push("hyper-thread beside the main core".to_owned());
    }
    if remarks.is_empty() { "-".to_owned() } else { remarks.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::place;
    use super::super::tree::{FAR, NEAR, Tree, config};
    use super::*;

    fn shown(tree: &Tree, devices: &[&str], workers: &str) -> String {
        let (config, machine) = (config(devices, workers), tree.read());
        let placement = place(&config, &machine).unwrap();
        format!("\n{}", table(&config, &machine, &placement))
    }

    #[test]
    fn ports_on_two_nodes() {
        let tree = Tree::two_sockets().isolated("2-3,10-11", "0-1,4-9,12-15");
        let tree = tree.file("sys/devices/system/cpu/nohz_full", "2-3\n");
        let expected = "
PORT  DEVICE        NODE  QUEUE  WORKER  CORE  CORE NODE  SIBLINGS  ISOLATED        POOL NODE  REMARK
p0    0000:41:00.0     0      0       0     2          0  10        yes, nohz_full          0  -
p0    0000:41:00.0     0      1       1     3          0  11        yes, nohz_full          0  -
p1    0000:c1:00.0     1      0       0     2          0  10        yes, nohz_full          1  crosses the interconnect (distance 21)
p1    0000:c1:00.0     1      1       1     3          0  11        yes, nohz_full          1  crosses the interconnect (distance 21)
";
        assert_eq!(shown(&tree, &[NEAR[0], FAR], ""), expected);
    }

    #[test]
    fn workers_in_each_others_way() {
        let expected = "
PORT  DEVICE          NODE  QUEUE  WORKER  CORE  CORE NODE  SIBLINGS  ISOLATED  POOL NODE  REMARK
p0    vdev:net_null0     -      0       0     0          -  1         no                -  hyper-thread beside worker 1, also the main core
p0    vdev:net_null0     -      1       1     1          -  0         no                -  hyper-thread beside worker 0, hyper-thread beside the main core
";
        assert_eq!(shown(&Tree::one_socket(&[&[0, 1]]), &["vdev:net_null0"], "cores = [0, 1]"), expected);
        let expected = "
PORT  DEVICE          NODE  QUEUE  WORKER  CORE  CORE NODE  SIBLINGS  ISOLATED  POOL NODE  REMARK
p0    vdev:net_null0     -      0       0     1          -  -         no                -  -
";
        assert_eq!(shown(&Tree::one_socket(&[&[0], &[1]]), &["vdev:net_null0"], ""), expected);
    }

    #[test]
    fn ports_that_share_a_device_share_a_row() {
        let tree = Tree::two_sockets();
        let text = shown(&tree, &[FAR, FAR], "cores = [4]");
        assert!(text.contains("\np0, p1  0000:c1:00.0     1      0 ") && text.lines().count() == 3, "{text}");
    }
}
