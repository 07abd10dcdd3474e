use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::Role;

const LIMITS: Limits = Limits { ports: 5100..=5107, pending: 3, pending_per_user: 2 };
const SESSIONS: u32 = 3;
const CAPACITY: u64 = 1000;

fn uid(n: usize) -> Uid {
    Uid::new(&format!("u{n}")).unwrap()
}

fn key(owner: usize, n: usize) -> Key {
    Key { owner: format!("o{owner}"), uid: uid(n) }
}

fn grant(rate: Option<u64>) -> Grant {
    Grant {
        rule: "r".to_owned(),
        sources: vec!["10.0.0.0/8".parse().unwrap()],
        connections: None,
        rate,
        limit: rate,
        lease: Duration::from_secs(60),
        sessions: SESSIONS,
    }
}

fn new(key: &Key, state: State, listeners: usize, rate: Option<u64>) -> New {
    let session = Session {
        id: 0,
        owner: key.owner.clone(),
        uid: key.uid.clone(),
        role: Role::Producer,
        proto: Proto::Tcp,
        state,
        rule: "r".to_owned(),
        path: "wan".to_owned(),
        listeners: Vec::new(),
        targets: Vec::new(),
        sources: Vec::new(),
        connections: None,
        rate,
        limit: rate,
        charged: Vec::new(),
        lease: 60,
        created: 0,
        expires: 60,
        labels: BTreeMap::new(),
    };
    let address = IpAddr::from([192, 0, 2, 1]);
    New { session, sessions: SESSIONS, address, listeners, charged: vec!["wan".to_owned()] }
}

#[derive(Debug, Clone)]
enum Step {
    Reserve {
        listeners: usize,
        rate: Option<u64>,
    },
    Open {
        listeners: usize,
        rate: Option<u64>,
    },
    Hello,
    /// Begins an update; what comes next on the session is its outcome.
    Begin {
        lan: bool,
    },
    Settle,
    GoBack,
    Renew,
    Drain,
    Release,
    End,
    Restart,
}

fn step() -> impl Strategy<Value = (usize, usize, Step)> {
    let holds = (1..4usize, prop_oneof![Just(None), (1..600u64).prop_map(Some)]);
    let step = prop_oneof![
        3 => holds.clone().prop_map(|(listeners, rate)| Step::Reserve { listeners, rate }),
        2 => holds.prop_map(|(listeners, rate)| Step::Open { listeners, rate }),
        3 => Just(Step::Hello),
        3 => any::<bool>().prop_map(|lan| Step::Begin { lan }),
        3 => Just(Step::Settle),
        1 => Just(Step::GoBack),
        1 => Just(Step::Renew),
        1 => Just(Step::Drain),
        1 => Just(Step::Release),
        2 => Just(Step::End),
        1 => Just(Step::Restart),
    ];
    (0..2usize, 0..3usize, step)
}

/// What the sessions themselves say is held is what the book counts, and no limit is passed.
fn holds_together(book: &Book) {
    let pending = |owner: Option<&str>| {
        let of = |s: &&Session| s.state == State::Reserving && owner.is_none_or(|owner| s.owner == owner);
        book.iter().filter(of).count()
    };
    assert_eq!(book.pending, pending(None));
    assert!(book.pending <= LIMITS.pending);
    for (owner, (all, waiting)) in &book.owners {
        assert_eq!(*all, book.iter().filter(|s| &s.owner == owner).count());
        assert_eq!(*waiting, pending(Some(owner)));
        assert!(*waiting <= LIMITS.pending_per_user && *all <= SESSIONS as usize && *all > 0);
    }
    let mut listeners: Vec<_> = book.iter().flat_map(|s| s.listeners.clone()).collect();
    let taken = listeners.len();
    listeners.sort();
    listeners.dedup();
    assert_eq!(listeners.len(), taken, "two sessions have one listener");
    assert_eq!(book.listeners_free(Proto::Tcp, IpAddr::from([192, 0, 2, 1])), LIMITS.ports.len() - taken);
    for path in ["wan", "lan"] {
        let charged = |s: &&Session| s.charged.iter().any(|c| c == path);
        let reserved: u64 = book.iter().filter(charged).filter_map(|s| s.rate).sum();
        assert_eq!(book.rates(path), (Some(CAPACITY), reserved));
        assert!(reserved <= CAPACITY);
    }
}

fn empty() -> Book {
    let mut book = Book::new(LIMITS);
    book.set_capacity("wan", CAPACITY);
    book.set_capacity("lan", CAPACITY);
    book
}

proptest! {
    #[test]
    fn what_is_held_is_what_sessions_hold_whatever_the_order(steps in prop::collection::vec(step(), 1..80)) {
        let mut book = empty();
        let mut before: HashMap<Key, Session> = HashMap::new();
        let mut states: HashMap<u64, State> = HashMap::new();
        for (owner, n, step) in steps {
            let key = key(owner, n);
            let now = book.sessions.get(&key).cloned();
            let id = now.as_ref().map_or(0, |s| s.id);
            match step {
                Step::Reserve { listeners, rate } => {
                    let made = book.reserve(new(&key, State::Reserving, listeners, rate), |_, _| false);
                    prop_assert!(now.is_none() || made.is_err());
                }
                Step::Open { listeners, rate } => {
                    if let Ok(session) = book.reserve(new(&key, State::Updating, listeners, rate), |_, _| false) {
                        before.remove(&session.key());
                    }
                }
                Step::Hello => {
                    let said = book.hello(&key, 60);
                    prop_assert_eq!(said.is_ok(), now.is_some_and(|s| s.state == State::Reserving));
                }
                Step::Begin { lan } => {
                    let charged = ["wan", "lan"][..=usize::from(lan)].iter().map(|c| (*c).to_owned()).collect();
                    let target = vec!["10.0.0.9:1".parse().unwrap()];
                    if let Ok((was, planned)) = book.begin(&key, target, &grant(None), charged) {
                        prop_assert!(matches!(was.state, State::Listening | State::Active));
                        prop_assert_eq!((planned.id, planned.listeners), (was.id, was.listeners.clone()));
                        before.insert(key.clone(), was);
                    }
                }
                Step::Settle => {
                    let settled = book.settle(&key, id, Some(7)).is_some();
                    prop_assert_eq!(settled, now.is_some_and(|s| s.state == State::Updating));
                }
                Step::GoBack => {
                    if let Some(was) = before.remove(&key).filter(|was| was.id == id)
                        && now.is_some_and(|s| s.state == State::Updating)
                    {
                        book.go_back(was.clone(), "refused");
                        prop_assert_eq!(&book.sessions[&key], &was);
                    }
                }
                Step::Renew => _ = book.renew(&key, 60, 99),
                Step::Drain => _ = book.drain(&key, "drained"),
                Step::Release => _ = book.release(&key, id, "released"),
                Step::End => book.end(&key, id, "over"),
                Step::Restart => {
                    let kept: Vec<_> = book.iter().filter(|s| s.state == State::Active).cloned().collect();
                    book = empty();
                    book.restore(kept.clone());
                    prop_assert_eq!(book.iter().count(), kept.len());
                    before.clear();
                    states = kept.iter().map(|s| (s.id, s.state)).collect();
                }
            }
            holds_together(&book);
            // The changes that are told lead from state to state without a gap.
            for Change { session, before, .. } in book.changes() {
                prop_assert_eq!(states.insert(session.id, session.state), before);
            }
        }
    }
}

#[test]
fn what_has_run_out_is_named() {
    let mut book = empty();
    let mut ask = |owner, n, listeners, rate| {
        let made = book.reserve(new(&key(owner, n), State::Reserving, listeners, rate), |_, _| false);
        made.map(|s| s.listeners.len()).map_err(|e| e.to_string())
    };
    assert_eq!(ask(0, 0, 6, Some(600)), Ok(6));
    assert!(ask(0, 0, 1, None).unwrap_err().contains("you have a session u0 already"));
    assert!(
        ask(0, 1, 3, None)
            .unwrap_err()
            .contains("3 listeners are asked for on 192.0.2.1 and 2 of its range are free")
    );
    assert!(
        ask(0, 1, 1, Some(401))
            .unwrap_err()
            .contains("401 Mbit/s are asked for and 400 of 1000 are free on port wan")
    );
    assert_eq!(ask(0, 1, 1, Some(400)), Ok(1));
    assert!(ask(0, 2, 1, None).unwrap_err().contains("2 of your sessions wait for hello"));
    assert_eq!(ask(1, 0, 1, None), Ok(1));
    assert!(ask(2, 0, 1, None).unwrap_err().contains("too many sessions wait for hello"));
}
