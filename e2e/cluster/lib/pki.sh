# Certificates of the cluster's own parts, and the files by which they reach the API server.

# certificate FILE CN O [names]. The extensions make it X.509 version 3; of version 1 some clients want nothing.
certificate() {
    local names="${4:-}"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$pki/$1.key" -subj "/O=$3/CN=$2" 2>/dev/null |
        openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -days 365 -out "$pki/$1.crt" -extfile <(
            printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
                extendedKeyUsage=clientAuth,serverAuth ${names:+"subjectAltName=$names"}) 2>/dev/null
}

pki_up() {
    local node names
    mkdir -p "$pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$pki/ca.key" -out "$pki/ca.crt" -days 365 \
        -subj "/CN=$name" 2>/dev/null
    openssl genrsa -out "$pki/tokens.key" 2048 2>/dev/null
    openssl rsa -in "$pki/tokens.key" -pubout -out "$pki/tokens.pub" 2>/dev/null
    names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    certificate apiserver kube-apiserver kubernetes "IP:$control_address,IP:$api_service_address,IP:127.0.0.1,$names"
    certificate admin admin system:masters
    certificate apiserver-kubelet-client kube-apiserver-kubelet-client system:masters
    certificate controller-manager system:kube-controller-manager kubernetes
    certificate scheduler system:kube-scheduler kubernetes
    certificate kube-proxy system:kube-proxy kubernetes
    for node in "${nodes[@]}"; do
        certificate "$node" "system:node:$node" system:nodes "DNS:$node,IP:$(node_address "$node")"
    done
    for file in admin controller-manager scheduler kube-proxy "${nodes[@]}"; do config_of "$file"; done
    cp "$pki/admin.conf" "$admin_config"
}

config_of() {
    cat >"$pki/$1.conf" <<YAML
apiVersion: v1
kind: Config
current-context: $name
clusters: [{name: $name, cluster: {server: "$api_url", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: $name, context: {cluster: $name, user: $1}}]
YAML
    chmod 600 "$pki/$1.conf"
}
