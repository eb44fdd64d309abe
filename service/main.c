/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tapasd: reads its configuration, opens the parts lowest first, gives up what it no longer
 * needs, and serves until a signal. Every failure at start is one line that says what is
 * wrong and what to do, and leaves nothing behind: programs, links, TAP and sockets are held
 * by descriptors and go with the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "service/admin.h"
#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/base/log.h"
#include "service/config.h"
#include "service/fast/fast.h"
#include "service/ipc/abi.h"
#include "service/loop/loop.h"
#include "service/nic/nic.h"
#include "service/options.h"
#include "service/runtime.h"
#include "service/sandbox.h"
#include "service/slow/slow.h"
#include "shadow/shadow.h"

#define LOOP_REQUESTS 4096
#define STOP_LIMIT_NS (10 * NS_PER_S) /* for giving all connections back */
#define STOP_LOOK_NS (2 * NS_PER_MS)
#define STOP_GRACE_NS (100 * NS_PER_MS) /* for the last segments of a stopping service */
#define STUCK_NS (5 * NS_PER_S)

struct service {
	struct config config;
	struct loop *loop;
	struct tap *tap;
	struct nic *nic;
	struct fast *fast;
	struct watch *watch;
	struct slow *slow;
	struct ipc_page *page;
	int page_fd;
	struct admin admin;
	bool has_runtime; /* runtime_open() has succeeded */
	bool stopping;
	uint64_t stop_ns;
	int stop_timer;
	char why[256];
};

/* The page that applications may read: sealed against their writing, mapped writable here only. */
static int main_page(struct service *sv)
{
	char path[64];
	int fd = memfd_create("tapas-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint64_t instance;

	if (fd < 0 || ftruncate(fd, sizeof *sv->page))
		return -errno;
	sv->page = mmap(NULL, sizeof *sv->page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (sv->page == MAP_FAILED) {
		sv->page = NULL;
		return -errno;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL))
		return -errno;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	sv->page_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (sv->page_fd < 0)
		return -errno;
	close(fd);
	if (getrandom(&instance, sizeof instance, 0) != sizeof instance)
		return -errno;
	atomic_store_explicit(&sv->page->instance, instance, memory_order_relaxed);
	return 0;
}

static int main_open_tap(struct service *sv, const struct nic_info *info)
{
	const char *addresses[CONFIG_ADDRESSES + 1] = {NULL};
	struct tap_config cfg = {
		.name = sv->config.tap,
		.mtu = info->mtu,
		.exclusive = sv->config.exclusive,
		.nic_ifindex = info->ifindex,
		.addresses = addresses,
		.gateway = sv->config.gateway[0] ? sv->config.gateway : NULL,
	};

	for (unsigned i = 0; i < sv->config.addresses; i++)
		addresses[i] = sv->config.address[i];
	memcpy(cfg.mac, info->mac, sizeof cfg.mac);
	return tap_open(&cfg, sv->loop, slow_from_tap, sv->slow, &sv->tap, sv->why, sizeof sv->why);
}

static int main_open_nic(struct service *sv, int tap_ifindex)
{
	struct nic_config cfg = {
		.ifname = sv->config.interface,
		.mode = sv->config.exclusive ? NIC_EXCLUSIVE : NIC_SHARED,
		.attach = (enum nic_attach)sv->config.attach,
		.tap_ifindex = tap_ifindex,
		.max_flows = sv->config.max_flows,
		.frames = sv->config.frames,
		.allow_generic = sv->config.exclusive,
	};

	return nic_open(&cfg, &sv->nic, sv->why, sizeof sv->why);
}

static int main_open_fast(struct service *sv)
{
	struct fast_config cfg = {
		.max_flows = sv->config.max_flows,
		.spin_us = sv->config.spin_us,
		.min_rto_ms = sv->config.min_rto_ms,
		.delack_ms = sv->config.delack_ms,
		.max_retries = sv->config.max_retries,
	};
	int rc = hash_key_random(&cfg.hash);

	if (!rc)
		rc = fast_open(&cfg, sv->nic, sv->page, &sv->fast);
	if (rc)
		snprintf(sv->why, sizeof sv->why, "cannot set up the fast path for %u flows: %s", cfg.max_flows,
			 strerror(-rc));
	return rc;
}

static int main_open_loop(struct service *sv)
{
	int rc = loop_open(LOOP_REQUESTS, &sv->loop);

	if (rc == -ENOMEM)
		snprintf(sv->why, sizeof sv->why,
			 "io_uring: no memory: raise the limit of locked memory (ulimit -l 1024)");
	else if (rc == -EPERM)
		snprintf(sv->why, sizeof sv->why,
			 "io_uring is not permitted here: set kernel.io_uring_disabled=0 (sysctl), or be in its group");
	else if (rc)
		snprintf(sv->why, sizeof sv->why,
			 "io_uring: %s: Linux 5.19 or later with kernel.io_uring_disabled=0 is needed", strerror(-rc));
	if (rc)
		return rc;
	rc = main_page(sv);
	if (rc)
		snprintf(sv->why, sizeof sv->why, "shared memory: %s", strerror(-rc));
	return rc;
}

/* The TAP must exist before the NIC's programs, which redirect to it. */
static int main_open_wire(struct service *sv)
{
	struct nic_info info;
	int rc = nic_probe(sv->config.interface, &info);

	if (rc) {
		snprintf(sv->why, sizeof sv->why,
			 "interface \"%s\": %s: set interface= in tapas.conf, or -i (see ip link)",
			 sv->config.interface, strerror(-rc));
		return rc;
	}
	rc = main_open_tap(sv, &info);
	return rc ? rc : main_open_nic(sv, tap_ifindex(sv->tap));
}

static int main_open_no_wire(struct service *sv)
{
	int rc = runtime_open(&sv->config, sv->why, sizeof sv->why);

	if (rc)
		return rc;
	sv->has_runtime = true;
	rc = nic_open_none(&sv->nic);
	if (rc)
		snprintf(sv->why, sizeof sv->why, "no memory");
	return rc;
}

static int main_open_watch(struct service *sv)
{
	int rc = sv->config.local_only ? watch_open_local(sv->loop, slow_from_watch, sv->slow, &sv->watch)
				       : watch_open(sv->loop, slow_from_watch, sv->slow, &sv->watch);

	if (rc)
		snprintf(sv->why, sizeof sv->why, "netlink notifications: %s", strerror(-rc));
	else
		slow_set_watch(sv->slow, sv->watch);
	return rc;
}

static int main_start_tap(struct service *sv)
{
	int rc;

	tap_set_receiver(sv->tap, slow_from_tap, sv->slow);
	rc = tap_start(sv->tap);
	if (rc)
		snprintf(sv->why, sizeof sv->why, "reading the TAP: %s", strerror(-rc));
	return rc;
}

/*
 * The fast threads need the NIC's ports, the slow path needs the fast path, and the TAP's frames go to the slow
 * path: so the TAP is opened first and read last, with the slow path set in between. With local_only there is no TAP,
 * and a NIC that never has a frame.
 */
static int main_open(struct service *sv)
{
	struct slow_env env;
	int rc = main_open_loop(sv);

	if (!rc)
		rc = sv->config.local_only ? main_open_no_wire(sv) : main_open_wire(sv);
	if (!rc)
		rc = main_open_fast(sv);
	if (rc)
		return rc;
	env = (struct slow_env){&sv->config, sv->loop, sv->nic, sv->fast, sv->page, sv->page_fd};
	rc = slow_open(&env, admin_report, &sv->admin, &sv->slow, sv->why, sizeof sv->why);
	if (rc)
		return rc;
	sv->admin = (struct admin){&sv->config, sv->nic, sv->fast, sv->slow, clock_now_ns()};
	slow_set_tap(sv->slow, sv->tap);
	rc = main_open_watch(sv);
	return rc || !sv->tap ? rc : main_start_tap(sv);
}

/* Exclusive mode, orderly stop: the TAP goes, and Linux keeps its addresses, on the interface itself. */
static void main_hand_addresses_back(struct service *sv)
{
	int ifindex = nic_get_info(sv->nic)->ifindex, rc = 0;

	for (unsigned i = 0; i < sv->config.addresses && !rc; i++)
		rc = address_add(ifindex, sv->config.address[i]);
	if (!rc && sv->config.gateway[0])
		rc = address_default_route(ifindex, sv->config.gateway);
	if (rc)
		log_warn("could not put the addresses back on %s: %s", sv->config.interface, strerror(-rc));
}

static void main_close(struct service *sv)
{
	if (sv->stopping && sv->config.exclusive)
		main_hand_addresses_back(sv);
	if (sv->fast)
		fast_stop(sv->fast);
	slow_close(sv->slow);
	if (sv->has_runtime)
		runtime_close(&sv->config);
	if (sv->watch)
		watch_close(sv->watch);
	if (sv->fast)
		fast_close(sv->fast);
	if (sv->nic)
		nic_close(sv->nic);
	if (sv->tap)
		tap_close(sv->tap);
	if (sv->loop)
		loop_close(sv->loop);
	if (sv->page)
		munmap(sv->page, sizeof *sv->page);
	if (sv->page_fd >= 0)
		close(sv->page_fd);
}

static void main_stop_now(void *ctx, uint64_t now_ns)
{
	struct service *sv = ctx;

	(void)now_ns;
	loop_stop(sv->loop);
}

/* Until every connection is Linux's, or time is up. */
static void main_stopping(void *ctx, uint64_t now_ns)
{
	struct service *sv = ctx;
	uint32_t lost = 0;

	if (slow_stopping(sv->slow) && now_ns - sv->stop_ns < STOP_LIMIT_NS)
		return;
	loop_timer_cancel(sv->loop, sv->stop_timer);
	lost = slow_abandon(sv->slow);
	if (lost)
		log_warn("%u connections could not be given back to Linux and were reset", lost);
	if (slow_longest_pause_ns(sv->slow))
		log_info("connections given back to Linux: the longest stood still for %u us",
			 (unsigned)(slow_longest_pause_ns(sv->slow) / NS_PER_US));
	if (loop_timer(sv->loop, STOP_GRACE_NS, 0, main_stop_now, sv) < 0)
		loop_stop(sv->loop);
}

static void main_signal(void *ctx, int signo)
{
	struct service *sv = ctx;

	(void)signo;
	if (sv->stopping) {
		loop_stop(sv->loop);
		return;
	}
	sv->stopping = true;
	sd_notify(0, "STOPPING=1");
	sv->stop_ns = clock_now_ns();
	slow_stop(sv->slow);
	sv->stop_timer = loop_timer(sv->loop, STOP_LOOK_NS, STOP_LOOK_NS, main_stopping, sv);
	if (sv->stop_timer < 0)
		loop_stop(sv->loop);
}

/* The watchdog is fed by the loop's own turning, and only while every fast thread turns or sleeps. */
static void main_watchdog(void *ctx, uint64_t now_ns)
{
	struct service *sv = ctx;

	for (uint32_t t = 0; t < fast_threads(sv->fast); t++)
		if (!fast_is_asleep(sv->fast, t) && now_ns - fast_last_turn_ns(sv->fast, t) > STUCK_NS &&
		    now_ns > fast_last_turn_ns(sv->fast, t))
			return;
	sd_notify(0, "WATCHDOG=1");
}

static void main_announce(const struct service *sv)
{
	if (!sv->config.local_only) {
		log_info("%s: %s mode, %s XDP, %u queue%s; control socket %s", sv->config.interface,
			 sv->config.exclusive ? "exclusive" : "shared",
			 nic_get_info(sv->nic)->native ? "native" : "generic", fast_threads(sv->fast),
			 fast_threads(sv->fast) == 1 ? "" : "s", sv->config.socket);
		return;
	}
	log_info("connections within this host only; control socket %s", sv->config.socket);
	if (!watch_sees_rules(sv->watch))
		log_info("without privilege changes of firewall rules are not seen: they do not stop a connection that "
			 "is FAST (tapas release --all does)");
}

static int main_serve(struct service *sv, const sigset_t *signals)
{
	uint64_t watchdog_us = 0;
	int rc = loop_signals(sv->loop, signals, main_signal, sv);

	if (rc < 0)
		return rc;
	rc = sandbox_confine(sv->config.local_only);
	if (rc)
		log_warn("could not give up capabilities: %s", strerror(-rc));
	rc = closer_open(); /* after the capabilities were given up: threads have their own */
	if (!rc)
		rc = fast_start(sv->fast);
	if (rc) {
		log_err("cannot start the threads: %s", strerror(-rc));
		return rc;
	}
	if (sd_watchdog_enabled(0, &watchdog_us) > 0)
		loop_timer(sv->loop, 0, watchdog_us * NS_PER_US / 3, main_watchdog, sv);
	main_announce(sv);
	sd_notify(0, "READY=1");
	return loop_run(sv->loop);
}

int main(int argc, char **argv)
{
	static struct service sv = {.page_fd = -1};
	sigset_t signals;
	int rc = options_read(argc, argv, &sv.config);

	if (rc)
		return rc - 1;
	log_open("tapasd", (enum log_level)sv.config.log_level);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	if (sv.config.local_only) /* the terminal that it was started from is closed */
		sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	sandbox_limits();
	rc = main_open(&sv);
	if (rc)
		log_err("%s", sv.why[0] ? sv.why : strerror(-rc));
	else
		rc = main_serve(&sv, &signals);
	main_close(&sv);
	return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}
