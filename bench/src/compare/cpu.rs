//! Processor time of processes and of all that they have started.

use std::collections::BTreeMap;
use std::fs;

/// Processor time of a process, of its threads, and of its children and theirs, those that have ended too; in seconds.
/// 0 when there is no such process.
#[must_use]
pub fn of(pid: u32) -> f64 {
    let processes: BTreeMap<u32, Times> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, Times::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    tree(&processes, pid) as f64 / second as f64
}

/// What a line of /proc/PID/stat says, in ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    parent: u32,
    /// User and system time, of the children that were waited for too.
    ticks: u64,
}

impl Times {
    fn parse(stat: &str) -> Option<Times> {
        // The name before may have spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
        Some(Times { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

fn tree(processes: &BTreeMap<u32, Times>, root: u32) -> u64 {
    let own = processes.get(&root).map_or(0, |t| t.ticks);
    let children = processes.iter().filter(|(pid, t)| t.parent == root && **pid != root);
    own + children.map(|(pid, _)| tree(processes, *pid)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_behind_the_name() {
        let line = "7 (a) (b) S 3 7 7 0 -1 4194560 90 0 0 0 100 20 3 4 20 0 1 0 5 0";
        assert_eq!(Times::parse(line), Some(Times { parent: 3, ticks: 127 }));
        assert_eq!(Times::parse("7 (a"), None);
    }

    #[test]
    fn children_and_theirs_count() {
        let all = [(1, 0, 1), (2, 1, 10), (3, 2, 100), (4, 1, 1000), (5, 9, 10_000)];
        let all = all.into_iter().map(|(pid, parent, ticks)| (pid, Times { parent, ticks })).collect();
        assert_eq!(tree(&all, 2), 110);
        assert_eq!(tree(&all, 1), 1111);
        assert_eq!(tree(&all, 6), 0);
    }

    #[test]
    fn this_process_has_used_some_in_the_end() {
        let me = std::process::id();
        while of(me) == 0.0 {
            std::hint::spin_loop();
        }
        assert_eq!(of(u32::MAX), 0.0);
    }
}
