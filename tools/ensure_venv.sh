#!/bin/sh
# usage: ensure_venv.sh PYTHON DIR
# Leaves a working virtual environment of PYTHON in DIR. DIR/.python changes only when the environment is
# made anew: make rebuilds from it. Asks the interpreter for its own path, since python3 may be a pyenv shim.
set -eu
python=$1 dir=$2

describe='import sys; print(sys.implementation.name, sys.version.split()[0], getattr(sys, "_base_executable", sys.executable))'
found=$("$python" -c "$describe") || { echo "make: no working $python; install python3 (3.11 or newer)" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "make: $python is $found; prodpool needs 3.11 or newer (make PYTHON=python3.12 ...)" >&2; exit 1; }

if [ -f "$dir/.python" ] && [ "$(cat "$dir/.python")" = "$found" ] && "$dir/bin/python" -c 'import pip' 2>/dev/null; then
    exit 0
fi

if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    "$(dirname "$0")/apt_install.sh" python3-venv ||
        { echo "make: $python has no venv; run: apt-get install python3-venv" >&2; exit 1; }
fi
rm -rf "$dir"
"$python" -m venv "$dir"
echo "$found" >"$dir/.python"
