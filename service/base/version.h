/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef SERVICE_BASE_VERSION_H
#define SERVICE_BASE_VERSION_H

#define TAPAS_VERSION "0.1.0"

#endif
