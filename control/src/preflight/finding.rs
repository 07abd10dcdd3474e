//! What a check finds, and how it is mended.

use std::fmt;

use serde::Serialize;

/// What a finding is about; findings are shown in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Subject {
    Machine,
    Memory,
    Devices,
    Processor,
    Power,
    Network,
    Xdp,
    Rights,
    Path,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Machine => "Machine",
            Subject::Memory => "Memory",
            Subject::Devices => "Devices",
            Subject::Processor => "Processor",
            Subject::Power => "Power",
            Subject::Network => "Network",
            Subject::Xdp => "AF_XDP",
            Subject::Rights => "Rights",
            Subject::Path => "Path",
        })
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It cannot be read from here.
    Unknown,
    /// s2ds works, but slower or less evenly than it could.
    Warning,
    /// It keeps s2ds from working.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Unknown => "unknown",
            Severity::Warning => "warning",
            Severity::Problem => "PROBLEM",
        })
    }
}

/// How sure we are that it is as said, and matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Confidence {
    /// Read from the kernel, and s2ds or DPDK demands it.
    #[serde(rename = "certain")]
    Certain,
    /// Inferred from what was read, or an estimate.
    #[serde(rename = "likely")]
    Likely,
    /// Advice of vendors and projects that fits most machines; docs/operations.md names the sources.
    #[serde(rename = "rule of thumb")]
    RuleOfThumb,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Confidence::Certain => "certain",
            Confidence::Likely => "likely",
            Confidence::RuleOfThumb => "rule of thumb",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// What was looked at, such as `hugepages of node 1`.
    pub what: String,
    /// As it is.
    pub is: String,
    /// As it should be.
    pub should: String,
    /// How bad the difference is.
    pub severity: Severity,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why it matters; of what cannot be read, why not. Empty when all is well.
    pub why: String,
    /// What mends it; of what cannot be read, what tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<Mend>,
}

/// What mends a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mend {
    /// Commands for root's shell.
    pub command: String,
    /// Whether `--fix` may do it: it changes the running kernel's settings, which a restart undoes, and nothing else.
    pub safe: bool,
    /// How it comes back after a restart of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    /// What the command does, as data; empty when it is not safe.
    #[serde(skip)]
    pub writes: Vec<Write>,
}

/// A text to put into a file of /proc or /sys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file, from the root.
    pub file: String,
    /// What it will hold.
    pub text: String,
}

impl Mend {
    /// A command that only people run.
    pub fn by_hand(command: impl Into<String>) -> Self {
        Self { command: command.into(), ..Self::default() }
    }

    /// Texts for files: `--fix` may write them.
    pub fn write(command: impl Into<String>, writes: Vec<Write>) -> Self {
        Self { command: command.into(), safe: !writes.is_empty(), lasting: None, writes }
    }

    /// One text for one file.
    pub fn echo(file: impl Into<String>, text: impl ToString) -> Self {
        let (file, text) = (file.into(), text.to_string());
        Self::write(format!("echo {text} > {file}"), vec![Write { file, text }])
    }

    /// A setting of the kernel, `net.ipv4.tcp_sack`.
    pub fn sysctl(name: &str, text: impl ToString) -> Self {
        let text = text.to_string();
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        Self::write(format!("sysctl -w {name}=\"{text}\""), vec![Write { file, text: text.clone() }])
            .lasting(format!("echo '{name} = {text}' >> /etc/sysctl.d/90-scistream.conf"))
    }

    /// With what makes it last.
    pub fn lasting(mut self, how: impl Into<String>) -> Self {
        self.lasting = Some(how.into());
        self
    }
}

impl Finding {
    /// As it should be: certain until said otherwise.
    pub fn ok(subject: Subject, what: impl Into<String>, is: impl Into<String>) -> Self {
        let is = is.into();
        Self {
            subject,
            what: what.into(),
            should: is.clone(),
            is,
            severity: Severity::Ok,
            confidence: Confidence::Certain,
            why: String::new(),
            mend: None,
        }
    }

    /// What cannot be read, why not, and the command that tells.
    pub fn unknown(
        subject: Subject,
        what: impl Into<String>,
        why: impl Into<String>,
        tells: impl Into<String>,
    ) -> Self {
        let mut finding = Self::ok(subject, what, "unknown");
        finding.severity = Severity::Unknown;
        finding.why = why.into();
        finding.mend = Some(Mend::by_hand(tells));
        finding
    }

    fn bad(mut self, severity: Severity, should: impl Into<String>, why: impl Into<String>) -> Self {
        (self.severity, self.should, self.why) = (severity, should.into(), why.into());
        self
    }

    /// s2ds would do better were it otherwise.
    pub fn warning(self, should: impl Into<String>, why: impl Into<String>) -> Self {
        self.bad(Severity::Warning, should, why)
    }

    /// s2ds does not work as long as it is so.
    pub fn problem(self, should: impl Into<String>, why: impl Into<String>) -> Self {
        self.bad(Severity::Problem, should, why)
    }

    /// What it should be, of a finding that is well or unknown.
    pub fn should(mut self, should: impl Into<String>) -> Self {
        self.should = should.into();
        self
    }

    /// Inferred or estimated.
    pub fn likely(mut self) -> Self {
        self.confidence = Confidence::Likely;
        self
    }

    /// Advice that fits most machines.
    pub fn rule_of_thumb(mut self) -> Self {
        self.confidence = Confidence::RuleOfThumb;
        self
    }

    /// With what mends it.
    pub fn mend(mut self, mend: Mend) -> Self {
        self.mend = Some(mend);
        self
    }

    /// What `--fix` may write for it.
    pub fn safe_mend(&self) -> Option<&Mend> {
        self.mend.as_ref().filter(|m| m.safe && self.severity > Severity::Unknown)
    }
}
