//! What the process gives up, and when.
//!
//! | step | when | what |
//! |---|---|---|
//! | [`Privileges::enter`] | the control socket is bound, no other thread runs yet | no_new_privs, Landlock, bounding and ambient set emptied, capabilities down to those that starting takes |
//! | [`Privileges::settle`] | EAL runs, ports are open, no worker runs yet | the user, its groups, capabilities down to those that opening a port again takes, system calls of all threads |
//! | [`Limits::worker`] | a worker is pinned and known to EAL | all capabilities of that thread, its system calls |
//! | [`Limits::without_capabilities`] | the control socket is about to be served | all capabilities of the threads that serve it |
//!
//! Capabilities, Landlock's rules and no_new_privs belong to a thread and pass to those it starts; so the first step comes before
//! EAL starts its own. A change of user reaches all threads and takes the capabilities of all but the one that asks for it.
//!
//! What a machine cannot do is told in a line and left out; what was asked for and fails ends the start.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caps::Capability;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, Uid, faccessat};

use crate::config::{Config, Sandbox};
use capabilities::Set;
use needs::Needs;
use seccomp::Filters;
use user::Account;

mod calls;
mod capabilities;
mod landlock;
mod needs;
mod seccomp;
mod user;

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The user does not exist.
    #[error("user {0:?} does not exist; create it with `useradd --system {0}`, or change [privileges] user")]
    NoUser(String),
    /// The process may not become the user.
    #[error(
        "cannot become user {user} ({source}); start s2ds as root or as that user, or leave [privileges] user out"
    )]
    Become {
        /// Its name.
        user: String,
        /// Why not.
        source: nix::Error,
    },
    /// No capability has the name.
    #[error(
        "[privileges] capabilities: {0:?} is no capability; write one like \"CAP_NET_ADMIN\" (capabilities(7))"
    )]
    NoCapability(String),
    /// The kernel refuses a step.
    #[error("cannot {step} ({source}); [privileges] sandbox = \"off\" starts without")]
    Step {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    step: &'static str,
) -> impl Fn(E) -> PrivilegeError {
    move |source| PrivilegeError::Step { step, source: source.into() }
}

/// What will be kept, found without changing anything.
#[derive(Debug)]
pub struct Plan {
    sandbox: Sandbox,
    account: Option<Account>,
    needs: Needs,
    socket: PathBuf,
    runtime: PathBuf,
}

impl Plan {
    /// Reads the user's entry and what the devices are.
    ///
    /// # Errors
    /// The user or a capability does not exist.
    pub fn new(config: &Config, eal_args: &[String]) -> Result<Self, PrivilegeError> {
        let wanted = &config.privileges;
        let account = wanted.user.as_deref().map(user::find).transpose()?;
        let account = account.filter(|a| !a.is_current());
        let args: Vec<String> = config.eal.args.iter().chain(eal_args).cloned().collect();
        let runtime = runtime_folder(|name| std::env::var(name).ok(), Uid::effective().is_root());
        let mut needs = Needs::of(config, &args, Path::new("/"), &runtime);
        needs.capabilities.extend(capabilities::parse(&wanted.capabilities)?);
        if account.is_some() && needs.bpf {
            // BPF's file system is root's alone.
            needs.capabilities.insert(Capability::CAP_DAC_OVERRIDE);
        }
        Ok(Self { sandbox: wanted.sandbox, account, needs, socket: config.service.socket.clone(), runtime })
    }

    /// Lines for `--check`.
    #[must_use]
    pub fn describe(&self) -> String {
        let user = self.account.as_ref().map_or("the one it is started as", |a| &a.name);
        let kept = match self.sandbox {
            Sandbox::Off if self.account.is_none() => "all that it is started with".to_owned(),
            _ => capabilities::list(&self.needs.capabilities),
        };
        let mut text = format!("Privileges\n  user                {user}\n  capabilities kept   {kept}\n");
        let files: Vec<_> = self.needs.files.iter().map(|f| f.to_string()).collect();
        text += &match self.sandbox {
            Sandbox::On => {
                format!("  system calls        filtered\n  files               {}\n", files.join(", "))
            }
            Sandbox::Log => {
                "  system calls        those that would be refused are logged\n  files               all\n"
                    .to_owned()
            }
            Sandbox::Off => "  system calls        all\n  files               all\n".to_owned(),
        };
        text
    }
}

/// The folder of EAL's sockets, as EAL finds it: below systemd's runtime directory, root's, or the user's.
fn runtime_folder(env: impl Fn(&str) -> Option<String>, root: bool) -> PathBuf {
    let base = env("RUNTIME_DIRECTORY").or_else(|| root.then(|| "/var/run".to_owned()));
    let base = base.or_else(|| env("XDG_RUNTIME_DIR")).unwrap_or_else(|| "/tmp".to_owned());
    Path::new(&base).join("dpdk")
}

/// A process that has given up what starting does not take.
#[derive(Debug)]
pub struct Privileges {
    plan: Plan,
    confined: bool,
}

impl Privileges {
    /// Gives up what neither EAL nor opening ports takes. The calling thread must be the only one.
    ///
    /// # Errors
    /// The user does not exist, or the kernel refuses a step that it knows.
    pub fn enter(config: &Config, eal_args: &[String]) -> Result<Self, PrivilegeError> {
        let plan = Plan::new(config, eal_args)?;
        let mut entered = Self { plan, confined: false };
        let plan = &entered.plan;
        if let Some(account) = &plan.account {
            give_folder(&plan.socket, account);
        }
        if plan.sandbox == Sandbox::Off {
            return Ok(entered);
        }
        // A rule is about a folder that exists. EAL makes it like this and takes it as it is.
        let made = fs::DirBuilder::new().mode(0o700).create(&plan.runtime);
        if let Err(e) = made.or_else(|e| if plan.runtime.is_dir() { Ok(()) } else { Err(e) }) {
            tell(&format!("EAL's folder {} cannot be made ({e})", plan.runtime.display()));
        }
        if plan.needs.bpf {
            mount_bpf();
        }
        nix::sys::prctl::set_no_new_privs().map_err(failed("give up gaining privileges"))?;
        if plan.sandbox == Sandbox::On {
            let confined =
                landlock::confine(&plan.needs.files).map_err(failed("confine files by Landlock"))?;
            entered.confined = confined;
        }
        capabilities::shut().map_err(failed("empty the bounding set of capabilities"))?;
        capabilities::keep(&entered.plan.starting()).map_err(failed("give up capabilities"))?;
        Ok(entered)
    }

    /// Becomes the user, and gives up what an open port does not take. To be called before workers start. `eal` is the folder of
    /// EAL's sockets. Returns what is left to the threads that come.
    ///
    /// # Errors
    /// The process cannot become the user, or the kernel refuses a filter.
    pub fn settle(self, eal: &Path) -> Result<Limits, PrivilegeError> {
        let plan = &self.plan;
        if let Some(account) = &plan.account {
            give_runtime(eal, account);
            user::become_user(account)
                .map_err(|source| PrivilegeError::Become { user: account.name.clone(), source })?;
        }
        let mut said = vec![match (&plan.account, Uid::effective()) {
            (Some(account), _) => format!("user {}", account.name),
            (None, uid) if uid.is_root() => "user root ([privileges] user names another)".to_owned(),
            (None, uid) => format!("user {uid}"),
        }];
        if plan.sandbox == Sandbox::Off && plan.account.is_none() {
            tell(&format!("{}; nothing is given up, because sandbox is off", said.join("")));
            return Ok(Limits::none());
        }
        let left = capabilities::keep(&plan.needs.capabilities).map_err(failed("give up capabilities"))?;
        said.push(format!("capabilities {}, of workers none", capabilities::list(&left)));
        if !may_write(plan.socket.parent()) {
            tell(&format!(
                "the control socket {} will stay when s2ds stops: its folder is not this user's; give it a folder of its own",
                plan.socket.display()
            ));
        }
        let filters = seccomp::filters(plan.sandbox, plan.needs.bpf)
            .map_err(failed("make the filter of system calls"))?;
        if self.confined {
            said.push("files confined".to_owned());
        }
        if let Some(filters) = &filters {
            filters.process().map_err(failed("filter system calls"))?;
            said.push(match plan.sandbox {
                Sandbox::Log => "system calls that would be refused are logged".to_owned(),
                _ => "system calls filtered".to_owned(),
            });
        }
        tell(&said.join("; "));
        Ok(Limits { drop: true, filters: filters.map(Arc::new) })
    }
}

impl Plan {
    /// What is needed until ports are open.
    fn starting(&self) -> Set {
        let mut set = self.needs.capabilities.clone();
        if self.account.is_some() {
            // The user's folders are not root's.
            set.extend([Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_CHOWN]);
            set.insert(Capability::CAP_DAC_OVERRIDE);
        }
        set
    }
}

/// What threads that start later give up.
#[derive(Debug, Clone)]
pub struct Limits {
    drop: bool,
    filters: Option<Arc<Filters>>,
}

impl Limits {
    /// Nothing: for tests and for `sandbox = "off"`.
    #[must_use]
    pub fn none() -> Self {
        Self { drop: false, filters: None }
    }

    /// Leaves the calling thread what a worker's loop takes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn worker(&self) -> Result<(), PrivilegeError> {
        if self.drop {
            capabilities::keep(&Set::new()).map_err(failed("give up a worker's capabilities"))?;
        }
        match &self.filters {
            Some(filters) => filters.worker().map_err(failed("filter a worker's system calls")),
            None => Ok(()),
        }
    }

    /// Runs `start` on a thread without capabilities; nor have the threads that it starts.
    ///
    /// # Errors
    /// No thread can be had, or the kernel refuses.
    pub fn without_capabilities<T: Send>(
        &self,
        start: impl FnOnce() -> T + Send,
    ) -> Result<T, PrivilegeError> {
        if !self.drop {
            return Ok(start());
        }
        const STEP: &str = "start a thread without capabilities";
        let run = || {
            capabilities::keep(&Set::new()).map_err(failed(STEP))?;
            Ok(start())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, run).map_err(failed(STEP))?;
            thread.join().unwrap_or_else(|_| Err(failed(STEP)("it panicked")))
        })
    }
}

fn tell(line: &str) {
    eprintln!("s2ds: privileges: {line}");
}

/// Gives the user a folder that holds the control socket and nothing else, so that it can remove it; and the socket.
fn give_folder(socket: &Path, account: &Account) {
    let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
    // The group is the operator's choice.
    _ = chown(socket, Some(uid), None);
    let Some(folder) = socket.parent() else { return };
    let alone = fs::read_dir(folder).is_ok_and(|mut entries| {
        entries.all(|e| e.is_ok_and(|e| Some(e.file_name().as_os_str()) == socket.file_name()))
    });
    let service = std::env::var_os("RUNTIME_DIRECTORY").is_some_and(|own| folder.starts_with(own));
    if alone || service {
        _ = chown(folder, Some(uid), Some(gid));
    }
}

/// Gives the user EAL's folder and sockets where the service manager made a place for this service alone. Elsewhere other
/// programs' sockets are beside, and ours stays behind for the next one to take away.
fn give_runtime(eal: &Path, account: &Account) {
    let own = std::env::var_os("RUNTIME_DIRECTORY").is_some_and(|own| eal.starts_with(own));
    if own {
        let parts = fs::read_dir(eal).into_iter().flatten().flatten().map(|e| e.path());
        for path in parts.chain([eal.to_owned()]).chain(eal.parent().map(Path::to_owned)) {
            _ = chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()));
        }
    }
}

fn may_write(folder: Option<&Path>) -> bool {
    let folder = folder.filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(nix::fcntl::AT_FDCWD, folder, access, AtFlags::AT_EACCESS).is_ok()
}

/// AF_XDP's library pins programs in BPF's file system, and mounts it when it is not there, which Landlock forbids.
fn mount_bpf() {
    const PLACE: &str = "/sys/fs/bpf";
    let mounted =
        nix::sys::statfs::statfs(PLACE).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC);
    if !mounted
        && let Err(e) = nix::mount::mount(
            Some("bpf"),
            PLACE,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            Some("mode=0700"),
        )
    {
        tell(&format!(
            "{PLACE} cannot be mounted ({e}), which af_xdp: needs; run `mount -t bpf bpf {PLACE}`"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_folder_is_where_eal_puts_it() {
        let folder = |vars: &[(&str, &str)], root| {
            let vars: Vec<(String, String)> =
                vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            runtime_folder(|name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()), root)
        };
        let both = [("RUNTIME_DIRECTORY", "/run/scistream"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(folder(&both, true), Path::new("/run/scistream/dpdk"));
        assert_eq!(folder(&both[1..], true), Path::new("/var/run/dpdk"));
        assert_eq!(folder(&both[1..], false), Path::new("/run/user/7/dpdk"));
        assert_eq!(folder(&[], false), Path::new("/tmp/dpdk"));
    }
}
