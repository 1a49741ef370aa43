#!/usr/bin/env bash
# Build a release from a tag, and check the wheel in an empty environment: scripts/release.sh v0.1.0
#
# The source package and the wheel are left in dist/. PYTHON chooses the interpreter. The environment takes 6 GB of the
# temporary folder (TMPDIR) while it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

fail() {
    echo "error: $*" >&2
    exit 2
}

[ $# -eq 1 ] || fail "one tag is expected, such as v0.1.0; got $# arguments"
tag=$1
version=$(sed -n 's/^version = //p' setup.cfg)
[ "$tag" = "v$version" ] || fail "the tag must be v$version, as in setup.cfg; got $tag"
grep -qx "version: $version" CITATION.cff || fail "CITATION.cff must have the line 'version: $version'"
grep -q "^## \[$version\] - " CHANGELOG.md || fail "CHANGELOG.md must have a section '## [$version] - DATE'"
[ -z "$(git status --porcelain)" ] || fail "the tree must be clean; commit or remove what 'git status' lists"
[ "$(git rev-parse --verify --quiet "$tag^{commit}")" = "$(git rev-parse HEAD)" ] ||
    fail "the tag $tag must be on the commit that is checked out; git checkout $tag"
if compgen -G "dist/acmix_nas-$version*" >/dev/null; then
    fail "dist/ holds version $version already; remove it first"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo "building"
"$PYTHON" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build
"$work/tools/bin/python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || {
    cat "$work/build.log" >&2
    exit 1
}

echo "installing the wheel in an empty environment"
"$PYTHON" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet "$work"/dist/*.whl

echo "checking it"
cd "$work" # where the sources cannot be imported
[ "$(empty/bin/acmix-nas --version)" = "$version" ] || fail "acmix-nas --version does not print $version"
[ "$(empty/bin/python -m acmix_nas --version)" = "$version" ] || fail "python -m acmix_nas --version differs"
XDG_CACHE_HOME=$work/cache empty/bin/python - "$version" <<'END'
import os
import sys
from pathlib import Path

import torch

import acmix_nas

folder = Path(acmix_nas.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
assert acmix_nas.__version__ == sys.argv[1]
for name in ("py.typed", "paper.json", "cued.json", "tiles.c", "lanes.h"):
    assert list(folder.rglob(name)), name
slots = {"layer1.0.conv2": "acmix_local", "layer2.0.conv2": "window"}
network = acmix_nas.build(
    acmix_nas.Architecture("resnet14t", slots, ("acmix_local", "window"), {"channels": [8, 8, 16, 16]}, tuple(slots))
).eval()
images = torch.randn(1, 3, 32, 32)
with torch.no_grad():
    expected, fused = network(images), acmix_nas.fuse(network, images).network(images)
torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-4)
assert list(Path(os.environ["XDG_CACHE_HOME"]).rglob("native-*.so")), "the kernels in C did not compile"
END
empty/bin/acmix-nas paper models >paper.txt
cd - >/dev/null
mkdir -p dist
cp "$work"/dist/* dist/
echo "checked: $(echo dist/acmix_nas-"$version"*)"
