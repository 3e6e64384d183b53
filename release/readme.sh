#!/usr/bin/env bash
# Types the README's commands, as they are printed, into a fresh clone where there is Go, git and what every system has, and
# neither a C compiler nor Python: release/readme.sh. TestREADME compares what they print.
set -euo pipefail
top=$(git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/home"
for program in go git bash sh env cat cp ls mkdir mv rm; do
	ln -s "$(command -v "$program")" "$work/bin/$program"
done

# The command lines: of the indented block that installs, and those of console blocks but for the tests, which CI runs anyway.
{
	sed -n '/^    git clone /,/^$/s/^    //p' "$top/README.md"
	sed -n 's/^\$ //p' "$top/README.md" | grep -vx 'go test \./\.\.\.'
} >"$work/commands"
if [ "$(wc -l <"$work/commands")" -lt 8 ]; then
	echo 'README.md has lost its commands' && cat "$work/commands" && exit 1
fi
cat >"$work/type" <<'EOF'
for absent in gcc cc clang python python3; do
	if command -v $absent >/dev/null; then
		echo "$absent is there" && exit 1
	fi
done
set -ex
. ../commands
./nf4kit version
EOF

# The caches of modules and builds are the machine's; the clone is of this repository in place of the public one.
mkdir "$work/here"
cd "$work/here"
env -i PATH="$work/bin" HOME="$work/home" TERM=dumb GOFLAGS= GOPROXY="$(go env GOPROXY)" GOSUMDB="$(go env GOSUMDB)" \
	GOMODCACHE="$(go env GOMODCACHE)" GOCACHE="$(go env GOCACHE)" \
	GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.$top.insteadOf" GIT_CONFIG_VALUE_0=https://github.com/nf4kit/nf4kit \
	bash "$work/type"
echo "the README's $(wc -l <"$work/commands") commands run with Go alone"
