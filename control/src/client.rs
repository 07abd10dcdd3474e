//! The client of the control socket that `forwarder::service` serves.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forwarder::api::{
    Answer, ApiError, Call, ErrorCode, Hello, MAX_LINE, Outcome, Reply, Request, SERVICE, VERSION,
};

/// Longest silence of the forwarder while an answer is due.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("nothing answers on {} ({source}); is s2ds running? Start it, or give its socket with --socket", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The socket's mode keeps us out.
    #[error("no permission for {}; become root, or a member of the group that owns the socket", path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// It hung up, fell silent or the transport failed.
    #[error("the connection to {} failed ({source}); see whether s2ds still runs, and its log", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What answers is not the forwarder's control socket.
    #[error("what answers on {} is no s2ds ({detail}); give its socket with --socket", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// What came.
        detail: String,
    },
    /// The forwarder's answer is a failure.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A connection to a forwarder. One call at a time.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    server: Hello,
    calls: u64,
}

impl Client {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// Nobody listens, access is denied, or the versions differ.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client, ClientError> {
        let path = path.as_ref().to_owned();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                return Err(ClientError::Permission { path });
            }
            Err(source) => return Err(ClientError::NotRunning { path, source }),
        };
        let prepared =
            stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        if let Err(source) = prepared {
            return Err(ClientError::Broken { path, source });
        }
        let ours = Hello::of("control");
        let mut client = Client { path, stream: BufReader::new(stream), server: ours.clone(), calls: 0 };
        let hello = client.line(&ours)?;
        let line = client.exchange(hello)?;
        client.server = match serde_json::from_slice::<Hello>(&line) {
            Ok(hello) if hello.service == SERVICE => hello,
            // A refusal comes in place of the hello.
            _ => match serde_json::from_slice::<Answer>(&line) {
                Ok(Answer { outcome: Outcome::Error(error), .. }) => return Err(error.into()),
                _ => return Err(client.foreign(&line)),
            },
        };
        if client.server.version != VERSION {
            let (program, version) = (&client.server.program, client.server.version);
            let message = format!(
                "{program:?} speaks version {version}, this program {VERSION}; use one release of both"
            );
            return Err(ApiError { code: ErrorCode::Version, message }.into());
        }
        Ok(client)
    }

    /// Program and release of the forwarder, such as `s2ds 0.1.0`.
    pub fn server(&self) -> &str {
        &self.server.program
    }

    /// Random name of the forwarder's run: one that differs from an earlier one tells that it restarted. None when it tells none.
    pub fn instance(&self) -> Option<&str> {
        self.server.instance.as_deref()
    }

    /// Asks and waits for the reply. After any error but [`ClientError::Api`] connect anew.
    ///
    /// # Errors
    /// The forwarder's own error, or the connection failed.
    pub fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.calls += 1;
        let id = self.calls;
        let line = self.line(&Call { id, request })?;
        if line.len() > MAX_LINE {
            // It would hang up.
            let message = format!("the call is longer than {MAX_LINE} bytes; ask for less at once");
            return Err(ApiError { code: ErrorCode::BadRequest, message }.into());
        }
        let line = self.exchange(line)?;
        match serde_json::from_slice::<Answer>(&line) {
            // An error without id is about the line as a whole: it was ours.
            Ok(Answer { id: None, outcome: Outcome::Error(error) }) => Err(error.into()),
            Ok(answer) if answer.id == Some(id) => match answer.outcome {
                Outcome::Ok(reply) => Ok(*reply),
                Outcome::Error(error) => Err(error.into()),
            },
            _ => Err(self.foreign(&line)),
        }
    }

    /// A line to send, without its newline.
    fn line<T: serde::Serialize>(&self, value: &T) -> Result<Vec<u8>, ClientError> {
        let broken = |e: serde_json::Error| ClientError::Broken { path: self.path.clone(), source: e.into() };
        serde_json::to_vec(value).map_err(broken)
    }

    /// Sends one line and reads one.
    fn exchange(&mut self, mut line: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        let mut exchange = || {
            line.push(b'\n');
            let sent = self.stream.get_mut().write_all(&line);
            // A server that refuses hangs up with our line unread, but its reason is there to be read.
            let mut reply = Vec::new();
            let received = self.stream.read_until(b'\n', &mut reply);
            if reply.last() == Some(&b'\n') {
                return Ok(reply);
            }
            sent?;
            match received {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    Err(io::Error::new(ErrorKind::TimedOut, "no answer came"))
                }
                Err(e) => Err(e),
                Ok(_) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it was closed")),
            }
        };
        exchange().map_err(|source| ClientError::Broken { path: self.path.clone(), source })
    }

    fn foreign(&self, line: &[u8]) -> ClientError {
        let start: String = String::from_utf8_lossy(line).trim_end().chars().take(80).collect();
        ClientError::Foreign { path: self.path.clone(), detail: format!("it said {start:?}") }
    }
}
