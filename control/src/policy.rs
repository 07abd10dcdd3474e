//! What a principal may ask for: rules from a file, the first that permits a request whole grants it, and what no
//! rule permits is refused.
//!
//! What a rule leaves out it does not permit: no roles, no protocols, no targets, no rate. The exceptions are its
//! sources, which are then the site's defaults for the role, and the plain limits, whose defaults stand at the
//! fields.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forwarder::api::{Proto, rate, table::Table};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use crate::file::{self, FileError, Ports, Prefix, Watched, duration, within, within_or_none};
use crate::identity::Principal;

/// The side that a session's gateway is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `PROD`: targets are the producer's own; consumers' gateways connect to the listeners.
    Producer,
    /// `CONS`: targets are listeners of the producer's gateway; the consumer connects to the listeners.
    Consumer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Producer => "producer",
            Role::Consumer => "consumer",
        })
    }
}

/// What a principal asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ask {
    /// Side.
    pub role: Role,
    /// Transport.
    pub proto: Proto,
    /// Where the stream goes; empty while that is not known yet (`req` comes before `update`).
    pub targets: Vec<SocketAddr>,
    /// Who may connect; none asks for what the site names for the role.
    pub sources: Option<Vec<IpNet>>,
    /// Listeners.
    pub listeners: u32,
    /// Connections at once through each listener; none asks for the most.
    pub connections: Option<u32>,
    /// Mbit/s in either direction; none reserves nothing.
    pub rate: Option<u64>,
    /// Life of the session; none asks for the longest.
    #[serde(serialize_with = "seconds_or_none")]
    pub lease: Option<Duration>,
}

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Name of the rule that allows it.
    pub rule: String,
    /// Who may connect.
    pub sources: Vec<IpNet>,
    /// Connections at once through each listener; none means no limit.
    pub connections: Option<u32>,
    /// Mbit/s reserved in either direction.
    pub rate: Option<u64>,
    /// Mbit/s in either direction that the forwarder holds the session to; none means it is not held.
    pub limit: Option<u64>,
    /// Life of the session.
    #[serde(serialize_with = "seconds")]
    pub lease: Duration,
    /// Sessions that the principal may have at once.
    pub sessions: u32,
}

/// Why something is not allowed, in a sentence for the caller. It names no rule: what others may do is not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The rules of a site, from a file such as `docs/policy.example.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

/// Sources by role, for callers who ask for none and for rules that name none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Defaults {
    #[serde(deserialize_with = "some_prefixes")]
    producer_sources: Vec<IpNet>,
    #[serde(deserialize_with = "some_prefixes")]
    consumer_sources: Vec<IpNet>,
}

impl Defaults {
    fn sources(&self, role: Role) -> &[IpNet] {
        match role {
            Role::Producer => &self.producer_sources,
            Role::Consumer => &self.consumer_sources,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: Spanned<String>,
    /// Subjects, or further names of users; `*` is everybody with an identity.
    users: Option<Vec<String>>,
    /// Members of any of them are meant, too.
    groups: Option<Vec<String>>,
    /// If given, only whom one of these has proved is meant.
    issuers: Option<Vec<String>>,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    protocols: Vec<Proto>,
    #[serde(default)]
    targets: Vec<Targets>,
    #[serde(default, deserialize_with = "prefixes_or_none")]
    sources: Option<Vec<IpNet>>,
    /// Most in one session.
    #[serde(default = "sixteen", deserialize_with = "within::<1, 65_535, _>")]
    listeners: u32,
    /// Most at once through each listener; none: no limit.
    #[serde(default, deserialize_with = "within_or_none::<1, 1_000_000_000, _>")]
    connections: Option<u32>,
    /// Most of one user at once.
    #[serde(default = "sixteen", deserialize_with = "within::<1, 1_000_000, _>")]
    sessions: u32,
    /// Most Mbit/s that a session may reserve; none: it may not reserve.
    #[serde(default, deserialize_with = "rate::deserialize")]
    rate: Option<u64>,
    #[serde(default)]
    police: bool,
    #[serde(default = "hour", deserialize_with = "duration::<{ 366 * 86_400 }, _>")]
    lease: Duration,
    #[serde(default)]
    administrator: bool,
}

fn sixteen() -> u32 {
    16
}

fn hour() -> Duration {
    Duration::from_secs(3600)
}

fn prefixes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    let written: Vec<_> = Vec::<Prefix>::deserialize(d)?.into_iter().map(|prefix| prefix.0).collect();
    // Neighbours become one, as a request may span them.
    Ok(IpNet::aggregate(&written))
}

fn prefixes_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    prefixes(d).map(Some)
}

/// Prefixes that are not everybody.
fn some_prefixes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    let prefixes = prefixes(d)?;
    match prefixes.iter().find(|prefix| prefix.prefix_len() == 0) {
        None => Ok(prefixes),
        Some(all) => Err(D::Error::custom(format!(
            "{all} would let everybody in whenever a caller names no source; name the networks that are meant"
        ))),
    }
}

fn seconds_or_none<S: Serializer>(time: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(s)
}

fn seconds<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(time.as_secs())
}

/// Addresses and ports of targets: `10.20.0.0/16:5000-5999`, `[fd00::/8]:*`, `192.0.2.7:443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Targets {
    prefix: IpNet,
    ports: Ports,
}

impl TryFrom<String> for Targets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let form = || {
            format!(
                "{text:?} names no targets; write them like \"10.20.0.0/16:5000-5999\", \"[fd00::/8]:443\" or, for \
                 all ports, \"192.0.2.7:*\""
            )
        };
        let (prefix, ports) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(form)?,
            None => text.rsplit_once(':').filter(|(prefix, _)| !prefix.contains(':')).ok_or_else(form)?,
        };
        let prefix = file::parse_prefix(prefix)?;
        let ports = if ports == "*" { Ports { first: 1, last: u16::MAX } } else { ports.parse()? };
        Ok(Self { prefix, ports })
    }
}

impl Targets {
    fn contain(&self, target: SocketAddr) -> bool {
        self.prefix.contains(&target.ip())
            && self.ports.contains(target.port())
            && (!is_local(target.ip())
                || is_local(self.prefix.network()) && is_local(self.prefix.broadcast()))
    }
}

/// Loopback and link-local addresses: hosts' insides and their neighbours, among them clouds' metadata services. A
/// rule about "everywhere" does not mean them; one has to be about nothing else.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

/// Addresses that nothing can be sent to as one stream: "this network", multicast, reserved and broadcast (RFC
/// 6890, RFC 4291).
fn is_nobody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 224,
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

impl Ask {
    /// Could any rule permit this?
    fn sound(&self) -> Result<(), String> {
        for target in &self.targets {
            let ip = target.ip();
            if ip.to_canonical() != ip {
                return Err(format!(
                    "target {target} is an IPv4 address written as IPv6; write the IPv4 address"
                ));
            }
            if target.port() == 0 || is_nobody(ip) {
                return Err(format!(
                    "target {target} can be nobody's; give the address and port of a service"
                ));
            }
        }
        let sources = self.sources.as_deref();
        if sources.is_some_and(<[_]>::is_empty) {
            return Err("no source may connect; name at least one prefix, or leave sources out".to_owned());
        }
        if let Some(source) = sources.into_iter().flatten().find(|source| file::is_mapped(source)) {
            return Err(format!("source {source} is an IPv4 prefix written as IPv6; write the IPv4 prefix"));
        }
        if self.listeners == 0 {
            return Err("a session has at least one listener".to_owned());
        }
        if self.connections == Some(0) {
            return Err(
                "a listener admits at least one connection; leave the number out for the most".to_owned()
            );
        }
        if self.lease.is_some_and(|lease| lease < Duration::from_secs(1)) {
            return Err("a lease is at least one second; leave it out for the longest".to_owned());
        }
        Ok(())
    }
}

impl Rule {
    /// Is the rule about this user? If not, why.
    fn means(&self, who: &Principal) -> Result<(), &'static str> {
        let lists =
            |list: &Option<Vec<String>>, name: &String| list.as_ref().is_some_and(|l| l.contains(name));
        if self.issuers.is_some() && !lists(&self.issuers, &who.issuer) {
            return Err("not for users of this issuer");
        }
        let everybody = lists(&self.users, &"*".to_owned());
        let named = lists(&self.users, &who.subject) || who.names.iter().any(|name| lists(&self.users, name));
        if everybody || named || who.groups.iter().any(|group| lists(&self.groups, group)) {
            return Ok(());
        }
        Err("not for this user")
    }

    /// What the rule grants, or how many checks the request passed and a sentence about the next.
    fn permits(&self, defaults: &[IpNet], ask: &Ask) -> Result<Grant, (usize, String)> {
        if !self.roles.contains(&ask.role) {
            return Err((0, format!("you may not open sessions on the {}'s side", ask.role)));
        }
        if !self.protocols.contains(&ask.proto) {
            return Err((1, format!("you may not open {} sessions", ask.proto)));
        }
        let permitted = |target: &SocketAddr| self.targets.iter().any(|targets| targets.contain(*target));
        if let Some(target) = ask.targets.iter().find(|target| !permitted(target)) {
            return Err((2, format!("target {target} is not among those that you may reach")));
        }
        let sources = self.sources(defaults, ask).map_err(|why| (3, why))?;
        if ask.listeners > self.listeners {
            return Err((
                4,
                format!("at most {} listeners in one session, not {}", self.listeners, ask.listeners),
            ));
        }
        let connections = match (ask.connections, self.connections) {
            (Some(asked), Some(most)) if asked > most => {
                return Err((5, format!("at most {most} connections through each listener, not {asked}")));
            }
            (asked, most) => asked.or(most),
        };
        // 0 is how old clients say none.
        let rate = ask.rate.filter(|rate| *rate > 0);
        match (rate, self.rate) {
            (Some(_), None) => return Err((6, "you may not reserve a rate; ask for none".to_owned())),
            (Some(asked), Some(most)) if asked > most => {
                return Err((6, format!("at most {most} Mbit/s may be reserved, not {asked}")));
            }
            _ => {}
        }
        let lease = ask.lease.unwrap_or(self.lease);
        if lease > self.lease {
            let [most, asked] = [self.lease, lease].map(humantime::format_duration);
            return Err((
                7,
                format!("a session lives at most {most}, not {asked}; renew it while it is needed"),
            ));
        }
        Ok(Grant {
            rule: self.name.get_ref().clone(),
            sources,
            connections,
            rate,
            // Who reserves nothing does not get by the limit so.
            limit: rate.or(self.rate).filter(|_| self.police),
            lease,
            sessions: self.sessions,
        })
    }

    fn sources(&self, defaults: &[IpNet], ask: &Ask) -> Result<Vec<IpNet>, String> {
        let permitted = self.sources.as_deref().unwrap_or(defaults);
        if let Some(asked) = &ask.sources {
            let outside =
                asked.iter().find(|source| !permitted.iter().any(|prefix| prefix.contains(*source)));
            return match outside {
                Some(source) => {
                    Err(format!("source {source} is not, or not whole, among those that you may let in"))
                }
                None => Ok(IpNet::aggregate(asked)),
            };
        }
        // Of two prefixes the narrower is what they share, or nothing.
        let shared =
            |default: &IpNet, prefix: &IpNet| match (prefix.contains(default), default.contains(prefix)) {
                (true, _) => Some(*default),
                (false, true) => Some(*prefix),
                (false, false) => None,
            };
        let both = defaults.iter().flat_map(|d| permitted.iter().filter_map(move |p| shared(d, p)));
        let sources = IpNet::aggregate(&both.collect());
        if sources.is_empty() {
            return Err(format!(
                "no source is named, and the site has no default for the {}'s side that you may let in; name sources",
                ask.role
            ));
        }
        Ok(sources)
    }
}

impl Policy {
    /// Reads rules; `name` is that of the text in errors.
    ///
    /// # Errors
    /// A sentence that names the text, the line and the mend.
    pub fn parse(text: &str, name: &str) -> Result<Self, FileError> {
        let policy: Self = file::from_toml(text, name)?;
        let mut names = BTreeSet::new();
        for rule in &policy.rules {
            let own = rule.name.get_ref();
            let problem = if own.is_empty() || own.chars().any(char::is_control) {
                format!("rule name {own:?} must be a plain text")
            } else if !names.insert(own) {
                format!("another rule is called {own:?}, too; each has a name of its own")
            } else if rule.users.is_none() && rule.groups.is_none() {
                format!(
                    "rule {own:?} is about nobody; give it users or groups, or users = [\"*\"] for everybody"
                )
            } else {
                continue;
            };
            return Err(FileError::at(name, text, rule.name.span().start, problem));
        }
        Ok(policy)
    }

    /// Reads rules from a file.
    ///
    /// # Errors
    /// As [`Policy::parse`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::parse(&file::read(path)?, &path.display().to_string())
    }

    /// Reads rules from a file that may change later.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn watch(path: PathBuf) -> Result<Watched<Self>, FileError> {
        Watched::open(vec![path.clone()], move || Self::load(&path))
    }

    /// What the first rule grants that is about the user and permits the whole request.
    ///
    /// # Errors
    /// A sentence for the caller: what kept the rule that came closest from permitting.
    pub fn decide(&self, who: &Principal, ask: &Ask) -> Result<Grant, Refusal> {
        self.judge(who, ask, |_, _| {})
    }

    /// As [`Policy::decide`], and what each rule said to it.
    pub fn explain(&self, who: &Principal, ask: &Ask) -> Explanation {
        let mut rules = Vec::new();
        let decision = self.judge(who, ask, |rule, outcome| {
            rules.push(RuleOutcome { rule: rule.name.get_ref().clone(), outcome });
        });
        let later = self.rules.iter().skip(rules.len());
        rules.extend(later.map(|rule| RuleOutcome {
            rule: rule.name.get_ref().clone(),
            outcome: "not looked at".to_owned(),
        }));
        let (grant, refusal) = match decision {
            Ok(grant) => (Some(grant), None),
            Err(refusal) => (None, Some(refusal.0)),
        };
        Explanation { rules, grant, refusal, administrator: self.administrator(who) }
    }

    fn judge(
        &self,
        who: &Principal,
        ask: &Ask,
        mut tell: impl FnMut(&Rule, String),
    ) -> Result<Grant, Refusal> {
        ask.sound().map_err(Refusal)?;
        let mut closest: Option<(usize, String)> = None;
        for rule in &self.rules {
            if let Err(why) = rule.means(who) {
                tell(rule, why.to_owned());
                continue;
            }
            match rule.permits(self.defaults.sources(ask.role), ask) {
                Ok(grant) => {
                    tell(rule, "grants".to_owned());
                    return Ok(grant);
                }
                Err((passed, why)) => {
                    tell(rule, why.clone());
                    if closest.as_ref().is_none_or(|(most, _)| passed > *most) {
                        closest = Some((passed, why));
                    }
                }
            }
        }
        let nothing = || "this site's policy allows you no sessions; ask its operators".to_owned();
        Err(Refusal(closest.map_or_else(nothing, |(_, why)| why)))
    }

    /// May this user see and end everybody's sessions?
    pub fn administrator(&self, who: &Principal) -> bool {
        self.rules.iter().any(|rule| rule.administrator && rule.means(who).is_ok())
    }

    /// Rules that name an issuer that is not among `known`, each with a sentence: nobody will ever be meant by way
    /// of it.
    pub fn strange_issuers(&self, known: &[&str]) -> Vec<String> {
        let strange = |rule: &Rule| {
            let issuers = rule.issuers.iter().flatten().filter(|issuer| !known.contains(&issuer.as_str()));
            let name = rule.name.get_ref();
            let told = issuers.map(|issuer| {
                format!("rule {name:?} is for issuer {issuer:?}, and no [[identity]] is called so")
            });
            told.collect::<Vec<_>>()
        };
        self.rules.iter().flat_map(strange).collect()
    }

    /// The rules, in their order, as a table for people.
    pub fn describe(&self) -> String {
        let list = |names: &Option<Vec<String>>| names.as_deref().unwrap_or_default().join(", ");
        let mut table = Table::new(&["RULE", "USERS", "GROUPS", "ISSUERS", "ROLES", "ADMINISTRATOR"]);
        for rule in &self.rules {
            let roles: Vec<_> = rule.roles.iter().map(Role::to_string).collect();
            table.row([
                rule.name.get_ref().clone(),
                list(&rule.users),
                list(&rule.groups),
                rule.issuers.as_ref().map_or_else(|| "any".to_owned(), |issuers| issuers.join(", ")),
                roles.join(", "),
                if rule.administrator { "yes" } else { "no" }.to_owned(),
            ]);
        }
        table.to_string()
    }
}

/// How a decision came about, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Every rule, in the file's order.
    pub rules: Vec<RuleOutcome>,
    /// What is granted, if it is.
    pub grant: Option<Grant>,
    /// What the caller is told otherwise.
    pub refusal: Option<String>,
    /// Whether the user is an administrator.
    pub administrator: bool,
}

/// What one rule said to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleOutcome {
    /// Name of the rule.
    pub rule: String,
    /// `grants`, or why not.
    pub outcome: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rules = Table::new(&["RULE", "OUTCOME"]);
        for RuleOutcome { rule, outcome } in &self.rules {
            rules.row([rule.clone(), outcome.clone()]);
        }
        writeln!(f, "{rules}")?;
        if let Some(refusal) = &self.refusal {
            writeln!(f, "refused: {refusal}")?;
        }
        if let Some(grant) = &self.grant {
            let sources: Vec<_> = grant.sources.iter().map(IpNet::to_string).collect();
            let connections = grant.connections.map_or_else(|| "no limit".to_owned(), |n| n.to_string());
            let rate = match grant.rate {
                None => "none reserved".to_owned(),
                Some(mbits) => format!("{} reserved", rate::show(mbits)),
            };
            let limit =
                grant.limit.map(|mbits| format!(", held to {}", rate::show(mbits))).unwrap_or_default();
            writeln!(f, "granted by {}", grant.rule)?;
            writeln!(f, "  sources      {}", sources.join(", "))?;
            writeln!(f, "  connections  {connections}")?;
            writeln!(f, "  rate         {rate}{limit}")?;
            writeln!(f, "  lease        {}", humantime::format_duration(grant.lease))?;
            writeln!(f, "  sessions     {} at once", grant.sessions)?;
        }
        if self.administrator {
            writeln!(f, "The user is an administrator.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
