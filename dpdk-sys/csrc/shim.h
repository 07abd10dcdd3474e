/* What Rust sees of DPDK: the functions bindgen is told to bind, and C for what it cannot bind (static inlines,
 * thread-local macros, 64-bit flag macros) or what differs between releases. */
#ifndef S2_SHIM_H
#define S2_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_eth_vhost.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_telemetry.h>

/* Offsets of the mbuf fields that Rust reads and writes inline. */
enum {
	S2_OFF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	S2_OFF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	S2_OFF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	S2_OFF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	S2_OFF_PORT = offsetof(struct rte_mbuf, port),
	S2_OFF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	S2_OFF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	S2_OFF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	S2_OFF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	S2_OFF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	S2_OFF_NEXT = offsetof(struct rte_mbuf, next),
};

enum {
	S2_SIZEOF_MBUF = sizeof(struct rte_mbuf),
	S2_HEADROOM = RTE_PKTMBUF_HEADROOM,
	S2_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
	S2_RING_SP_SC = RING_F_SP_ENQ | RING_F_SC_DEQ,
	S2_SOCKET_ANY = SOCKET_ID_ANY,
	S2_TEL_DICT_ENTRIES = RTE_TEL_MAX_DICT_ENTRIES,
	S2_DEV_INTR_LSC = RTE_ETH_DEV_INTR_LSC,
	S2_DEV_INTR_RMV = RTE_ETH_DEV_INTR_RMV,
	S2_ETH_ALL = RTE_ETH_ALL,
};

static const uint64_t S2_RX_VLAN = RTE_MBUF_F_RX_VLAN;
static const uint64_t S2_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t S2_RX_OFFLOAD_VLAN_STRIP = RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
static const uint64_t S2_RX_OFFLOAD_VLAN_FILTER = RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
static const uint64_t S2_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t S2_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t S2_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t S2_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t S2_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t S2_RSS_IP_TCP_UDP = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
/* Addresses and ports of TCP and UDP, over both families. */
static const uint64_t S2_RSS_PORTS = RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP |
				     RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP;
/* The same over IPv6 with extension headers, of which a home address counts for the source and a route's end for the destination. */
static const uint64_t S2_RSS_PORTS_EXTENDED = RTE_ETH_RSS_IPV6_TCP_EX | RTE_ETH_RSS_IPV6_UDP_EX;

uint16_t s2_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **out, uint16_t n);
uint16_t s2_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **in, uint16_t n);
/*
 * rte_pktmbuf_pool_create, with a choice: packed leaves no gaps that keep mbufs off page borders. Devices that do DMA need
 * the gaps. net_af_xdp must not have them: it registers number times size bytes as its UMEM, and the kernel discards what
 * is sent from beyond. NULL and rte_errno on failure.
 */
struct rte_mempool *s2_pool_create(const char *name, unsigned int n, unsigned int cache, uint16_t room, int socket,
				   bool packed);
/* n mbufs with their fields reset, or none of them and a negative value. */
int s2_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **out, unsigned int n);
void s2_free(struct rte_mbuf *m);
/* Copies bytes of a frame, over its segments. False, and nothing written, when it has fewer. */
bool s2_read(const struct rte_mbuf *m, uint32_t offset, uint32_t length, void *to);
unsigned int s2_ring_enqueue(struct rte_ring *ring, struct rte_mbuf **in, unsigned int n);
unsigned int s2_ring_dequeue(struct rte_ring *ring, struct rte_mbuf **out, unsigned int n);

uint64_t s2_rdtsc(void);
int s2_errno(void);
/* UINT32_MAX on a thread EAL does not know. */
uint32_t s2_lcore_id(void);
/* EAL and drivers write to stderr, and nothing to syslog. */
void s2_log_to_stderr(void);

/* State of a link; mbps is 0 when unknown. */
struct s2_link_state {
	uint32_t mbps;
	bool up;
	bool full_duplex;
	bool autoneg;
};

/* Link state without waiting. Negative errno on failure. */
int s2_link(uint16_t port, struct s2_link_state *state);

/*
 * A virtual machine on a vhost port. It comes, changes and goes on the vhost library's thread, which notes here what others may
 * read: the library's own answers are not safe to ask for while it goes.
 */
struct s2_vhost_guest {
	uint64_t features; /* those both sides have */
	uint64_t rx, tx; /* queues enabled, a bit each, the first 64; rx is what we receive from */
	uint16_t mtu; /* 0: the guest was told none */
};
/* Begins to note; a negative errno on failure. To be undone before the port is closed. */
int s2_vhost_watch(uint16_t port);
void s2_vhost_unwatch(uint16_t port);
/* False when there is no guest. */
bool s2_vhost_guest_of(uint16_t port, struct s2_vhost_guest *guest);

/*
 * Sets key and hash types, and Toeplitz where the release can tell hash functions apart. 0, or a negative errno; also when
 * what is read back is something else (-EIO).
 */
int s2_rss_set(uint16_t port, const uint8_t *key, uint8_t len, uint64_t types);

/*
 * A flow rule: TCP or UDP over IPv4 or IPv6, behind `tags` VLAN tags (at most two), whose destination port is `dst` under `mask`, goes to
 * a queue. Asks the driver, or has it made. 0, or a negative errno.
 */
int s2_flow_ports(uint16_t port, unsigned int tags, bool v6, bool tcp, uint16_t dst, uint16_t mask, uint16_t queue, bool make);
void s2_flow_flush(uint16_t port);

/* rte_softrss, which tests compare with. `key` is aligned to 4 and one word longer than the tuple. */
uint32_t s2_softrss(uint32_t *tuple, uint32_t words, const uint8_t *key);

int s2_tel_add_u64(struct rte_tel_data *d, const char *name, uint64_t value);

/* The values above as the C compiler sees them, for the tests. which: 'o' offset, 's' scalar, 'f' flag; -1 at the end. */
int s2_check(char which, unsigned int i, const char **name, uint64_t *value);

#endif
