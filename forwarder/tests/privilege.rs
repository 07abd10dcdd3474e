//! What a running s2ds has given up, seen from outside, and that what is forbidden is refused. Needs root.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod s2ds_common;

use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use forwarder::config::Config;
use forwarder::privilege::Privileges;
use s2ds_common::{S2ds, config, eventually, ip, privately, veth};

const CHOWN: u64 = 1 << 0;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const IPC_LOCK: u64 = 1 << 14;
const SYS_ADMIN: u64 = 1 << 21;

/// Devices and the capabilities that they need, no less.
const DEVICES: &[(&str, u64)] = &[
    ("af_packet:lan", NET_RAW | NET_ADMIN),
    ("af_xdp:lan", NET_RAW | NET_ADMIN | SYS_ADMIN | IPC_LOCK),
    ("tap:s2tap", NET_ADMIN),
    ("memif:FOLDER/memif.sock", 0),
    ("vhost:FOLDER/vhost.sock", 0),
    ("vhost:FOLDER/vhost.sock,group=daemon", CHOWN),
    ("vdev:net_pcap0,iface=lan", NET_RAW),
    ("vdev:net_null0,no-rx=1", 0),
];

const NAMES: [(u64, &str); 5] = [
    (CHOWN, "chown"),
    (NET_ADMIN, "net_admin"),
    (NET_RAW, "net_raw"),
    (IPC_LOCK, "ipc_lock"),
    (SYS_ADMIN, "sys_admin"),
];

/// Landlock as a process sees it; without it a test says so, since then there is nothing to test.
fn has_landlock(said: &str) -> bool {
    if said.contains("no Landlock") {
        eprintln!("this kernel has no Landlock: files were not tested");
    }
    !said.contains("no Landlock")
}

#[test]
fn every_thread_keeps_only_what_it_needs() {
    privately(|| {
        for (device, needed) in DEVICES {
            let s2ds = S2ds::start(device, "", &[]).ready();
            // Somebody is served, too.
            let mut client = BufReader::new(UnixStream::connect(s2ds.socket()).unwrap());
            let threads = eventually("a client's thread", || {
                let threads = s2ds.threads();
                threads.iter().any(|t| t.name == "client").then_some(threads)
            });
            for name in ["s2ds", "worker-0", "service", "client", "leases", "ports", "eal-intr-thread"] {
                assert!(threads.iter().any(|t| t.name == name), "no thread {name}");
            }
            for thread in &threads {
                let what = format!("{device}, thread {}", thread.name);
                assert_eq!(thread.field("Seccomp"), "2", "{what}");
                assert_eq!(thread.field("NoNewPrivs"), "1", "{what}");
                let serves = ["worker-0", "service", "client", "leases"].contains(&thread.name.as_str());
                let kept = if serves { 0 } else { *needed };
                for (set, wanted) in
                    [("CapEff", kept), ("CapPrm", kept), ("CapInh", 0), ("CapAmb", 0), ("CapBnd", 0)]
                {
                    assert_eq!(thread.capabilities(set), wanted, "{what}: {set}");
                }
                let filters: u32 = thread.field("Seccomp_filters").parse().unwrap();
                assert_eq!(filters, if thread.name == "worker-0" { 6 } else { 4 }, "{what}");
            }
            drop(client.fill_buf());
            let said = s2ds.stop();
            assert!(said.contains("system calls filtered"), "{said}");
        }
    });
}

#[test]
fn it_runs_as_another_user() {
    privately(|| {
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
        for (device, needed) in DEVICES {
            let s2ds = S2ds::start(device, "[privileges]\nuser = \"nobody\"", &[]).ready();
            for thread in s2ds.threads() {
                let what = format!("{device}, thread {}", thread.name);
                assert_eq!(thread.field("Uid"), [&*uid; 4].join(" "), "{what}");
                assert_eq!(thread.field("Gid"), [&*gid; 4].join(" "), "{what}");
                // Threads of EAL's own lost all with root.
                let opens = ["s2ds", "ports"].contains(&thread.name.as_str());
                // CAP_DAC_OVERRIDE, since BPF's file system is root's alone.
                let bpf = u64::from(needed & SYS_ADMIN != 0) << 1;
                assert_eq!(thread.capabilities("CapEff"), if opens { needed | bpf } else { 0 }, "{what}");
            }
            assert_eq!(s2ds.socket().metadata().unwrap().uid(), nobody.uid.as_raw());
            s2ds.stop();
        }
        // What a unit has to grant, no more.
        let granted = "-all,+setuid,+setgid,+setpcap,+chown,+dac_override,+net_raw,+net_admin";
        let wrapper = ["setpriv", "--bounding-set", granted, "--"];
        S2ds::start("af_packet:lan", "[privileges]\nuser = \"nobody\"", &wrapper).ready().stop();
    });
}

/// What is kept is enough to open a port again.
#[test]
fn a_port_that_went_comes_back() {
    for user in ["", "[privileges]\nuser = \"nobody\""] {
        for device in ["af_packet:lan", "af_xdp:lan"] {
            privately(|| {
                let s2ds = S2ds::start(device, user, &[]).ready();
                ip("link del lan");
                eventually("the port fails", || s2ds.said().contains("port lan failed").then_some(()));
                veth();
                eventually("the port is back", || {
                    s2ds.said().contains("port lan is back in use").then_some(())
                });
                s2ds.stop();
            });
        }
    }
}

#[test]
fn a_socket_in_a_folder_of_others_is_announced_to_stay() {
    privately(|| {
        let s2ds = S2ds::start("vdev:net_null0,no-rx=1", "[privileges]\nuser = \"nobody\"", &[]).ready();
        s2ds.stop();
        // Beside another file, outside of what the service manager made.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("other"), "").unwrap();
        let text = config(folder.path(), "vdev:net_null0,no-rx=1", "[privileges]\nuser = \"nobody\"");
        let elsewhere = tempfile::tempdir().unwrap();
        let env = [("RUNTIME_DIRECTORY", elsewhere.path().to_str().unwrap())];
        let s2ds = S2ds::start_in(folder, &text, &[], &env).ready();
        assert!(s2ds.said().contains("will stay when s2ds stops"), "{}", s2ds.said());
    });
}

#[test]
fn a_user_that_does_not_exist_is_named() {
    privately(|| {
        let mut s2ds = S2ds::start("vdev:net_null0", "[privileges]\nuser = \"no-such-user\"", &[]);
        assert_eq!(s2ds.wait().code(), Some(1));
        let said = s2ds.said();
        assert!(said.contains("\"no-such-user\" does not exist") && said.contains("useradd"), "{said}");
        assert!(!s2ds.socket().exists());
    });
}

/// The capabilities of [`DEVICES`] are enough, and without any one of them the device is refused, naming it.
#[test]
fn the_capabilities_kept_are_the_least() {
    privately(|| {
        for (device, needed) in DEVICES {
            let names = |set: u64| {
                let chosen = NAMES.iter().filter(|(bit, _)| set & bit != 0);
                chosen.map(|(_, name)| format!(",+{name}")).collect::<String>()
            };
            let start = |set: u64| {
                let bounding = format!("-all{}", names(set));
                S2ds::start(device, "", &["setpriv", "--bounding-set", &bounding, "--"])
            };
            start(*needed).ready().stop();
            for (bit, name) in NAMES.iter().filter(|(bit, _)| needed & bit != 0) {
                let mut s2ds = start(needed & !bit);
                assert_eq!(s2ds.wait().code(), Some(1), "{device} without {name}: {}", s2ds.said());
                let said = s2ds.said();
                let last = said.lines().last().unwrap_or_default();
                // DPDK's text is passed on as it is, and so is what its driver says.
                let named = last.contains(&format!("CAP_{}", name.to_uppercase()));
                let by_driver = device.starts_with("vdev:") || device.starts_with("vhost:");
                assert!(named || (by_driver && last.contains("not permitted")), "{said}");
            }
        }
    });
}

/// Where a process does what a forwarder has no reason to. The test is run by [`try_to`], in a process of its own.
#[test]
#[ignore = "run by the other tests"]
fn somebody_who_has_taken_it_over() {
    let sandbox = std::env::var("S2_SANDBOX").unwrap();
    let folder = PathBuf::from(std::env::var("S2_FOLDER").unwrap());
    let deed = std::env::var("S2_DEED").unwrap();
    let text = config(&folder, "vdev:net_null0", &format!("[privileges]\nsandbox = {sandbox:?}"));
    let config = Config::parse(&text, "test.toml").unwrap();
    let limits = Privileges::enter(&config, &[]).unwrap().settle(&folder).unwrap();
    let outcome = match deed.strip_prefix("worker ") {
        None => act(&deed, &folder),
        Some(deed) => std::thread::scope(|scope| {
            let act = || {
                limits.worker().unwrap();
                act(deed, &folder)
            };
            scope.spawn(act).join().unwrap()
        }),
    };
    println!("> {}", outcome.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0));
}

fn act(deed: &str, folder: &Path) -> io::Result<()> {
    match deed {
        "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
        "listen at a socket" => std::os::unix::net::UnixListener::bind(folder.join("back-door")).map(drop),
        "read secrets" => std::fs::File::open("/etc/shadow").map(drop),
        "write a program" => std::fs::File::options().write(true).open("/usr/bin/env").map(drop),
        "write elsewhere" => std::fs::File::create(folder.join("x")).map(drop),
        "start a program" => Command::new("true").status().map(drop),
        "become a program" => Err(Command::new("true").exec()),
        "change the root" => Ok(nix::unistd::chroot(folder)?),
        "leave the namespace" => Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)?),
        "unmount" => Ok(nix::mount::umount(&folder.join("nothing"))?),
        "run data" => memmap2::MmapMut::map_anon(4096)?.make_exec().map(drop),
        "signal others" => Ok(nix::sys::signal::kill(nix::unistd::getppid(), None)?),
        "become another user" => Ok(nix::unistd::setuid(1.into())?),
        "open a file" => std::fs::File::open("/proc/self/status").map(drop),
        "open a socket" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
        other => panic!("{other}"),
    }
}

/// Tries a deed in a process with these privileges: how it ended, and the error, 0 for none.
fn try_to(deed: &str, sandbox: &str) -> (ExitStatus, Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "somebody_who_has_taken_it_over", "--ignored", "--nocapture", "--test-threads=1"])
        .env("S2_SANDBOX", sandbox)
        .env("S2_FOLDER", folder.path())
        .env("S2_DEED", deed)
        .env("RUNTIME_DIRECTORY", folder.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let outcome =
        out.lines().find_map(|l| l.split_once("> ")).map(|(_, number)| number.trim().parse().unwrap());
    (output.status, outcome, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Each with the error that refuses it, none where the process ends, and the one that it meets unconfined.
const DEEDS: &[(&str, Option<i32>, i32)] = &[
    ("listen", Some(libc::EPERM), 0),
    ("start a program", Some(libc::EPERM), 0),
    ("signal others", Some(libc::EPERM), 0),
    ("become another user", Some(libc::EPERM), 0),
    ("change the root", None, 0),
    ("leave the namespace", None, 0),
    ("unmount", None, libc::ENOENT),
    ("worker open a socket", Some(libc::EPERM), 0),
    ("worker open a file", Some(libc::EPERM), 0),
    ("worker run data", Some(libc::EPERM), 0),
    ("worker start a program", Some(libc::EPERM), 0),
    ("worker leave the namespace", None, 0),
];

/// Files outside of what the devices need.
const FILES: &[&str] = &["read secrets", "write a program", "write elsewhere", "listen at a socket"];

#[test]
fn what_is_forbidden_is_refused() {
    for (deed, refused, free) in DEEDS {
        let (status, outcome, said) = try_to(deed, "on");
        match refused {
            Some(errno) => assert_eq!(outcome, Some(*errno), "{deed}: {said}"),
            None => assert_eq!((status.signal(), outcome), (Some(libc::SIGSYS), None), "{deed}: {said}"),
        }
        // It is the sandbox that refuses it.
        assert_eq!(try_to(deed, "off").1, Some(*free), "{deed}");
    }
    for who in ["", "worker "] {
        let (status, outcome, said) = try_to(&format!("{who}become a program"), "on");
        assert_eq!((status.signal(), outcome), (Some(libc::SIGSYS), None), "{who}: {said}");
        let (status, outcome, _) = try_to(&format!("{who}become a program"), "off");
        assert!(status.success() && outcome.is_none(), "{who}{status}");
    }
}

#[test]
fn what_is_needed_is_not_refused() {
    for deed in ["open a file", "open a socket", "run data"] {
        let (_, outcome, said) = try_to(deed, "on");
        assert_eq!(outcome, Some(0), "{deed}: {said}");
    }
}

#[test]
fn files_that_are_not_needed_are_out_of_reach() {
    for deed in FILES {
        let (_, outcome, said) = try_to(deed, "on");
        if has_landlock(&said) {
            assert_eq!(outcome, Some(libc::EACCES), "{deed}: {said}");
        }
        assert_eq!(try_to(deed, "off").1, Some(0), "{deed}");
    }
}

/// In this mode what would be refused is let through.
#[test]
fn logging_refuses_nothing() {
    for deed in ["listen", "start a program", "worker open a file", "read secrets"] {
        let (_, outcome, said) = try_to(deed, "log");
        assert_eq!(outcome, Some(0), "{deed}: {said}");
    }
}

#[test]
fn a_user_of_its_own_needs_no_root() {
    privately(|| {
        // As the service manager starts it: another user, ambient capabilities, a folder of that user's.
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
        // Where that user may run it.
        let program = folder.path().join("s2ds");
        std::fs::copy(env!("CARGO_BIN_EXE_s2ds"), &program).unwrap();
        let text = config(folder.path(), "af_packet:lan", "[privileges]\nuser = \"nobody\"");
        let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
        let ids = ["--reuid", &uid, "--regid", &gid, "--clear-groups"];
        let given = ["--inh-caps", "+net_raw,+net_admin", "--ambient-caps", "+net_raw,+net_admin"];
        let run = format!("exec {} \"$@\"", program.display());
        let wrapper = [&["setpriv"][..], &ids, &given, &["--", "sh", "-c", &run]].concat();
        let s2ds = S2ds::start_in(folder, &text, &wrapper, &[]).ready();
        for thread in s2ds.threads() {
            assert_eq!(thread.field("Uid"), [&*uid; 4].join(" "), "{}", thread.name);
            assert_eq!(
                (thread.capabilities("CapInh"), thread.capabilities("CapAmb")),
                (0, 0),
                "{}",
                thread.name
            );
            let opens = !["worker-0", "service", "leases"].contains(&thread.name.as_str());
            assert_eq!(
                thread.capabilities("CapEff"),
                if opens { NET_RAW | NET_ADMIN } else { 0 },
                "{}",
                thread.name
            );
        }
        s2ds.stop();
    });
}
