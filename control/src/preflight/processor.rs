//! Cores: isolated ones, hyper-threads, and who balances interrupts.

use forwarder::config::Idle;
use forwarder::topology::CoreSet;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Processor};
use super::host::boot_words;

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    out.push(count(scene));
    out.extend(available(scene));
    isolation(scene, out);
    out.push(threads(scene));
    out.push(irqbalance(scene));
}

fn count(scene: &Scene<'_>) -> Finding {
    let machine = &scene.host.machine;
    let (cores, nodes) = (machine.cores.len(), machine.nodes.len().max(1));
    let finding = Finding::ok(
        Processor,
        "cores",
        format!("{cores} on {nodes} NUMA node{}", if nodes == 1 { "" } else { "s" }),
    );
    if cores > 1 {
        return finding.should("at least 2");
    }
    finding.warning("at least 2", "a worker takes a core whole, and everything else needs one")
}

/// Cores that are listed must be there and allowed.
fn available(scene: &Scene<'_>) -> Option<Finding> {
    let permitted = scene.host.machine.permitted();
    let missing = scene.workers.without(&permitted);
    if scene.workers.is_empty() {
        return None;
    }
    let finding = Finding::ok(Processor, "cores of workers", scene.workers.to_string());
    if missing.is_empty() {
        return Some(finding);
    }
    let why = format!("s2ds may not run on {missing}: offline, or outside of its cpuset");
    Some(finding.problem(format!("of {permitted}"), why).mend(Mend::by_hand("s2ds: correct [workers] cores")))
}

/// Is the kernel kept off the workers' cores?
fn isolation(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let machine = &scene.host.machine;
    // Only a worker that polls for ever wants a core for itself alone.
    let polls = scene.config.is_none_or(|c| c.workers.idle == Idle::Poll);
    let has_full = scene.root.has("/sys/devices/system/cpu/nohz_full");
    let workers = &scene.workers;
    let list = match workers.is_empty() {
        true => "CORES".to_owned(),
        false => workers.to_string(),
    };
    let words = format!("isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list}");
    let boot = boot_words(scene.root, &words);
    let rows: [(&str, &CoreSet, &str); 3] = [
        (
            "isolated cores (isolcpus)",
            &machine.isolated,
            "the scheduler puts other work on a polling worker's core, for milliseconds",
        ),
        (
            "cores without ticks (nohz_full)",
            &machine.nohz_full,
            "the timer interrupts a worker 100 to 1000 times a second, for microseconds",
        ),
        (
            "cores without RCU callbacks (rcu_nocbs)",
            &machine.rcu_nocbs,
            "the kernel runs its clean-up on workers' cores",
        ),
    ];
    for (what, have, why) in rows {
        let is = if have.is_empty() { "none".to_owned() } else { have.to_string() };
        let finding = Finding::ok(Processor, what, is);
        let lacking = if workers.is_empty() { have.is_empty() } else { !workers.is_within(have) };
        if !polls {
            out.push(finding.should("no need: idle = \"adaptive\" shares cores").rule_of_thumb());
        } else if !lacking {
            out.push(finding.should(if workers.is_empty() {
                "the workers' cores"
            } else {
                "with the workers' cores"
            }));
        } else if what.contains("nohz_full") && !has_full {
            let without =
                "the kernel was built without CONFIG_NO_HZ_FULL; distributions' server kernels have it";
            out.push(finding.warning("the workers' cores", without).rule_of_thumb());
        } else {
            let should = if workers.is_empty() { "the workers' cores".to_owned() } else { list.clone() };
            out.push(finding.warning(should, why).rule_of_thumb().mend(Mend::by_hand(&boot)));
        }
    }
}

/// Does a worker share its physical core?
fn threads(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "hyper-threads";
    let machine = &scene.host.machine;
    let shared = machine.cores.iter().any(|c| c.threads.len() > 1);
    if !shared {
        return Finding::ok(Processor, WHAT, "off, or none");
    }
    let pairs: Vec<String> = scene
        .workers
        .iter()
        .filter(|c| machine.siblings(*c).iter().any(|s| scene.workers.contains(s)))
        .map(|c| c.to_string())
        .collect();
    let finding = Finding::ok(Processor, WHAT, "on");
    if !pairs.is_empty() {
        let why = "two polling workers of one physical core have little more than one would have";
        return finding.warning("one worker a physical core", why).rule_of_thumb().mend(Mend::by_hand(
            format!(
                "s2ds: [workers] cores without one of each pair among {}   # lscpu -e shows pairs",
                pairs.join(", ")
            ),
        ));
    }
    let idle: CoreSet =
        scene.workers.iter().flat_map(|c| machine.siblings(c).iter().collect::<Vec<_>>()).collect();
    match idle.is_empty() {
        true => finding.should("on or off; one worker a physical core"),
        false => finding.should(format!("on or off; leave {idle} idle, the workers' other halves")),
    }
}

fn irqbalance(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "irqbalance";
    if !scene.host.runs("irqbalance") {
        return Finding::ok(Processor, WHAT, "not running");
    }
    let finding = Finding::ok(Processor, WHAT, "running");
    // It leaves isolated and nohz_full cores alone by itself.
    let spared = scene.host.machine.isolated.or(&scene.host.machine.nohz_full);
    if !scene.workers.is_empty() && scene.workers.is_within(&spared) {
        return finding.should("running is well: it leaves isolated cores alone").likely();
    }
    let mend = Mend::by_hand("systemctl stop irqbalance").lasting(match scene.workers.is_empty() {
        true => "systemctl disable irqbalance".to_owned(),
        false => format!(
            "echo 'IRQBALANCE_BANNED_CPULIST={}' >> /etc/default/irqbalance && systemctl restart irqbalance",
            // A list of its own takes the place of the isolated cores that it would spare by itself.
            scene.workers.or(&spared)
        ),
    });
    let why = "it may put interrupts of disks and other NICs on the workers' cores";
    finding.warning("off, or with the workers' cores banned", why).rule_of_thumb().mend(mend)
}
