#!/bin/sh
# Proves two bundles, of a diffusion model and of a classifier, where neither torch nor galaxysd is: draws 16 galaxies, has them classified,
# and checks every unit. The Dockerfile beside this runs it, and so does the test suite, in an environment of its own.
#
#     sh prove.sh BUNDLE CLASSIFIER OUT        PYTHON=... for another python, THREADS=... for a number of threads
set -eu
python=${PYTHON:-python3}
threads=${THREADS:-0}
for absent in torch galaxysd; do
    if "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$absent') is None)"; then
        echo "prove: $absent can be imported here, so this would prove nothing" >&2
        exit 1
    fi
done
"$python" "$1/run_bundle.py" "$1" --n 16 --seed 0 --threads "$threads" --out "$3/galaxies"
"$python" "$2/run_bundle.py" "$2" --images "$3/galaxies" --threads "$threads" --out "$3/votes"
for made in galaxies/00000015.png galaxies/grid.png galaxies/galaxies-00000000.npz votes/votes.csv votes/votes-00000000.npz; do
    test -s "$3/$made"
done
test "$(wc -l < "$3/votes/votes.csv")" -eq 17
# Last: nothing was left in the bundles, they still are what their records say.
"$python" "$1/run_bundle.py" "$1" --check --threads "$threads"
"$python" "$2/run_bundle.py" "$2" --check --threads "$threads"
echo "proved: 16 galaxies drawn and classified without torch and galaxysd"
