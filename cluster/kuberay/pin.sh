#!/usr/bin/env bash
# A manifest with your registry in it, and each image by the digest that it has there now: a tag can be moved, a digest not.
#
#   cluster/kuberay/pin.sh REGISTRY cluster/kuberay/raycluster.yaml | kubectl apply -f -
#
# It asks the registry through `docker buildx`.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 2
fi

manifest=$(sed "s|REGISTRY/|${1%/}/|g" "$2")
mapfile -t images < <(grep -oE "${1%/}/[a-z-]+:[A-Za-z0-9._-]+" <<<"$manifest" | sort -ru)
for image in "${images[@]}"; do   # a tag before one that it begins with
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    if ! [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
        echo "$image: the registry gives no digest, but '$digest'" >&2
        exit 1
    fi
    manifest=${manifest//"$image"/"${image%:*}@$digest"}
done
printf '%s\n' "$manifest"
