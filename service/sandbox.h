/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the service gives up once it is set up. Main thread, before the fast threads start.
 *   sandbox_limits    at start: descriptors and locked memory as the configuration needs them
 *   sandbox_confine   after every device, socket and program is open: capabilities down to
 *                     those that run-time work needs, no new privileges
 */
#ifndef SERVICE_SANDBOX_H
#define SERVICE_SANDBOX_H

#include <stdbool.h>

int sandbox_limits(void);
/* @local_only: connections within the host alone. 0 or -errno. */
int sandbox_confine(bool local_only);

#endif
