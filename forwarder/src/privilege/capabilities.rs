//! The calling thread's capabilities.
#![forbid(unsafe_code)]

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

use super::PrivilegeError;

/// Capabilities.
pub(super) type Set = CapsHashSet;

/// Capabilities by their names.
pub(super) fn parse(names: &[String]) -> Result<Set, PrivilegeError> {
    names.iter().map(|n| n.parse().map_err(|_| PrivilegeError::NoCapability(n.clone()))).collect()
}

/// Their names in the kernel's order, for people.
pub(super) fn list(set: &Set) -> String {
    let mut sorted: Vec<&Capability> = set.iter().collect();
    sorted.sort_by_key(|c| c.index());
    match sorted.is_empty() {
        true => "none".to_owned(),
        false => sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Empties the bounding set of the calling thread, as far as it may: so nothing it could run would gain anything.
pub(super) fn shut() -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// Leaves the calling thread those of `kept` that it has, effective; none to inherit. Returns them.
pub(super) fn keep(kept: &Set) -> Result<Set, CapsError> {
    let left: Set = caps::read(None, CapSet::Permitted)?.intersection(kept).copied().collect();
    // The effective set may never be more than the permitted one.
    let effective: Set = caps::read(None, CapSet::Effective)?.intersection(&left).copied().collect();
    caps::set(None, CapSet::Effective, &effective)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::set(None, CapSet::Effective, &left)?;
    // With the inheritable set the ambient one goes, too.
    caps::clear(None, CapSet::Inheritable)?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let names = ["CAP_SYS_ADMIN", "CAP_NET_RAW"].map(str::to_owned);
        assert_eq!(list(&parse(&names).unwrap()), "CAP_NET_RAW CAP_SYS_ADMIN");
        assert_eq!(list(&Set::new()), "none");
        let wrong = parse(&["CAP_NET_ROW".to_owned()]).unwrap_err().to_string();
        assert!(wrong.contains("CAP_NET_ROW"), "{wrong}");
    }

    /// On a thread of its own, since what is given up does not come back.
    #[test]
    fn a_thread_keeps_what_it_is_left() {
        std::thread::spawn(|| {
            let had = caps::read(None, CapSet::Permitted).unwrap();
            let kept: Set = [Capability::CAP_NET_RAW, Capability::CAP_CHOWN].into_iter().collect();
            let left = keep(&kept).unwrap();
            assert_eq!(left, had.intersection(&kept).copied().collect::<Set>());
            for set in [CapSet::Permitted, CapSet::Effective] {
                assert_eq!(caps::read(None, set).unwrap(), left);
            }
            keep(&Set::new()).unwrap();
            for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
        })
        .join()
        .unwrap();
    }
}
