/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose packet is it? One map, `flows`, answers: in the map: tapas's; not in it: Linux's.
 *
 *   xdp_shared     NIC, shared mode: segments of flows in the map, and ICMP errors about
 *                  them, go to the AF_XDP socket of their queue (dropped if there is none);
 *                  everything else is Linux's.
 *   xdp_exclusive  NIC, exclusive mode: every frame goes to the AF_XDP socket.
 *   tc_egress_nic  NIC, shared mode: what Linux sends for a flow in the map goes to the TAP.
 *   tc_egress_tap  TAP, exclusive mode: the same word is set; the frame is on the TAP already.
 *   tc_ingress_tap TAP, shared mode: what the service writes arrives on the NIC.
 *
 * tc egress also counts in the flow's word (see service/ipc/abi.h): FIN or RST in the high
 * half, segments with payload in the low half. It runs within close(2) of the kernel
 * socket, so the word is set before close() returns.
 *
 * `words` is frozen after load: applications get its descriptor, and neither they nor the
 * service can write to it but through these programs (word_clear is the service's).
 *
 * Entries of `flows` are made by the service only, never from the wire.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "service/nic/bpf_abi.h"

#define IP_FRAGMENT 0x3fff /* MF and the fragment offset */

/* ICMP errors; <linux/icmp.h> would bring libc's headers in */
#define ICMP_DEST_UNREACH 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PARAMPROB 4 /* 2 packet too big, 3 time exceeded */

#define WORD_FIN (1ull << 32)
#define WORD_PAYLOAD 1ull

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* set at load */
	__type(key, struct flow_key);
	__type(value, struct bpf_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set at load */
	__type(key, __u32);
	__type(value, __u64);
} words SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, NIC_XSK_MAX);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Is xdp_shared on the NIC? Then there may be flows in the map. Written by the service. */
__u32 xdp_attached;

const volatile __u32 tap_ifindex;
const volatile __u32 nic_ifindex;

/* The first bytes of TCP, which is all that an ICMP error is sure to quote. */
struct ports {
	__be16 source, dest;
};

struct icmp_error {
	__u8 type, code;
	__be16 checksum;
	__be32 rest;
};

static __always_inline void addr_v4(struct ip_addr *a, __be32 be)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = be;
}

static __always_inline void addr_v6(struct ip_addr *a, const struct in6_addr *v6)
{
	a->w[0] = v6->in6_u.u6_addr32[0];
	a->w[1] = v6->in6_u.u6_addr32[1];
	a->w[2] = v6->in6_u.u6_addr32[2];
	a->w[3] = v6->in6_u.u6_addr32[3];
}

/* ---- XDP ---- */

static __always_inline int redirect_if_flow(struct xdp_md *ctx, const struct flow_key *key)
{
	if (!bpf_map_lookup_elem(&flows, key))
		return XDP_PASS;
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
}

/* The quoted packet was sent by us: its source is the key's local end. */
static __always_inline int icmp_v4(struct xdp_md *ctx, void *icmp, void *end)
{
	struct icmp_error *h = icmp;
	struct iphdr *quoted = (void *)(h + 1);
	struct ports *ports = (void *)(quoted + 1);
	struct flow_key key;

	if ((void *)(ports + 1) > end)
		return XDP_PASS;
	if (h->type != ICMP_DEST_UNREACH && h->type != ICMP_TIME_EXCEEDED && h->type != ICMP_PARAMETERPROB)
		return XDP_PASS;
	if (quoted->version != 4 || quoted->ihl != 5 || quoted->protocol != IPPROTO_TCP ||
	    (quoted->frag_off & bpf_htons(0x1fff)))
		return XDP_PASS;
	addr_v4(&key.local, quoted->saddr);
	addr_v4(&key.remote, quoted->daddr);
	key.local_port = ports->source;
	key.remote_port = ports->dest;
	return redirect_if_flow(ctx, &key);
}

static __always_inline int icmp_v6(struct xdp_md *ctx, void *icmp, void *end)
{
	struct icmp_error *h = icmp;
	struct ipv6hdr *quoted = (void *)(h + 1);
	struct ports *ports = (void *)(quoted + 1);
	struct flow_key key;

	if ((void *)(ports + 1) > end)
		return XDP_PASS;
	if (h->type < ICMPV6_DEST_UNREACH || h->type > ICMPV6_PARAMPROB || quoted->nexthdr != IPPROTO_TCP)
		return XDP_PASS;
	addr_v6(&key.local, &quoted->saddr);
	addr_v6(&key.remote, &quoted->daddr);
	key.local_port = ports->source;
	key.remote_port = ports->dest;
	return redirect_if_flow(ctx, &key);
}

static __always_inline int steer_v4(struct xdp_md *ctx, struct iphdr *ip, void *end)
{
	struct tcphdr *tcp = (void *)(ip + 1);
	struct flow_key key;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || (ip->frag_off & bpf_htons(IP_FRAGMENT)))
		return XDP_PASS;
	if (ip->protocol == IPPROTO_ICMP)
		return icmp_v4(ctx, tcp, end);
	if (ip->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end)
		return XDP_PASS;
	addr_v4(&key.local, ip->daddr);
	addr_v4(&key.remote, ip->saddr);
	key.local_port = tcp->dest;
	key.remote_port = tcp->source;
	return redirect_if_flow(ctx, &key);
}

static __always_inline int steer_v6(struct xdp_md *ctx, struct ipv6hdr *ip, void *end)
{
	struct tcphdr *tcp = (void *)(ip + 1);
	struct flow_key key;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return XDP_PASS;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return icmp_v6(ctx, tcp, end);
	if (ip->nexthdr != IPPROTO_TCP || (void *)(tcp + 1) > end)
		return XDP_PASS;
	addr_v6(&key.local, &ip->daddr);
	addr_v6(&key.remote, &ip->saddr);
	key.local_port = tcp->dest;
	key.remote_port = tcp->source;
	return redirect_if_flow(ctx, &key);
}

SEC("xdp")
int xdp_shared(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return steer_v4(ctx, (void *)(eth + 1), end);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return steer_v6(ctx, (void *)(eth + 1), end);
	return XDP_PASS;
}

SEC("xdp")
int xdp_exclusive(struct xdp_md *ctx)
{
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
}

/* ---- tc ---- */

/*
 * Key of an outgoing TCP segment (local = source), and where TCP begins; 0: not such a
 * segment. Bytes are copied out, because a locally sent skb may hold little in its linear
 * part. IP options are accepted here: nothing of an adopted flow may leak past.
 */
static __always_inline __u32 egress_key(struct __sk_buff *skb, struct flow_key *key)
{
	struct ipv6hdr ip6;
	struct iphdr ip;
	__u8 ext[2];
	__u32 at = ETH_HLEN + sizeof ip6;

	if (skb->vlan_present)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof ip) || ip.version != 4 ||
		    ip.protocol != IPPROTO_TCP || (ip.frag_off & bpf_htons(0x1fff)))
			return 0;
		addr_v4(&key->local, ip.saddr);
		addr_v4(&key->remote, ip.daddr);
		return ETH_HLEN + ip.ihl * 4;
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip6, sizeof ip6) ||
	    ip6.version != 6)
		return 0;
	addr_v6(&key->local, &ip6.saddr);
	addr_v6(&key->remote, &ip6.daddr);
	if (ip6.nexthdr == IPPROTO_HOPOPTS) { /* big TCP's jumbo option */
		if (bpf_skb_load_bytes(skb, at, ext, sizeof ext))
			return 0;
		ip6.nexthdr = ext[0];
		at += 8 + ext[1] * 8;
	}
	return ip6.nexthdr == IPPROTO_TCP ? at : 0;
}

/* Is this segment of a flow in the map? Then its word is set. */
static __always_inline int egress_is_flow(struct __sk_buff *skb)
{
	struct bpf_flow *flow;
	struct flow_key key;
	struct tcphdr tcp;
	__u64 *word, add = 0;
	__u32 at, id;

	at = egress_key(skb, &key);
	if (!at || bpf_skb_load_bytes(skb, at, &tcp, sizeof tcp))
		return 0;
	key.local_port = tcp.source;
	key.remote_port = tcp.dest;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return 0;
	if (tcp.fin || tcp.rst)
		add += WORD_FIN;
	if (skb->len > at + tcp.doff * 4)
		add += WORD_PAYLOAD;
	id = flow->flow_id;
	word = add ? bpf_map_lookup_elem(&words, &id) : NULL;
	if (word)
		__sync_fetch_and_add(word, add);
	return 1;
}

SEC("tc")
int tc_egress_nic(struct __sk_buff *skb)
{
	if (!xdp_attached)
		return TC_ACT_UNSPEC;
	return egress_is_flow(skb) ? bpf_redirect(tap_ifindex, 0) : TC_ACT_UNSPEC;
}

SEC("tc")
int tc_egress_tap(struct __sk_buff *skb)
{
	egress_is_flow(skb);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tc_ingress_tap(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_redirect(nic_ifindex, BPF_F_INGRESS);
}

/* ---- the service's own use ---- */

/* Run by the service: the map is frozen, so that programs are the only writers. */
SEC("syscall")
int word_clear(struct bpf_word_clear *args)
{
	__u32 id = args->flow_id;
	__u64 *word = bpf_map_lookup_elem(&words, &id);

	if (word)
		*word = 0;
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
