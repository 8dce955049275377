#!/bin/sh
# usage: system_packages.sh PYTHON | --demo
# The demonstration uses Prometheus where it is there, and says itself what is missing where it is not.
# Some checks of the test-suite need Debian packages: promtool and Prometheus itself (prometheus), Alertmanager
# and amtool (prometheus-alertmanager), a browser (chromium), redis-server and CPython's own tests. Installs what is missing if it can, else says what to run. It never
# fails: the check that lacks its tool says so itself, by failing in CI (CI=true) and by a skip elsewhere.
set -eu
here=$(dirname "$0")
if [ "$1" = --demo ]; then
    if ! command -v prometheus >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "installing Debian's prometheus, which evaluates the demo's alerts"
        "$here/apt_install.sh" prometheus >/dev/null 2>&1 || echo "make: prometheus could not be installed" >&2
    fi
    exit 0
fi
python=$1
minor=$("$python" -c 'import sys; print("3.%d" % sys.version_info[1])')

has_cpython_tests() {
    [ -e "/usr/lib/python$minor/test/test_concurrent_futures.py" ] ||
        [ -d "/usr/lib/python$minor/test/test_concurrent_futures" ] ||
        "$python" -c 'import test.test_concurrent_futures' 2>/dev/null
}

command -v promtool >/dev/null || "$here/apt_install.sh" prometheus ||
    echo "make: no prometheus: the checks of metrics page and dashboards will not run" >&2
command -v prometheus-alertmanager >/dev/null || "$here/apt_install.sh" prometheus-alertmanager ||
    echo "make: no prometheus-alertmanager: the checks of alerts and their routes will not run" >&2
command -v chromium >/dev/null || "$here/apt_install.sh" chromium ||
    echo "make: no chromium: the drawing of a dashboard will not be checked" >&2
command -v redis-server >/dev/null || "$here/apt_install.sh" redis-server ||
    echo "make: no redis-server: the checks of a breaker whose state is in Redis will not run" >&2
has_cpython_tests || "$here/apt_install.sh" "libpython$minor-testsuite" ||
    echo "make: no libpython$minor-testsuite: CPython's own executor tests will not run" >&2
