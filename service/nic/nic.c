/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NIC: loads the BPF programs, attaches them, opens a port on every receive queue, and
 * keeps the map of flows. Main thread. On any failure all is taken back, in reverse order.
 */
#include "service/nic/nic.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "build/gen/steer.skel.h"
#include "service/base/log.h"
#include "service/nic/internal.h"

#define FRAMES_DEFAULT 8192

enum { TC_EGRESS, TC_INGRESS, TC_ATTACHMENTS };

struct nic {
	struct nic_info info;
	bool is_none; /* nic_open_none() */
	struct steer_bpf *bpf;
	struct attach xdp;
	struct tc_attachment tc[TC_ATTACHMENTS];
	int flows_fd, words_fd; /* the skeleton's */
	const _Atomic uint64_t *words;
	size_t words_size;
	uint32_t max_flows;
	uint32_t ports; /* opened */
	struct port *port;
};

void why_set(struct why *why, const char *fmt, ...)
{
	va_list ap;

	if (!why->size)
		return;
	va_start(ap, fmt);
	vsnprintf(why->buf, why->size, fmt, ap);
	va_end(ap);
}

static int libbpf_to_log(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[512];

	if (level == LIBBPF_DEBUG || !log_enabled(LOG_LEVEL_DEBUG))
		return 0;
	vsnprintf(line, sizeof line, fmt, ap);
	line[strcspn(line, "\n")] = 0;
	log_debug("%s", line);
	return 0;
}

/* ---- before anything is touched ---- */

static int nic_check(const struct nic_config *cfg, struct nic_info *info, struct why *why)
{
	int rc = nic_probe(cfg->ifname, info), fd;

	if (rc == -ENODEV || rc == -ENXIO)
		why_set(why, "%s: no such interface", cfg->ifname);
	else if (rc == -EAFNOSUPPORT)
		why_set(why, "%s: not an Ethernet interface", cfg->ifname);
	else if (rc == -EOPNOTSUPP)
		why_set(why, "%s: cannot find out how many receive queues it has", cfg->ifname);
	else if (rc)
		why_set(why, "%s: cannot read its settings: %s", cfg->ifname, strerror(-rc));
	if (rc)
		return rc;
	if (info->mtu > PORT_MTU_MAX) {
		why_set(why, "%s: MTU %u is too large for AF_XDP: at most %u", info->name, info->mtu, PORT_MTU_MAX);
		return -EMSGSIZE;
	}
	if (info->queues > NIC_XSK_MAX) {
		why_set(why, "%s has %u receive queues; at most %u: reduce them (ethtool -L %s combined %u)",
			info->name, info->queues, NIC_XSK_MAX, info->name, NIC_XSK_MAX);
		return -E2BIG;
	}
	fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		rc = -errno;
		if (rc == -EPERM || rc == -EACCES)
			why_set(why, "not permitted to open AF_XDP sockets: needs root, or CAP_NET_RAW");
		else
			why_set(why, "the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS): %s", strerror(-rc));
		return rc;
	}
	close(fd);
	return 0;
}

/* Frame pools and, before kernel 5.11, maps count as locked memory. Without the right to raise the limit, it may do. */
static void nic_raise_memlock(void)
{
	const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
	struct rlimit lim;

	if (setrlimit(RLIMIT_MEMLOCK, &unlimited) && !getrlimit(RLIMIT_MEMLOCK, &lim)) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &lim);
	}
}

/* ---- programs and maps ---- */

static void nic_select_programs(struct steer_bpf *bpf, enum nic_mode mode)
{
	bool shared = mode == NIC_SHARED;

	bpf_program__set_autoload(bpf->progs.xdp_shared, shared);
	bpf_program__set_autoload(bpf->progs.tc_egress_nic, shared);
	bpf_program__set_autoload(bpf->progs.tc_ingress_tap, shared);
	bpf_program__set_autoload(bpf->progs.xdp_exclusive, !shared);
	bpf_program__set_autoload(bpf->progs.tc_egress_tap, !shared);
}

static int nic_load(struct nic *n, const struct nic_config *cfg, struct why *why)
{
	int rc;

	libbpf_set_print(libbpf_to_log);
	n->bpf = steer_bpf__open();
	if (!n->bpf) {
		rc = -errno;
		why_set(why, "cannot open the BPF programs: %s", strerror(-rc));
		return rc;
	}
	nic_select_programs(n->bpf, cfg->mode);
	n->bpf->rodata->tap_ifindex = (uint32_t)cfg->tap_ifindex;
	n->bpf->rodata->nic_ifindex = (uint32_t)n->info.ifindex;
	bpf_map__set_max_entries(n->bpf->maps.flows, cfg->max_flows);
	bpf_map__set_max_entries(n->bpf->maps.words, cfg->max_flows);
	rc = steer_bpf__load(n->bpf);
	if (rc == -EPERM || rc == -EACCES)
		why_set(why, "not permitted to load BPF programs: needs root, or CAP_BPF and CAP_NET_ADMIN");
	else if (rc == -ENOMEM)
		why_set(why, "no memory for the maps of %u flows", cfg->max_flows);
	else if (rc)
		why_set(why, "cannot load the BPF programs: %s (log level debug tells more)", strerror(-rc));
	n->flows_fd = rc ? -1 : bpf_map__fd(n->bpf->maps.flows);
	return rc;
}

/*
 * Applications map the array too. A read-only descriptor cannot be mapped (the kernel wants
 * VM_SHARED, which it takes from mappings of files not open for writing), so the map is
 * frozen: through any descriptor, user space can only read it.
 */
static int nic_words_open(struct nic *n, struct why *why)
{
	int fd = bpf_map__fd(n->bpf->maps.words), rc = bpf_map_freeze(fd);
	long page = sysconf(_SC_PAGESIZE);
	void *mem;

	if (rc) {
		why_set(why, "cannot freeze the BPF array of flow words: %s", strerror(-rc));
		return rc;
	}
	n->words_size = ((size_t)n->max_flows * sizeof(uint64_t) + (size_t)page - 1) & ~((size_t)page - 1);
	mem = mmap(NULL, n->words_size, PROT_READ, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED) {
		rc = -errno;
		why_set(why, "cannot map the BPF array of flow words: %s", strerror(-rc));
		return rc;
	}
	n->words = mem;
	n->words_fd = fd;
	return 0;
}

static int nic_attach_all(struct nic *n, const struct nic_config *cfg, struct why *why)
{
	bool shared = cfg->mode == NIC_SHARED;
	int xdp = bpf_program__fd(shared ? n->bpf->progs.xdp_shared : n->bpf->progs.xdp_exclusive);
	char tap[IF_NAMESIZE];
	int rc;

	if (!if_indextoname((unsigned)cfg->tap_ifindex, tap)) {
		why_set(why, "the TAP device (index %d) is gone", cfg->tap_ifindex);
		return -ENODEV;
	}
	if (shared) {
		rc = link_tc(cfg->tap_ifindex, tap, bpf_program__fd(n->bpf->progs.tc_ingress_tap), false,
			     cfg->force_clsact, &n->tc[TC_INGRESS], &n->info.tcx, why);
		if (!rc)
			rc = link_tc(n->info.ifindex, n->info.name, bpf_program__fd(n->bpf->progs.tc_egress_nic), true,
				     cfg->force_clsact, &n->tc[TC_EGRESS], &n->info.tcx, why);
	} else {
		rc = link_tc(cfg->tap_ifindex, tap, bpf_program__fd(n->bpf->progs.tc_egress_tap), true,
			     cfg->force_clsact, &n->tc[TC_EGRESS], &n->info.tcx, why);
	}
	if (!rc)
		rc = link_xdp(&n->info, xdp, !shared && cfg->allow_generic, &n->info.native, &n->xdp.link_fd, why);
	if (rc)
		return rc;
	n->bpf->bss->xdp_attached = 1;
	n->info.on_demand = shared && (cfg->attach == NIC_ATTACH_DEMAND ||
				       (cfg->attach == NIC_ATTACH_AUTO && attach_is_cheap(n->info.driver)));
	rc = attach_open(&n->xdp, n->info.ifindex, xdp, &n->tc[TC_EGRESS],
			 shared && n->info.tcx ? bpf_program__fd(n->bpf->progs.tc_egress_nic) : -1);
	if (rc)
		why_set(why, "no descriptor left: %s", strerror(-rc));
	return rc;
}

/* ---- ports ---- */

static int nic_open_ports(struct nic *n, const struct nic_config *cfg, struct why *why)
{
	int xsks = bpf_map__fd(n->bpf->maps.xsks), rc;
	bool zerocopy = n->info.native && !cfg->force_copy && !n->info.on_demand;

	n->port = aligned_alloc(CACHELINE, n->info.queues * sizeof *n->port);
	if (!n->port) {
		why_set(why, "no memory for %u ports", n->info.queues);
		return -ENOMEM;
	}
	n->info.zerocopy = zerocopy;
	for (uint32_t q = 0; q < n->info.queues; q++) {
		rc = port_open(&n->port[q], &n->info, q, cfg->frames ? cfg->frames : FRAMES_DEFAULT, &zerocopy, why);
		if (rc)
			return rc;
		n->ports = q + 1;
		n->info.zerocopy &= zerocopy;
		rc = bpf_map_update_elem(xsks, &q, &n->port[q].fd, BPF_ANY);
		if (rc) {
			why_set(why, "%s: cannot give queue %u to its AF_XDP socket: %s", n->info.name, q,
				strerror(-rc));
			return rc;
		}
	}
	return 0;
}

/* ---- open, close ---- */

int nic_open(const struct nic_config *cfg, struct nic **out, char *why_buf, unsigned why_size)
{
	struct why why = {.buf = why_buf, .size = why_size};
	struct nic *n;
	int rc;

	if (!cfg->max_flows || cfg->tap_ifindex <= 0) {
		why_set(&why, "the NIC needs a TAP device and room for at least one flow");
		return -EINVAL;
	}
	n = calloc(1, sizeof *n);
	if (!n) {
		why_set(&why, "no memory");
		return -ENOMEM;
	}
	n->xdp.link_fd = n->xdp.event_fd = n->flows_fd = n->words_fd = -1;
	n->tc[TC_EGRESS].link_fd = n->tc[TC_INGRESS].link_fd = -1;
	n->max_flows = cfg->max_flows;
	rc = nic_check(cfg, &n->info, &why);
	if (!rc) {
		nic_raise_memlock();
		rc = nic_load(n, cfg, &why);
	}
	if (!rc)
		rc = nic_words_open(n, &why);
	if (!rc)
		rc = nic_attach_all(n, cfg, &why);
	if (!rc)
		rc = nic_open_ports(n, cfg, &why);
	if (rc) {
		nic_close(n);
		return rc;
	}
	*out = n;
	return 0;
}

int nic_open_none(struct nic **out)
{
	struct nic *n = calloc(1, sizeof *n);

	if (!n)
		return -ENOMEM;
	n->port = aligned_alloc(CACHELINE, sizeof *n->port);
	if (!n->port) {
		free(n);
		return -ENOMEM;
	}
	n->is_none = true;
	n->xdp.link_fd = n->xdp.event_fd = n->flows_fd = n->words_fd = -1;
	n->tc[TC_EGRESS].link_fd = n->tc[TC_INGRESS].link_fd = -1;
	n->info.queues = n->ports = 1;
	port_open_none(n->port);
	*out = n;
	return 0;
}

void nic_close(struct nic *n)
{
	if (!n)
		return;
	/* first the wire: from here on every frame is Linux's */
	attach_close(&n->xdp);
	for (int i = 0; i < TC_ATTACHMENTS; i++)
		link_tc_remove(&n->tc[i]);
	for (uint32_t q = 0; q < n->ports; q++)
		port_close(&n->port[q]);
	free(n->port);
	if (n->words)
		munmap((void *)(uintptr_t)n->words, n->words_size);
	steer_bpf__destroy(n->bpf);
	free(n);
}

const struct nic_info *nic_get_info(const struct nic *n)
{
	return &n->info;
}

struct port *nic_port(struct nic *n, uint32_t queue)
{
	return queue < n->ports ? &n->port[queue] : NULL;
}

/* ---- XDP on demand ---- */

enum nic_attachment nic_attachment(const struct nic *n)
{
	return n->is_none ? NIC_ATTACHED : attach_state(&n->xdp);
}

int nic_attach(struct nic *n)
{
	return n->info.on_demand ? attach_start(&n->xdp, NIC_ATTACHED) : -EOPNOTSUPP;
}

int nic_detach(struct nic *n)
{
	return n->info.on_demand ? attach_start(&n->xdp, NIC_DETACHED) : -EOPNOTSUPP;
}

int nic_strip(struct nic *n)
{
	return n->info.on_demand ? attach_start(&n->xdp, NIC_BARE) : -EOPNOTSUPP;
}

int nic_attach_finish(struct nic *n)
{
	int rc = attach_finish(&n->xdp);

	/* tc egress reads it; no flow is in the map before it is set, or when it is cleared */
	n->bpf->bss->xdp_attached = attach_state(&n->xdp) == NIC_ATTACHED;
	return rc;
}

int nic_attach_fd(const struct nic *n)
{
	return n->xdp.event_fd;
}

/* ---- flows and words ---- */

int nic_flow_add(struct nic *n, const struct flow_key *key, uint32_t flow_id)
{
	const struct bpf_flow value = {.flow_id = flow_id};

	return flow_id < n->max_flows ? bpf_map_update_elem(n->flows_fd, key, &value, BPF_NOEXIST) : -EINVAL;
}

int nic_flow_del(struct nic *n, const struct flow_key *key)
{
	return n->is_none ? -ENOENT : bpf_map_delete_elem(n->flows_fd, key);
}

int nic_words_fd(const struct nic *n)
{
	return n->words_fd;
}

uint64_t nic_word_read(const struct nic *n, uint32_t flow_id)
{
	/* pairs with the atomic add in tc egress */
	return flow_id < n->max_flows ? atomic_load_explicit(&n->words[flow_id], memory_order_acquire) : 0;
}

void nic_word_clear(struct nic *n, uint32_t flow_id)
{
	struct bpf_word_clear args = {.flow_id = flow_id};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &args, .ctx_size_in = sizeof args);

	/* mostly zero already; and called before the flow is in the map: nobody adds */
	if (nic_word_read(n, flow_id))
		bpf_prog_test_run_opts(bpf_program__fd(n->bpf->progs.word_clear), &opts);
}
