#!/usr/bin/env bash
# oauth2-proxy.sh ADDRESS: oauth2-proxy for the trial of waypoint/src/ext_authz/tests/real.rs, with one user (bob, password bob) and a
# login page that nobody visits. Needs Go, or oauth2-proxy in the PATH.
set -euo pipefail
address=${1:?ADDRESS to listen on}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if ! command -v oauth2-proxy >/dev/null; then
    GOBIN=$folder go install github.com/oauth2-proxy/oauth2-proxy/v7@latest
    PATH=$folder:$PATH
fi
printf 'bob:{SHA}%s\n' "$(printf bob | openssl dgst -sha1 -binary | base64)" >"$folder/users"
oauth2-proxy --http-address="$address" --upstream=static://200 --email-domain='*' --htpasswd-file="$folder/users" --set-xauthrequest --reverse-proxy \
    --provider=oidc --oidc-issuer-url=http://login.example --skip-oidc-discovery --oidc-jwks-url=http://login.example/keys --skip-provider-button \
    --login-url=http://login.example/authorize --redeem-url=http://login.example/token --redirect-url=http://shop.example/oauth2/callback \
    --client-id=trial --client-secret=trial --cookie-secret=0123456789abcdef0123456789abcdef --cookie-secure=false
