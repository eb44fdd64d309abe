/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kept capabilities and why:
 *   CAP_NET_ADMIN   TCP_REPAIR at each adoption, nfnetlink and sock_diag queries
 *   CAP_BPF         updates of the map of flows where unprivileged bpf(2) is off
 *   CAP_SYS_PTRACE  pidfd_getfd of an application's socket, to make Linux speak for it or to give it back
 *   CAP_NET_BIND_SERVICE  giving back a connection whose local port is below 1024
 * Connections within the host need CAP_SYS_PTRACE alone, and that only for those of other users.
 * The rest of the confinement (file system, devices, system calls) is the unit's, where systemd
 * does it before the process starts.
 */
#include "service/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "service/base/compiler.h"

int sandbox_limits(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl))
		return -errno;
	if (rl.rlim_max < 65536)
		rl.rlim_max = 65536; /* works as root; else the old limit stands */
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) && getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	rl.rlim_cur = rl.rlim_max = RLIM_INFINITY;
	setrlimit(RLIMIT_MEMLOCK, &rl); /* only kernels before 5.11 charge BPF maps to it */
	return 0;
}

int sandbox_confine(bool local_only)
{
	static const unsigned keep[] = {CAP_SYS_PTRACE, CAP_NET_ADMIN, CAP_BPF, CAP_NET_BIND_SERVICE};
	unsigned kept_caps = local_only ? 1 : ARRAY_SIZE(keep);

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	if (capng_get_caps_process())
		return -EPERM;
	for (unsigned i = 0; i <= CAP_LAST_CAP; i++) {
		bool kept = false;

		for (unsigned k = 0; k < kept_caps; k++)
			kept |= keep[k] == i;
		if (!kept)
			capng_update(CAPNG_DROP, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_INHERITABLE, i);
	}
	return capng_apply(CAPNG_SELECT_CAPS) ? -EPERM : 0;
}
