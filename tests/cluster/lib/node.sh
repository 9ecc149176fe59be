# The one node: containerd, kubelet, kube-proxy, scheduler and DNS. Runs in the run folder, inside the cluster's network.

node_network() { # the node's own bridge: pods, kubelet and API server share it; nothing listens outside it
    ip link set lo up
    ip link add cni0 type bridge
    ip addr replace "$node_ip/24" dev cni0
    ip link set cni0 up
    ip route replace "$service_range" dev cni0 # as by a node's default route: kube-proxy then turns it to a pod
    sysctl -qw net.ipv4.ip_forward=1 || true
}

node() {
    container_runtime
    cat >kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
containerRuntimeEndpoint: unix://$socket
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $run/pki/ca.crt}}
authorization: {mode: Webhook}
resolvConf: ""
clusterDNS: [$node_ip]
clusterDomain: cluster.local
address: $node_ip
healthzPort: 0
# Images are loaded once and cannot be pulled again, so none is ever collected, however full the disk is.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
Y
    cat >Corefile <<Y
.:53 {
    bind $node_ip
    errors
    kubernetes cluster.local {
        kubeconfig $run/kubeconfig
    }
}
Y
    cat >proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $run/kubeconfig}
clusterCIDR: 10.244.0.0/24
conntrack: {maxPerCore: 0}
hostnameOverride: node-1
bindAddress: $node_ip
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
Y
    start coredns "$bin/coredns" -conf Corefile
    start scheduler "$bin/kube-scheduler" --kubeconfig=kubeconfig --leader-elect=false --bind-address=127.0.0.1
    start kubelet "$bin/kubelet" --config=kubelet.yaml --kubeconfig=kubeconfig --hostname-override=node-1 \
        --node-ip="$node_ip" --root-dir="$run/kubelet" --cert-dir="$run/kubelet-pki"
    start kube-proxy "$bin/kube-proxy" --config=proxy.yaml
    wait_for 60 node kubectl wait --for=condition=Ready node/node-1 --timeout=1s
}

container_runtime() {
    cat >cni/10-culvert.conflist <<Y
{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"$run/ipam","ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
Y
    cat >containerd.toml <<Y
version = 2
root = "$run/containerd"
state = "${socket%/*}"
[grpc]
  address = "$socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$run/cni"
Y
    start containerd containerd -c containerd.toml
    wait_for 20 containerd ctr -a "$socket" version
    [ -e pause.tar ] || pause_image
    load pause.tar
}

pause_image() { # what holds a pod's network namespace: a process that sleeps until it is told to stop
    mkdir -p pause
    cat >pause/pause.c <<'C'
#include <signal.h>
#include <unistd.h>
static void quit(int s) { (void)s; _exit(0); }
int main(void) { signal(SIGTERM, quit); signal(SIGINT, quit); for (;;) pause(); }
C
    gcc -static -O2 -o pause/pause pause/pause.c
    printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' >pause/Dockerfile
    buildah bud --isolation chroot -q -t localhost/pause:1 pause >/dev/null
    buildah push -q localhost/pause:1 "docker-archive:$run/pause.tar:localhost/pause:1"
}

load() { ctr -a "$socket" -n k8s.io images import "$1"; } # ARCHIVE
