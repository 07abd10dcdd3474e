//! Has a device put packets into the queue of the worker they belong to: by its hash, or by flow rules.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::device::{Attached, Fault};
use super::port::{PortSettings, Steer};
use crate::flow::steering::{Blocks, Steering, deal};
use crate::flow::toeplitz;

/// Entries of the table that one element of DPDK's array holds.
const GROUP: usize = 64;

/// What a device's hash is to be.
#[derive(Debug)]
pub(super) struct Rss {
    /// As long as the device wants it; the hash of ports over IPv6 uses the beginning.
    key: Vec<u8>,
    /// Types of packets to hash.
    pub(super) types: u64,
    /// Entries of the device's table; 0 when the device cannot do what steering needs.
    entries: usize,
    /// What of that it cannot do.
    lacks: Option<String>,
}

impl Rss {
    /// What to make of a device, with a key that nobody can guess, or whose beginning is given.
    pub(super) fn plan(
        settings: &PortSettings,
        info: &dpdk_sys::rte_eth_dev_info,
        before: Option<&[u8; toeplitz::KEY]>,
    ) -> Result<Self, Fault> {
        let len = if info.hash_key_size == 0 { toeplitz::KEY } else { usize::from(info.hash_key_size) };
        let entries = usize::from(info.reta_size);
        let whole = info.flow_type_rss_offloads & dpdk_sys::S2_RSS_PORTS == dpdk_sys::S2_RSS_PORTS;
        let lacks = if !whole {
            Some("the device does not hash addresses and ports of TCP and UDP".to_owned())
        } else if len < toeplitz::KEY {
            Some(format!("the device's hash key has {len} bytes instead of {}", toeplitz::KEY))
        } else if !entries.is_power_of_two() || entries < usize::from(settings.queues) {
            // The hash's low bits index the table, which tells the right queue only where that is no division.
            Some(format!("the device's table has {entries} entries, which do not tell the queue"))
        } else {
            None
        };
        let steers = settings.steer.is_some() && settings.queues > 1;
        let (types, entries) = if steers && lacks.is_none() {
            // The same for hosts; devices have a type of its own for what may have extension headers, and some know no other.
            let extended = info.flow_type_rss_offloads & dpdk_sys::S2_RSS_PORTS_EXTENDED;
            (dpdk_sys::S2_RSS_PORTS | extended, entries)
        } else {
            // It may share packets out as well as it can.
            (info.flow_type_rss_offloads & dpdk_sys::S2_RSS_IP_TCP_UDP, 0)
        };
        let mut key = vec![0; len.max(toeplitz::KEY)];
        ChaCha8Rng::try_from_os_rng()
            .map_err(|e| {
                Fault::new(
                    format!("the system gives no random numbers ({e})"),
                    "mend its random number generator",
                )
            })?
            .fill_bytes(&mut key);
        if let (Some(before), Some(beginning)) = (before, key.first_chunk_mut()) {
            *beginning = *before;
        }
        Ok(Self { key, types, entries, lacks })
    }

    /// The key for the device; none when it may keep its own.
    pub(super) fn key(&mut self) -> Option<&mut [u8]> {
        (self.entries > 0).then_some(&mut self.key[..])
    }

    /// The beginning of the key, which is what counts.
    pub(super) fn used(&self) -> [u8; toeplitz::KEY] {
        std::array::from_fn(|i| self.key[i])
    }
}

/// Steers what a running device receives: by its hash, else by flow rules, else not at all; and says why so.
pub(super) fn steer(device: &mut Attached, settings: &PortSettings, rss: &Rss) -> (Steering, String) {
    let (key, id) = (rss.used(), device.port_id());
    let fallback = |why: String| (Steering::hand_over(&key, settings.queues), why);
    let Some(steer) = settings.steer.as_ref().filter(|_| settings.queues > 1) else {
        return fallback("one worker has all packets".to_owned());
    };
    if rss.entries > 0 && hash(id, rss, settings.queues) {
        let why = format!(
            "the device hashes addresses and ports with the forwarder's key of {} bytes into a table of {}",
            rss.key.len(),
            rss.entries
        );
        return (Steering::rss(&key, settings.queues, rss.entries), why);
    }
    let lacks = rss
        .lacks
        .clone()
        .unwrap_or_else(|| "the device does not take the forwarder's hash key and table".to_owned());
    let blocks = Blocks::new(&steer.source_ports, settings.queues);
    if rules(device, settings, steer, &blocks) {
        let why = format!("flow rules by destination port bring return traffic home ({lacks})");
        return (Steering::rules(&key, blocks), why);
    }
    fallback(format!("workers hand packets over: {lacks}, and takes no flow rules for ports"))
}

/// Sets key and table, and looks whether the device has taken them.
fn hash(id: u16, rss: &Rss, queues: u16) -> bool {
    let Ok(len) = u8::try_from(rss.key.len()) else { return false };
    // SAFETY: the port is ours; the driver copies the key, which has that many bytes.
    if unsafe { dpdk_sys::s2_rss_set(id, rss.key.as_ptr(), len, rss.types) } != 0 {
        return false;
    }
    let wanted: Vec<u16> = deal(queues, rss.entries).collect();
    let group = |entries: &[u16]| {
        let mut group = dpdk_sys::rte_eth_rss_reta_entry64::default();
        for (i, queue) in entries.iter().enumerate() {
            group.mask |= 1 << i;
            group.reta[i] = *queue;
        }
        group
    };
    let mut table: Vec<_> = wanted.chunks(GROUP).map(group).collect();
    let entries = rss.entries as u16;
    // SAFETY: the port is ours, and the table has as many entries as said.
    if unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(id, table.as_mut_ptr(), entries) } != 0 {
        return false;
    }
    table.iter_mut().for_each(|group| group.reta.fill(u16::MAX));
    // SAFETY: as above.
    if unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(id, table.as_mut_ptr(), entries) } != 0 {
        return false;
    }
    table.iter().flat_map(|group| group.reta).take(rss.entries).eq(wanted)
}

/// Makes a rule for each block of source ports, protocol, family and number of VLAN tags; all of them or none.
fn rules(device: &mut Attached, settings: &PortSettings, steer: &Steer, blocks: &Blocks) -> bool {
    let (id, tag_counts) = (device.port_id(), settings.tag_counts());
    let each = |make: bool| {
        blocks.iter().all(|block| {
            [(false, steer.v4), (true, steer.v6)].into_iter().filter(|(_, has)| *has).all(|(v6, _)| {
                [false, true].into_iter().all(|tcp| {
                    tag_counts.iter().all(|tags| {
                        let queue = block.queue;
                        // SAFETY: the port is ours and started; all arguments are plain values.
                        let err = unsafe {
                            dpdk_sys::s2_flow_ports(id, *tags, v6, tcp, block.port, block.mask, queue, make)
                        };
                        err == 0
                    })
                })
            })
        })
    };
    if !each(false) {
        return false;
    }
    let made = each(true);
    device.has_rules = true;
    if !made {
        device.flush_rules();
    }
    made
}

/// DPDK's own Toeplitz hash in software, for tests to compare with: `tuple` are the words hashed, in the host's order (a
/// source and a destination address, then both ports in one word), at most nine.
#[must_use]
pub fn soft_rss(tuple: &[u32], key: &[u8; toeplitz::KEY]) -> u32 {
    const WORDS: usize = toeplitz::KEY / 4;
    let mut words = [0u32; WORDS];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    let mut tuple: Vec<u32> = tuple.iter().copied().take(WORDS - 1).collect();
    // SAFETY: reads as many words of the tuple and one more of the key, which is aligned.
    unsafe { dpdk_sys::s2_softrss(tuple.as_mut_ptr(), tuple.len() as u32, words.as_ptr().cast()) }
}
