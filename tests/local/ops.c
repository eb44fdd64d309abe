// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ops SEED COUNT [OPTION=VALUE ...]
 *
 * Random socket operations on connections of this host, or between two network namespaces of it
 * (far-a=, far-b=), and a transcript of them: one line per
 * operation with its result, errno, events and the hash of its bytes. Each of the COUNT seeds
 * from SEED on is one script. A seed gives the same script, and on Linux the same transcript,
 * always; so what differs where the library is loaded, is the library's (compare_ops.py).
 *
 * A and B are processes of their own, the client and the server of all connections; beside them
 * are the child of either (a, b), a helper that descriptors are passed to (H), and another one
 * that never has the library (O). In one script of six A has both ends of all connections. This
 * process, the director, has no TCP socket. It gives one order after another (ops_actor.c carries
 * them out) and lets arrive what is on its way before it gives an order that would see it
 * (ops_model.c), so that the outcome does not depend on time.
 *
 *   steps=N            operations of a script
 *   mode=two|single    A and B for all seeds, or one process
 *   to=IP, from=IP     the server's address and the client's, instead of 127.0.0.1
 *   pause=MS           after the first exchanges of each connection
 *   far-a=NETNS        A and its children live in that network namespace (of /run/netns), and
 *   far-b=NETNS        without the library: it carries the other side's ends. Or B, respectively
 *
 * The environment's OPS_SERVICE is a shell command, run in the middle of scripts at places that
 * the seed gives. Its output, if any, belongs elsewhere than to the standard output.
 */
#include "tests/local/ops_script.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static unsigned int steps = 60;
static const char *mode = "";

static void on_term(int sig)
{
	for (int who = 0; who < WHO_MAX; who++)
		if (proc_alive(who))
			kill(script.procs[who].pid, SIGKILL);
	_exit(128 + sig);
}

static void run(uint64_t seed)
{
	memset(&script, 0, sizeof script);
	script.rnd = mix64(seed);
	script.keys = seed << 20;
	script.stopped = -1;
	script.single = far_who < 0 && (!strcmp(mode, "single") || (!mode[0] && seed % 6 == 5));
	printf("seed %lu%s\n", seed, script.single ? ", one process" : "");
	play(steps);
	printf("end of seed %lu\n", seed);
	fflush(stdout);
}

static bool option(const char *text)
{
	const char *value = strchr(text, '=');
	size_t n;

	if (!value++)
		return false;
	n = (size_t)(value - text);
	if (!strncmp(text, "steps=", n))
		steps = (unsigned int)atoi(value);
	else if (!strncmp(text, "mode=", n))
		mode = value;
	else if (!strncmp(text, "to=", n))
		net_to = value;
	else if (!strncmp(text, "from=", n))
		net_from = value;
	else if (!strncmp(text, "pause=", n))
		taken_pause_ms = atoi(value);
	else if (!strncmp(text, "far-a=", n) || !strncmp(text, "far-b=", n))
		return proc_far(text[4] == 'a' ? WHO_A : WHO_B, value);
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	uint64_t seed, count;

	if (argc >= 5 && !strcmp(argv[1], "actor")) {
		net_to = argv[4];
		net_from = argv[5];
		return actor_main(atoi(argv[2]), argv[3]);
	}
	if (argc < 3) {
		fprintf(stderr, "usage: ops SEED COUNT [OPTION=VALUE ...]\n");
		return 2;
	}
	for (int i = 3; i < argc; i++)
		if (!option(argv[i])) {
			fprintf(stderr, "ops: unknown option: %s\n", argv[i]);
			return 2;
		}
	seed = strtoull(argv[1], NULL, 0);
	count = strtoull(argv[2], NULL, 0);
	service_command = getenv("OPS_SERVICE");
	signal(SIGTERM, on_term);
	signal(SIGINT, on_term);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* of the children of A and B that outlive them */
	for (uint64_t i = 0; i < count; i++)
		run(seed + i);
	return 0;
}
