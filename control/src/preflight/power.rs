//! Frequencies and sleep of cores.

use forwarder::config::Idle;
use forwarder::topology::CoreSet;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Power};
use super::memory::same;

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    out.push(governor(scene));
    out.extend(turbo(scene));
    out.push(idle_states(scene));
    out.extend(tuned(scene));
}

/// Cores that count: the workers', or all.
fn cores(scene: &Scene<'_>) -> CoreSet {
    let online = scene.host.machine.online();
    let workers = scene.workers.and(&online);
    if workers.is_empty() { online } else { workers }
}

fn governor(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "frequency governor";
    const BEST: &str = "performance";
    let file = |core: usize| format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
    let all: Vec<(String, String)> =
        cores(scene).iter().filter_map(|c| Some((file(c), scene.root.text(&file(c))?))).collect();
    let mut names: Vec<&str> = all.iter().map(|(_, g)| g.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Finding::ok(Power, WHAT, "not the kernel's to choose").should(BEST).likely();
    }
    let finding = Finding::ok(Power, WHAT, names.join(", "));
    if names == [BEST] {
        return finding;
    }
    let others = all.into_iter().filter(|(_, g)| g != BEST).map(|(file, _)| file);
    let cores: Vec<String> = scene.workers.iter().map(|c| c.to_string()).collect();
    let command = match cores.is_empty() {
        true => {
            "for f in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do echo performance > $f; done"
                .to_owned()
        }
        false => format!(
            "for c in {}; do echo performance > /sys/devices/system/cpu/cpu$c/cpufreq/scaling_governor; done",
            cores.join(" ")
        ),
    };
    let mend = Mend::write(command, same(others, BEST)).lasting("tuned-adm profile network-latency");
    let why =
        "cores that slow down when little comes are slow when a burst does; TCP's ends and naps suffer most";
    finding.warning(BEST, why).rule_of_thumb().mend(mend)
}

fn turbo(scene: &Scene<'_>) -> Option<Finding> {
    let (file, off) =
        [("/sys/devices/system/cpu/intel_pstate/no_turbo", 1), ("/sys/devices/system/cpu/cpufreq/boost", 0)]
            .into_iter()
            .find(|(file, _)| scene.root.has(file))?;
    let now: u8 = scene.root.number(file)?;
    let finding = Finding::ok(Power, "turbo", if now == off { "off" } else { "on" });
    if now != off {
        return Some(finding);
    }
    let why = "a worker's speed is its core's: without turbo it has a quarter less, though more evenly";
    Some(
        finding
            .warning("on, unless even speed matters more", why)
            .rule_of_thumb()
            .mend(Mend::by_hand(format!("echo {} > {file}", 1 - off))),
    )
}

/// Microseconds that a core may take to wake up.
const WAKE_US: u64 = 10;

fn idle_states(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "sleep states (C-states)";
    let mut deepest: Option<(u64, String)> = None;
    let mut deep = Vec::new();
    for core in cores(scene).iter() {
        let folder = format!("/sys/devices/system/cpu/cpu{core}/cpuidle");
        for state in scene.root.names(&folder).iter().filter(|s| s.starts_with("state")) {
            let at = |file: &str| format!("{folder}/{state}/{file}");
            let (Some(latency), Some(0)) =
                (scene.root.number::<u64>(&at("latency")), scene.root.number::<u8>(&at("disable")))
            else {
                continue;
            };
            if deepest.as_ref().is_none_or(|(most, _)| latency > *most) {
                deepest = Some((latency, scene.root.text(&at("name")).unwrap_or_else(|| state.clone())));
            }
            if latency > WAKE_US {
                deep.push(at("disable"));
            }
        }
    }
    let Some((latency, name)) = deepest else {
        return Finding::ok(Power, WHAT, "not the kernel's to choose")
            .should(format!("awake in {WAKE_US} us"))
            .likely();
    };
    let finding = Finding::ok(Power, WHAT, format!("down to {name}, {latency} us to wake"));
    let should = format!("none that takes more than {WAKE_US} us");
    if deep.is_empty() {
        return finding.should(should);
    }
    let polls = scene.config.is_some_and(|c| c.workers.idle == Idle::Poll);
    if polls && !scene.workers.is_empty() {
        return finding.should("any: idle = \"poll\" never sleeps").rule_of_thumb();
    }
    // It turns off those that take so long or longer.
    let from = WAKE_US + 1;
    // All cores awake cost the others their turbo, and power: people decide.
    let mend = match scene.workers.is_empty() {
        true => Mend::by_hand(format!("cpupower idle-set -D {from}")),
        false => Mend::write(format!("cpupower -c {} idle-set -D {from}", scene.workers), same(deep, "1")),
    };
    let why = "a core that naps, and those of TCP's ends, wake up late for the packet that comes";
    finding.warning(should, why).rule_of_thumb().mend(mend.lasting("tuned-adm profile network-latency"))
}

fn tuned(scene: &Scene<'_>) -> Option<Finding> {
    let profile = scene.root.text("/etc/tuned/active_profile")?;
    let good = [
        "network-latency",
        "network-throughput",
        "latency-performance",
        "throughput-performance",
        "realtime",
        "cpu-partitioning",
    ];
    let finding = Finding::ok(Power, "profile of tuned", profile.as_str());
    if profile.split_whitespace().any(|p| good.contains(&p)) {
        return Some(finding.rule_of_thumb());
    }
    let why = "it sets governors and sleep states again after every start";
    Some(
        finding
            .warning("network-latency or network-throughput", why)
            .rule_of_thumb()
            .mend(Mend::by_hand("tuned-adm profile network-latency")),
    )
}
