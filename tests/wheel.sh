#!/bin/sh
# Installs a wheel as a user does, into an empty environment in an empty folder, and uses it. Usage: wheel.sh FILE.whl
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for wheel in "$@"; do :; done # the newest by name, where several lie there
wheel=$(cd "$(dirname "$wheel")" && pwd)/$(basename "$wheel")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
cd "$folder"
"${PYTHON:-python3}" -m venv venv
bin=$folder/venv/bin
"$bin/pip" install --quiet --constraint "$root/constraints.txt" torch
"$bin/pip" install --quiet --constraint "$root/constraints.txt" "$wheel"
"$bin/roi-fusion" --help
"$bin/roi-fusion" phantoms --output phantoms --num_cases 1 --shape 96,96,16 --spacing_mm 2.4,2.4,9
"$bin/roi-fusion" predict --mri phantoms/phantom_0000/mri.nii.gz --ct phantoms/phantom_0000/ct.nii.gz --output results
test -s results/phantom_0000/result.json
test -s results/report.html
"$bin/python" -c 'import roi_fusion
found = roi_fusion.predict("phantoms/phantom_0000/mri.nii.gz", "phantoms/phantom_0000/ct.nii.gz", num_samples=1)
print(found.lesion_ml, found.lesion_ml_interval)'
"$bin/roi-fusion" demo --output demo
test -s demo/results/report.html
