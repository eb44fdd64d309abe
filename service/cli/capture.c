/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `tapas capture`: frames of FAST flows, which tcpdump on the NIC no longer sees, as pcapng
 * (draft-ietf-opsawg-pcapng). The service sends every frame; the filter, in tcpdump's
 * language, is compiled by libpcap and applied here.
 */
#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/base/version.h"
#include "service/cli/cli.h"
#include "service/ipc/abi.h"
#include "service/ipc/msg.h"

#define SNAPLEN 65535

static _Atomic sig_atomic_t capture_stop;

static void capture_signal(int signo)
{
	(void)signo;
	capture_stop = 1;
}

/* A block: type, length, body, length again; everything padded to 4 bytes. */
static int block_write(FILE *f, uint32_t type, const void *head, uint32_t head_len, const void *data, uint32_t data_len,
		       const void *options, uint32_t options_len)
{
	static const uint8_t zero[4];
	uint32_t pad = -data_len & 3, total = 12 + head_len + data_len + pad + options_len;

	fwrite(&type, 4, 1, f);
	fwrite(&total, 4, 1, f);
	fwrite(head, head_len, 1, f);
	if (data_len)
		fwrite(data, data_len, 1, f);
	fwrite(zero, 1, pad, f);
	if (options_len)
		fwrite(options, options_len, 1, f);
	fwrite(&total, 4, 1, f);
	return ferror(f) ? -1 : 0;
}

static int capture_header(FILE *f)
{
	static const char program[] = "tapas " TAPAS_VERSION;
	struct {
		uint32_t magic;
		uint16_t major, minor;
		int64_t length;
	} shb = {0x1a2b3c4d, 1, 0, -1};
	struct {
		uint16_t link, reserved;
		uint32_t snaplen;
	} idb = {1, 0, SNAPLEN};
	struct {
		uint16_t code, len;
		uint8_t resolution, pad[3];
		uint16_t end, end_len;
	} options = {9, 1, 9, {0}, 0, 0}; /* if_tsresol: 10^-9 */
	struct {
		uint16_t code, len;
		char text[(sizeof program + 2) & ~3u];
		uint16_t end, end_len;
	} user = {.code = 4, .len = sizeof program - 1}; /* shb_userappl */

	memcpy(user.text, program, sizeof program - 1);
	if (block_write(f, 0x0a0d0d0a, &shb, sizeof shb, NULL, 0, &user, sizeof user))
		return -1;
	return block_write(f, 1, &idb, sizeof idb, NULL, 0, &options, sizeof options);
}

static int capture_packet(FILE *f, const struct ipc_capture *h, const uint8_t *frame)
{
	struct {
		uint32_t interface, ts_high, ts_low, len, wire_len;
	} epb = {0, (uint32_t)(h->time_ns >> 32), (uint32_t)h->time_ns, h->len, h->wire_len};
	struct {
		uint16_t code, len;
		uint32_t flags;
		uint16_t end, end_len;
	} options = {2, 4, h->outgoing ? 2 : 1, 0, 0}; /* epb_flags: direction */

	return block_write(f, 6, &epb, sizeof epb, frame, h->len, &options, sizeof options);
}

static int capture_start(void)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = IPC_MSG_CAPTURE};
	int sock = cli_connect(), size = 8 << 20, fds[IPC_MSG_FDS], nfds = 0, rc;

	if (sock < 0)
		return -1;
	setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	rc = ipc_msg_send(sock, &m, NULL, 0);
	if (!rc)
		rc = ipc_msg_recv(sock, &m, fds, &nfds, 0);
	if (rc > 0 && ipc_msg_check(&m, (size_t)rc, nfds, false) == 0 && m.type == IPC_MSG_CAPTURE)
		return sock;
	if (rc > 0 && m.type == IPC_MSG_REFUSED)
		cli_error("%.*s", (int)sizeof m.text, m.text);
	else
		cli_error("the service does not capture: %s", rc < 0 ? strerror(-rc) : "connection closed");
	close(sock);
	return -1;
}

static int capture_loop(int sock, FILE *f, struct bpf_program *filter, long count)
{
	static uint8_t buf[sizeof(struct ipc_capture) + SNAPLEN];
	const struct ipc_capture *h = (const struct ipc_capture *)buf;

	while (!capture_stop && count) {
		ssize_t n = recv(sock, buf, sizeof buf, 0);
		struct pcap_pkthdr ph = {.caplen = h->len, .len = h->wire_len};

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			cli_error("the service has stopped");
			return CLI_FAILED;
		}
		if ((size_t)n < sizeof *h || (size_t)n != sizeof *h + h->len)
			continue;
		if (filter && !pcap_offline_filter(filter, &ph, buf + sizeof *h))
			continue;
		if (capture_packet(f, h, buf + sizeof *h) || fflush(f))
			return errno == EPIPE ? CLI_OK : CLI_FAILED;
		if (count > 0)
			count--;
	}
	return CLI_OK;
}

/* The filter's words, joined by blanks. */
static int capture_filter(int argc, char **argv, struct bpf_program *out)
{
	pcap_t *p = pcap_open_dead(DLT_EN10MB, SNAPLEN);
	char words[1024] = "";
	int rc;

	for (int i = 0; i < argc; i++) {
		size_t used = strlen(words);

		snprintf(words + used, sizeof words - used, "%s%s", i ? " " : "", argv[i]);
	}
	rc = pcap_compile(p, out, words, 1, PCAP_NETMASK_UNKNOWN);
	if (rc)
		cli_error("filter \"%s\": %s (see pcap-filter(7))", words, pcap_geterr(p));
	pcap_close(p);
	return rc;
}

int cli_capture(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = capture_signal};
	struct bpf_program filter;
	const char *file = NULL;
	bool filtered;
	long count = -1;
	FILE *f = stdout;
	int o, sock, rc;

	optind = 1;
	while ((o = getopt(argc, argv, "+w:c:")) != -1) {
		if (o == 'w')
			file = optarg;
		else if (o == 'c')
			count = strtol(optarg, NULL, 10);
		else
			return CLI_USAGE;
	}
	filtered = optind < argc;
	if (filtered && capture_filter(argc - optind, argv + optind, &filter))
		return CLI_USAGE;
	if (!file && isatty(STDOUT_FILENO)) {
		cli_error("pcapng is binary: give -w FILE, or pipe it, as in: tapas capture | tcpdump -r -");
		return CLI_USAGE;
	}
	sock = capture_start();
	if (sock < 0)
		return CLI_FAILED;
	if (file && strcmp(file, "-") && !(f = fopen(file, "wbe"))) {
		cli_error("%s: %s", file, strerror(errno));
		return CLI_FAILED;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	rc = capture_header(f) || fflush(f) ? CLI_FAILED : capture_loop(sock, f, filtered ? &filter : NULL, count);
	if (f != stdout && fclose(f))
		rc = CLI_FAILED;
	close(sock);
	return rc;
}
