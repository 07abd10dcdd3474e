#include "shim.h"

#include <stdio.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_log.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_thash.h>
#include <rte_version.h>

uint16_t s2_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **out, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, out, n);
}

uint16_t s2_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **in, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, in, n);
}

int s2_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **out, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, out, n);
}

void s2_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

bool s2_read(const struct rte_mbuf *m, uint32_t offset, uint32_t length, void *to)
{
	const void *from;

	if (offset > rte_pktmbuf_pkt_len(m) || length > rte_pktmbuf_pkt_len(m) - offset)
		return false;
	/* rte_pktmbuf_read looks for the segment of the first byte, which at the end there is none of. */
	if (length == 0)
		return true;
	/* Points into the frame when the bytes lie together, else at the copy. */
	from = rte_pktmbuf_read(m, offset, length, to);
	if (from != NULL && from != to)
		memcpy(to, from, length);
	return from != NULL;
}

unsigned int s2_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **in, unsigned int n)
{
	return rte_ring_enqueue_burst(ring, (void *const *)in, n, NULL);
}

unsigned int s2_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **out, unsigned int n)
{
	return rte_ring_dequeue_burst(ring, (void **)out, n, NULL);
}

uint64_t s2_rdtsc(void)
{
	return rte_rdtsc();
}

int s2_errno(void)
{
	return rte_errno;
}

uint32_t s2_lcore_id(void)
{
	return rte_lcore_id();
}

void s2_log_to_stderr(void)
{
	rte_openlog_stream(stderr);
}

int s2_link(uint16_t port, struct s2_link_state *state)
{
	struct rte_eth_link link = {0};
	int err = rte_eth_link_get_nowait(port, &link);

	if (err < 0)
		return err;
	state->up = link.link_status == RTE_ETH_LINK_UP;
	state->mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
	state->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	state->autoneg = link.link_autoneg == RTE_ETH_LINK_AUTONEG;
	return 0;
}

/* Written by the vhost library's thread, read by any. */
static struct {
	uint64_t features, rx, tx;
	uint16_t mtu;
	bool connected;
} guests[RTE_MAX_ETHPORTS];

static void note_queues(uint16_t port)
{
	struct rte_eth_vhost_queue_event event;

	while (rte_eth_vhost_get_queue_event(port, &event) == 0) {
		uint64_t *mask = event.rx ? &guests[port].rx : &guests[port].tx;
		uint64_t bit = event.queue_id < 64 ? UINT64_C(1) << event.queue_id : 0;

		if (event.enable)
			__atomic_or_fetch(mask, bit, __ATOMIC_RELAXED);
		else
			__atomic_and_fetch(mask, ~bit, __ATOMIC_RELAXED);
	}
}

static void note_guest(uint16_t port)
{
	struct rte_eth_link link = {0};
	uint64_t features = 0;
	uint16_t mtu = 0;
	int vid = rte_eth_vhost_get_vid_from_port_id(port);
	bool connected = rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP && vid >= 0;

	if (connected) {
		if (rte_vhost_get_negotiated_features(vid, &features) != 0)
			features = 0;
		if (!(features & UINT64_C(1) << VIRTIO_NET_F_MTU) || rte_vhost_get_mtu(vid, &mtu) != 0)
			mtu = 0;
	} else {
		/* The driver forgets its queues without a word. */
		__atomic_store_n(&guests[port].rx, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&guests[port].tx, 0, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&guests[port].features, features, __ATOMIC_RELAXED);
	__atomic_store_n(&guests[port].mtu, mtu, __ATOMIC_RELAXED);
	__atomic_store_n(&guests[port].connected, connected, __ATOMIC_RELEASE);
}

static int vhost_event(uint16_t port, enum rte_eth_event_type type, void *arg, void *ret)
{
	(void)arg;
	(void)ret;
	if (type == RTE_ETH_EVENT_QUEUE_STATE)
		note_queues(port);
	else
		note_guest(port);
	return 0;
}

int s2_vhost_watch(uint16_t port)
{
	int err;

	if (port >= RTE_MAX_ETHPORTS)
		return -EINVAL;
	err = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_QUEUE_STATE, vhost_event, NULL);
	if (err == 0)
		err = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_LSC, vhost_event, NULL);
	if (err != 0)
		return err;
	/* It may be there already where we call. */
	note_queues(port);
	note_guest(port);
	return 0;
}

void s2_vhost_unwatch(uint16_t port)
{
	if (port >= RTE_MAX_ETHPORTS)
		return;
	rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_QUEUE_STATE, vhost_event, NULL);
	rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_LSC, vhost_event, NULL);
	memset(&guests[port], 0, sizeof(guests[port]));
}

bool s2_vhost_guest_of(uint16_t port, struct s2_vhost_guest *guest)
{
	if (port >= RTE_MAX_ETHPORTS || !__atomic_load_n(&guests[port].connected, __ATOMIC_ACQUIRE))
		return false;
	guest->features = __atomic_load_n(&guests[port].features, __ATOMIC_RELAXED);
	guest->rx = __atomic_load_n(&guests[port].rx, __ATOMIC_RELAXED);
	guest->tx = __atomic_load_n(&guests[port].tx, __ATOMIC_RELAXED);
	guest->mtu = __atomic_load_n(&guests[port].mtu, __ATOMIC_RELAXED);
	return true;
}

int s2_rss_set(uint16_t port, const uint8_t *key, uint8_t len, uint64_t types)
{
	uint8_t was[UINT8_MAX] = {0};
	struct rte_eth_rss_conf conf = {.rss_key = (uint8_t *)(uintptr_t)key, .rss_key_len = len, .rss_hf = types};
	struct rte_eth_rss_conf back = {.rss_key = was, .rss_key_len = len};
	int err;

#if RTE_VERSION >= RTE_VERSION_NUM(23, 11, 0, 0)
	conf.algorithm = RTE_ETH_HASH_FUNCTION_TOEPLITZ;
#endif
	err = rte_eth_dev_rss_hash_update(port, &conf);
	if (err < 0)
		return err;
	err = rte_eth_dev_rss_hash_conf_get(port, &back);
	if (err < 0)
		return err;
	return memcmp(key, was, len) == 0 && (back.rss_hf & types) == types ? 0 : -EIO;
}

int s2_flow_ports(uint16_t port, unsigned int tags, bool v6, bool tcp, uint16_t dst, uint16_t mask, uint16_t queue, bool make)
{
	struct rte_flow_attr attr = {.ingress = 1};
	struct rte_flow_item_tcp tcp_is = {.hdr.dst_port = rte_cpu_to_be_16(dst)};
	struct rte_flow_item_tcp tcp_mask = {.hdr.dst_port = rte_cpu_to_be_16(mask)};
	struct rte_flow_item_udp udp_is = {.hdr.dst_port = rte_cpu_to_be_16(dst)};
	struct rte_flow_item_udp udp_mask = {.hdr.dst_port = rte_cpu_to_be_16(mask)};
	struct rte_flow_item pattern[6] = {{.type = RTE_FLOW_ITEM_TYPE_ETH}};
	struct rte_flow_action_queue to = {.index = queue};
	struct rte_flow_action actions[] = {{.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to},
					    {.type = RTE_FLOW_ACTION_TYPE_END}};
	struct rte_flow_error error;
	unsigned int n = 1;

	/* At most two. */
	for (unsigned int i = 0; i < tags && i < 2; i++)
		pattern[n++].type = RTE_FLOW_ITEM_TYPE_VLAN;
	pattern[n++].type = v6 ? RTE_FLOW_ITEM_TYPE_IPV6 : RTE_FLOW_ITEM_TYPE_IPV4;
	pattern[n].type = tcp ? RTE_FLOW_ITEM_TYPE_TCP : RTE_FLOW_ITEM_TYPE_UDP;
	pattern[n].spec = tcp ? (void *)&tcp_is : (void *)&udp_is;
	pattern[n++].mask = tcp ? (void *)&tcp_mask : (void *)&udp_mask;
	pattern[n].type = RTE_FLOW_ITEM_TYPE_END;
	if (!make)
		return rte_flow_validate(port, &attr, pattern, actions, &error);
	return rte_flow_create(port, &attr, pattern, actions, &error) == NULL ? -rte_errno : 0;
}

void s2_flow_flush(uint16_t port)
{
	struct rte_flow_error error;

	rte_flow_flush(port, &error);
}

uint32_t s2_softrss(uint32_t *tuple, uint32_t words, const uint8_t *key)
{
	return rte_softrss(tuple, words, key);
}

int s2_tel_add_u64(struct rte_tel_data *d, const char *name, uint64_t value)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
	return rte_tel_data_add_dict_uint(d, name, value);
#else
	return rte_tel_data_add_dict_u64(d, name, value);
#endif
}

#define MEMBER(symbol, field) {'o', #symbol, offsetof(struct rte_mbuf, field)}

int s2_check(char which, unsigned int i, const char **name, uint64_t *value)
{
	/* Spelled out again rather than taken from the header, so that a slip there shows. */
	static const struct {
		char which;
		const char *name;
		uint64_t value;
	} all[] = {
		MEMBER(S2_OFF_BUF_ADDR, buf_addr),
		MEMBER(S2_OFF_DATA_OFF, data_off),
		MEMBER(S2_OFF_REFCNT, refcnt),
		MEMBER(S2_OFF_NB_SEGS, nb_segs),
		MEMBER(S2_OFF_PORT, port),
		MEMBER(S2_OFF_OL_FLAGS, ol_flags),
		MEMBER(S2_OFF_PKT_LEN, pkt_len),
		MEMBER(S2_OFF_DATA_LEN, data_len),
		MEMBER(S2_OFF_VLAN_TCI, vlan_tci),
		MEMBER(S2_OFF_BUF_LEN, buf_len),
		MEMBER(S2_OFF_NEXT, next),
		{'s', "S2_SIZEOF_MBUF", sizeof(struct rte_mbuf)},
		{'s', "S2_HEADROOM", RTE_PKTMBUF_HEADROOM},
		{'s', "S2_MEMPOOL_CACHE_MAX", RTE_MEMPOOL_CACHE_MAX_SIZE},
		{'s', "S2_RING_SP_SC", RING_F_SP_ENQ | RING_F_SC_DEQ},
		{'s', "S2_TEL_DICT_ENTRIES", RTE_TEL_MAX_DICT_ENTRIES},
		{'s', "S2_DEV_INTR_LSC", RTE_ETH_DEV_INTR_LSC},
		{'s', "S2_DEV_INTR_RMV", RTE_ETH_DEV_INTR_RMV},
		{'s', "S2_ETH_ALL", RTE_ETH_ALL},
		{'s', "sizeof s2_link_state", sizeof(struct s2_link_state)},
		{'s', "sizeof rte_eth_xstat", sizeof(struct rte_eth_xstat)},
		{'s', "sizeof rte_eth_xstat_name", sizeof(struct rte_eth_xstat_name)},
		{'s', "sizeof rte_eth_conf", sizeof(struct rte_eth_conf)},
		{'s', "sizeof rte_eth_dev_info", sizeof(struct rte_eth_dev_info)},
		{'s', "sizeof rte_eth_stats", sizeof(struct rte_eth_stats)},
		{'s', "sizeof rte_ether_addr", sizeof(struct rte_ether_addr)},
		{'s', "offset rte_eth_conf.rx_adv_conf", offsetof(struct rte_eth_conf, rx_adv_conf)},
		{'s', "offset rte_eth_dev_info.max_rx_queues", offsetof(struct rte_eth_dev_info, max_rx_queues)},
		{'s', "offset rte_eth_dev_info.tx_offload_capa", offsetof(struct rte_eth_dev_info, tx_offload_capa)},
		{'f', "S2_RX_VLAN", RTE_MBUF_F_RX_VLAN},
		{'f', "S2_RX_VLAN_STRIPPED", RTE_MBUF_F_RX_VLAN_STRIPPED},
		{'f', "S2_RX_OFFLOAD_VLAN_STRIP", RTE_ETH_RX_OFFLOAD_VLAN_STRIP},
		{'f', "S2_RX_OFFLOAD_VLAN_FILTER", RTE_ETH_RX_OFFLOAD_VLAN_FILTER},
		{'f', "S2_RX_OFFLOAD_TCP_CKSUM", RTE_ETH_RX_OFFLOAD_TCP_CKSUM},
		{'f', "S2_RX_OFFLOAD_UDP_CKSUM", RTE_ETH_RX_OFFLOAD_UDP_CKSUM},
		{'f', "S2_RX_OFFLOAD_SCATTER", RTE_ETH_RX_OFFLOAD_SCATTER},
		{'f', "S2_TX_OFFLOAD_MULTI_SEGS", RTE_ETH_TX_OFFLOAD_MULTI_SEGS},
		{'f', "S2_TX_OFFLOAD_MBUF_FAST_FREE", RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE},
		{'f', "S2_RSS_PORTS", RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP |
					      RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP},
		{'f', "S2_RSS_PORTS_EXTENDED", RTE_ETH_RSS_IPV6_TCP_EX | RTE_ETH_RSS_IPV6_UDP_EX},
		{'s', "sizeof rte_eth_rss_reta_entry64", sizeof(struct rte_eth_rss_reta_entry64)},
		{'f', "S2_RSS_IP_TCP_UDP", RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP},
	};
	unsigned int seen = 0;

	for (size_t k = 0; k < sizeof(all) / sizeof(all[0]); k++) {
		if (all[k].which != which || seen++ != i)
			continue;
		*name = all[k].name;
		*value = all[k].value;
		return 0;
	}
	return -1;
}

struct rte_mempool *s2_pool_create(const char *name, unsigned int n, unsigned int cache, uint16_t room, int socket,
				   bool packed)
{
	struct rte_pktmbuf_pool_private priv = {.mbuf_data_room_size = room};
	unsigned int flags = packed ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0;
	struct rte_mempool *pool =
		rte_mempool_create_empty(name, n, sizeof(struct rte_mbuf) + room, cache, sizeof(priv), socket, flags);
	int err;

	if (pool == NULL)
		return NULL;
	err = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
	if (err == 0) {
		rte_pktmbuf_pool_init(pool, &priv);
		err = rte_mempool_populate_default(pool);
	}
	if (err < 0) {
		rte_mempool_free(pool);
		rte_errno = -err;
		return NULL;
	}
	rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
	return pool;
}
