//! Files, confined by the kernel's Landlock. It binds the calling thread and those it starts.
#![forbid(unsafe_code)]

use ::landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::needs::{Access, FileNeed};
use super::tell;

/// The newest version whose rights are handled. Of an older kernel's rights those are that it knows.
const KNOWN: ABI = ABI::V6;

/// Allows these files and no others, and signals to the process itself alone. What does not exist needs no rule. Returns whether
/// the kernel has Landlock.
pub(super) fn confine(files: &[FileNeed]) -> Result<bool, RulesetError> {
    let mut rules =
        Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::Signal)?.create()?;
    for FileNeed { path, access } in files {
        let Ok(place) = PathFd::new(path) else { continue };
        let mut rights = rights(*access);
        if !path.is_dir() {
            rights &= AccessFs::from_file(KNOWN);
        }
        if !rights.is_empty() {
            rules = rules.add_rule(PathBeneath::new(place, rights))?;
        }
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Ok(true),
        RulesetStatus::PartiallyEnforced => {
            tell(
                "this kernel's Landlock is an old one: it confines files, but not all that is done with them",
            );
            Ok(true)
        }
        RulesetStatus::NotEnforced => {
            tell(
                "this kernel has no Landlock: files are not confined (it takes Linux 5.13 and `landlock` in lsm=)",
            );
            Ok(false)
        }
    }
}

/// Nothing can be run, whatever the access.
fn rights(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        Access::Write => make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile}),
        Access::Device => make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | IoctlDev}),
        Access::Own => make_bitflags!(AccessFs::{
            ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | MakeDir | RemoveFile | RemoveDir
        }),
        Access::Remove => AccessFs::RemoveFile.into(),
    }
}
