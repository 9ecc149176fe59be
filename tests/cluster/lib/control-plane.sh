# etcd, kube-apiserver and kube-controller-manager, with certificates and a kubeconfig. Runs in the run folder.

control_plane() { # ADDRESS: where the API server listens
    local address=$1
    certificates
    cat >kubeconfig <<Y
apiVersion: v1
kind: Config
clusters: [{name: culvert-test, cluster: {server: "https://$address:16443", certificate-authority: $run/pki/ca.crt}}]
users: [{name: admin, user: {token: $(cat pki/token)}}]
contexts: [{name: culvert-test, context: {cluster: culvert-test, user: admin}}]
current-context: culvert-test
Y
    start etcd etcd --data-dir "$run/etcd" --initial-cluster default=http://127.0.0.1:12380 \
        --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
        --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380
    start apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 \
        --secure-port=16443 --bind-address="$address" --advertise-address="$address" \
        --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key \
        --service-cluster-ip-range="$service_range" --allow-privileged \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.key \
        --service-account-signing-key-file=pki/sa.key --token-auth-file=pki/tokens.csv --authorization-mode=RBAC,Node \
        --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate=pki/kubelet-client.crt \
        --kubelet-client-key=pki/kubelet-client.key
    wait_for 60 kube-apiserver kubectl get --raw /readyz
    start controller-manager "$bin/kube-controller-manager" --kubeconfig=kubeconfig --leader-elect=false \
        --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt --use-service-account-credentials \
        --bind-address=127.0.0.1
    wait_for 30 "default service account" kubectl get serviceaccount default
}

certificates() { # kept from one run to the next
    [ -e pki/sa.key ] || openssl genrsa -out pki/sa.key 2048 2>/dev/null
    [ -e pki/token ] || (umask 077 && openssl rand -hex 16 >pki/token)
    echo "$(cat pki/token),admin,admin,\"system:masters\"" >pki/tokens.csv
    [ -e pki/ca.crt ] || openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=culvert-test-ca \
        -keyout pki/ca.key -out pki/ca.crt 2>/dev/null
    local names="IP:127.0.0.1,IP:$node_ip,IP:10.96.0.1,DNS:kubernetes.default.svc,DNS:localhost"
    [ -e pki/api.crt ] || signed api /CN=kube-apiserver "subjectAltName=$names"
    # What the API server shows the kubelet, for logs, exec and port-forward.
    [ -e pki/kubelet-client.crt ] ||
        signed kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client extendedKeyUsage=clientAuth
}

signed() { # NAME SUBJECT EXTENSION: makes pki/NAME.key and pki/NAME.crt
    openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "pki/$1.key" -out "pki/$1.csr" 2>/dev/null
    openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 3650 \
        -out "pki/$1.crt" -extfile <(echo "$3") 2>/dev/null
}
