//! Who may use the control socket. Alone in its file: it changes the process's user.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use forwarder::api::{ApiError, ErrorCode, Hello, Reply, Request};
use forwarder::config::ServiceConfig;
use forwarder::service::{Handler, Peer, Service};
use nix::unistd::{Gid, Group, Uid, setegid, seteuid};

struct Nothing;

impl Handler for Nothing {
    fn handle(&self, _: Request, _: &Peer) -> Result<Reply, ApiError> {
        Err(ApiError { code: ErrorCode::Internal, message: String::new() })
    }
}

/// The first line that a client of this user and group gets.
fn first_line(path: &Path, uid: u32, gid: Gid) -> String {
    setegid(gid).unwrap();
    seteuid(Uid::from_raw(uid)).unwrap();
    let stream = UnixStream::connect(path).unwrap();
    seteuid(Uid::from_raw(0)).unwrap();
    setegid(Gid::from_raw(0)).unwrap();
    // A server that refuses may have hung up already.
    _ = writeln!(&stream, "{}", serde_json::to_string(&Hello::of("test")).unwrap());
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn root_the_owner_and_the_group_may_and_others_may_not() {
    if !Uid::effective().is_root() {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("skipped: only root can become another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let socket = dir.path().join("s");
    let group = Group::from_name("daemon").unwrap().unwrap();
    // Open to all by its mode, so that the check behind it is what refuses.
    let config = ServiceConfig { socket: socket.clone(), group: Some(group.name.clone()), mode: 0o666 };
    let service = Service::bind(&config).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().gid(), group.gid.as_raw());
    let _running = service.run(Arc::new(Nothing)).unwrap();

    let nobody = 65_534;
    assert!(first_line(&socket, 0, Gid::from_raw(0)).contains("scistream-s2ds"));
    assert!(first_line(&socket, nobody, group.gid).contains("scistream-s2ds"));
    let refused = first_line(&socket, nobody, Gid::from_raw(nobody));
    assert!(refused.contains("\"denied\"") && refused.contains("user 65534 may not"), "{refused}");
}
