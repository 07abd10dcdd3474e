//! System calls, filtered by the kernel's seccomp.
//!
//! A thread has several filters, and the strictest answer counts. One ends the process at what only an attacker does. One looks
//! at arguments. One knows the calls that are needed, and refuses every other with EPERM: a call that the lists lack fails, and
//! the stream goes on. A worker has a second one of these with a shorter list.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, apply_filter_all_threads,
};

use super::{calls, tell};
use crate::config::Sandbox;

/// Compiled filters.
#[derive(Debug)]
pub(super) struct Filters {
    process: Vec<BpfProgram>,
    worker: Vec<BpfProgram>,
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

impl Filters {
    /// Applies them to every thread there is.
    pub(super) fn process(&self) -> Result<(), Error> {
        self.process.iter().try_for_each(|program| apply_filter_all_threads(program))
    }

    /// Applies a worker's to the calling thread, on top of the process's.
    pub(super) fn worker(&self) -> Result<(), Error> {
        self.worker.iter().try_for_each(|program| apply_filter(program))
    }
}

/// The filters; none where they are off, or the processor's calls are not known.
pub(super) fn filters(sandbox: Sandbox, bpf: bool) -> Result<Option<Filters>, BackendError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        tell("system calls of this processor are not known: they are not filtered");
        return Ok(None);
    };
    let filter =
        |rules: Rules, other: SeccompAction, these: SeccompAction| -> Result<BpfProgram, BackendError> {
            SeccompFilter::new(rules, other, these, arch)?.try_into()
        };
    const EPERM: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);
    const ENOSYS: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);
    let mut process = threads_only()?;
    process.extend(sockets()?);
    process.extend(calls::PROCESS.iter().copied().flatten().map(|call| (*call, Vec::new())));
    if bpf {
        process.extend(calls::BPF.iter().map(|call| (*call, Vec::new())));
    }
    let mut worker = no_new_code()?;
    for call in calls::WORKER.iter().copied().flatten() {
        worker.entry(*call).or_default();
    }
    worker.insert(libc::SYS_tgkill, vec![own_process()?]);
    let attack = |more: &[c_long]| calls::ATTACK.iter().chain(more).map(|call| (*call, Vec::new())).collect();
    Ok(match sandbox {
        Sandbox::Off => None,
        Sandbox::Log => {
            let all_but = |rules| filter(rules, SeccompAction::Log, SeccompAction::Allow);
            // Which kind of call clone3 is shows in memory that no filter sees.
            process.insert(libc::SYS_clone3, Vec::new());
            Some(Filters { process: vec![all_but(process)?], worker: vec![all_but(worker)?] })
        }
        Sandbox::On => Some(Filters {
            process: vec![
                filter(attack(&[]), SeccompAction::Allow, SeccompAction::KillProcess)?,
                // The C library then takes clone, whose flags a filter sees.
                filter(Rules::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, ENOSYS)?,
                filter(typing()?, SeccompAction::Allow, EPERM)?,
                {
                    process.insert(libc::SYS_clone3, Vec::new());
                    filter(process, EPERM, SeccompAction::Allow)?
                },
            ],
            worker: vec![
                filter(attack(calls::BPF), SeccompAction::Allow, SeccompAction::KillProcess)?,
                filter(worker, EPERM, SeccompAction::Allow)?,
            ],
        }),
    })
}

fn rule(conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let made = conditions
        .iter()
        .cloned()
        .map(|(index, len, op, value)| SeccompCondition::new(index, len, op, value));
    SeccompRule::new(made.collect::<Result<_, _>>()?)
}

use SeccompCmpArgLen::{Dword, Qword};
use SeccompCmpOp::{Eq, MaskedEq};

/// Signals to this process, as `raise` and `abort` send them.
fn own_process() -> Result<SeccompRule, BackendError> {
    rule(&[(0, Dword, Eq, u64::from(std::process::id()))])
}

/// Threads of this process, and no further process.
fn threads_only() -> Result<Rules, BackendError> {
    let thread = libc::CLONE_THREAD as u64;
    Ok(Rules::from([
        (libc::SYS_clone, vec![rule(&[(0, Qword, MaskedEq(thread), thread)])?]),
        (libc::SYS_tgkill, vec![own_process()?]),
    ]))
}

/// Sockets of this machine, of the kernel, and for frames. Those of IP only without connections, by which interfaces are asked
/// and set: nothing can be called over the network, nor listen there.
fn sockets() -> Result<Rules, BackendError> {
    let family = |family: i32| rule(&[(0, Dword, Eq, family as u64)]);
    let datagram = |family: i32| {
        // Beside the kind there are flags in it.
        rule(&[(0, Dword, Eq, family as u64), (1, Dword, MaskedEq(0xf), libc::SOCK_DGRAM as u64)])
    };
    let rules = vec![
        family(libc::AF_UNIX)?,
        family(libc::AF_NETLINK)?,
        family(libc::AF_PACKET)?,
        family(libc::AF_XDP)?,
        datagram(libc::AF_INET)?,
        datagram(libc::AF_INET6)?,
    ];
    let pair = vec![family(libc::AF_UNIX)?];
    // Control of devices, but not of terminals: see `typing`.
    Ok(Rules::from([(libc::SYS_socket, rules), (libc::SYS_socketpair, pair), (libc::SYS_ioctl, Vec::new())]))
}

/// Typing into the terminal that s2ds was started from.
fn typing() -> Result<Rules, BackendError> {
    let requests = [libc::TIOCSTI, libc::TIOCLINUX];
    let rules = requests.iter().map(|request| rule(&[(1, Dword, Eq, *request)])).collect::<Result<_, _>>()?;
    Ok(Rules::from([(libc::SYS_ioctl, rules)]))
}

/// Memory, but none that can be run.
fn no_new_code() -> Result<Rules, BackendError> {
    let data = || rule(&[(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0)]);
    Ok(Rules::from([(libc::SYS_mmap, vec![data()?]), (libc::SYS_mprotect, vec![data()?])]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker's filter lies on top of the process's: what only the worker's allows is not allowed.
    #[test]
    fn a_worker_needs_nothing_that_the_process_lacks() {
        let process: Vec<c_long> = calls::PROCESS.iter().copied().flatten().copied().collect();
        for call in calls::WORKER.iter().copied().flatten() {
            assert!(process.contains(call), "call {call}");
        }
    }

    #[test]
    fn no_list_allows_what_ends_the_process() {
        let allowed = calls::PROCESS.iter().chain(calls::WORKER).copied().flatten().chain(calls::BPF);
        for call in allowed {
            assert!(!calls::ATTACK.contains(call), "call {call}");
        }
    }

    #[test]
    fn every_choice_compiles() {
        assert!(filters(Sandbox::Off, false).unwrap().is_none());
        for bpf in [false, true] {
            for sandbox in [Sandbox::On, Sandbox::Log] {
                let made = filters(sandbox, bpf).unwrap().unwrap();
                assert!(made.process.iter().chain(&made.worker).all(|program| !program.is_empty()));
            }
        }
    }
}
