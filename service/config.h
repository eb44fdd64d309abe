/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Configuration: defaults, /etc/tapas/tapas.conf (INI), command line. Main thread, at start. */
#ifndef SERVICE_CONFIG_H
#define SERVICE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_PATH "/etc/tapas/tapas.conf"
#define CONFIG_PORTS 64
#define CONFIG_ADDRESSES 8

/* Connections both ends of which are here: Linux's, or copied by the service from one program's memory to the other's. */
enum config_local { CONFIG_LOCAL_OFF, CONFIG_LOCAL_SERVICE, CONFIG_LOCAL_DIRECT };

/* A section [port 6379]: policy of one local port. */
struct config_port {
	uint16_t port;
	bool accelerate;
	uint32_t adopt_exchanges; /* adopt at the first I/O after this many exchanges */
	uint64_t adopt_bytes;     /* or after this many bytes */
};

struct config {
	/* [service] */
	bool local_only; /* connections within the host alone: no interface */
	char interface[16];
	bool exclusive; /* mode = shared | exclusive */
	char socket[108];
	int local;      /* enum config_local: connections within the host */
	char group[32]; /* group that may use the service; empty: root only */
	uint32_t max_flows;
	uint32_t max_apps;
	uint64_t app_memory;           /* bytes of buffers per application (sparse) */
	uint32_t rx_buffer, tx_buffer; /* bytes per connection, powers of two */
	int log_level;
	/* [exclusive] */
	char tap[16];
	char address[CONFIG_ADDRESSES][64];
	unsigned addresses;
	char gateway[64];
	/* [adopt] */
	bool accelerate;
	uint32_t adopt_exchanges;
	uint64_t adopt_bytes;
	uint32_t adopt_timeout_ms; /* for the first heartbeat */
	struct config_port port[CONFIG_PORTS];
	unsigned ports;
	/* [shadow] */
	uint32_t heartbeat_ms; /* period per flow */
	uint32_t verdict_ms;   /* silence for so long after a change silences the flow */
	/* [tcp] */
	char congestion[16]; /* "linux": as the socket's; else a name */
	uint32_t min_rto_ms, delack_ms, max_retries;
	uint64_t dctcp_init_rate, dctcp_step, dctcp_min_rate; /* bytes per second */
	/* [nic] */
	int attach;         /* enum nic_attach */
	uint32_t detach_ms; /* without flows for so long, XDP is detached */
	/* [fast] */
	uint32_t spin_us;
	uint32_t frames;
	/* [test]: for the project's own tests */
	uint32_t fail_adopt_every; /* every Nth adoption fails ... */
	uint32_t fail_adopt_step;  /* ... at this step; 0: at each step in turn */
};

void config_default(struct config *c);
/* Read @path. Errors go to stderr as "FILE:LINE: [section] key: what is wrong; what to do". Returns 0 or -EINVAL, -ENOENT... */
int config_read(struct config *c, const char *path);
/* Check what only makes sense together. One line to stderr. Returns 0 or -EINVAL. */
int config_check(const struct config *c);
void config_print(const struct config *c, FILE *f);

#endif
