# Ending a cluster whole, also one whose start was cut off: only what carries this cluster's socket, folder or namespace.

down() {
    local container shim
    stop kubelet kube-proxy coredns scheduler controller-manager
    if [ -S "$socket" ]; then
        for container in $(ctr -a "$socket" -n k8s.io containers ls -q 2>/dev/null); do
            ctr -a "$socket" -n k8s.io containers info "$container" | grep -oE 'cni-[0-9a-f-]+' | sort -u
        done | sort -u >"$run/netns" || true
    fi
    for shim in $(pgrep -f -- "containerd-shim.* -address $socket"); do
        # shellcheck disable=SC2046 # one word a child
        kill -9 $(ps -o pid= --ppid "$shim") "$shim" 2>/dev/null || true
    done
    stop containerd apiserver etcd
    awk -v a="$run/" -v b="${socket%/*}/" 'index($2,a)==1 || index($2,b)==1 {print $2}' /proc/mounts | sort -r |
        xargs -r umount -l || true
    [ ! -e "$run/netns" ] || xargs -r -n1 ip netns del <"$run/netns" 2>/dev/null || true
    ip netns del "$ns" 2>/dev/null || true
    rm -rf "$run/etcd" "$run/ipam" "$run/kubelet" "$run/containerd" "$run/netns" "$run"/*.log "${socket%/*}"
}
