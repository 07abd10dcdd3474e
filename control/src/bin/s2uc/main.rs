//! `s2uc`: asks SciStream's control servers for streams.
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use control::proto::gateway::{ListRequest, WatchRequest};
use control::proto::scistream;
use control::uc::connect::{Access, PROMPT, Server, gateway};
use control::uc::request::{self, Refused};
use control::uc::session::{self, Ask, Pair, Unopened, Verb};
use control::uc::store::{Login, Store, Token};
use control::uc::uri::{HostPort, SessionUri};
use control::uc::{Failure, new_uid, trust, view};
use forwarder::manual;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use tokio_stream::StreamExt;

mod args;
mod show;

use args::{Both, Cli, Command, Credentials, Place, Stream, one_spelling};

/// The uid of SciStream's examples, for `--mock`.
const MOCK_UID: &str = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3";

/// Longest token read from the standard input, in bytes.
const LONGEST_TOKEN: u64 = 64 << 10;

/// Why the command has not done what it should.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Failed(#[from] Failure),
    /// Beside the failure something was left behind.
    #[error("{failure}")]
    Left { failure: Failure, left: Vec<Remnant> },
    /// The output tells the failure.
    #[error("{0}")]
    Told(Failure),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// What could not be undone.
#[derive(Debug)]
struct Remnant {
    gateway: String,
    why: String,
    /// Ends it.
    command: String,
}

fn main() -> ExitCode {
    if let Some(code) = manual::written_if_asked(Cli::command, "1") {
        return code;
    }
    // A second provider is not there to be preferred.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::WARN)
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .init();
    let cli = Cli::parse_from(one_spelling(env::args_os()));
    let json = cli.json;
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has enough, as `head` does.
        Err(Problem::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(problem) => ExitCode::from(report(&problem, json)),
    }
}

/// Tells a problem; gives the exit code.
fn report(problem: &Problem, json: bool) -> u8 {
    let mut errors = format!("s2uc: {problem}\n");
    let failure = match problem {
        Problem::Failed(failure) | Problem::Left { failure, .. } | Problem::Told(failure) => failure,
        Problem::Output(_) => &Failure::Local(problem.to_string()),
    };
    let mut remnants = Vec::new();
    if let Problem::Left { left, .. } = problem {
        for Remnant { gateway, why, command } in left {
            errors += &format!(
                "s2uc: its session may remain at {gateway}, as it could not be ended ({why}); \
                 end it with `{command}`\n"
            );
            remnants.push(json!({ "gateway": gateway, "message": why, "command": command }));
        }
    }
    if json && !matches!(problem, Problem::Told(_) | Problem::Output(_)) {
        let error = json!({ "error": view::Error::from(failure), "left": remnants });
        _ = writeln!(io::stdout(), "{error}");
    }
    // With stderr gone too the exit code has to say it alone.
    _ = io::stderr().write_all(errors.as_bytes());
    failure.kind() as u8
}

fn start(cli: Cli) -> Result<(), Problem> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "s2uc", &mut script);
        return Ok(io::stdout().write_all(&script)?);
    }
    let user = User { store: Store::of_user()?, json: cli.json };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Local(format!("the runtime does not start: {error}")))?;
    let result = runtime.block_on(user.run(cli.command));
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    result
}

/// Who asks, and how answers are printed.
struct User {
    store: Store,
    json: bool,
}

impl User {
    async fn run(&self, command: Command) -> Result<(), Problem> {
        match command {
            Command::Open(open) => self.open(open).await,
            Command::Close(stream) => self.act(stream, Verb::Close).await,
            Command::Status(stream) => self.act(stream, Verb::Status).await,
            Command::Renew { stream, lease } => self.act(stream, Verb::Renew(lease)).await,
            Command::Drain(stream) => self.act(stream, Verb::Drain).await,
            Command::List { place, all } => self.list(place, all).await,
            Command::Watch { place, all } => self.watch(place, all).await,
            Command::Login(at) => self.login(&at.s2cs, &at.credentials),
            Command::Logout(at) => self.logout(&at.s2cs, &at.credentials),
            Command::CheckAuth(at) => {
                let server = self.connect(&at.s2cs, &at.credentials).await?;
                let info = view::Gateway::from(session::info(&server).await?);
                self.print(
                    &json!({ "server": at.s2cs.to_string(), "accepted": true, "gateway": info }),
                    || format!("{} accepts the token: {}", at.s2cs, show::gateway(&info)),
                )
            }
            Command::InboundRequest { server, request, remote_ip, receiver_ports } => {
                let targets = receiver_ports.iter().map(|port| (remote_ip, *port).into());
                let targets = targets.map(|target: std::net::SocketAddr| target.to_string()).collect();
                let ask = ask(&request, request.uid()?, "PROD");
                self.request(&server.s2cs, &server.credentials, ask, Some(targets), None).await
            }
            Command::OutboundRequest { server, request, uid, targets, .. } => {
                let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
                let ask = ask(&request, uid, "CONS");
                let hello = Some(targets.clone());
                self.request(&server.s2cs, &server.credentials, ask, hello, Some(targets)).await
            }
            Command::ProdReq { server, request } => {
                let ask = ask(&request, request.uid()?, "PROD");
                self.note(&format!("Session {} waits for hello at {}", ask.uid, server.s2cs))?;
                self.request(&server.s2cs, &server.credentials, ask, None, None).await
            }
            Command::Release { server, uid } => {
                let at = self.connect(&server.s2cs, &server.credentials).await?;
                request::release(&at, uid.clone()).await?;
                self.print(
                    &json!({ "uid": uid, "server": server.s2cs.to_string(), "released": true }),
                    || format!("Released {uid} at {}\n", server.s2cs),
                )
            }
            Command::Hello { server, uid, role, targets, tries, interval } => {
                let at = self.connect(&server.s2cs, &server.credentials).await?;
                let prod_listeners = targets.iter().map(ToString::to_string).collect();
                let hello = scistream::Hello { uid, prod_listeners, role: role.name() };
                let scistream::AppResponse { message, listeners } =
                    request::hello(&at, hello, tries, interval).await?;
                self.print(&json!({ "message": message, "listeners": listeners }), || {
                    let message = control::uc::failure::printable(&message);
                    format!("{message}\nListeners: {}\n", show::python_list(&listeners))
                })
            }
            Command::Completions { .. } => Ok(()),
        }
    }

    async fn connect(&self, at: &HostPort, credentials: &Credentials) -> Result<Server, Failure> {
        credentials.access()?.connect(at, &self.store).await
    }

    fn print(&self, json: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), Problem> {
        let text =
            if self.json { serde_json::to_string(json).map_err(io::Error::from)? + "\n" } else { text() };
        let mut out = io::stdout();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Something to know, which is not the result.
    fn note(&self, text: &str) -> Result<(), Problem> {
        Ok(writeln!(io::stderr(), "{text}")?)
    }

    fn login(&self, server: &HostPort, credentials: &Credentials) -> Result<(), Problem> {
        let token = match &credentials.token {
            Some(path) => Token::read(path)?,
            None => ask_for_token(server)?,
        };
        let name = credentials.access_without_token().login_name(server);
        let certificate = match &credentials.server_cert {
            Some(path) => Some(trust::read_pem(path)?),
            None => self.store.load(&name)?.and_then(|login| login.certificate),
        };
        let path = self.store.save(&name, &Login { token, certificate })?;
        self.print(&json!({ "login": name, "file": path }), || {
            format!("Stored for {name} in {}; try it with `s2uc check-auth`\n", path.display())
        })
    }

    fn logout(&self, server: &HostPort, credentials: &Credentials) -> Result<(), Problem> {
        let name = credentials.access_without_token().login_name(server);
        let removed = self.store.remove(&name)?;
        self.print(&json!({ "login": name, "removed": removed }), || match removed {
            true => format!("Forgot the token for {name}\n"),
            false => format!("Nothing is stored for {name}\n"),
        })
    }

    /// A request over the old service, which prints its listeners.
    async fn request(
        &self,
        at: &HostPort,
        credentials: &Credentials,
        ask: scistream::Request,
        hello: Option<Vec<String>>,
        targets: Option<Vec<String>>,
    ) -> Result<(), Problem> {
        let server = self.connect(at, credentials).await?;
        let (uid, role) = (ask.uid.clone(), ask.role.clone());
        // With this role on either side, as SciStream's client says it.
        let hello = hello.map(|prod_listeners| scistream::Hello {
            uid: uid.clone(),
            prod_listeners,
            role: "PROD".to_owned(),
        });
        let release = format!("s2uc release --s2cs {at}{} {}", credentials.repeated(), show::word(&uid));
        match request::request(&server, ask, hello, targets).await {
            Ok(granted) => {
                let json = json!({
                    "uid": uid, "role": role, "server": at.to_string(),
                    "listeners": granted.listeners, "targets": granted.targets,
                });
                self.print(&json, || format!("Listeners: {}\n", show::python_list(&granted.listeners)))?;
                self.note(&format!("Session {uid}; end it with `{release}`"))
            }
            Err(Refused { failure, left }) => {
                let remnant = |left: Failure| Remnant {
                    gateway: at.to_string(),
                    why: left.to_string(),
                    command: release,
                };
                Err(Problem::Left { failure, left: left.map(remnant).into_iter().collect() })
            }
        }
    }

    async fn open(&self, open: args::Open) -> Result<(), Problem> {
        let uri = SessionUri {
            producer: open.producer_gateway.clone(),
            consumer: open.consumer_gateway.clone(),
            uid: open.uid.clone().map_or_else(new_uid, Ok)?,
        };
        if uri.producer == uri.consumer {
            let why = format!("both gateways are {}; a stream goes through two", uri.producer);
            return Err(Failure::Usage(why).into());
        }
        let (producer, consumer) = self.connect_both(&uri, &open.both).await;
        let (producer, consumer) = (producer?, consumer?);
        let labels = open.labels();
        let ask = Ask {
            uid: uri.uid.clone(),
            protocol: open.proto.into(),
            targets: open.target,
            from: open.from,
            gateway_from: open.gateway_from,
            connections: open.conns,
            rate_mbps: open.rate,
            lease: open.lease,
            labels,
            producer_path: open.producer_path,
            consumer_path: open.consumer_path,
        };
        let close = close_command(&uri, &open.both);
        match session::open(&producer, &consumer, &ask).await {
            Ok(pair) => self.print(&pair, || show::pair(&pair, &close)),
            Err(Unopened { failure, left }) => {
                let left = left.into_iter().map(|(gateway, why)| Remnant {
                    gateway: gateway.to_string(),
                    why: why.to_string(),
                    command: close.clone(),
                });
                Err(Problem::Left { failure, left: left.collect() })
            }
        }
    }

    async fn connect_both(
        &self,
        uri: &SessionUri,
        both: &Both,
    ) -> (Result<Server, Failure>, Result<Server, Failure>) {
        let (producer, consumer) = (both.producer(), both.consumer());
        tokio::join!(self.connect(&uri.producer, &producer), self.connect(&uri.consumer, &consumer))
    }

    /// Does it on both sides, on one even when the other fails.
    async fn act(&self, stream: Stream, verb: Verb) -> Result<(), Problem> {
        let Stream { uri, owner, both } = stream;
        let one = async |at: &HostPort, credentials: Credentials| {
            session::act(&self.connect(at, &credentials).await?, &uri.uid, owner.as_deref(), verb).await
        };
        let (producer, consumer) =
            tokio::join!(one(&uri.producer, both.producer()), one(&uri.consumer, both.consumer()));
        let pair = Pair::new(&uri, (&uri.producer, producer), (&uri.consumer, consumer));
        self.print(&pair, || show::pair(&pair, &close_command(&uri, &both)))?;
        let mut failures = [pair.producer.failure, pair.consumer.failure].into_iter().flatten();
        match failures.next() {
            None => Ok(()),
            Some(first) => {
                for further in failures {
                    self.note(&format!("s2uc: {further}"))?;
                }
                Err(Problem::Told(first))
            }
        }
    }

    /// A stream's two servers, or one; or why they cannot be used.
    async fn servers(&self, place: &Place) -> Vec<(HostPort, Result<Server, Failure>)> {
        match &place.uri {
            Some(uri) => {
                let (producer, consumer) = self.connect_both(uri, &place.both).await;
                vec![(uri.producer.clone(), producer), (uri.consumer.clone(), consumer)]
            }
            None => {
                let server = self.connect(&place.s2cs, &place.both.credentials).await;
                vec![(place.s2cs.clone(), server)]
            }
        }
    }

    async fn list(&self, place: Place, all: bool) -> Result<(), Problem> {
        let mut first = None;
        let mut gateways = Vec::new();
        for (at, server) in self.servers(&place).await {
            let sessions = match server {
                Ok(server) => {
                    server.call(PROMPT, ListRequest { all }, async |c, r| gateway(c).list(r).await).await
                }
                Err(failure) => Err(failure),
            };
            gateways.push((at.to_string(), sessions));
        }
        let mut rows = Vec::new();
        let mut listed: Vec<Value> = Vec::new();
        for (gateway, sessions) in gateways {
            match sessions {
                Ok(answer) => {
                    let mut sessions: Vec<_> = answer.sessions.into_iter().map(view::Session::from).collect();
                    sessions.sort_by(|a, b| a.uid.cmp(&b.uid));
                    listed.push(json!({ "gateway": gateway, "sessions": sessions, "error": null }));
                    rows.extend(sessions.into_iter().map(|session| (gateway.clone(), session)));
                }
                Err(failure) => {
                    let error = view::Error::from(&failure);
                    listed.push(json!({ "gateway": gateway, "sessions": [], "error": error }));
                    if let Some(before) = first.replace(failure) {
                        self.note(&format!("s2uc: {before}"))?;
                    }
                }
            }
        }
        self.print(&json!({ "gateways": listed }), || {
            show::sessions(rows.iter().map(|(gateway, session)| (gateway.as_str(), session)))
        })?;
        first.map_or(Ok(()), |failure| Err(Problem::Told(failure)))
    }

    async fn watch(&self, place: Place, all: bool) -> Result<(), Problem> {
        let uid = place.uri.as_ref().map(|uri| uri.uid.clone()).unwrap_or_default();
        let mut events = tokio_stream::StreamMap::new();
        for (at, server) in self.servers(&place).await {
            let server = server?;
            let request = WatchRequest { uid: uid.clone(), all };
            let stream = server.call(PROMPT, request, async |c, r| gateway(c).watch(r).await).await?;
            events.insert(
                at.to_string(),
                stream.map(move |event| event.map_err(|status| server.failure(&status))),
            );
        }
        while let Some((gateway, event)) = events.next().await {
            let Some(event) = view::Event::new(gateway, event?) else { continue };
            self.print(&event, || show::event(&event))?;
            if !uid.is_empty() && event.session.state == "ended" {
                events.remove(&event.gateway);
            }
        }
        Ok(())
    }
}

impl args::Request {
    fn uid(&self) -> Result<String, Failure> {
        match &self.name {
            _ if self.mock => Ok(MOCK_UID.to_owned()),
            Some(uid) => Ok(uid.clone()),
            None => new_uid(),
        }
    }
}

fn ask(request: &args::Request, uid: String, role: &str) -> scistream::Request {
    scistream::Request { uid, role: role.to_owned(), num_conn: request.num_conn, rate: request.rate }
}

impl Credentials {
    fn access(&self) -> Result<Access, Failure> {
        let token = match (&self.token, env::var("S2UC_TOKEN")) {
            (Some(path), _) => Some(Token::read(path)?),
            (None, Ok(text)) if !text.is_empty() => {
                Some(Token::try_from(text).map_err(|why| Failure::Usage(format!("S2UC_TOKEN: {why}")))?)
            }
            (None, _) => None,
        };
        Ok(Access { token, ..self.access_without_token() })
    }

    fn access_without_token(&self) -> Access {
        Access {
            server_cert: self.server_cert.clone(),
            token: None,
            // SciStream's client takes an empty scope for none.
            scope: self.scope.clone().filter(|scope| !scope.is_empty()),
            client_cert: self.client_cert.clone().zip(self.client_key.clone()),
        }
    }

    /// The options as they are given to another command, each with a space before.
    fn repeated(&self) -> String {
        let Credentials { server_cert, token, scope, client_cert, client_key } = self;
        options([
            ("server-cert", server_cert),
            ("token", token),
            ("scope", &scope.clone().map(PathBuf::from)),
            ("client-cert", client_cert),
            ("client-key", client_key),
        ])
    }
}

impl Both {
    fn producer(&self) -> Credentials {
        self.side(&self.producer_ca, &self.producer_token)
    }

    fn consumer(&self) -> Credentials {
        self.side(&self.consumer_ca, &self.consumer_token)
    }

    fn side(&self, ca: &Option<PathBuf>, token: &Option<PathBuf>) -> Credentials {
        let common = self.credentials.clone();
        Credentials {
            server_cert: ca.clone().or(common.server_cert),
            token: token.clone().or(common.token),
            ..common
        }
    }
}

/// The command that closes a stream, with the same credentials.
fn close_command(uri: &SessionUri, both: &Both) -> String {
    let Both { credentials, producer_ca, consumer_ca, producer_token, consumer_token } = both;
    let further = options([
        ("producer-ca", producer_ca),
        ("consumer-ca", consumer_ca),
        ("producer-token", producer_token),
        ("consumer-token", consumer_token),
    ]);
    format!("s2uc close{}{further} {}", credentials.repeated(), show::word(&uri.to_string()))
}

fn options<const N: usize>(options: [(&str, &Option<PathBuf>); N]) -> String {
    let given = options.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    given.map(|(name, value)| format!(" --{name} {}", show::word(&value.to_string_lossy()))).collect()
}

/// Reads a token from the standard input; from a terminal without showing it.
fn ask_for_token(server: &HostPort) -> Result<Token, Failure> {
    let stdin = io::stdin();
    let failed = |error: &dyn std::fmt::Display| Failure::Local(format!("no token can be read: {error}"));
    let mut text = String::new();
    if stdin.is_terminal() {
        _ = write!(io::stderr(), "Token for {server} (it does not show): ");
        let shown = tcgetattr(&stdin).map_err(|error| failed(&error))?;
        let mut hidden = shown.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden).map_err(|error| failed(&error))?;
        let read = stdin.read_line(&mut text);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown).map_err(|error| failed(&error))?;
        _ = writeln!(io::stderr());
        read.map_err(|error| failed(&error))?;
    } else {
        stdin.take(LONGEST_TOKEN).read_to_string(&mut text).map_err(|error| failed(&error))?;
    }
    Token::try_from(text).map_err(|why| failed(&why))
}
