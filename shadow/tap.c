/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The TAP: the door between the service and Linux. What is written to it arrives at Linux
 * (in shared mode tc moves it to the NIC's ingress); what Linux sends for adopted flows is
 * read from it. Not persistent: with the process it vanishes, and with it every trace in
 * Linux. Main thread. It offers no offloads, so frames are whole, checksummed and no longer
 * than its MTU.
 */
#include "shadow/shadow.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "service/base/log.h"
#include "service/base/netlink.h"

#define TAP_BUSY_NS 20000000 /* between attempts to have the name */
#define TAP_BUSY_TRIES 50
#define TAP_READS 8
#define TAP_FRAME_MIN 2048
#define TAP_HEADROOM 64 /* Ethernet header, a VLAN tag or two */
#define TAP_QUEUE 4096  /* frames: every flow may be asked, and answer, at once */

struct tap {
	int fd;
	int ifindex;
	int packet; /* exclusive mode: where marks are sent, else -1 */
	uint32_t mtu;
	struct loop *loop;
	tap_frame_fn *cb;
	void *ctx;
	uint64_t failures;
};

/* ---- making it ---- */

/* The kernel ends the ring of a service that has just died in the background, and until then its TAP is there. */
static int tap_claim(int fd, const struct ifreq *ifr)
{
	const struct timespec pause = {.tv_nsec = TAP_BUSY_NS};
	int rc = 0;

	for (int i = 0; i < TAP_BUSY_TRIES; i++) {
		rc = ioctl(fd, TUNSETIFF, ifr) ? -errno : 0;
		if (rc != -EBUSY && rc != -EEXIST)
			break;
		nanosleep(&pause, NULL);
	}
	return rc;
}

static int tap_create(const char *name, char *why, unsigned why_size)
{
	struct ifreq ifr = {0};
	int fd, rc;

	if (!name[0] || strlen(name) >= sizeof ifr.ifr_name) {
		snprintf(why, why_size, "tap \"%s\": a name has 1 to %zu characters", name, sizeof ifr.ifr_name - 1);
		return -EINVAL;
	}
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		rc = -errno;
		snprintf(why, why_size, "/dev/net/tun: %s: %s", strerror(-rc),
			 rc == -ENOENT || rc == -ENODEV ? "load the tun module (modprobe tun)"
							: "run as root or with CAP_NET_ADMIN");
		return rc;
	}
	ifr.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL);
	memcpy(ifr.ifr_name, name, strlen(name));
	rc = tap_claim(fd, &ifr);
	if (!rc)
		return fd;
	close(fd);
	if (rc == -EBUSY || rc == -EEXIST || if_nametoindex(name))
		snprintf(why, why_size,
			 "an interface \"%s\" exists already: another tapasd runs, or set tap= to a free name", name);
	else
		snprintf(why, why_size, "TAP \"%s\": %s: CAP_NET_ADMIN is needed", name, strerror(-rc));
	return rc;
}

/* Shared mode: nothing of Linux's own may come out of the TAP, so no router solicitations and the like. */
static void tap_disable_ipv6(const char *name)
{
	char path[80];
	int fd;

	snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return; /* no IPv6 at all */
	if (fd < 0 || write(fd, "1", 1) != 1)
		log_warn("%s: %m: Linux will send IPv6 chatter into the TAP, where it ends", path);
	if (fd >= 0)
		close(fd);
}

static int tap_link_up(const struct tap *t, const struct tap_config *cfg)
{
	char buf[NETLINK_REQUEST] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = netlink_request(buf, RTM_NEWLINK, 0);
	struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(nlh, sizeof *ifi);

	ifi->ifi_family = AF_UNSPEC;
	ifi->ifi_index = t->ifindex;
	ifi->ifi_change = IFF_UP | IFF_NOARP;
	ifi->ifi_flags = IFF_UP | (cfg->exclusive ? 0 : IFF_NOARP);
	mnl_attr_put(nlh, IFLA_ADDRESS, sizeof cfg->mac, cfg->mac);
	mnl_attr_put_u32(nlh, IFLA_MTU, cfg->mtu);
	mnl_attr_put_u32(nlh, IFLA_TXQLEN, TAP_QUEUE);
	return netlink_execute(NETLINK_ROUTE, nlh);
}

/* ---- exclusive mode: it is Linux's interface ---- */

static int tap_configure_exclusive(const struct tap *t, const struct tap_config *cfg, char *why, unsigned why_size)
{
	int rc;

	for (unsigned i = 0; cfg->addresses && cfg->addresses[i]; i++) {
		rc = address_add(t->ifindex, cfg->addresses[i]);
		if (!rc && cfg->nic_ifindex)
			address_remove(cfg->nic_ifindex, cfg->addresses[i]);
		if (rc) {
			snprintf(why, why_size,
				 "address \"%s\" on the TAP: %s: write it as 10.0.0.1/24 or 2001:db8::1/64",
				 cfg->addresses[i], strerror(-rc));
			return rc;
		}
	}
	if (!cfg->gateway)
		return 0;
	rc = address_default_route(t->ifindex, cfg->gateway);
	if (rc)
		snprintf(why, why_size,
			 "gateway \"%s\" by the TAP: %s: it must be within one of the addresses' networks",
			 cfg->gateway, strerror(-rc));
	return rc;
}

static int tap_configure(const struct tap *t, const struct tap_config *cfg, char *why, unsigned why_size)
{
	int rc;

	if (!cfg->exclusive)
		tap_disable_ipv6(cfg->name);
	rc = tap_link_up(t, cfg);
	if (rc) {
		snprintf(why, why_size, "setting up the TAP \"%s\": %s", cfg->name, strerror(-rc));
		return rc;
	}
	return cfg->exclusive ? tap_configure_exclusive(t, cfg, why, why_size) : 0;
}

int tap_open(const struct tap_config *cfg, struct loop *loop, tap_frame_fn *cb, void *ctx, struct tap **out, char *why,
	     unsigned why_size)
{
	struct tap *t = calloc(1, sizeof *t);
	int rc;

	if (!t) {
		snprintf(why, why_size, "out of memory");
		return -ENOMEM;
	}
	t->loop = loop;
	t->cb = cb;
	t->ctx = ctx;
	t->mtu = cfg->mtu;
	t->fd = tap_create(cfg->name, why, why_size);
	if (t->fd < 0) {
		rc = t->fd;
		free(t);
		return rc;
	}
	t->ifindex = (int)if_nametoindex(cfg->name);
	t->packet = cfg->exclusive ? socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0) : -1;
	rc = tap_configure(t, cfg, why, why_size);
	if (rc) {
		if (t->packet >= 0)
			close(t->packet);
		close(t->fd);
		free(t);
		return rc;
	}
	*out = t;
	return 0;
}

void tap_close(struct tap *t)
{
	if (!t)
		return;
	if (t->packet >= 0)
		close(t->packet);
	close(t->fd);
	free(t);
}

int tap_ifindex(const struct tap *t)
{
	return t->ifindex;
}

/* ---- frames ---- */

void tap_set_receiver(struct tap *t, tap_frame_fn *cb, void *ctx)
{
	t->cb = cb;
	t->ctx = ctx;
}

static void tap_read(void *ctx, const uint8_t *data, int res)
{
	struct tap *t = ctx;

	if (res > 0)
		t->cb(t->ctx, data, (uint32_t)res);
	else if (res < 0 && res != -EAGAIN)
		t->failures++;
}

int tap_start(struct tap *t)
{
	return loop_stream_reads(t->loop, t->fd, TAP_READS, MAX(t->mtu + TAP_HEADROOM, (uint32_t)TAP_FRAME_MIN),
				 tap_read, t);
}

int tap_write(struct tap *t, const void *frame, uint32_t len)
{
	int rc = loop_write(t->loop, t->fd, frame, len, &t->failures);

	if (rc && rc != -ENOBUFS)
		t->failures++;
	return rc ? -ENOBUFS : 0;
}

/* ---- the order of what is read ---- */

/*
 * A frame that only means "here": what Linux had put into the TAP before it is read before it.
 * IEEE 802's experimental type, told from others by the number that was given out last.
 */
struct tap_mark {
	uint8_t dst[6], src[6];
	uint8_t type[2];
	uint8_t text[8];
	uint64_t number;
	uint8_t pad[30];
} __attribute__((packed));

static const uint8_t tap_mark_type[2] = {0x88, 0xb5};
static const uint8_t tap_mark_text[8] = "tapas";

int tap_mark(struct tap *t, uint64_t number)
{
	struct tap_mark m = {.dst = {2, 0, 0, 0, 0, 1}, .src = {2, 0, 0, 0, 0, 2}, .number = number};
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = t->ifindex, .sll_halen = 6};

	memcpy(m.type, tap_mark_type, sizeof m.type);
	memcpy(m.text, tap_mark_text, sizeof m.text);
	memcpy(to.sll_addr, m.dst, sizeof m.dst);
	return sendto(t->packet, &m, sizeof m, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) < 0 ? -errno : 0;
}

bool tap_is_mark(const uint8_t *frame, uint32_t len, uint64_t *number)
{
	struct tap_mark m;

	if (len != sizeof m)
		return false;
	memcpy(&m, frame, sizeof m);
	*number = m.number;
	return !memcmp(m.type, tap_mark_type, sizeof m.type) && !memcmp(m.text, tap_mark_text, sizeof m.text);
}

uint64_t tap_write_failures(const struct tap *t)
{
	return t->failures;
}
