#!/usr/bin/env bash
# Makes the Python environments of the interop tests, outside the checkout, and reuses those whose versions match.
#
#   setup.sh           t5, t4, diffusers and unsloth, for go test -tags interop ./internal/interop
#   setup.sh --bench   ort too, for internal/interop/bench
#
# NF4KIT_INTEROP_HOME is where they go (default ~/.cache/nf4kit), NF4KIT_INTEROP_PYTHON the interpreter (default python3).
set -euo pipefail

py=$(cd "$(dirname "${BASH_SOURCE[0]}")/py" && pwd)
home=${NF4KIT_INTEROP_HOME:-$HOME/.cache/nf4kit}
python=${NF4KIT_INTEROP_PYTHON:-python3}
bench=false
case ${1:-} in
'') ;;
--bench) bench=true ;;
*)
	echo "usage: setup.sh [--bench]" >&2
	exit 2
	;;
esac

# matches ENV REQUIREMENTS... : whether ENV holds those versions.
matches() {
	local env=$1
	shift
	[ -x "$home/$env/bin/python" ] && "$home/$env/bin/python" "$py/versions.py" "${@/#/$py/}"
}

# make ENV : a fresh venv in place of whatever was there.
make() {
	echo "making $home/$1" >&2
	rm -rf "${home:?}/$1"
	mkdir -p "$home"
	"$python" -m venv "$home/$1"
}

# pip ENV ARGS... : the installer of ENV, quietly and without a prompt.
pip() {
	local env=$1
	shift
	"$home/$env/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@"
}

remade=false
if ! matches t5 requirements-t5.txt requirements-nodeps.txt; then
	make t5
	pip t5 -r "$py/requirements-t5.txt"
	pip t5 --no-deps -r "$py/requirements-nodeps.txt"
	matches t5 requirements-t5.txt requirements-nodeps.txt
	remade=true
fi

# The packages of the others come first on their path, t5's after them. They go in before the .pth file: pip would
# otherwise look at t5's as its own.
for env in t4 diffusers unsloth; do
	if $remade || ! matches $env requirements-$env.txt requirements-nodeps.txt; then
		make $env
		pip $env --no-deps -r "$py/requirements-$env.txt"
		site=$("$home/$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
		"$home/t5/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/t5.pth"
		matches $env requirements-$env.txt requirements-nodeps.txt
	fi
done

# Only read by the tests, and vLLM itself is not wanted.
plugin=vllm-bnb-plugin==0.0.3
if [ ! -f "$home/vllm/vllm_bnb_plugin-${plugin##*=}-py3-none-any.whl" ]; then
	"$home/t5/bin/python" -m pip download --quiet --no-input --disable-pip-version-check --no-deps --dest "$home/vllm" "$plugin"
fi

if $bench && ! matches ort requirements-ort.txt; then
	make ort
	pip ort -r "$py/requirements-ort.txt"
fi

for env in t5 t4; do
	HF_HUB_OFFLINE=1 "$home/$env/bin/python" -c '
import bitsandbytes, peft, torch, transformers
print(f"transformers {transformers.__version__}, torch {torch.__version__}, bitsandbytes {bitsandbytes.__version__}, peft {peft.__version__}")'
done
