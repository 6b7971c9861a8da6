#!/bin/sh
# The first process inside user-mode Linux; tests/uml/run.py starts it and says in $exchange which
# directory of the host it shares: "command" is run, its status is written to "status".
#
# The host's file system is the root, read-only, below an overlay in memory: everything may be
# written, and nothing of it reaches the host.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Whatever happens: a first process that just ends is a panic. poweroff(8) need not be installed.
halt() { python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC)'; }

if [ $$ = 1 ] && [ "${1-}" = "" ]; then
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /run
    insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
    mkdir /run/upper /run/work /run/root
    mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root
    mount --move /dev /run/root/dev
    cd /run/root
    mkdir -p lib/modules mnt proc sys run tmp
    # Not chroot(8): the kernel itself must find modprobe and the modules.
    pivot_root . mnt
    exec chroot . /bin/sh mnt/"$exchange"/init.sh inside </dev/console >/dev/console 2>&1
fi

trap halt EXIT
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/exchange /run/tmp /run/home /run/netns
mount -t hostfs -o "$exchange" none /run/exchange
echo uml >/proc/sys/kernel/hostname
ip link set lo up

rm -rf "/lib/modules/$(uname -r)"
ln -s "/usr/lib/uml/modules/$(uname -r)" "/lib/modules/$(uname -r)"
# One at a time: what this kernel lacks is told, and only the tests that need it fail.
for module in \
    ipv6 dummy veth nf_conntrack nf_conntrack_netlink nfnetlink_acct \
    ip_vs ip_vs_rr ip_vs_wrr ip_vs_lc ip_vs_wlc ip_vs_lblc ip_vs_lblcr ip_vs_sh ip_vs_dh \
    ip_vs_sed ip_vs_nq ip_vs_fo ip_vs_ovf ip_vs_mh \
    ip_set ip_set_hash_ip ip_set_hash_ipport ip_set_hash_ipportip ip_set_hash_ipportnet \
    ip_set_bitmap_port \
    iptable_filter iptable_nat iptable_mangle ip6table_filter ip6table_nat ip6table_mangle \
    xt_set xt_comment xt_mark xt_addrtype xt_conntrack xt_MASQUERADE xt_physdev xt_ipvs \
    xt_statistic xt_recent xt_nfacct xt_tcpudp xt_multiport xt_nat; do
    modprobe "$module" || true
done

# This kernel has no nftables, so iptables is what it is on a node that has only the legacy one.
for program in iptables ip6tables; do
    for suffix in "" -save -restore; do
        ln -sf "/usr/sbin/$program-legacy$suffix" "/etc/alternatives/$program$suffix"
    done
done

stty -F /dev/tty1 -opost
# A pipe, so that programs do not take the console for a terminal with colours.
{
    sh /run/exchange/command </dev/null 2>&1 && status=0 || status=$?
    echo "$status" >/run/exchange/status
} | cat >/dev/tty1
