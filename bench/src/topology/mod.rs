//! A relay in a box: network namespaces, veth pairs and two running s2ds between a consumer and a producer.
//!
//! Nothing here has a name in the system, so nothing can be left behind. A [`Netns`] is a thread that lives in an
//! anonymous network namespace; every process of the topology is started by such a thread and asks the kernel for
//! SIGKILL when that thread ends. However the owner goes - return, panic, `kill -9` - the threads end, the processes
//! with them, and the kernel frees the namespaces and their veth pairs.
//!
//! [`Relay`] is the standard topology:
//!
//! ```text
//! consumer host ==lan== consumer gateway (s2ds) ==wan== producer gateway (s2ds) ==lan== producer host
//!   10.81.0.2             10.81.0.1 10.82.0.1         10.82.0.2 10.83.0.1             10.83.0.2
//!   fd81::2               fd81::1   fd82::1           fd82::2   fd83::1               fd83::2
//! ```

mod control;
mod gateway;
mod netns;
mod privilege;
mod process;
mod relay;
mod shuffle;
mod switch;
mod workdir;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

pub(crate) use control::init;
pub use control::{Control, Server, Stream};
pub use gateway::{Gateway, unaccounted};
pub use netns::Netns;
pub use privilege::{enter_user_namespace, is_real_root, is_root, why_not};
pub use process::{Output, Process, find_binary, find_tool};
pub use relay::{Driver, Family, Place, Relay, RelayOptions, Translator, cores, flow_name, ports};
pub use workdir::Workdir;

/// What can go wrong while a topology is built, used and taken down.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A program is not installed.
    #[error("{0} is not installed; `make deps` installs what the topology needs")]
    MissingTool(String),
    /// One of our own programs is not built.
    #[error("{name} is not in {dir}; build it (`make build`) or name its directory in S2_BIN_DIR")]
    MissingBinary {
        /// The program.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The kernel refused a namespace.
    #[error("cannot make a network namespace: {0}; run as root, or where `unshare -Urn true` works")]
    Namespace(nix::Error),
    /// A namespace's thread ended early.
    #[error("the thread of namespace {0} has ended; a job in it panicked")]
    ThreadGone(String),
    /// A command failed.
    #[error("{what} failed ({status}): {said}")]
    Command {
        /// The command, and where it ran.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// A process did not do in time what was waited for.
    #[error("{what} did not {event} within {limit:?}; it wrote: {said}")]
    Late {
        /// The process.
        what: String,
        /// What it should have done.
        event: String,
        /// The patience.
        limit: Duration,
        /// The end of what it wrote.
        said: String,
    },
    /// A process ended although it should go on.
    #[error("{what} ended early ({status}); it wrote: {said}")]
    Ended {
        /// The process.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// A gateway's control socket refused or failed.
    #[error("gateway {gateway}: {why}")]
    Control {
        /// Which one.
        gateway: String,
        /// The client's or the server's sentence.
        why: String,
    },
    /// The system refused something simple.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

impl TopologyError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> TopologyError {
        let what = what.into();
        move |source| TopologyError::Io { what, source }
    }
}
