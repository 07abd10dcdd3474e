//! Requests over `scistream.Control`, in the order of calls that SciStream's clients keep to.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;

use super::connect::{PROMPT, Server};
use super::{Failure, interrupted};
use crate::proto::scistream::control_client::ControlClient;
use crate::proto::scistream::{AppResponse, Hello, Release, Request, Response, UpdateTargets};

/// Servers wait 180 s for hello before they answer `req`.
const PENDING: Duration = Duration::from_secs(190);

/// Hellos that may come too early: `req` is on its way, so this is the network's delay with much to spare.
const TRIES: u32 = 300;

/// Time between two hellos.
const PAUSE: Duration = Duration::from_millis(50);

/// A session of one side that relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Where to connect to.
    pub listeners: Vec<String>,
    /// Where that goes.
    pub targets: Vec<String>,
}

/// A request failed.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub failure: Failure,
    /// Why what was reserved before could not be given back; it stays until the session is released.
    pub left: Option<Failure>,
}

/// Calls `req`, says `hello` beside it if one is given, and then `update`, with `targets` or else with what `req`
/// answered. When something fails after `req` was sent, or the user interrupts, the session is released again.
///
/// # Errors
/// The first call that failed.
pub async fn request(
    server: &Server,
    ask: Request,
    hello: Option<Hello>,
    targets: Option<Vec<String>>,
) -> Result<Granted, Refused> {
    let uid = ask.uid.clone();
    // Whether a session of ours may be there. A uid that `req` was refused for may be somebody else's session.
    let mut ours = true;
    let outcome = tokio::select! {
        outcome = steps(server, ask, hello, targets, &mut ours) => outcome,
        _ = interrupted() => Err(Failure::Interrupted),
    };
    match outcome {
        Ok(granted) => Ok(granted),
        Err(failure) => {
            let left = if ours { undo(server, uid).await } else { None };
            Err(Refused { failure, left })
        }
    }
}

async fn steps(
    server: &Server,
    ask: Request,
    hello: Option<Hello>,
    targets: Option<Vec<String>>,
    ours: &mut bool,
) -> Result<Granted, Failure> {
    let (uid, role) = (ask.uid.clone(), ask.role.clone());
    let reserved = {
        let reserving = server.call(PENDING, ask, async |c, r| ControlClient::new(c).req(r).await);
        tokio::pin!(reserving);
        let greeting = async {
            match hello {
                Some(hello) => self::hello(server, hello, TRIES, PAUSE).await.map(|_| ()),
                // An application controller says it.
                None => std::future::pending().await,
            }
        };
        let early = tokio::select! {
            // A refused `req` is why its hello is refused, too.
            biased;
            reserved = &mut reserving => Some(reserved),
            greeted = greeting => { greeted?; None }
        };
        match early {
            Some(reserved) => reserved,
            None => reserving.await,
        }
    };
    let reserved = reserved.inspect_err(|failure| *ours = failure.code().is_none())?;
    let remote_listeners = targets.unwrap_or(reserved.prod_listeners);
    let update = UpdateTargets { uid, remote_listeners, role };
    let Response { listeners, prod_listeners } =
        server.call(PROMPT, update, async |c, r| ControlClient::new(c).update(r).await).await?;
    Ok(Granted { listeners, targets: prod_listeners })
}

async fn undo(server: &Server, uid: String) -> Option<Failure> {
    match release(server, uid).await {
        Ok(()) => None,
        Err(failure) if failure.code() == Some(Code::NotFound) => None,
        Err(failure) => Some(failure),
    }
}

/// Says hello, up to `tries` times with a `pause` between, while the server does not know the session.
///
/// # Errors
/// The last answer, or another failure.
pub async fn hello(
    server: &Server,
    hello: Hello,
    tries: u32,
    pause: Duration,
) -> Result<AppResponse, Failure> {
    for _ in 1..tries {
        match once(server, hello.clone()).await {
            // SciStream's own server says UNKNOWN, whatever is wrong.
            Err(Failure::Answer { code: Code::NotFound | Code::Unknown, .. }) => sleep(pause).await,
            answer => return answer,
        }
    }
    once(server, hello).await
}

async fn once(server: &Server, hello: Hello) -> Result<AppResponse, Failure> {
    server.call(PROMPT, hello, async |c, r| ControlClient::new(c).hello(r).await).await
}

/// Ends a session.
///
/// # Errors
/// The server's answer, or the connection failed.
pub async fn release(server: &Server, uid: String) -> Result<(), Failure> {
    server
        .call(PROMPT, Release { uid }, async |c, r| ControlClient::new(c).release(r).await)
        .await
        .map(|_| ())
}
