#!/bin/sh
# Makes a virtual environment with $PYTHON; on Debian or Ubuntu installs what venv lacks there.
# Usage: PYTHON=python3 make_venv.sh FOLDER
set -eu
folder=$1

if [ -z "${PYTHON:-}" ] || ! command -v "$PYTHON" >/dev/null 2>&1; then
    echo "error: no Python 3.10 or newer: install python3, or run make PYTHON=/path/to/python3" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: $("$PYTHON" --version) is too old: Python 3.10 or newer is needed;" \
        "run make PYTHON=/path/to/python3" >&2
    exit 1
fi

if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    # Debian's own python3 comes without ensurepip; other versions have a package of their own.
    package=python3-venv
    if [ "$PYTHON" != python3 ] && [ "$PYTHON" != /usr/bin/python3 ]; then
        package=$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    fi
    as_root=
    if [ "$(id -u)" != 0 ]; then
        as_root='sudo -n'
        [ -t 0 ] && as_root=sudo
    fi
    echo "installing $package with apt-get (Python has no ensurepip)"
    if ! { $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        $as_root apt-get install -y -qq --no-install-recommends "$package"; } </dev/null >/dev/null 2>&1
    then
        echo "error: $PYTHON cannot make a virtual environment: ensurepip is missing;" \
            "run: sudo apt-get install $package" >&2
        exit 1
    fi
fi

# An unfinished environment must not look like a finished one later.
rm -rf "$folder"
trap 'rm -rf "$folder"; exit 1' INT TERM HUP
"$PYTHON" -m venv "$folder" || {
    rm -rf "$folder"
    echo "error: $PYTHON -m venv $folder failed; run make PYTHON=/path/to/python3" >&2
    exit 1
}
