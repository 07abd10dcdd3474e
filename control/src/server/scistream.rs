//! `scistream.Control`, as SciStream's clients speak it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::{Asked, Desk, Waiting};
use crate::keeper::{Step, StepError, Word, parse_targets, spell};
use crate::policy::Role;
use crate::proto::scistream::control_server::Control;
use crate::proto::scistream::{AppResponse, Hello, Release, Request as Req, Response as Res, UpdateTargets};
use crate::session::{Session, Uid};

/// Most bytes of one text that hello keeps for `req`, and most texts: answers stay well below what clients take.
const MAX_TEXTS: usize = 1024;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Service(pub(super) Arc<Desk>);

#[tonic::async_trait]
impl Control for Service {
    async fn req(&self, request: Request<Req>) -> Result<Response<Res>, Status> {
        let (caller, Req { uid, role, num_conn, rate }) = self.0.caller("req", request).await?;
        let what = json!({"role": role, "num_conn": num_conn, "rate": rate});
        let asked = Asked { caller, uid, what };
        let mut waiting = Waiting { desk: &self.0, asked: &asked, over: false };
        let outcome = async {
            let uid = uid_of(&asked.uid)?;
            let role = role_of(&role)?;
            let listeners = u32::try_from(num_conn).ok().filter(|n| *n > 0).ok_or_else(|| {
                StepError::Invalid(format!("num_conn is {num_conn}; ask for at least one connection"))
            })?;
            let rate = u64::try_from(rate).map_err(|_| {
                StepError::Invalid(format!("rate is {rate}; give Mbit/s, or 0 to reserve none"))
            })?;
            let rate = Some(rate).filter(|rate| *rate > 0);
            self.0.keeper.reserve(&asked.caller.who, uid, role, listeners, rate).await
        }
        .await;
        waiting.over = true;
        let (session, word) = self.0.decide(&asked, outcome, |(session, _)| session)?;
        let prod_listeners = if word.producer { word.targets } else { Vec::new() };
        Ok(Response::new(Res { listeners: listeners(&session), prod_listeners }))
    }

    async fn hello(&self, request: Request<Hello>) -> Result<Response<AppResponse>, Status> {
        let (caller, Hello { uid, prod_listeners, role }) = self.0.caller("hello", request).await?;
        let what = json!({"role": role, "prod_listeners": prod_listeners});
        let hello = || {
            let uid = uid_of(&uid)?;
            let producer = role_of(&role)? == Role::Producer;
            let word = Word { targets: prod_listeners, producer };
            if word.targets.len() > MAX_TEXTS || word.targets.iter().any(|text| text.len() > MAX_TEXTS) {
                return Err(StepError::Invalid(format!(
                    "prod_listeners are at most {MAX_TEXTS} texts of so many bytes"
                )));
            }
            Ok((self.0.keeper.hello(&caller.who, &uid.into(), word)?, producer))
        };
        let outcome = hello();
        let (session, producer) =
            self.0.decide(&Asked { caller, uid, what }, outcome, |(session, _)| session)?;
        Ok(Response::new(match producer {
            true => AppResponse { message: "Sending Prod listeners...".to_owned(), listeners: Vec::new() },
            false => {
                AppResponse { message: "Sending listeners...".to_owned(), listeners: listeners(&session) }
            }
        }))
    }

    async fn update(&self, request: Request<UpdateTargets>) -> Result<Response<Res>, Status> {
        let (caller, UpdateTargets { uid, remote_listeners, role }) =
            self.0.caller("update", request).await?;
        let what = json!({"role": role, "remote_listeners": remote_listeners});
        let (keeper, who) = (Arc::clone(&self.0.keeper), caller.who.clone());
        let wanted =
            uid_of(&uid).and_then(|uid| Ok((uid, role_of(&role)?, parse_targets(&remote_listeners)?)));
        let step = async move {
            let (uid, role, targets) = wanted?;
            keeper.update(who, uid.into(), role, targets).await
        };
        let session = self.0.perform(Asked { caller, uid, what }, step).await?;
        Ok(Response::new(Res { listeners: listeners(&session), prod_listeners: remote_listeners }))
    }

    async fn release(&self, request: Request<Release>) -> Result<Response<Res>, Status> {
        let (caller, Release { uid }) = self.0.caller("release", request).await?;
        let (keeper, who, wanted) = (Arc::clone(&self.0.keeper), caller.who.clone(), uid_of(&uid));
        let step = async move { keeper.release(who, wanted?.into()).await };
        self.0.perform(Asked { caller, uid, what: Value::Null }, step).await?;
        Ok(Response::new(Res::default()))
    }
}

/// The uid of a request.
pub(super) fn uid_of(text: &str) -> Step<Uid> {
    Uid::new(text).map_err(|e| StepError::Invalid(e.to_string()))
}

fn role_of(text: &str) -> Step<Role> {
    [Role::Producer, Role::Consumer].into_iter().find(|role| spell(*role) == text).ok_or_else(|| {
        let shown: String = text.chars().take(32).collect();
        StepError::Invalid(format!("{shown:?} is no role; give PROD or CONS"))
    })
}

fn listeners(session: &Session) -> Vec<String> {
    session.listeners.iter().map(ToString::to_string).collect()
}
