//! Whether there are enough hugepages, and on the right NUMA nodes: EAL's own answer to a lack comes late and says little.

use std::fs;
use std::path::{Path, PathBuf};

use super::eal::{EalOptions, eal_error};
use super::error::DpdkError;
use crate::topology::hugepages;

/// Looks at the hugepages of the machine below this root.
pub(super) fn check(root: &Path, options: &EalOptions) -> Result<(), DpdkError> {
    let nodes = root.join("sys/devices/system/node");
    let of_node = |node: i32| nodes.join(format!("node{node}/hugepages"));
    let counted: Vec<&(i32, usize)> =
        options.node_mb.iter().filter(|(node, _)| of_node(*node).is_dir()).collect();
    // What can be told by node is told so first: pages that are reserved for all nodes come to all of them.
    if let [_, _, ..] = counted[..] {
        counted.iter().try_for_each(|(node, mb)| on_node(root, *node, &of_node(*node), *mb))?;
    }
    anywhere(root, options.memory_mb)?;
    counted.iter().try_for_each(|(node, mb)| on_node(root, *node, &of_node(*node), *mb))
}

fn anywhere(root: &Path, wanted_mb: usize) -> Result<(), DpdkError> {
    let free_mb = free_mb(&root.join("sys/kernel/mm/hugepages"));
    if free_mb >= wanted_mb {
        return Ok(());
    }
    let number = root.join("proc/sys/vm/nr_hugepages");
    Err(eal_error(
        format!("{wanted_mb} MiB of hugepages are needed and {free_mb} MiB are free"),
        mend(&number, default_kb(root), wanted_mb - free_mb),
    ))
}

fn on_node(root: &Path, node: i32, folder: &Path, wanted_mb: usize) -> Result<(), DpdkError> {
    let free_mb = free_mb(folder);
    if free_mb >= wanted_mb {
        return Ok(());
    }
    let kb = default_kb(root);
    let number = folder.join(format!("hugepages-{kb}kB/nr_hugepages"));
    Err(eal_error(
        format!(
            "{wanted_mb} MiB of hugepages are needed on NUMA node {node}, where a device is, and {free_mb} MiB are free there"
        ),
        mend(&number, kb, wanted_mb - free_mb),
    ))
}

/// What is written there is the number of all pages, those in use included.
fn mend(number: &Path, page_kb: usize, missing_mb: usize) -> String {
    let all: usize = fs::read_to_string(number).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    let missing = missing_mb.saturating_mul(1024).div_ceil(page_kb).max(1);
    format!(
        "reserve them with `echo {} > {}` as root, or set `huge = false` in [eal]",
        all.saturating_add(missing),
        number.display()
    )
}

/// Size of the pages that /proc/sys/vm/nr_hugepages counts, in KiB.
fn default_kb(root: &Path) -> usize {
    let info: PathBuf = root.join("proc/meminfo");
    let info = fs::read_to_string(info).unwrap_or_default();
    let size =
        info.lines().find_map(|l| l.strip_prefix("Hugepagesize:")?.split_whitespace().next()?.parse().ok());
    size.filter(|kb| *kb > 0).unwrap_or(2048)
}

/// Free hugepages of all sizes.
fn free_mb(folder: &Path) -> usize {
    let kb: u64 = hugepages(folder).iter().map(|(kb, pages)| kb * pages.free).sum();
    usize::try_from(kb / 1024).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with so many free pages of 2 MiB on each node, of 10 more that are in use; and some of 1 GiB.
    fn machine(nodes: &[usize], gigantic: usize) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, text: String| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let pages = |folder: String, size: &str, free: usize| {
            write(format!("{folder}/hugepages-{size}kB/free_hugepages"), format!("{free}\n"));
            write(format!("{folder}/hugepages-{size}kB/nr_hugepages"), format!("{}\n", free + 10));
        };
        for (node, free) in nodes.iter().enumerate() {
            pages(format!("sys/devices/system/node/node{node}/hugepages"), "2048", *free);
        }
        let all: usize = nodes.iter().sum();
        pages("sys/kernel/mm/hugepages".to_owned(), "2048", all);
        pages("sys/kernel/mm/hugepages".to_owned(), "1048576", gigantic);
        write("proc/sys/vm/nr_hugepages".to_owned(), format!("{}\n", all + 10));
        write("proc/meminfo".to_owned(), "MemTotal: 1 kB\nHugepagesize:       2048 kB\n".to_owned());
        root
    }

    fn refusal(root: &tempfile::TempDir, memory_mb: usize, node_mb: &[(i32, usize)]) -> Option<String> {
        let options = EalOptions { memory_mb, node_mb: node_mb.to_vec(), ..EalOptions::default() };
        let text = check(root.path(), &options).err()?.to_string();
        Some(text.replace(root.path().to_str().unwrap(), ""))
    }

    #[test]
    fn free_hugepages_of_all_sizes_count() {
        assert_eq!(refusal(&machine(&[8], 0), 16, &[(0, 16)]), None);
        assert_eq!(refusal(&machine(&[8], 1), 1040, &[]), None);
        let text = refusal(&machine(&[8], 0), 21, &[(0, 21)]).unwrap();
        assert!(text.contains("21 MiB of hugepages are needed and 16 MiB are free;"), "{text}");
        assert!(text.contains("`echo 21 > /proc/sys/vm/nr_hugepages`"), "{text}");
        let none = tempfile::tempdir().unwrap();
        assert!(refusal(&none, 1, &[]).unwrap().contains("0 MiB are free;"));
    }

    #[test]
    fn each_node_needs_its_own() {
        let root = machine(&[100, 5], 0);
        assert_eq!(refusal(&root, 100, &[(0, 100)]), None);
        for both in [[(0, 50), (1, 20)], [(1, 20), (0, 50)]] {
            let text = refusal(&root, 70, &both).unwrap();
            assert!(
                text.contains("20 MiB of hugepages are needed on NUMA node 1, where a device is, and 10 MiB are free there;"),
                "{text}"
            );
            let place = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
            assert!(text.contains(&format!("`echo 20 > {place}`")), "{text}");
        }
        // One pool, on the node that has too few, though there are enough in all.
        assert!(refusal(&root, 20, &[(1, 20)]).unwrap().contains("on NUMA node 1"));
        // A kernel that tells nothing of nodes.
        assert_eq!(refusal(&root, 20, &[(7, 20)]), None);
    }
}
