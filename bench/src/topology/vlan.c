// One end of a tagged link, for hosts of the topology: loaded by tc, compiled with -DVID=<VLAN id>.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

static long (*vlan_push)(struct __sk_buff *, __u16 proto, __u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*vlan_pop)(struct __sk_buff *) = (void *)BPF_FUNC_skb_vlan_pop;

// What leaves gets the tag.
SEC("tc") int leave(struct __sk_buff *skb)
{
    return vlan_push(skb, __builtin_bswap16(0x8100), VID) ? TC_ACT_SHOT : TC_ACT_OK;
}

// What enters must have it, and loses it.
SEC("classifier") int enter(struct __sk_buff *skb)
{
    if (!skb->vlan_present || (skb->vlan_tci & 0xfff) != VID)
        return TC_ACT_SHOT;
    return vlan_pop(skb) ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("license") char _license[] = "Dual BSD/GPL";
