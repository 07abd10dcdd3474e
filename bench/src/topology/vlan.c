// A switch of one access port and one trunk port: loaded by tc on what enters either of them. Compiled with
// -DVID=<VLAN id> -DACCESS=<interface index> -DTRUNK=<interface index>.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

static long (*vlan_push)(struct __sk_buff *, __u16 proto, __u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*vlan_pop)(struct __sk_buff *) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*redirect)(__u32 interface, __u64 flags) = (void *)BPF_FUNC_redirect;

// What enters at the access port leaves at the trunk with the tag, whose priority (PCP) is 5.
SEC("tc") int access(struct __sk_buff *skb)
{
    return vlan_push(skb, __builtin_bswap16(0x8100), 5 << 13 | VID) ? TC_ACT_SHOT : redirect(TRUNK, 0);
}

// What enters at the trunk must have the tag, and leaves at the access port without it.
SEC("classifier") int trunk(struct __sk_buff *skb)
{
    if (!skb->vlan_present || (skb->vlan_tci & 0xfff) != VID)
        return TC_ACT_SHOT;
    return vlan_pop(skb) ? TC_ACT_SHOT : redirect(ACCESS, 0);
}

SEC("license") char _license[] = "Dual BSD/GPL";
