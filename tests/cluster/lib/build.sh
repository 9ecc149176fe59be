# What the cluster is made of: Debian's packages, and Go programs at the versions that go.mod and go.sum pin.

kubernetes=(kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)
helm_version=v4.3.0

build() { # installs and builds what is missing, so that it may be run again at any time
    mkdir -p "$bin"
    install_packages
    local version
    version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print $3}' "$here/go.mod")
    if [ ! -e "$bin/.$version" ]; then
        # Helm and kubectl ask the server for its version, which an unstamped build would not know.
        local stamp=k8s.io/component-base/version
        (cd "$here" && CGO_ENABLED=0 go build -trimpath -o "$bin/" -ldflags "-s -w -X $stamp.gitVersion=$version \
            -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")" \
            "${kubernetes[@]/#/k8s.io/kubernetes/cmd/}")
        touch "$bin/.$version"
    fi
    [ -x "$bin/coredns" ] ||
        (cd "$here/coredns" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/" github.com/coredns/coredns)
    [ -x "$bin/helm" ] ||
        GOBIN=$bin CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "helm.sh/helm/v4/cmd/helm@$helm_version"
}

install_packages() {
    local -A package=([etcd]=etcd-server [containerd]=containerd [runc]=runc [buildah]=buildah [iptables]=iptables
        [conntrack]=conntrack [ip]=iproute2 [go]=golang-go [gcc]=gcc [openssl]=openssl [nsenter]=util-linux)
    local program missing=()
    for program in "${!package[@]}"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${package[$program]}")
    done
    [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
    [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
    ((${#missing[@]})) || return 0
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
