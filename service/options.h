/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tapasd's command line, with the configuration that it names or replaces. Main thread, at start. */
#ifndef SERVICE_OPTIONS_H
#define SERVICE_OPTIONS_H

#include "service/config.h"

/* Returns 0: serve as @cfg says; else exit with the value - 1, what there was to say has been said. */
int options_read(int argc, char **argv, struct config *cfg);

#endif
