#!/usr/bin/env bash
# Makes the files of a release for linux/amd64 from two clones in two folders, and uses them as people would: release/check.sh
set -euo pipefail
top=$(git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOFLAGS= PATH=$PATH:/usr/sbin:/sbin # dpkg wants ldconfig

missing=()
for program in minisign man; do command -v "$program" >/dev/null || missing+=("${program/%man/man-db}"); done
if [ ${#missing[@]} -gt 0 ]; then
	apt-get update -q
	apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

minisign -G -W -f -p "$work/key.pub" -s "$work/key" >/dev/null
export MINISIGN_KEY=$work/key
for name in a some/other/folder; do
	umask $([ $name = a ] && echo 022 || echo 077)
	git clone -q "$top" "$work/$name"
	(cd "$work/$name" && go run -C release . -out "$PWD/dist" -only linux/amd64)
done
umask 022
cd "$work/a/dist"
diff checksums.txt "$work/some/other/folder/dist/checksums.txt"
echo 'two folders, the same bytes'

# What docs/release.md tells people to type, and that it fails where it has to.
minisign -Vm checksums.txt -p "$work/key.pub"
sha256sum -c --quiet checksums.txt
cp checksums.txt changed.txt && echo >>changed.txt
if minisign -Vqm changed.txt -x checksums.txt.minisig -p "$work/key.pub"; then
	echo 'a changed file has a good signature' && exit 1
fi

tar xzf nf4kit_*_linux_amd64.tar.gz -C "$work" nf4kit
go version -m "$work/nf4kit" | grep "vcs.revision=$(git -C "$top" rev-parse HEAD)"
"$work/nf4kit" version | grep "^commit  *$(git -C "$top" rev-parse --short=12 HEAD)\$"

# inside ROOT PROGRAM ARGS...: runs a program of a root that has nothing else: it is static, or it would not start. @ in ARGS is
# the root's /tmp. Where chroot is not allowed, as in some containers, the program runs outside.
inside() {
	local root=$1 program=$2
	shift 2
	if chroot / /bin/true 2>/dev/null; then
		chroot "$root" "$program" "${@//@//tmp}"
	else
		"$root$program" "${@//@/$root/tmp}"
	fi
}

# The package.
root=$work/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/tmp"
touch "$root/var/lib/dpkg/status"
dpkg --root="$root" --force-not-root --log=/dev/null -i nf4kit_*_linux_amd64.deb
inside "$root" /usr/bin/nf4kit version
cp -r "$top/testdata/llama" "$root/tmp/llama"
inside "$root" /usr/bin/nf4kit convert @/llama @/llama-nf4 -q
man -M "$root/usr/share/man" nf4kit-convert | grep -q 'block-size'
bash -c ". '$root/usr/share/bash-completion/completions/nf4kit' && complete -p nf4kit"

# The image, unpacked as docker load unpacks it.
image=$work/image
mkdir -p "$image/rootfs/tmp"
tar xf nf4kit_*_linux_amd64.oci.tar -C "$image"
tar xzf "$image"/*.tar.gz -C "$image/rootfs"
cp -r "$top/testdata/llama" "$image/rootfs/tmp/llama"
inside "$image/rootfs" /nf4kit convert @/llama @/llama-nf4 -q
cmp "$root/tmp/llama-nf4/model.safetensors" "$image/rootfs/tmp/llama-nf4/model.safetensors"
echo 'package and image convert'
