/* Calls every function of the shim, at the edges of what it is given, in a process that the sanitizers watch. Built and run by
 * scripts/sanitize.sh; the shim is compiled along, so that DPDK's inline functions in it are watched as well. */
#include "../shim.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BURST 32
#define POOL 255
/* A net_ring device loops back through a ring of 1024 places. */
#define RING_ROOM 1023

#define CHECK(what)                                                                                                        \
	do {                                                                                                               \
		if (!(what)) {                                                                                             \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                                         \
			exit(1);                                                                                           \
		}                                                                                                          \
	} while (0)

static uint16_t started(const char *name, struct rte_mempool *pool, uint64_t rss)
{
	struct rte_eth_conf conf = {.rxmode.mq_mode = rss == 0 ? RTE_ETH_MQ_RX_NONE : RTE_ETH_MQ_RX_RSS,
				    .rx_adv_conf.rss_conf.rss_hf = rss};
	uint16_t port;

	CHECK(rte_eth_dev_get_port_by_name(name, &port) == 0);
	CHECK(rte_eth_dev_configure(port, 1, 1, &conf) == 0);
	CHECK(rte_eth_rx_queue_setup(port, 0, 64, SOCKET_ID_ANY, NULL, pool) == 0);
	CHECK(rte_eth_tx_queue_setup(port, 0, 64, SOCKET_ID_ANY, NULL) == 0);
	CHECK(rte_eth_dev_start(port) == 0);
	return port;
}

static void pools(void)
{
	char name[RTE_MEMPOOL_NAMESIZE + 8];
	struct rte_mbuf *out[POOL + 1];

	for (int packed = 0; packed < 2; packed++) {
		struct rte_mempool *pool = s2_pool_create("edge", POOL, packed ? 32 : 0, 2048 + S2_HEADROOM, SOCKET_ID_ANY, packed);

		CHECK(pool != NULL);
		/* A name is taken once. */
		CHECK(s2_pool_create("edge", POOL, 0, 2048, SOCKET_ID_ANY, packed) == NULL && s2_errno() == EEXIST);
		/* None, one, a burst, all, and one more than all: then none are taken. */
		const unsigned int counts[] = {0, 1, BURST, POOL};

		for (unsigned int i = 0; i < RTE_DIM(counts); i++) {
			unsigned int n = counts[i];

			/* None of none is a success or a failure: pools with and without a cache differ. */
			CHECK(s2_alloc_bulk(pool, out, n) == 0 || n == 0);
			CHECK(rte_mempool_in_use_count(pool) == n);
			for (unsigned int k = 0; k < n; k++) {
				CHECK(out[k]->nb_segs == 1 && out[k]->next == NULL && out[k]->refcnt == 1);
				CHECK(out[k]->data_off == S2_HEADROOM && out[k]->data_len == 0 && out[k]->pkt_len == 0);
				/* The whole room is ours. */
				memset(out[k]->buf_addr, 0xa5, out[k]->buf_len);
			}
			for (unsigned int k = 0; k < n; k++)
				s2_free(out[k]);
			CHECK(rte_mempool_in_use_count(pool) == 0);
		}
		CHECK(s2_alloc_bulk(pool, out, POOL + 1) < 0);
		CHECK(rte_mempool_in_use_count(pool) == 0);
		/* Exhausted but for one: two are not to be had, one is. */
		CHECK(s2_alloc_bulk(pool, out, POOL - 1) == 0);
		CHECK(s2_alloc_bulk(pool, out + POOL - 1, 2) < 0);
		CHECK(s2_alloc_bulk(pool, out + POOL - 1, 1) == 0);
		CHECK(s2_alloc_bulk(pool, out + POOL, 1) < 0);
		rte_pktmbuf_free_bulk(out, POOL);
		rte_mempool_free(pool);
	}
	/* Refusals leave nothing behind. */
	CHECK(s2_pool_create("none", 0, 0, 2048, SOCKET_ID_ANY, false) == NULL && s2_errno() == EINVAL);
	CHECK(s2_pool_create("cached", 31, S2_MEMPOOL_CACHE_MAX + 1, 2048, SOCKET_ID_ANY, false) == NULL);
	CHECK(s2_errno() == EINVAL);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	CHECK(s2_pool_create(name, POOL, 0, 2048, SOCKET_ID_ANY, false) == NULL && s2_errno() == ENAMETOOLONG);
	for (int i = 0; i < 3; i++)
		CHECK(s2_pool_create("large", 1 << 20, 0, 2048, SOCKET_ID_ANY, i & 1) == NULL && s2_errno() == ENOMEM);
	s2_free(NULL);
}

static void rings(struct rte_mempool *pool)
{
	struct rte_ring *ring = rte_ring_create("edge", 64, SOCKET_ID_ANY, S2_RING_SP_SC);
	struct rte_mbuf *in[80], *out[80];

	CHECK(ring != NULL);
	CHECK(s2_alloc_bulk(pool, in, 80) == 0);
	CHECK(s2_ring_enqueue(ring, in, 0) == 0 && s2_ring_dequeue(ring, out, 0) == 0);
	CHECK(s2_ring_dequeue(ring, out, 80) == 0);
	/* The indices go round several times. */
	for (unsigned int turn = 0, n = 1; turn < 200; turn++, n = turn % 63 + 1) {
		CHECK(s2_ring_enqueue(ring, in, n) == n);
		CHECK(s2_ring_dequeue(ring, out, 80) == n);
		CHECK(memcmp(in, out, n * sizeof(in[0])) == 0);
	}
	/* One place of 64 stays empty; what does not fit stays with the caller. */
	CHECK(s2_ring_enqueue(ring, in, 80) == 63 && s2_ring_enqueue(ring, in + 63, 17) == 0);
	CHECK(s2_ring_dequeue(ring, out, 1) == 1 && out[0] == in[0]);
	CHECK(s2_ring_enqueue(ring, in + 63, 17) == 1);
	CHECK(s2_ring_dequeue(ring, out, 80) == 63 && out[62] == in[63]);
	rte_pktmbuf_free_bulk(in, 80);
	rte_ring_free(ring);
}

static void bursts(struct rte_mempool *pool, struct rte_mempool *small)
{
	static struct rte_mbuf *in[RING_ROOM + 100], *out[RING_ROOM + 100];
	uint16_t port = started("net_ring0", pool, 0);
	const uint16_t counts[] = {0, 1, 2, BURST, 257, RING_ROOM};

	CHECK(s2_rx_burst(port, 0, out, BURST) == 0 && s2_rx_burst(port, 0, out, 0) == 0);
	for (unsigned int i = 0; i < RTE_DIM(counts); i++) {
		uint16_t n = counts[i];

		CHECK(n == 0 || s2_alloc_bulk(small, in, n) == 0);
		for (uint16_t k = 0; k < n; k++)
			CHECK(rte_pktmbuf_append(in[k], 60) != NULL);
		CHECK(s2_tx_burst(port, 0, in, n) == n);
		CHECK(s2_rx_burst(port, 0, out, UINT16_MAX) == n);
		CHECK(n == 0 || memcmp(in, out, n * sizeof(in[0])) == 0);
		for (uint16_t k = 0; k < n; k++)
			s2_free(out[k]);
	}
	/* What the device does not take stays with the caller. */
	CHECK(s2_alloc_bulk(small, in, RING_ROOM + 100) == 0);
	CHECK(s2_tx_burst(port, 0, in, RING_ROOM + 100) == RING_ROOM);
	CHECK(s2_tx_burst(port, 0, in + RING_ROOM, 100) == 0);
	CHECK(s2_rx_burst(port, 0, out, BURST) == BURST);
	CHECK(s2_tx_burst(port, 0, in + RING_ROOM, 100) == BURST);
	CHECK(s2_rx_burst(port, 0, out, UINT16_MAX) == RING_ROOM);
	rte_pktmbuf_free_bulk(in, RING_ROOM + 100);
	CHECK(rte_mempool_in_use_count(small) == 0);

	/* Chains of one to many segments pass as they are, and go back whole, whoever holds a further reference. */
	for (unsigned int segments = 1; segments <= 40; segments++) {
		struct rte_mbuf *piece[40];
		uint16_t length = 0;

		CHECK(s2_alloc_bulk(small, piece, segments) == 0);
		for (unsigned int k = 0; k < segments; k++) {
			length += 10 + k;
			CHECK(rte_pktmbuf_append(piece[k], 10 + k) != NULL);
			CHECK(k == 0 || rte_pktmbuf_chain(piece[0], piece[k]) == 0);
		}
		CHECK(s2_tx_burst(port, 0, piece, 1) == 1 && s2_rx_burst(port, 0, out, BURST) == 1);
		CHECK(out[0]->nb_segs == segments && out[0]->pkt_len == length && out[0]->data_len == 10);
		rte_pktmbuf_refcnt_update(out[0], 1);
		s2_free(out[0]);
		CHECK(rte_mempool_in_use_count(small) == segments);
		s2_free(out[0]);
		CHECK(rte_mempool_in_use_count(small) == 0);
	}
	CHECK(rte_eth_dev_stop(port) == 0 && rte_eth_dev_close(port) == 0);

	/* net_null makes frames until the pool is empty, and takes any. */
	port = started("net_null0", pool, S2_RSS_PORTS);
	unsigned int got = 0;

	for (uint16_t n; (n = s2_rx_burst(port, 0, out + got, BURST)) > 0; got += n)
		CHECK(got + n <= POOL);
	CHECK(s2_rx_burst(port, 0, out + got, 1) == (got < POOL ? 1 : 0));
	got = rte_mempool_in_use_count(pool);
	for (unsigned int sent = 0; sent < got;)
		sent += s2_tx_burst(port, 0, out + sent, RTE_MIN(got - sent, (unsigned int)BURST));
	CHECK(s2_tx_burst(port, 0, out, 0) == 0);
	CHECK(rte_mempool_in_use_count(pool) == 0);
	CHECK(rte_eth_dev_stop(port) == 0);
}

/* The key and an example that Microsoft publishes for RSS, which NIC makers test with. */
static const uint8_t rss_key[255] __rte_aligned(4) = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

static void steering(void)
{
	uint32_t tuple[9] = {0x420995bb, 0xa18e6450, 2794u << 16 | 1766};
	uint16_t port, masks[] = {0, 1, 0xff00, 0xffff};

	CHECK(s2_softrss(tuple, 3, rss_key) == 0x51ccc178);
	CHECK(s2_softrss(tuple, 2, rss_key) == 0x323e8fc2);
	CHECK(s2_softrss(tuple, 0, rss_key) == 0);
	memset(tuple, 0xff, sizeof(tuple));
	CHECK(s2_softrss(tuple, 9, rss_key) != 0);

	CHECK(rte_eth_dev_get_port_by_name("net_null0", &port) == 0);
	/* A key of the right length, of none, and longer than any device has: set and read back, or refused, never beyond. */
	const uint8_t lengths[] = {40, 0, 52, 255};

	for (unsigned int i = 0; i < RTE_DIM(lengths); i++) {
		int err = s2_rss_set(port, rss_key, lengths[i], S2_RSS_PORTS);

		CHECK(lengths[i] == 40 ? err == 0 : err <= 0);
	}
	CHECK(s2_rss_set(port, rss_key, 40, UINT64_MAX) < 0);
	CHECK(s2_rss_set(UINT16_MAX, rss_key, 40, S2_RSS_PORTS) == -ENODEV);

	/* No virtual device here knows flow rules: each is built and refused by name. */
	for (unsigned int bits = 0; bits < 64; bits++) {
		int err = s2_flow_ports(port, bits & 1, bits & 2, bits & 4, UINT16_MAX, masks[bits >> 3 & 3], 0, bits & 32);

		CHECK(err == -ENOSYS || err == -ENOTSUP);
		CHECK(s2_flow_ports(UINT16_MAX, bits & 1, bits & 2, bits & 4, 0, 0, UINT16_MAX, bits & 32) < 0);
	}
	s2_flow_flush(port);
	s2_flow_flush(UINT16_MAX);
}

static void links(void)
{
	uint16_t port;
	struct s2_link_state link = {.mbps = 7};

	CHECK(rte_eth_dev_get_port_by_name("net_null0", &port) == 0);
	CHECK(s2_link(port, &link) == 0 && link.mbps != 7);
	CHECK(s2_link(UINT16_MAX, &link) == -ENODEV);
}

static void telemetry(void)
{
	/* DPDK alone knows its size; this is several times of it. */
	struct rte_tel_data *data = calloc(1, 1 << 20);
	char name[32];
	unsigned int fit = 0;

	CHECK(data != NULL);
	/* Not a dictionary yet. */
	CHECK(s2_tel_add_u64(data, "early", 1) < 0);
	CHECK(rte_tel_data_start_dict(data) == 0);
	for (unsigned int i = 0; i < S2_TEL_DICT_ENTRIES + 3; i++) {
		snprintf(name, sizeof(name), "counter_%u", i);
		fit += s2_tel_add_u64(data, name, i == 0 ? UINT64_MAX : i) == 0;
	}
	CHECK(fit == S2_TEL_DICT_ENTRIES);
	free(data);
}

static void constants(void)
{
	const char *name;
	uint64_t value;
	unsigned int found = 0;

	for (const char *which = "osfx"; *which != 0; which++) {
		unsigned int i = 0;

		while (s2_check(*which, i, &name, &value) == 0) {
			CHECK(name[0] != 0);
			i++;
		}
		CHECK((i > 0) == (*which != 'x'));
		CHECK(s2_check(*which, UINT_MAX, &name, &value) < 0);
		found += i;
	}
	CHECK(found > 30);
}

static void *stranger(void *unused)
{
	CHECK(s2_lcore_id() == UINT32_MAX);
	return unused;
}

int main(int argc, char **argv)
{
	struct rte_mempool *pool, *small;
	uint64_t before = s2_rdtsc();
	pthread_t thread;

	s2_log_to_stderr();
	CHECK(rte_eal_init(argc, argv) >= 0);
	CHECK(s2_rdtsc() > before);
	CHECK(s2_lcore_id() == rte_get_main_lcore());
	CHECK(pthread_create(&thread, NULL, stranger, NULL) == 0 && pthread_join(thread, NULL) == 0);

	constants();
	pools();
	pool = s2_pool_create("pool", POOL, 0, 2048 + S2_HEADROOM, SOCKET_ID_ANY, false);
	small = s2_pool_create("small", 2047, 0, 256, SOCKET_ID_ANY, true);
	CHECK(pool != NULL && small != NULL);
	rings(pool);
	bursts(pool, small);
	steering();
	links();
	telemetry();
	CHECK(rte_mempool_in_use_count(pool) == 0 && rte_mempool_in_use_count(small) == 0);
	rte_mempool_free(small);
	rte_mempool_free(pool);
	CHECK(rte_eal_cleanup() == 0);
	puts("every function of the shim was called");
	return 0;
}
