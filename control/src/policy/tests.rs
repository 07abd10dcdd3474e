//! Policy: what the example says, what must not slip through, and properties over random policies.

use proptest::prelude::*;

use super::*;

fn policy(text: &str) -> Policy {
    Policy::parse(text, "policy.toml").unwrap()
}

fn example() -> Policy {
    policy(include_str!("../../../docs/policy.example.toml"))
}

fn alice() -> Principal {
    Principal {
        subject: "alice@site".to_owned(),
        issuer: "site".to_owned(),
        names: Vec::new(),
        groups: Vec::new(),
        expires: None,
    }
}

fn ask(targets: &[&str]) -> Ask {
    Ask {
        role: Role::Producer,
        proto: Proto::Tcp,
        targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
        sources: None,
        listeners: 1,
        connections: None,
        rate: None,
        lease: None,
    }
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn refusal(answer: Result<Grant, Refusal>) -> String {
    answer.unwrap_err().0
}

#[test]
fn the_example_grants_what_it_says() {
    let grant = example().decide(&alice(), &ask(&["10.20.3.4:5001", "[fd00::1]:9"])).unwrap();
    assert_eq!(
        grant,
        Grant {
            rule: "beamline".to_owned(),
            sources: nets(&["198.51.100.0/28"]),
            connections: Some(64),
            rate: None,
            limit: Some(10_000),
            lease: Duration::from_secs(8 * 3600),
            sessions: 10,
        }
    );
    assert!(!example().administrator(&alice()));
    let operator = Principal { groups: vec!["operators".to_owned()], ..alice() };
    assert!(example().administrator(&operator));
}

#[test]
fn the_worked_examples_of_the_documentation_decide_as_told() {
    let page = include_str!("../../../docs/control-api.md");
    let (_, page) = page.split_once("\n# Policy\n").unwrap();
    let (_, page) = page.split_once("Worked examples.").unwrap();
    // Code is indented, and a paragraph ends it.
    let code = page
        .lines()
        .map(|line| line.strip_prefix("    ").or(line.is_empty().then_some("")))
        .collect::<Vec<_>>();
    let blocks: Vec<String> = code
        .split(Option::is_none)
        .map(|lines| lines.iter().flatten().map(|l| format!("{l}\n")).collect())
        .collect();
    let rules: Vec<_> =
        blocks.iter().filter(|block| block.contains("[[rule]]")).map(|block| policy(block)).collect();
    let [campus, beamline] = &rules[..] else { panic!("{} blocks", rules.len()) };

    let student = Principal { subject: "x@campus".to_owned(), issuer: "campus".to_owned(), ..alice() };
    let consume = Ask { role: Role::Consumer, rate: Some(1000), ..ask(&["192.0.2.10:5100"]) };
    assert_eq!(campus.decide(&student, &consume).unwrap().sources, nets(&["10.10.0.0/16"]));
    assert!(campus.decide(&alice(), &consume).is_err());

    let member = Principal { groups: vec!["beamline7".to_owned()], ..alice() };
    let produce = Ask {
        sources: Some(nets(&["192.0.2.10/32"])),
        rate: Some(10_000),
        lease: Some(Duration::from_secs(7200)),
        ..ask(&["10.20.3.4:5001"])
    };
    let told = beamline.explain(&member, &produce).to_string();
    let shown = blocks.iter().find(|block| block.contains("OUTCOME")).unwrap();
    assert!(shown.trim_end().ends_with(told.trim_end()), "{told}");
}

#[test]
fn a_user_is_meant_by_subject_name_or_group_and_by_issuer_too() {
    let nobody = Principal { subject: "bob@site".to_owned(), ..alice() };
    let bare = ask(&[]);
    assert!(refusal(example().decide(&nobody, &bare)).contains("allows you no sessions"));
    let named = Principal { names: vec!["alice@site".to_owned()], ..nobody.clone() };
    assert!(example().decide(&named, &bare).is_ok());
    let member = Principal { groups: vec!["x".to_owned(), "beamline7".to_owned()], ..nobody.clone() };
    assert!(example().decide(&member, &bare).is_ok());
    let foreign = Principal { issuer: "other".to_owned(), ..member };
    assert!(example().decide(&foreign, &bare).is_err());
    let star = policy("[[rule]]\nname = \"x\"\nusers = [\"*\"]\nadministrator = true");
    assert!(star.administrator(&nobody));
    // A user may be called so, and means no more than himself.
    let star_user = Principal { subject: "*".to_owned(), ..alice() };
    assert!(example().decide(&star_user, &bare).is_err());
    let empty = policy("[[rule]]\nname = \"x\"\nusers = []\nadministrator = true");
    assert!(!empty.administrator(&nobody));
}

#[test]
fn what_a_rule_leaves_out_it_does_not_permit() {
    let start = "[[rule]]\nname = \"x\"\nusers = [\"*\"]\n";
    let refused = |rest: &str, ask: &Ask| refusal(policy(&format!("{start}{rest}")).decide(&alice(), ask));
    let target = ask(&["10.0.0.1:1"]);
    assert!(refused("", &target).contains("producer's side"));
    assert!(refused("roles = [\"producer\"]", &target).contains("tcp"));
    let roles = "roles = [\"producer\"]\nprotocols = [\"tcp\"]\n";
    assert!(refused(roles, &target).contains("10.0.0.1:1"));
    assert!(refused(roles, &ask(&[])).contains("name sources"));
    let sourced = Ask { sources: Some(nets(&["10.0.0.0/8"])), ..ask(&[]) };
    assert!(refused(roles, &sourced).contains("10.0.0.0/8"));
    let open = format!("{roles}sources = [\"0.0.0.0/0\"]\n");
    assert!(refused(&open, &ask(&[])).contains("name sources"));
    assert!(policy(&format!("{start}{open}")).decide(&alice(), &sourced).is_ok());
    assert!(refused(&open, &Ask { rate: Some(1), ..sourced.clone() }).contains("rate"));
    assert!(refused(&open, &Ask { listeners: 17, ..sourced.clone() }).contains("at most 16"));
    assert!(refused(&open, &Ask { lease: Some(hour() * 2), ..sourced }).contains("at most 1h"));
}

#[test]
fn sources_are_the_narrower_of_defaults_and_rule() {
    let with = |sources: &str| {
        let text = format!(
            "[defaults]\nproducer_sources = [\"10.0.0.0/9\", \"10.128.0.0/9\", \"192.0.2.0/24\"]\n[[rule]]\n\
             name = \"x\"\nusers = [\"*\"]\nroles = [\"producer\"]\nprotocols = [\"tcp\"]\n{sources}"
        );
        move |asked: Option<&[&str]>| {
            let ask = Ask { sources: asked.map(nets), ..ask(&[]) };
            policy(&text).decide(&alice(), &ask).map(|grant| grant.sources)
        }
    };
    assert_eq!(with("")(None).unwrap(), nets(&["10.0.0.0/8", "192.0.2.0/24"]));
    assert_eq!(
        with("sources = [\"10.1.0.0/16\", \"192.0.0.0/8\"]")(None).unwrap(),
        nets(&["10.1.0.0/16", "192.0.2.0/24"])
    );
    assert!(with("sources = []")(None).is_err());
    // Those of the rule are all that may be asked for, those of the site where it has none.
    assert!(with("sources = [\"203.0.113.0/24\"]")(Some(&["10.0.0.0/8"])).is_err());
    assert!(with("sources = [\"203.0.113.0/24\"]")(Some(&["203.0.113.7/32"])).is_ok());
    assert!(with("")(Some(&["203.0.113.7/32"])).is_err());
    assert_eq!(with("")(Some(&["10.0.0.0/8"])).unwrap(), nets(&["10.0.0.0/8"]), "two halves make a whole");
    assert!(with("")(Some(&["0.0.0.0/0"])).is_err());
    assert!(with("")(Some(&[])).is_err());
}

#[test]
fn no_writing_of_an_address_slips_past_a_prefix() {
    let everywhere = "[[rule]]\nname = \"x\"\nusers = [\"*\"]\nroles = [\"producer\"]\nprotocols = [\"tcp\"]\n\
        sources = [\"0.0.0.0/0\", \"::/0\"]\n";
    let may = |targets: &str, target: &str| {
        let text = format!("{everywhere}targets = {targets}");
        let ask = Ask { sources: Some(nets(&["10.0.0.0/8"])), ..ask(&[target]) };
        policy(&text).decide(&alice(), &ask).is_ok()
    };
    let all = "[\"0.0.0.0/0:*\", \"[::/0]:*\"]";
    assert!(may(all, "10.0.0.1:1") && may(all, "[2001:db8::1]:65535"));
    for never in [
        "[::ffff:10.0.0.1]:1",
        "0.0.0.0:1",
        "[::]:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[ff02::1]:1",
        "10.0.0.1:0",
    ] {
        assert!(!may(all, never), "{never}");
    }
    for local in ["127.0.0.1:1", "169.254.169.254:80", "[::1]:1", "[fe80::1]:1"] {
        assert!(!may(all, local), "{local}");
    }
    assert!(may("[\"127.0.0.0/8:7000-7100\"]", "127.0.0.1:7100"));
    assert!(!may("[\"127.0.0.0/8:7000-7100\"]", "127.0.0.1:7101"));
    assert!(may("[\"[::1]:1\"]", "[::1]:1"));
    let mapped = Ask { sources: Some(nets(&["::ffff:10.0.0.0/104"])), ..ask(&[]) };
    assert!(refusal(policy(everywhere).decide(&alice(), &mapped)).contains("IPv4"));
}

#[test]
fn the_rule_that_came_closest_tells_why_and_names_nobody() {
    let two = policy(
        "[[rule]]\nname = \"first\"\nusers = [\"*\"]\nroles = [\"consumer\"]\nprotocols = [\"tcp\"]\n\
         [[rule]]\nname = \"second\"\nusers = [\"alice@site\"]\nroles = [\"producer\"]\nprotocols = [\"tcp\"]\n\
         targets = [\"10.0.0.0/8:*\"]\n[[rule]]\nname = \"third\"\nusers = [\"bob@site\"]",
    );
    let asked = ask(&["192.0.2.1:22"]);
    let told = refusal(two.decide(&alice(), &asked));
    assert_eq!(told, "target 192.0.2.1:22 is not among those that you may reach");
    let explanation = two.explain(&alice(), &asked);
    assert_eq!(explanation.refusal.as_deref(), Some(told.as_str()));
    let outcomes: Vec<_> = explanation.rules.iter().map(|r| (r.rule.as_str(), r.outcome.as_str())).collect();
    assert_eq!(
        outcomes,
        [
            ("first", "you may not open sessions on the producer's side"),
            ("second", told.as_str()),
            ("third", "not for this user")
        ]
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    let rule = "[[rule]]\nname = \"x\"\n";
    for (rest, line, words) in [
        ("", 2, "about nobody"),
        ("users = [\"*\"]\ntargets = [\"10.0.0.0/8\"]", 4, "names no targets"),
        ("users = [\"*\"]\ntargets = [\"fd00::/8:1\"]", 4, "names no targets"),
        ("users = [\"*\"]\ntargets = [\n\"10.0.0.0/8:1\",\n\"10.1.2.3/8:1\"]", 4, "10.1.2.3/8"),
        ("users = [\"*\"]\ntargets = [\"10.0.0.0/8:9-2\"]", 4, "backwards"),
        ("users = [\"*\"]\nroles = [\"PROD\"]", 4, "producer"),
        ("users = [\"*\"]\nsources = [\"::ffff:10.0.0.0/104\"]", 4, "IPv4"),
        ("users = [\"*\"]\nlistners = 1", 4, "unknown field `listners`"),
        ("users = [\"*\"]\nlisteners = 0", 4, "from 1 to 65535"),
        ("users = [\"*\"]\nrate = \"fast\"", 4, "rate"),
        ("users = [\"*\"]\nlease = \"367d\"", 4, "from 1s to"),
        ("users = [\"*\"]\n[[rule]]\nname = \"x\"", 5, "another rule"),
        ("users = [\"*\"]\n[defaults]\nconsumer_sources = [\"0.0.0.0/0\"]", 5, "everybody"),
    ] {
        let error = Policy::parse(&format!("{rule}{rest}"), "policy.toml").unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("policy.toml:{line}:")) && error.contains(words),
            "{rest:?} gave {error:?}"
        );
    }
}

// Few networks, mostly wide ones in policies and narrow ones in requests, so that many requests are granted and
// many are not.
fn some_net(lengths: &'static [u8]) -> impl Strategy<Value = IpNet> {
    (0_u8..2, 0_u8..2, prop::sample::select(lengths))
        .prop_map(|(a, b, length)| IpNet::new_assert([10, a, b, 0].into(), length).trunc())
}

fn wide() -> impl Strategy<Value = IpNet> {
    some_net(&[8, 8, 16, 24])
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let users = prop::option::of(prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 0..3));
    let targets = prop::collection::vec((wide(), 1_u16..3, 2_u16..6), 0..4);
    let sources = prop::option::of(prop::collection::vec(wide(), 0..4));
    let roles = prop::collection::vec(prop::sample::select(vec![Role::Producer, Role::Consumer]), 1..4);
    let limits = (2_u32..5, prop::option::of(2_u32..5), prop::option::weighted(0.8, 2_u64..5), 2_u64..5);
    (users, targets, sources, roles, limits).prop_map(|(users, targets, sources, roles, limits)| Rule {
        name: Spanned::new(0..0, "r".to_owned()),
        users: users.map(|users| users.into_iter().map(str::to_owned).collect()),
        groups: Some(vec!["g".to_owned()]),
        issuers: None,
        roles,
        protocols: vec![Proto::Tcp],
        targets: targets
            .into_iter()
            .map(|(prefix, first, more)| Targets { prefix, ports: Ports { first, last: first + more } })
            .collect(),
        sources: sources.map(|sources| IpNet::aggregate(&sources)),
        listeners: limits.0,
        connections: limits.1,
        sessions: 1,
        rate: limits.2,
        police: false,
        lease: Duration::from_secs(limits.3),
        administrator: false,
    })
}

fn some_policy() -> impl Strategy<Value = Policy> {
    let defaults = || prop::collection::vec(wide(), 0..3);
    (defaults(), defaults(), prop::collection::vec(some_rule(), 1..4)).prop_map(|(p, c, rules)| Policy {
        defaults: Defaults { producer_sources: p, consumer_sources: c },
        rules,
    })
}

fn some_ask() -> impl Strategy<Value = Ask> {
    let role = prop::sample::select(vec![Role::Producer, Role::Consumer]);
    let target = (0_u8..2, 0_u8..2, 0_u8..2, 2_u16..6)
        .prop_map(|(a, b, c, port)| SocketAddr::from(([10, a, b, c], port)));
    let targets = prop::collection::vec(target, 0..3);
    let sources = prop::option::of(prop::collection::vec(some_net(&[16, 24, 32]), 0..3));
    let limits = (
        prop::sample::select(vec![0_u32, 1, 1, 2, 3]),
        prop::option::of(prop::sample::select(vec![0_u32, 1, 1, 2, 3])),
        prop::option::of(0_u64..4),
        prop::option::of((0_u64..4).prop_map(Duration::from_secs)),
    );
    (role, targets, sources, limits).prop_map(|(role, targets, sources, limits)| {
        let (listeners, connections, rate, lease) = limits;
        Ask { role, proto: Proto::Tcp, targets, sources, listeners, connections, rate, lease }
    })
}

fn some_user() -> impl Strategy<Value = Principal> {
    let group = prop::option::weighted(0.7, Just("g".to_owned()));
    (prop::sample::select(vec!["a", "b", "c"]), group).prop_map(|(subject, group)| Principal {
        subject: subject.to_owned(),
        groups: group.into_iter().collect(),
        ..alice()
    })
}

fn admits(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_granted_that_no_rule_permits(policy in some_policy(), who in some_user(), ask in some_ask()) {
        let Ok(grant) = policy.decide(&who, &ask) else { return Ok(()) };
        let defaults = match ask.role {
            Role::Producer => &policy.defaults.producer_sources,
            Role::Consumer => &policy.defaults.consumer_sources,
        };
        let covered = policy.rules.iter().any(|rule| {
            let has = |list: &Option<Vec<String>>, x: &str| list.iter().flatten().any(|l| l == x);
            let meant = has(&rule.users, "*") || has(&rule.users, &who.subject)
                || who.groups.iter().any(|g| has(&rule.groups, g));
            let reaches = |t: &SocketAddr| rule.targets.iter().any(|x| {
                x.prefix.contains(&t.ip()) && x.ports.first <= t.port() && t.port() <= x.ports.last
            });
            // Address by address: at the edges of each prefix that was granted.
            let lets_in = |a: IpAddr| admits(rule.sources.as_ref().unwrap_or(defaults), a)
                && ask.sources.as_ref().map_or_else(|| admits(defaults, a), |asked| admits(asked, a));
            meant
                && rule.roles.contains(&ask.role)
                && ask.targets.iter().all(reaches)
                && grant.sources.iter().all(|net| lets_in(net.network()) && lets_in(net.broadcast()))
                && ask.listeners <= rule.listeners
                && rule.connections.is_none_or(|most| grant.connections.is_some_and(|n| 0 < n && n <= most))
                && grant.rate.is_none_or(|rate| rule.rate.is_some_and(|most| 0 < rate && rate <= most))
                && grant.lease <= rule.lease
        });
        prop_assert!(covered, "{grant:?}");
        prop_assert!(!grant.sources.is_empty());
        prop_assert!(ask.listeners > 0);
    }

    #[test]
    fn who_asks_for_less_is_not_refused(
        policy in some_policy(), who in some_user(), ask in some_ask(), which in 0_usize..5
    ) {
        if policy.decide(&who, &ask).is_err() {
            return Ok(());
        }
        let mut less = ask.clone();
        match which {
            0 => less.listeners = (ask.listeners - 1).max(1),
            1 => less.connections = ask.connections.map(|n| (n - 1).max(1)),
            2 => less.rate = ask.rate.and_then(|n| n.checked_sub(1)),
            3 => less.lease = ask.lease.map(|_| Duration::from_secs(1)),
            _ => _ = less.targets.pop(),
        }
        prop_assert!(policy.decide(&who, &less).is_ok(), "{less:?}");
    }

    #[test]
    fn what_is_explained_is_what_is_decided(policy in some_policy(), who in some_user(), ask in some_ask()) {
        let explanation = policy.explain(&who, &ask);
        prop_assert_eq!(explanation.rules.len(), policy.rules.len());
        match policy.decide(&who, &ask) {
            Ok(grant) => prop_assert_eq!(explanation.grant, Some(grant)),
            Err(refusal) => prop_assert_eq!(explanation.refusal, Some(refusal.0)),
        }
    }
}
