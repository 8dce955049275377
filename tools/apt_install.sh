#!/bin/sh
# usage: apt_install.sh PACKAGE...
# Installs Debian packages when that is possible here; says so and fails when it is not.
set -eu
command -v apt-get >/dev/null || { echo "not a Debian system: cannot install $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "not root: run  apt-get install $*" >&2; exit 1; }

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends "$@" </dev/null; }
# The lists may be missing or old (then update), or there may be no network while the package is at hand.
install "$@" && exit 0
apt-get update -q </dev/null || echo "apt-get update failed; trying with the lists there are" >&2
install "$@"
