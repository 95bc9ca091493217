#!/bin/sh
# The node's root file system without a container engine: debootstrap instead of the base image, chroot instead of RUN,
# and the same steps in the same order as the target `cpu` of the Dockerfile.
#
#   sudo sh docker/rootfs.sh FOLDER        FOLDER must not exist or be empty; it needs about 3 GB
#
# MODELS names another folder of model packages than models/, PIP_FIND_LINKS a folder of wheels to look in first,
# DEBIAN_MIRROR the mirror that debootstrap uses.
set -eu

fail() { echo "rootfs.sh: $1" >&2; exit "${2:-1}"; }

[ $# -eq 1 ] || fail "usage: sh docker/rootfs.sh FOLDER" 2
[ "$(id -u)" -eq 0 ] || fail "debootstrap and chroot need root" 5
command -v debootstrap >/dev/null || fail "missing: debootstrap (apt-get install debootstrap)" 5
source=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
[ -z "$(ls -A "$root")" ] || fail "$root is not empty" 2

mounted=""
unmount() {
  for place in $mounted; do umount "$place" || umount -l "$place"; done
  mounted=""
}
trap unmount EXIT
trap 'exit 1' INT TERM

put() {  # put FOLDER FILE...: what COPY does
  mkdir -p "$root$1"
  into=$1
  shift
  for item in "$@"; do cp -R "$item" "$root$into/"; done
}

run() {  # run STEP [NAME=VALUE...]: what RUN does
  step=$1
  shift
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@" sh "/steps/$step"
}

debootstrap --variant=minbase bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$root.log" 2>&1 || {
  tail -n 20 "$root.log" >&2
  fail "debootstrap did not come to its end"
}
rm -f "$root.log"
# names, certificates, package indices and proxies of this machine, for the time of building
for file in /etc/resolv.conf /etc/hosts; do [ ! -e "$file" ] || cp -L "$file" "$root$file"; done
passed=""
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY UV_DEFAULT_INDEX UV_INDEX_URL PIP_INDEX_URL; do
  eval "value=\${$name:-}"
  [ -z "$value" ] || passed="$passed $name=$value"
done
if [ -n "${SSL_CERT_FILE:-}" ]; then  # behind a proxy that signs for itself
  mkdir -p "$root/certificates"
  cp -L "$SSL_CERT_FILE" "$root/certificates/ca.pem"
  passed="$passed SSL_CERT_FILE=/certificates/ca.pem PIP_CERT=/certificates/ca.pem"
fi
mount -t proc proc "$root/proc"
mounted="$root/proc"

put /steps "$source"/docker/steps/10-packages
run 10-packages $passed

put /src "$source"/pyproject.toml "$source"/constraints.txt "$source"/README.md "$source"/LICENSE
for package in dicom_node ai_engine fhir_bridge portal; do put /src "$source/$package"; done
put /steps "$source"/docker/steps/20-python
links=""
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  mkdir -p "$root/wheels"
  mount --bind "$PIP_FIND_LINKS" "$root/wheels"
  mounted="$root/wheels $mounted"
  links=PIP_FIND_LINKS=/wheels
fi
run 20-python TORCH=cpu $links $passed
unmount
# the image takes only /opt/ai-node from the building stage; here what built it is taken away instead
rm -rf "$root/src" "$root/wheels" "$root/certificates"
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
  apt-get purge -y -qq --autoremove python3-venv python3-pip >/dev/null
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/archives/*.deb

put /etc/ai-node "$source"/config/*
put /opt/models
for package in "${MODELS:-$source/models}"/*; do [ ! -e "$package" ] || put /opt/models "$package"; done
put /steps "$source"/docker/steps/30-user "$source"/docker/node.yaml
run 30-user
rm -f "$root/etc/resolv.conf"
echo "$root"
