//! The same by the kernel: `tc qdisc ... netem` on two interfaces that a bridge joins.
//!
//! What is to be run is computed by [`Plan::of`] before anything is touched; [`Applied`] runs it, and undoes it when dropped.

use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use forwarder::config::Device;

use super::config::{Config, DIRECTIONS, Link};
use super::shape::{Shape, Spread};
use super::units::Time;
use crate::topology::find_tool;

/// MTU for which a limit in bytes or time is made one in packets.
const MTU: u16 = 1500;

/// A command line.
pub type Line = Vec<String>;

/// What makes the kernel a WAN, and what ends that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// To be run in order.
    pub up: Vec<Line>,
    /// To be run in order, whatever of `up` was.
    pub down: Vec<Line>,
}

fn line(text: &str) -> Line {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Plan {
    /// The plan for all links; bridges are named after `id`, which tells programs apart.
    ///
    /// # Errors
    /// netem cannot do what a link asks for.
    pub fn of(config: &Config, id: u32) -> Result<Plan> {
        let mut plan = Plan { up: Vec::new(), down: Vec::new() };
        for (number, link) in config.links.iter().enumerate() {
            let name = &link.name;
            let [a, b] = interfaces(link)?;
            // A packet from a to b leaves by b.
            for (at, (shape, device)) in link.directions.iter().zip([b, a]).enumerate() {
                let netem = netem(shape).map_err(|e| anyhow!("link {name}: {}: {e}", DIRECTIONS[at]))?;
                plan.up.push(line(&format!("tc qdisc add dev {device} root netem {netem}")));
                plan.down.push(line(&format!("tc qdisc del dev {device} root")));
            }
            let bridge = format!("s2w{id}n{number}");
            plan.up.extend(
                [
                    format!("ip link add name {bridge} type bridge stp_state 0 mcast_snooping 0"),
                    // It is a wire and speaks to nobody.
                    format!("ip link set dev {bridge} addrgenmode none"),
                    format!("ip link set dev {a} master {bridge}"),
                    format!("ip link set dev {b} master {bridge}"),
                    format!("ip link set dev {bridge} up"),
                ]
                .map(|text| line(&text)),
            );
            plan.down.push(line(&format!("ip link del dev {bridge}")));
        }
        Ok(plan)
    }
}

/// The interfaces that the kernel has.
fn interfaces(link: &Link) -> Result<[&str; 2]> {
    let interface = |device| match device {
        &Device::AfPacket(ref interface) | &Device::AfXdp(ref interface) => Ok(interface.as_str()),
        other => Err(anyhow!(
            "link {}: {other} is not the kernel's, and netem works on the kernel's interfaces; name af_packet:IFACE, or leave \
             out --netem",
            link.name
        )),
    };
    Ok([interface(&link.ends[0])?, interface(&link.ends[1])?])
}

/// netem's options for a direction.
///
/// # Errors
/// It has none for what is asked; the message says what to change.
pub fn netem(shape: &Shape) -> Result<String, String> {
    let us = |time: Time| format!("{}us", time.0 as f64 / 1e3);
    let (jitter, reorder) = (&shape.jitter, &shape.reorder);
    let leave = "or leave out --netem";
    if !shape.down.is_empty() {
        return Err(format!("netem has no schedule of outages; take down away, {leave}"));
    }
    if shape.mtu.is_some() {
        return Err(format!("netem knows no MTU; set that of the interfaces and take mtu away, {leave}"));
    }
    if shape.loss.0 > 0.0 && shape.burst_loss.is_some() {
        return Err(format!("netem loses either by loss or by burst_loss; take one away, {leave}"));
    }
    if jitter.size.0 > 0 && !jitter.reorders {
        return Err(format!("netem's jitter reorders packets; set jitter_reorders, {leave}"));
    }
    if reorder.share.0 > 0.0 && reorder.by != -(shape.delay.0 as i64) {
        return Err(format!(
            "netem's reordered packets jump ahead by the whole delay; take reorder_ahead and reorder_back away, {leave}"
        ));
    }
    let mut text = format!("limit {}", shape.room(MTU));
    if shape.delay.0 > 0 {
        text += &format!(" delay {}", us(shape.delay));
        if jitter.size.0 > 0 {
            text += &format!(" {}", us(jitter.size));
            match jitter.spread {
                Spread::Uniform => {}
                Spread::Normal => text += " distribution normal",
                Spread::Pareto => text += " distribution pareto",
            }
        }
    }
    if let Some(b) = shape.burst_loss {
        text += &format!(" loss gemodel {} {} {} {}", b.p, b.r, b.lost_in_bad, b.lost_in_good);
    } else if shape.loss.0 > 0.0 {
        text += &format!(" loss random {}", shape.loss);
    }
    for (share, name) in
        [(shape.corrupt, "corrupt"), (shape.duplicate, "duplicate"), (reorder.share, "reorder")]
    {
        if share.0 > 0.0 {
            text += &format!(" {name} {share}");
        }
    }
    if let Some(rate) = shape.rate {
        text += &format!(" rate {}bit {}", rate.0, shape.overhead);
    }
    Ok(text)
}

/// A plan that was carried out. Dropping it undoes it.
#[derive(Debug)]
pub struct Applied {
    down: Vec<Line>,
}

impl Applied {
    /// Runs the plan.
    ///
    /// # Errors
    /// A tool or the kernel's netem is missing, or an interface is; what was done until then is undone.
    pub fn of(plan: Plan) -> Result<Applied> {
        // Whether a root qdisc of ours is in place is known only when it was put there: only that is taken away.
        let mut applied = Applied { down: Vec::new() };
        let mut undo = plan.down.into_iter().peekable();
        for up in plan.up {
            run(&up).with_context(|| explain(&up))?;
            let made =
                |up: &Line| up.get(1).is_some_and(|w| w == "qdisc") || up.get(2).is_some_and(|w| w == "add");
            if made(&up)
                && let Some(down) = undo.next()
            {
                applied.down.push(down);
            }
        }
        Ok(applied)
    }

    /// Undoes it.
    ///
    /// # Errors
    /// Something could not be undone; the rest was.
    pub fn end(mut self) -> Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> Result<()> {
        let failed: Vec<String> =
            self.down.drain(..).rev().filter_map(|down| run(&down).err()).map(|e| e.to_string()).collect();
        ensure!(failed.is_empty(), "not all could be undone: {}", failed.join("; "));
        Ok(())
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Err(e) = self.undo() {
            eprintln!("s2bench wan: {e}");
        }
    }
}

fn explain(up: &Line) -> &'static str {
    if up.iter().any(|word| word == "netem") {
        "netem cannot be had: this kernel needs its module sch_netem (`modprobe sch_netem`; some distributions have it in a \
         package of extra modules) and the interface must exist and have no root qdisc of its own; or leave out --netem and \
         have s2bench carry the packets itself"
    } else {
        "the two interfaces cannot be joined by a bridge; they must exist and belong to no other"
    }
}

fn run(words: &Line) -> Result<()> {
    let [program, args @ ..] = &words[..] else { bail!("an empty command") };
    let text = words.join(" ");
    let output = Command::new(find_tool(program)?)
        .args(args)
        .output()
        .with_context(|| format!("`{text}` cannot be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{text}` failed: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::preset::Preset;
    use crate::wan::shape::Asked;

    fn asked(text: &str) -> Asked {
        toml::from_str(text).unwrap()
    }

    fn options(text: &str) -> Result<String, String> {
        netem(&asked(text).shape(None).unwrap())
    }

    #[test]
    fn options_are_those_of_tc_netem() {
        for (text, wanted) in [
            ("packets = 100", "limit 100"),
            ("packets = 100\ndelay = '10ms'", "limit 100 delay 10000us"),
            (
                "packets = 9\ndelay = '10ms'\njitter = '1.5ms'\njitter_reorders = true\ndistribution = 'normal'",
                "limit 9 delay 10000us 1500us distribution normal",
            ),
            (
                "packets = 9\ndelay = '1ms'\njitter = '1us'\njitter_reorders = true",
                "limit 9 delay 1000us 1us",
            ),
            (
                "packets = 9\nloss = '0.1%'\nduplicate = '1%'\ncorrupt = '2%'",
                "limit 9 loss random 0.1% corrupt 2% duplicate 1%",
            ),
            ("packets = 9\nburst_loss = '1% 25% 90% 0.1%'", "limit 9 loss gemodel 1% 25% 90% 0.1%"),
            ("packets = 9\ndelay = '1ms'\nreorder = '5%'", "limit 9 delay 1000us reorder 5%"),
            ("packets = 9\nrate = '1G'", "limit 9 rate 1000000000bit 24"),
        ] {
            assert_eq!(options(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_netem_cannot_do_is_refused_with_a_mend() {
        for text in [
            "down = ['1s for 1s']",
            "mtu = 1400",
            "loss = '1%'\nburst_loss = '1% 25%'",
            "delay = '1ms'\njitter = '1us'",
            "delay = '2ms'\nreorder = '1%'\nreorder_ahead = '1ms'",
            "delay = '2ms'\nreorder = '1%'\nreorder_back = '1ms'",
        ] {
            let error = options(text).unwrap_err();
            assert!(error.contains("or leave out --netem"), "{error}");
        }
    }

    #[test]
    fn a_plan_shapes_what_leaves_each_end_and_undoes_all() {
        let asked = Asked { packets: Some(10), ..Asked::default() };
        let config = Config::single(["af_packet:x", "af_packet:y"], Some(Preset::Metro), &asked).unwrap();
        let plan = Plan::of(&config, 42).unwrap();
        let text = |lines: &[Line]| lines.iter().map(|l| l.join(" ")).collect::<Vec<_>>();
        assert_eq!(
            text(&plan.up),
            [
                "tc qdisc add dev y root netem limit 10 delay 2500us",
                "tc qdisc add dev x root netem limit 10 delay 2500us",
                "ip link add name s2w42n0 type bridge stp_state 0 mcast_snooping 0",
                "ip link set dev s2w42n0 addrgenmode none",
                "ip link set dev x master s2w42n0",
                "ip link set dev y master s2w42n0",
                "ip link set dev s2w42n0 up",
            ]
        );
        assert_eq!(
            text(&plan.down),
            ["tc qdisc del dev y root", "tc qdisc del dev x root", "ip link del dev s2w42n0"]
        );
        let vdev = Config::single(["af_packet:x", "vdev:net_null0"], None, &asked).unwrap();
        assert!(Plan::of(&vdev, 1).unwrap_err().to_string().contains("is not the kernel's"));
    }
}
