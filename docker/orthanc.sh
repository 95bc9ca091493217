#!/bin/sh
# Starts Orthanc in its container: the password comes from a secret file, never from the compose file.
set -eu
AINODE_ORTHANC_PASSWORD=$(cat /run/secrets/orthanc_password)
export AINODE_ORTHANC_PASSWORD
exec /usr/sbin/Orthanc /etc/orthanc/orthanc-container.json
