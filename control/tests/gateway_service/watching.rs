//! Watchers are told every change of what is theirs, and nothing else.

use control::proto::gateway::*;

use super::common::site::{Settings, Site};
use super::{User, ask, until};

#[tokio::test]
async fn a_watcher_is_told_every_step_of_a_session() {
    let site = Site::new(&Settings::default());
    let mut alice = User::new(&site, "alice").await;
    let mut bob = User::new(&site, "bob").await;
    let mut root = User::new(&site, "root").await;
    alice.open(ask("there")).await.unwrap();
    let mut all = alice.watch("").await.unwrap();
    let mut others = bob.watch("").await.unwrap();
    let everybodys = WatchRequest { uid: String::new(), all: true };
    let mut everybodys = super::Events(root.gateway.watch(everybodys).await.unwrap().into_inner());

    let mut caller = alice.clone();
    let req = tokio::spawn(async move { caller.req("old").await });
    until("req reserves", async || alice.get("old").await.ok()).await;
    let mut one = alice.watch("old").await.unwrap();
    alice.hello("old").await.unwrap();
    req.await.unwrap().unwrap();
    alice.update("old").await.unwrap();
    alice.update("old").await.unwrap();
    alice.release("old").await.unwrap();

    let steps = [
        (State::Unspecified, State::Reserving, "asked for"),
        (State::Reserving, State::Listening, "hello came"),
        (State::Listening, State::Updating, "targets came"),
        (State::Updating, State::Active, "its listeners relay"),
        (State::Active, State::Updating, "targets came"),
        (State::Updating, State::Active, "its listeners relay"),
        (State::Active, State::Releasing, "released by its user"),
        (State::Releasing, State::Ended, "released by its user"),
    ];
    let told = |uid: &str, (before, state, reason): (State, State, &str)| {
        Some((uid.to_owned(), before, state, reason.to_owned()))
    };
    let as_it_is = |state| (State::Unspecified, state, "as it is");
    assert_eq!(all.next().await, told("there", as_it_is(State::Active)));
    assert_eq!(everybodys.next().await, told("there", as_it_is(State::Active)));
    for step in steps {
        assert_eq!(all.next().await, told("old", step));
        assert_eq!(everybodys.next().await, told("old", step));
    }
    assert_eq!(one.next().await, told("old", as_it_is(State::Reserving)));
    for step in &steps[1..] {
        assert_eq!(one.next().await, told("old", *step));
    }
    assert_eq!(one.next().await, None);

    // A namesake is another session, and the first that its owner's watcher hears of.
    bob.open(ask("old")).await.unwrap();
    assert_eq!(others.next().await, told("old", (State::Unspecified, State::Updating, "asked for")));
    assert_eq!(everybodys.next().await, told("old", (State::Unspecified, State::Updating, "asked for")));
    alice.close("there").await.unwrap();
    assert_eq!(all.next().await, told("there", (State::Active, State::Releasing, "released by its user")));
}
