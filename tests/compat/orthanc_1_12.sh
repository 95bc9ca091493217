#!/bin/sh
# Runs tests/component/test_listen_orthanc.py against Orthanc 1.12 (Debian 13, trixie) in a chroot.
#
#   tests/compat/orthanc_1_12.sh [FOLDER]
#
# Needs root, debootstrap and about 450 MB in FOLDER (default: build/trixie in the repository); about a minute the first
# time.  DEBIAN_MIRROR names a mirror; without it debootstrap takes its own default.  Nothing is mounted.
set -eu
cd "$(dirname "$0")/../.."
root=$(realpath -m "${1:-build/trixie}")

[ "$(id -u)" = 0 ] || { echo "needs root: chroot" >&2; exit 5; }
command -v debootstrap >/dev/null || { echo "needs debootstrap: apt-get install debootstrap" >&2; exit 5; }
if [ ! -x "$root/usr/sbin/Orthanc" ]; then
    mkdir -p "$root"
    debootstrap --variant=minbase --include=orthanc,orthanc-dicomweb trixie "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
fi

# Paths are the same inside and outside: the tests' folders lie below the chroot, which finds itself under its own name
# through a link to its root; the forwarding script is copied to where it lies outside.
mkdir -p "$root$(dirname "$root")" "$root$PWD/orthanc"
[ -e "$root$root" ] || ln -s / "$root$root"
cp orthanc/forward.lua "$root$PWD/orthanc/"
work=$(mktemp -d "$root/tmp/ainode-XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

mkdir "$work/bin"
cat >"$work/bin/Orthanc" <<WRAPPER
#!/bin/sh
exec chroot "$root" /usr/sbin/Orthanc "\$@"
WRAPPER
chmod 755 "$work/bin/Orthanc"
chroot "$root" /usr/sbin/Orthanc --version | head -n 1
PATH="$work/bin:$PATH" .venv/bin/python -m pytest -q tests/component/test_listen_orthanc.py --basetemp="$work/tests"
