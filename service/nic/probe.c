/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an interface is, read without touching it. Main thread, at start.
 */
#include <dirent.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/nic/nic.h"

/* Queues in use according to the driver; 0: it doesn't say. */
static uint32_t queues_ethtool(int fd, struct ifreq *ifr)
{
	struct ethtool_channels ch = {.cmd = ETHTOOL_GCHANNELS};

	ifr->ifr_data = (char *)&ch;
	if (ioctl(fd, SIOCETHTOOL, ifr))
		return 0;
	return ch.rx_count + ch.combined_count;
}

static void driver_name(int fd, struct ifreq *ifr, struct nic_info *out)
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};

	ifr->ifr_data = (char *)&info;
	if (!ioctl(fd, SIOCETHTOOL, ifr))
		memccpy(out->driver, info.driver, 0, sizeof out->driver - 1);
}

static uint32_t queues_sysfs(const char *ifname)
{
	char path[64 + IFNAMSIZ];
	struct dirent *e;
	uint32_t n = 0;
	DIR *d;

	snprintf(path, sizeof path, "/sys/class/net/%s/queues", ifname);
	d = opendir(path);
	if (!d)
		return 0;
	while ((e = readdir(d)))
		n += !strncmp(e->d_name, "rx-", 3);
	closedir(d);
	return n;
}

static int probe_ioctls(int fd, struct ifreq *ifr, struct nic_info *out)
{
	if (ioctl(fd, SIOCGIFINDEX, ifr))
		return -errno;
	out->ifindex = ifr->ifr_ifindex;
	if (ioctl(fd, SIOCGIFFLAGS, ifr))
		return -errno;
	out->up = ifr->ifr_flags & IFF_UP;
	if (ifr->ifr_flags & IFF_LOOPBACK)
		return -EAFNOSUPPORT;
	if (ioctl(fd, SIOCGIFHWADDR, ifr))
		return -errno;
	if (ifr->ifr_hwaddr.sa_family != ARPHRD_ETHER)
		return -EAFNOSUPPORT;
	memcpy(out->mac, ifr->ifr_hwaddr.sa_data, sizeof out->mac);
	if (ioctl(fd, SIOCGIFMTU, ifr))
		return -errno;
	out->mtu = (uint32_t)ifr->ifr_mtu;
	driver_name(fd, ifr, out);
	out->queues = queues_ethtool(fd, ifr);
	return 0;
}

int nic_probe(const char *ifname, struct nic_info *out)
{
	struct ifreq ifr = {0};
	int fd, rc;

	memset(out, 0, sizeof *out);
	if (!*ifname || strlen(ifname) >= IFNAMSIZ)
		return -ENODEV;
	strcpy(ifr.ifr_name, ifname);
	strcpy(out->name, ifname);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	rc = probe_ioctls(fd, &ifr, out);
	close(fd);
	if (!rc && !out->queues)
		out->queues = queues_sysfs(ifname);
	if (!rc && !out->queues)
		rc = -EOPNOTSUPP;
	return rc;
}
