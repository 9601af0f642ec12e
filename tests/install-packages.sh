#!/usr/bin/env bash
# The programs that tests start and PyPI does not have. Nothing is done when they are there.
set -euo pipefail

has_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

packages=()
command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || packages+=(ffmpeg)
has_postgresql || packages+=(postgresql)
command -v chromium >/dev/null || packages+=(chromium)
command -v openssl >/dev/null || packages+=(openssl)
[ ${#packages[@]} -eq 0 ] && exit 0

give_up() {
  echo "The tests need ${packages[*]}: $1" >&2
  exit 2
}

command -v apt-get >/dev/null || give_up "install them with this system's package manager."
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || give_up "run 'sudo apt-get install ${packages[*]}', then again."
  as_root=(sudo -n)
fi
echo "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq || true # an old list of packages may do
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
  give_up "apt-get could not install them."
