# What a node is made of, run as its first process: in namespaces of its own, with the machine's files as a base that it
# cannot change. Stopping it is killing this process: the kernel takes everything else with it.
#
#   NODE    name of the node              DIR     its folder on the machine's disk
#   SHARED  the cluster's folder          BIN     folder of programs
#   ADDRESS, GATEWAY, PREFIX              of eth0, which appears once this runs
#   POD_CIDR, PEERS ("<CIDR> via <address>;...")
set -eu

mount --make-rprivate /
hostname "$NODE"

# The root: the machine's own file system under a layer that is gone with the node.
root=$DIR/root
mount -t tmpfs tmpfs "$DIR/layer"
mkdir "$DIR/layer/upper" "$DIR/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/layer/upper,workdir=$DIR/layer/work" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
# Overlays cannot lie on an overlay: images, volumes and logs are on the disk.
for place in containerd:/var/lib/containerd kubelet:/var/lib/kubelet logs:/var/log/pods; do
    mkdir -p "$DIR/${place%%:*}" "$root${place#*:}"
    mount --bind "$DIR/${place%%:*}" "$root${place#*:}"
done
mkdir -p "$root$SHARED" "$root$BIN"
mount --bind "$SHARED" "$root$SHARED"
mount --bind "$BIN" "$root$BIN"

# Its cgroups: what /proc/self/cgroup has as / is the node's own.
cgroups=/sys/fs/cgroup
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$root$cgroups"
else
    mount -t tmpfs tmpfs "$root$cgroups"
    while IFS=: read -r _ controllers _; do
        case $controllers in
        "") mkdir "$root$cgroups/unified" && mount -t cgroup2 cgroup2 "$root$cgroups/unified" ;;
        name=*) mkdir "$root$cgroups/${controllers#name=}" && mount -t cgroup -o "none,$controllers" cgroup "$root$cgroups/${controllers#name=}" ;;
        *) mkdir "$root$cgroups/$controllers" && mount -t cgroup -o "$controllers" cgroup "$root$cgroups/$controllers" ;;
        esac
    done </proc/self/cgroup
fi
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tracefs tracefs "$root/sys/kernel/tracing" 2>/dev/null || true

cd "$root"
mkdir -p old
pivot_root . old
cd /
umount -l /old
mount --make-rshared /

# What kubelet would set for the whole machine it finds set as it wants it.
mkdir -p /run/node
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/node/$(echo "${setting%%=*}" | tr / .)
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done

tries=0
until ip link show eth0 >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 500 ] || exit 1
    sleep 0.02
done
ip link set lo up
ip address add "$ADDRESS/$PREFIX" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
echo "$PEERS" | tr ';' '\n' | while read -r route; do
    # One word for each part.
    # shellcheck disable=SC2086
    [ -z "$route" ] || ip route add $route
done
echo 1 >/proc/sys/net/ipv4/ip_forward

mkdir -p /etc/cni/net.d /etc/kubernetes
rm -f /etc/cni/net.d/*
cat >/etc/cni/net.d/10-bridge.conflist <<EOF
{"cniVersion": "1.0.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
EOF
echo "nameserver $GATEWAY" >/etc/kubernetes/resolv.conf

PATH=$BIN:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
"$BIN/containerd" --config "$DIR/containerd.toml" >"$DIR/containerd.log" 2>&1 &
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
# As a service manager does: it is started again when it ends.
while :; do
    "$BIN/kubelet" --config "$DIR/kubelet.yaml" --kubeconfig "$DIR/kubelet.kubeconfig" --node-ip "$ADDRESS" \
        --hostname-override "$NODE" >>"$DIR/kubelet.log" 2>&1 &
    echo $! >/run/node/kubelet.pid
    wait $! || true
    sleep 1
done &
"$BIN/kube-proxy" --config "$DIR/kube-proxy.yaml" >"$DIR/kube-proxy.log" 2>&1 &
# The first process inherits orphans; the shell reaps them while it waits.
while :; do wait || true; sleep 1; done
