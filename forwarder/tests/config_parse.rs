//! The configuration from outside: what is read, and what is said of mistakes.
#![allow(clippy::unwrap_used, clippy::panic)]

use forwarder::api::{FlowSpec, Proto};
use std::time::Duration;

use forwarder::config::{
    AddressCheck, Config, ConfigError, Cores, FlowError, Idle, Retry, Sandbox, validate_flow,
};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../docs/s2ds.example.toml");

/// Two ports, ahead of which or behind which a test writes what it is about.
const PORTS: &str = r#"
[[port]]
name = "lan"
device = "af_packet:veth0"
addresses = ["10.0.0.1/24", "fd00::1/64"]

[[port]]
name = "wan"
device = "af_packet:veth1"
addresses = ["192.0.2.1/24"]
gateway = "192.0.2.254"
mtu = 1500
"#;

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "s2ds.toml") {
        Err(ConfigError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{text}\nshould have problems, gave {other:?}"),
    }
}

/// `line` is appended to the two ports (12 lines); its only problem begins so and holds the mend.
#[track_caller]
fn one_problem(text: &str, begins: &str, mend: &str) {
    let found = problems(&format!("{PORTS}{text}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(begins) && found[0].contains(mend), "{}\n{begins} ... {mend}", found[0]);
}

fn flow(changes: &str) -> String {
    let mut fields = vec![
        ("name", "\"f\""),
        ("proto", "\"tcp\""),
        ("listen", "\"10.0.0.1:5000\""),
        ("target", "\"192.0.2.9:5000\""),
        ("from", "[\"10.0.0.0/24\"]"),
    ];
    for change in changes.split(';').filter(|c| !c.is_empty()) {
        let (key, value) = change.split_once('=').unwrap();
        fields.retain(|(k, _)| *k != key);
        if !value.is_empty() {
            fields.push((key, value));
        }
    }
    let fields: String = fields.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    format!("[[flow]]\n{fields}")
}

#[test]
fn the_example_is_valid_and_says_what_it_says() {
    let config = Config::parse(EXAMPLE, "docs/s2ds.example.toml").unwrap();
    assert_eq!(config.ports.len(), 3);
    assert_eq!(config.ports[0].vlan, Some(120));
    assert_eq!((config.ports[2].outer_vlan, config.ports[2].vlan), (Some(100), Some(30)));
    assert_eq!(config.first_of_device(&config.ports[2]), 1);
    assert_eq!(config.ports[1].gateway.len(), 2);
    assert_eq!(config.routes[0].port, 0);
    assert_eq!(config.neighbors[0].mac, [2, 0, 0, 0, 0, 7]);
    assert_eq!(config.workers.cores, Cores::List(vec![2]));
    assert_eq!(config.flows[0].lease, Some(12 * 3600));
    assert_eq!(config.service.mode, 0o660);
    assert_eq!(config.notices, Vec::<String>::new());
    let text = config.describe();
    for part in [
        "beamline7-detector",
        "10.10.0.1 on lan",
        "0000:81:00.1",
        "02:00:00:00:00:07",
        "1 on cores 2",
        "0660",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn privileges_are_read() {
    let text = format!(
        "{PORTS}[privileges]\nuser = \"relay\"\nsandbox = \"log\"\ncapabilities = [\"CAP_SYS_RAWIO\"]\nfiles = [\"/data\"]"
    );
    let privileges = Config::parse(&text, "x").unwrap().privileges;
    assert_eq!(privileges.user.as_deref(), Some("relay"));
    assert_eq!(privileges.sandbox, Sandbox::Log);
    assert_eq!(privileges.capabilities, ["CAP_SYS_RAWIO"]);
    assert_eq!(privileges.files, [std::path::Path::new("/data")]);
    for (line, key, mend) in [
        ("user = \"\"", "user", "name a user"),
        ("sandbox = \"maybe\"", "sandbox", "\"log\" or \"off\""),
        ("sandbox = true", "sandbox", "a text in quotes"),
        ("capabilities = [\"net_raw\"]", "capabilities[0]", "\"CAP_NET_ADMIN\""),
        ("files = [\"/a\", \"data\"]", "files[1]", "absolute"),
        ("group = \"x\"", "group", "known here are"),
    ] {
        let text = format!("[privileges]\n{line}");
        one_problem(&text, &format!("s2ds.toml:14: privileges.{key}: "), mend);
    }
}

#[test]
fn what_the_example_calls_default_is() {
    let defaults = Config::parse(PORTS, "x").unwrap();
    let example = Config::parse(EXAMPLE, "x").unwrap();
    assert_eq!(defaults.eal, example.eal);
    assert_eq!(defaults.timers, example.timers);
    assert_eq!(defaults.limits, example.limits);
    assert_eq!(defaults.service.socket, example.service.socket);
    assert_eq!(defaults.service.mode, example.service.mode);
    assert_eq!(defaults.addresses, example.addresses);
    assert_eq!(defaults.privileges.sandbox, example.privileges.sandbox);
    assert!(defaults.privileges.user.is_none() && example.privileges.user.as_deref() == Some("scistream"));
    assert_eq!(defaults.privileges.capabilities, example.privileges.capabilities);
    assert_eq!(defaults.privileges.files, example.privileges.files);
    assert_eq!(defaults.addresses.check, AddressCheck::Quick);
    assert_eq!(defaults.workers.idle, Idle::Poll);
    assert_eq!(defaults.workers.cores, Cores::Auto);
    assert_eq!(defaults.ports[0].mtu, 1500);
    assert_eq!(example.ports[0].retry, Some(Retry::default()));
}

#[test]
fn what_becomes_of_a_failed_port_is_a_time_or_off() {
    let port = |text: &str| {
        let text = format!(
            "[[port]]\nname = \"p\"\ndevice = \"mac:52:54:00:AB:00:01\"\naddresses = [\"10.0.0.1/24\"]\n{text}"
        );
        Config::parse(&text, "x").map(|c| c.ports[0].clone()).map_err(|e| e.to_string())
    };
    assert_eq!(port("retry = \"off\"").unwrap().retry, Some(Retry::Off));
    assert_eq!(port("retry = \"1m 30s\"").unwrap().retry, Some(Retry::Every(Duration::from_secs(90))));
    let both = port("rx_descriptors = 4096\ntx_descriptors = 512").unwrap();
    assert_eq!((both.rx_descriptors, both.tx_descriptors), (Some(4096), Some(512)));
    assert_eq!(both.device.to_string(), "mac:52:54:00:ab:00:01");
    for text in ["retry = \"0s\"", "retry = \"2h\"", "retry = \"soon\""] {
        let error = port(text).unwrap_err();
        assert!(
            error.starts_with("x:5: port[0].retry: ") && error.contains("write it like \"10s\""),
            "{error}"
        );
    }
    for key in ["rx_descriptors", "tx_descriptors"] {
        let error = port(&format!("{key} = 63")).unwrap_err();
        assert!(error.starts_with(&format!("x:5: port[0].{key}: must be a whole number from 64")), "{error}");
    }
}

#[test]
fn every_mistake_has_its_line_key_and_mend() {
    let cases: &[(&str, &str, &str)] = &[
        ("[eal]\nhuge = 1", "s2ds.toml:14: eal.huge: ", "true or false"),
        ("[eal]\nhug = true", "s2ds.toml:14: eal.hug: ", "did you mean \"huge\"?"),
        ("[eal]\nargs = [\"--\"]", "s2ds.toml:14: eal.args[0]: ", "leave it out"),
        ("[worker]\n", "s2ds.toml:13: worker: ", "did you mean \"workers\"?"),
        ("[zebra]\n", "s2ds.toml:13: zebra: ", "known here are eal, service,"),
        ("[service]\nmode = \"0999\"", "s2ds.toml:14: service.mode: ", "\"0660\""),
        ("[service]\nmode = 660", "s2ds.toml:14: service.mode: ", "in quotes"),
        ("[service]\nmode = \"7777\"", "s2ds.toml:14: service.mode: ", "octal"),
        ("[service]\nsocket = \"\"", "s2ds.toml:14: service.socket: ", "give the path"),
        ("[service]\ngroup = \"\"", "s2ds.toml:14: service.group: ", "leave it out"),
        ("[workers]\ncores = []", "s2ds.toml:14: workers.cores: ", "at least one"),
        ("[workers]\ncores = [1, 1]", "s2ds.toml:14: workers.cores: ", "core 1 twice"),
        ("[workers]\ncores = [-1]", "s2ds.toml:14: workers.cores: ", "0 to 1023"),
        ("[workers]\ncores = \"all\"", "s2ds.toml:14: workers.cores: ", "\"auto\""),
        ("[addresses]\ncheck = \"no\"", "s2ds.toml:14: addresses.check: ", "\"rfc5227\""),
        ("[workers]\nidle = \"sleep\"", "s2ds.toml:14: workers.idle: ", "\"adaptive\""),
        ("[timers]\nudp = 0", "s2ds.toml:14: timers.udp: ", "1 to 1000000"),
        ("[timers]\nudp = 99999999999999999999", "s2ds.toml:14: timers.udp: ", "1 to 1000000"),
        ("[timers]\nudp = 1.5", "s2ds.toml:14: timers.udp: ", "whole number"),
        ("[limits]\nconnections = 0", "s2ds.toml:14: limits.connections: ", "1 to 16777216"),
        ("[limits]\nsource_ports = \"80-90\"", "s2ds.toml:14: limits.source_ports: ", "from 1024 on"),
        ("[limits]\nsource_ports = \"5000-4000\"", "s2ds.toml:14: limits.source_ports: ", "32768-65535"),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"10.0.0.9\"\nport = \"lam\"",
            "s2ds.toml:16: route[0].port: ",
            "lan, wan",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"10.7.0.9\"\nport = \"lan\"",
            "s2ds.toml:15: route[0].via: ",
            "not on-link",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"10.0.0.1\"\nport = \"lan\"",
            "s2ds.toml:15: route[0].via: ",
            "itself",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"10.0.0.255\"\nport = \"lan\"",
            "s2ds.toml:15: route[0].via: ",
            "broadcast",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"fd00::9\"\nport = \"lan\"",
            "s2ds.toml:15: route[0].via: ",
            "family",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.1/16\"\nvia = \"10.0.0.9\"\nport = \"lan\"",
            "s2ds.toml:14: route[0].prefix: ",
            "write 10.9.0.0/16",
        ),
        (
            "[[route]]\nprefix = \"10.9.0.0\"\nvia = \"10.0.0.9\"\nport = \"lan\"",
            "s2ds.toml:14: route[0].prefix: ",
            "/32",
        ),
        ("[[route]]\nvia = \"10.0.0.9\"\nport = \"lan\"", "s2ds.toml:13: route[0].prefix: ", "missing"),
        (
            "[[neighbor]]\nport = \"lan\"\naddress = \"10.0.0.9\"\nmac = \"01:00:5e:00:00:01\"",
            "s2ds.toml:16: neighbor[0].mac: ",
            "unicast",
        ),
        (
            "[[neighbor]]\nport = \"lan\"\naddress = \"10.0.0.9\"\nmac = \"2:0:0:0:0:1\"",
            "s2ds.toml:16: neighbor[0].mac: ",
            "02:00:00:00:00:01",
        ),
        (
            "[[neighbor]]\nport = \"wan\"\naddress = \"10.0.0.9\"\nmac = \"02:00:00:00:00:01\"",
            "s2ds.toml:15: neighbor[0].address: ",
            "192.0.2.0/24",
        ),
        (
            "[[neighbor]]\nport = \"lan\"\naddress = \"224.0.0.1\"\nmac = \"02:00:00:00:00:01\"",
            "s2ds.toml:15: neighbor[0].address: ",
            "multicast",
        ),
        (
            "[[port]]\nname = \"lan\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]",
            "s2ds.toml:14: port[2].name: ",
            "its own",
        ),
        (
            "[[port]]\nname = \"a b\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]",
            "s2ds.toml:14: port[2].name: ",
            "A-Za-z0-9._-",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"af_packet:veth1\"\naddresses = [\"10.5.0.1/24\"]",
            "s2ds.toml:15: port[2].device: ",
            "\"wan\"",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"eth0\"\naddresses = [\"10.5.0.1/24\"]",
            "s2ds.toml:15: port[2].device: ",
            "af_packet:IFACE",
        ),
        ("[[port]]\nname = \"c\"\ndevice = \"tap:t\"", "s2ds.toml:13: port[2].addresses: ", "missing"),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = []",
            "s2ds.toml:16: port[2].addresses: ",
            "empty",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.0.0.65/28\"]",
            "s2ds.toml:16: port[2].addresses[0]: ",
            "overlaps 10.0.0.1/24 of port \"lan\"",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.0/24\"]",
            "s2ds.toml:16: port[2].addresses[0]: ",
            "network or broadcast",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.255/24\"]",
            "s2ds.toml:16: port[2].addresses[0]: ",
            "network or broadcast",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"fd05::/64\"]",
            "s2ds.toml:16: port[2].addresses[0]: ",
            "network or broadcast",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"127.0.0.1/8\"]",
            "s2ds.toml:16: port[2].addresses[0]: ",
            "loopback",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"fe80::1/64\"]",
            "s2ds.toml:16: port[2].addresses[0]: ",
            "link-local",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\", \"10.5.0.1/24\"]",
            "s2ds.toml:16: port[2].addresses[1]: ",
            "twice",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]\nmtu = 500",
            "s2ds.toml:17: port[2].mtu: ",
            "576 to 9600",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"fd05::1/64\"]\nmtu = 1000",
            "s2ds.toml:17: port[2].mtu: ",
            "1280 to 9600",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]\nvlan = 4095",
            "s2ds.toml:17: port[2].vlan: ",
            "1 to 4094",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]\nouter_vlan = 0",
            "s2ds.toml:17: port[2].outer_vlan: ",
            "1 to 4094",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"af_packet:veth0\"\naddresses = [\"10.5.0.1/24\"]",
            "s2ds.toml:15: port[2].device: ",
            "port \"lan\" already, which has the same tags",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]\ngateway = \"10.6.0.1\"",
            "s2ds.toml:17: port[2].gateway: ",
            "10.5.0.0/24",
        ),
        (
            "[[port]]\nname = \"c\"\ndevice = \"tap:t\"\naddresses = [\"10.5.0.1/24\"]\ngateway = [\"10.5.0.2\", \"10.5.0.3\"]",
            "s2ds.toml:17: port[2].gateway[1]: ",
            "second gateway",
        ),
    ];
    for (text, begins, mend) in cases {
        one_problem(text, begins, mend);
    }
}

#[test]
fn flows_are_held_against_the_network() {
    let cases = [
        ("name=\"a b\"", "flow[0].name: ", "A-Za-z0-9._:@-"),
        ("proto=\"sctp\"", "flow[0].proto: ", "\"udp\""),
        ("from=[]", "flow[0].from: ", "10.1.0.0/16"),
        ("from=", "flow[0].from: ", "missing"),
        ("from=[\"10.0.0.0\"]", "flow[0].from[0]: ", "/32"),
        ("from=[\"10.0.0.7/24\"]", "flow[0].from: ", "10.0.0.0/24 for the network or 10.0.0.7/32"),
        ("from=[\"fd00::/64\"]", "flow[0].from: ", "different families"),
        ("listen=\"10.0.0.2:5000\"", "flow[0].listen: ", "10.0.0.1, fd00::1, 192.0.2.1"),
        ("listen=\"10.0.0.1:0\"", "flow[0].listen: ", "1 to 65535"),
        ("listen=\"localhost:80\"", "flow[0].listen: ", "no host names"),
        ("listen=\"0.0.0.0:80\"", "flow[0].listen: ", "unspecified"),
        ("target=\"192.0.2.9:0\"", "flow[0].target: ", "1 to 65535"),
        ("target=\"192.0.2.1:80\"", "flow[0].target: ", "itself"),
        ("target=\"192.0.2.255:80\"", "flow[0].target: ", "broadcast"),
        ("target=\"239.0.0.1:80\"", "flow[0].target: ", "multicast"),
        ("target=\"127.0.0.1:80\"", "flow[0].target: ", "loopback"),
        ("target=\"[2001:db8::9]:80\"", "flow[0].target: ", "nothing leads to"),
        ("mss_clamp=80", "flow[0].mss_clamp: ", "from 88 to 65495"),
        ("mss_clamp=\"most\"", "flow[0].mss_clamp: ", "\"auto\""),
        ("mss_clamp=1400;proto=\"udp\"", "flow[0].mss_clamp: ", "leave it out"),
        ("hairpin=1", "flow[0].hairpin: ", "true or false"),
        ("max_conns=0", "flow[0].max_conns: ", "1 to"),
        ("rate=0", "flow[0].rate: ", "from 1 to 1000000"),
        ("rate=\"fast\"", "flow[0].rate: ", "\"500M\""),
        ("rate=\"2T\"", "flow[0].rate: ", "1T"),
        ("lease=\"soon\"", "flow[0].lease: ", "\"1h\""),
        ("lease=\"900y\"", "flow[0].lease: ", "10 years"),
        ("listn=\"10.0.0.1:1\"", "flow[0].listn: ", "did you mean \"listen\"?"),
    ];
    for (change, key, mend) in cases {
        let found = problems(&format!("{PORTS}{}", flow(change)));
        assert_eq!(found.len(), 1, "{change}: {found:#?}");
        assert!(found[0].contains(key) && found[0].contains(mend), "{change}: {}", found[0]);
    }
    // The two sides may be of different families.
    let both = Config::parse(&format!("{PORTS}{}", flow("target=\"[fd00::9]:80\"")), "x").unwrap();
    assert!(both.flows[0].listen.is_ipv4() && both.flows[0].target.is_ipv6());
    let v6 = "listen=\"[fd00::1]:80\";target=\"[2001:db8::1]:80\";from=[\"fd00::/64\"]";
    let found = problems(&format!("{PORTS}{}", flow(v6)));
    assert!(found.len() == 1 && found[0].contains("nothing leads to [2001:db8::1]:80"), "{found:?}");
}

#[test]
fn names_and_listeners_of_flows_are_taken_once() {
    let second = flow("listen=\"10.0.0.1:5001\"");
    let found = problems(&format!("{PORTS}{}{second}", flow("")));
    assert!(
        found.len() == 1 && found[0].contains("flow[1].name") && found[0].contains("flow[0]"),
        "{found:?}"
    );
    let found = problems(&format!("{PORTS}{}{}", flow(""), flow("name=\"g\"")));
    assert!(found.len() == 1 && found[0].contains("\"f\" listens on tcp 10.0.0.1:5000 already"), "{found:?}");
    let other_protocol = flow("name=\"g\";proto=\"udp\"");
    assert_eq!(Config::parse(&format!("{PORTS}{}{other_protocol}", flow("")), "x").unwrap().flows.len(), 2);
}

#[test]
fn all_problems_are_reported_in_the_order_of_lines() {
    let text = "[eal]\nhuge = \"yes\"\n[timers]\nudp = 0\n[[port]]\nname = \"p\"\ndevice = \"x\"\naddresses = [\"10.0.0.1/24\"]\n\
                [[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"10.1.1.1\"\nport = \"p\"\nmetric = 3\n";
    let found = problems(text);
    let keys: Vec<_> = found.iter().map(|p| p.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        ["s2ds.toml:2", "s2ds.toml:4", "s2ds.toml:7", "s2ds.toml:11", "s2ds.toml:13"],
        "{found:#?}"
    );
}

#[test]
fn a_syntax_error_names_its_line() {
    let found = problems("[eal]\nhuge = tru\n");
    assert!(found[0].starts_with("s2ds.toml:2: TOML: "), "{found:?}");
    assert!(problems("")[0].starts_with("s2ds.toml:1: port: there is no port"));
}

#[test]
fn more_entries_than_the_limit_are_refused() {
    let limits = "[limits]\nflows = 1\n";
    let found = problems(&format!("{PORTS}{limits}{}{}", flow(""), flow("name=\"g\";listen=\"10.0.0.1:1\"")));
    assert!(found.len() == 1 && found[0].contains("limits.flows is 1"), "{found:?}");
    let ports: String = (0..65)
        .map(|i| {
            let vlan = i + 1;
            format!("[[port]]\nname = \"p{i}\"\ndevice = \"tap:t\"\nvlan = {vlan}\naddresses = [\"10.{i}.0.1/24\"]\n")
        })
        .collect();
    let found = problems(&ports);
    assert!(found.len() == 1 && found[0].contains("port[64]: ") && found[0].contains("64"), "{found:?}");
}

#[test]
fn a_port_needs_a_queue_for_each_worker() {
    let text = PORTS.replace("addresses = [\"192", "queues = 1\naddresses = [\"192");
    let found = problems(&format!("[workers]\ncores = [0, 1]\n{text}"));
    assert!(found.len() == 1 && found[0].contains("port[1].queues: is less than the 2 workers"), "{found:?}");
}

#[test]
fn short_timers_are_allowed_and_noticed() {
    let config = Config::parse(&format!("{PORTS}[timers]\nudp = 2\ntcp_transitory = 3\n"), "x").unwrap();
    assert_eq!((config.timers.udp, config.timers.tcp_transitory), (2, 3));
    assert_eq!(config.notices.len(), 2);
    assert!(config.notices[0].contains("RFC 4787"), "{:?}", config.notices);
    assert!(config.describe().contains("notice: timers.udp is 2 s"));
}

#[test]
fn the_next_hop_is_the_longest_prefix() {
    let routes = "[[route]]\nprefix = \"10.0.0.0/8\"\nvia = \"10.0.0.9\"\nport = \"lan\"\n\
                  [[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"192.0.2.9\"\nport = \"wan\"\n";
    let config = Config::parse(&format!("{PORTS}{routes}"), "x").unwrap();
    let hop =
        |to: &str| config.network().next_hop(to.parse().unwrap()).map(|h| (h.port, h.address.to_string()));
    assert_eq!(hop("10.0.0.77"), Some((0, "10.0.0.77".into())));
    assert_eq!(hop("10.1.0.1"), Some((0, "10.0.0.9".into())));
    assert_eq!(hop("10.9.0.1"), Some((1, "192.0.2.9".into())));
    assert_eq!(hop("8.8.8.8"), Some((1, "192.0.2.254".into())));
    assert_eq!(hop("fd00::7"), Some((0, "fd00::7".into())));
    assert_eq!(hop("2001:db8::1"), None);
}

#[test]
fn an_ipv6_next_hop_may_be_link_local() {
    let route = "[[route]]\nprefix = \"::/0\"\nvia = \"fe80::1\"\nport = \"lan\"\n";
    assert!(Config::parse(&format!("{PORTS}{route}"), "x").is_ok());
    one_problem(&route.replace("lan", "wan"), "s2ds.toml:15: route[0].via: ", "not on-link of port \"wan\"");
}

#[test]
fn a_flow_from_the_socket_passes_the_same_checks() {
    let config = Config::parse(PORTS, "x").unwrap();
    let good = FlowSpec {
        name: "f".into(),
        proto: Proto::Udp,
        listen: "10.0.0.1:5000".parse().unwrap(),
        target: "198.51.100.1:5000".parse().unwrap(),
        from: vec!["10.0.0.0/24".parse().unwrap()],
        max_conns: None,
        mss_clamp: None,
        hairpin: false,
        rate: None,
        lease: Some(60),
    };
    assert_eq!(validate_flow(&config.network(), &good), Ok(()));
    let open = FlowSpec { from: vec![], ..good.clone() };
    assert_eq!(validate_flow(&config.network(), &open), Err(FlowError::NoSource));
    let own = FlowSpec { target: "192.0.2.1:1".parse().unwrap(), ..good.clone() };
    let error = validate_flow(&config.network(), &own).unwrap_err();
    assert_eq!(error.field(), "target");
    let lease = FlowSpec { lease: Some(u64::MAX), ..good.clone() };
    assert_eq!(validate_flow(&config.network(), &lease).unwrap_err().field(), "lease");
    let rate = FlowSpec { rate: Some(1_000_001), ..good };
    assert_eq!(validate_flow(&config.network(), &rate).unwrap_err().field(), "rate");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load("/nonexistent/s2ds.toml".as_ref()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/s2ds.toml") && error.contains("--config"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        _ = Config::parse(&text, "x");
    }

    /// Closer to the code: the example with a piece cut out and another put in its place.
    #[test]
    fn no_damaged_example_makes_it_panic(at in 0..EXAMPLE.len(), cut in 0usize..40, put in "[\\PC\n]{0,12}|/0|\\[\\[port\\]\\]|\"\"|-1|::") {
        let start = (0..=at).rev().find(|i| EXAMPLE.is_char_boundary(*i)).unwrap_or(0);
        let end = (start + cut..=EXAMPLE.len()).find(|i| EXAMPLE.is_char_boundary(*i)).unwrap_or(EXAMPLE.len());
        let text = format!("{}{put}{}", &EXAMPLE[..start], &EXAMPLE[end..]);
        match Config::parse(&text, "x") {
            Ok(config) => prop_assert!(!config.describe().is_empty()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

/// Ports that differ in a tag may share a device; its queues are said once.
#[test]
fn ports_share_a_device_when_their_tags_differ() {
    let port = |n: usize, device: &str, more: &str| {
        format!("[[port]]\nname = \"p{n}\"\ndevice = \"{device}\"\naddresses = [\"10.{n}.0.1/24\"]\n{more}\n")
    };
    let all = [
        port(0, "tap:a", "mtu = 9000"),
        port(1, "tap:b", "vlan = 30"),
        port(2, "tap:a", "vlan = 30\nqueues = 2"),
        port(3, "tap:a", "outer_vlan = 30"),
        port(4, "tap:a", "outer_vlan = 30\nvlan = 30\nqueues = 2"),
        port(5, "tap:a", "outer_vlan = 31\nvlan = 30"),
    ]
    .concat();
    let config = Config::parse(&all, "s2ds.toml").unwrap();
    let devices: Vec<Vec<&str>> =
        config.devices().map(|ports| ports.iter().map(|p| p.name.as_str()).collect()).collect();
    assert_eq!(devices, [vec!["p0", "p2", "p3", "p4", "p5"], vec!["p1"]]);
    let firsts: Vec<u8> = config.ports.iter().map(|p| config.first_of_device(p)).collect();
    assert_eq!(firsts, [0, 1, 0, 0, 0, 0]);
    let text = config.describe();
    let line = text.lines().find(|l| l.starts_with("p5")).unwrap();
    assert!(line.contains("31") && line.contains("30"), "{line}");

    let problem = |more: &str| {
        Config::parse(&(all.clone() + more), "s2ds.toml").map(|_| ()).map_err(|e| e.to_string()).unwrap_err()
    };
    let again = problem(&port(6, "tap:a", "vlan = 30\nouter_vlan = 30"));
    assert!(again.contains("port[6].device: tap:a belongs to port \"p4\" already"), "{again}");
    let queues = problem(&port(6, "tap:a", "vlan = 31\nqueues = 3"));
    assert!(queues.contains("port[6].queues: 3 differs from what port \"p2\" says"), "{queues}");
    let twice = port(6, "tap:c", "retry = \"10s\"") + &port(7, "tap:c", "vlan = 1\nretry = \"off\"");
    let retry = problem(&twice);
    assert!(retry.contains("port[7].retry: off differs from what port \"p6\" says"), "{retry}");
    let mac = |n, text| port(n, &format!("mac:{text}"), "");
    let same = problem(&(mac(6, "52:54:00:ab:00:01") + &mac(7, "52:54:00:AB:00:01")));
    assert!(same.contains("port[7].device: mac:52:54:00:ab:00:01 belongs to port \"p6\" already"), "{same}");
    let none = problem(&mac(6, "52:54:00:ab:00"));
    assert!(
        none.contains("s2ds.toml:37: port[6].device: ") && none.contains("has no MAC address after mac:"),
        "{none}"
    );

    let two = |device| {
        let text = port(0, device, "vlan = 30") + &port(1, device, "outer_vlan = 30");
        Config::parse(&text, "s2ds.toml").map_err(|e| e.to_string())
    };
    let confused = two("af_packet:eth0").unwrap_err();
    assert!(
        confused.contains("port[1].device: port \"p0\" has the same id in a tag of the other"),
        "{confused}"
    );
    assert!(two("af_xdp:eth0").is_ok());

    let many = |devices: usize| (0..devices).map(|n| port(n, &format!("tap:t{n}"), "")).collect::<String>();
    assert!(Config::parse(&many(16), "s2ds.toml").is_ok());
    let error = Config::parse(&many(17), "s2ds.toml").unwrap_err().to_string();
    assert!(error.contains("port[16].device: is one device too many; at most 16"), "{error}");
    let error = Config::parse(&(many(16) + &port(16, "tap:t3", "vlan = 5")), "s2ds.toml");
    assert!(error.is_ok(), "a port of a device that is there");
}

#[test]
fn a_flow_is_described_with_all_that_it_says() {
    let flow = |more: &str| {
        format!(
            "{PORTS}\n[[flow]]\nname = \"told\"\nproto = \"tcp\"\nlisten = \"10.0.0.1:5000\"\n\
             target = \"192.0.2.20:6000\"\nfrom = [\"10.0.0.0/24\"]\n{more}\n"
        )
    };
    for (more, shown) in [("", "-"), ("mss_clamp = \"auto\"\n", "auto"), ("mss_clamp = 1400\n", "1400")] {
        for (hairpin, yes) in [("", "no"), ("hairpin = true", "yes")] {
            let text = Config::parse(&flow(&format!("rate = \"10G\"\n{more}{hairpin}")), "s2ds.toml")
                .unwrap()
                .describe();
            let line = text.lines().find(|l| l.starts_with("told")).unwrap();
            let cells: Vec<&str> = line.split_whitespace().rev().take(5).collect();
            assert_eq!(cells[1..], ["10G", yes, shown, "-"], "{line}");
        }
    }
}
