#!/usr/bin/env bash
# Run a short list of tests with the oldest and with the newest Python, torch, torchvision and timm: scripts/versions.sh
#
# Oldest are the lowest versions that setup.cfg allows, newest those that pip finds. `scripts/versions.sh newest` runs one of
# the two. Interpreters are looked for on the PATH and among pyenv's; what is not there is not tried. Each run takes 6 GB of
# the temporary folder (TMPDIR) while it lasts.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
TESTS=(
    tests/operators/test_kernels.py
    tests/search_spaces/test_hybridize.py
    tests/test_architecture.py
    tests/deploy/test_export.py
    tests/training/test_retrain.py
)

interpreters() { # one for each version of Python that is there, oldest first
    local minor candidate
    for minor in $(seq "$(sed -n 's/^python_requires = >=3\.//p' setup.cfg)" 30); do
        for candidate in "python3.$minor" "$HOME/.pyenv/versions/3.$minor".*/bin/python; do
            if "$candidate" -c "" 2>/dev/null; then
                echo "$candidate"
                break
            fi
        done
    done
}

try() { # try oldest|newest PYTHON
    local work status=0
    work=$(mktemp -d)
    touch "$work/constraints.txt"
    if [ "$1" = oldest ]; then
        sed -nE 's/^    (torch|torchvision|timm) >= ([0-9.]+)$/\1 == \2/p' setup.cfg >"$work/constraints.txt"
    fi
    {
        "$2" -m venv "$work/venv" &&
            "$work/venv/bin/pip" install --quiet --constraint "$work/constraints.txt" --editable ".[test]" &&
            echo "$1: $("$work/venv/bin/python" --version)" &&
            "$work/venv/bin/pip" freeze | grep -E "^(torch|torchvision|timm|nni)==" &&
            "$work/venv/bin/python" -m pytest -q -p no:cacheprovider "${TESTS[@]}"
    } || status=$?
    rm -rf "$work"
    return $status
}

mapfile -t found < <(interpreters)
[ ${#found[@]} -gt 0 ] || { echo "error: no Python that setup.cfg allows is there" >&2; exit 2; }
[ $# -gt 0 ] || set -- oldest newest
failed=()
for which; do
    case $which in
        oldest) python=${found[0]} ;;
        newest) python=${found[-1]} ;;
        *) echo "error: oldest or newest is expected; got $which" >&2; exit 2 ;;
    esac
    try "$which" "$python" || failed+=("$which")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
