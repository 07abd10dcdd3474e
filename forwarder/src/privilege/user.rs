//! The user that the process runs as.
#![forbid(unsafe_code)]

use std::ffi::CString;

use nix::unistd::{Gid, Uid, User, getgrouplist, setgroups, setresgid, setresuid};

use super::PrivilegeError;

/// A user of the system.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// Its own group and the further ones, such as the one that may use `/dev/vfio`.
    groups: Vec<Gid>,
}

impl Account {
    /// The process runs as this user already.
    pub(super) fn is_current(&self) -> bool {
        self.uid == Uid::effective()
    }
}

/// Looks the user up by name.
pub(super) fn find(name: &str) -> Result<Account, PrivilegeError> {
    let none = || PrivilegeError::NoUser(name.to_owned());
    let User { uid, gid, .. } = User::from_name(name).ok().flatten().ok_or_else(none)?;
    let groups =
        CString::new(name).ok().and_then(|n| getgrouplist(&n, gid).ok()).unwrap_or_else(|| vec![gid]);
    Ok(Account { name: name.to_owned(), uid, gid, groups })
}

/// Becomes the user, with all threads of the process. The calling thread keeps its permitted capabilities, the others lose all
/// when the process was root's.
pub(super) fn become_user(account: &Account) -> nix::Result<()> {
    nix::sys::prctl::set_keepcaps(true)?;
    setgroups(&account.groups)?;
    setresgid(account.gid, account.gid, account.gid)?;
    setresuid(account.uid, account.uid, account.uid)?;
    nix::sys::prctl::set_keepcaps(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_nobody_else_of_that_name() {
        let root = find("root").unwrap();
        assert!(root.uid.is_root());
        assert!(root.groups.contains(&root.gid));
        let error = find("no-such-user").unwrap_err().to_string();
        assert!(error.contains("no-such-user") && error.contains("useradd"), "{error}");
    }
}
