//! Results as texts for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use control::uc::failure::printable;
use control::uc::session::{Pair, Side};
use control::uc::view::{Event, Gateway, Session};
use forwarder::api::table::Table;

/// A list as the language of SciStream's first client prints it.
pub(crate) fn python_list(items: &[String]) -> String {
    let quoted: Vec<_> = items
        .iter()
        .map(|item| format!("'{}'", printable(item).replace('\\', "\\\\").replace('\'', "\\'")))
        .collect();
    format!("[{}]", quoted.join(", "))
}

/// The text as one word for a shell.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~%/:=,+@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A stream; `close` is the command that ends it.
pub(crate) fn pair(pair: &Pair, close: &str) -> String {
    let mut text = format!("Session {}\n", pair.uid);
    let mut line = |name: &str, value: &str| _ = writeln!(text, "  {name:<12} {}", printable(value));
    for address in &pair.connect {
        line("connect to", address);
    }
    if let Some(expires) = &pair.expires {
        line("lease until", &until(expires));
    }
    line("producer", &side(&pair.producer));
    line("consumer", &side(&pair.consumer));
    line("URI", &pair.uri);
    if pair.producer.session.is_some() || pair.consumer.session.is_some() {
        line("close with", close);
    }
    text
}

fn side(side: &Side) -> String {
    let mut text = format!("{}, {}", side.gateway, side.state.as_deref().unwrap_or("failed"));
    for listener in side.session.iter().flat_map(|session| &session.listeners) {
        let target = listener.target.as_deref().unwrap_or("?");
        _ = write!(text, ", {} -> {target}", listener.address);
        if let Some(t) = listener.traffic {
            let (to, back) = (t.bytes_to_target, t.bytes_to_client);
            _ = write!(text, " ({} connections, {to} B there, {back} B back)", t.connections);
        }
    }
    text
}

/// A moment, and how far off it is.
fn until(at: &str) -> String {
    let left = humantime::parse_rfc3339(at).ok().and_then(|at| at.duration_since(SystemTime::now()).ok());
    match left {
        // Rounded up: a lease of two hours has just begun.
        Some(left) => {
            format!("{at} ({} from now)", humantime::format_duration(Duration::from_secs(left.as_secs() + 1)))
        }
        None => format!("{at} (over)"),
    }
}

/// Sessions of gateways.
pub(crate) fn sessions<'a>(sessions: impl Iterator<Item = (&'a str, &'a Session)>) -> String {
    let mut table =
        Table::new(&["GATEWAY", "UID", "ROLE", "STATE", "OWNER", "LISTENERS", ">MBIT/S", "EXPIRES"]);
    for (gateway, session) in sessions {
        let listeners: Vec<_> = session.listeners.iter().map(|l| l.address.as_str()).collect();
        table.row([
            gateway.to_owned(),
            session.uid.clone(),
            session.role.clone(),
            session.state.clone(),
            session.owner.clone(),
            listeners.join(","),
            session.rate_mbps.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
            session.expires.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.to_string()
}

/// A change of state, on a line.
pub(crate) fn event(event: &Event) -> String {
    let at = event.at.as_deref().unwrap_or("-");
    let before = event.before.as_ref().map(|before| format!("{before} -> ")).unwrap_or_default();
    let session = &event.session;
    let mut text =
        format!("{at} {} {} {} {before}{}", event.gateway, session.uid, session.role, session.state);
    if !event.reason.is_empty() {
        _ = write!(text, ": {}", event.reason);
    }
    printable(&text) + "\n"
}

/// A gateway's ports.
pub(crate) fn gateway(gateway: &Gateway) -> String {
    let forwarding = if gateway.forwarding { "forwarding" } else { "its forwarder does not answer" };
    let mut table = Table::new(&["PATH", "ROLES", "ADDRESSES", ">MTU", "LINK", ">MBIT/S", ">RESERVED"]);
    for path in &gateway.paths {
        table.row([
            path.name.clone(),
            path.roles.join(","),
            path.addresses.join(","),
            path.mtu.to_string(),
            path.link.clone(),
            path.capacity_mbps.map_or_else(|| "-".to_owned(), |capacity| capacity.to_string()),
            path.reserved_mbps.to_string(),
        ]);
    }
    let program = printable(&gateway.program);
    format!("{program}, {forwarding}, {} listeners free\n{table}", gateway.listeners_free)
}
