#!/usr/bin/env bash
# The programs that PyPI does not have: all that the tests start, or only the packages that are named. Nothing is done
# when they are there.
set -euo pipefail

has() {
  case $1 in
    ffmpeg) command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null ;;
    postgresql) command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
    rabbitmq-server) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(ffmpeg postgresql rabbitmq-server chromium openssl)
packages=()
for package in "${wanted[@]}"; do has "$package" || packages+=("$package"); done
[ ${#packages[@]} -eq 0 ] && exit 0

give_up() {
  echo "This needs ${packages[*]}: $1" >&2
  exit 2
}

command -v apt-get >/dev/null || give_up "install them with this system's package manager."
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || give_up "installing them needs root; run 'sudo apt-get install ${packages[*]}', then again."
  as_root=(sudo -n)
fi
echo "installing ${packages[*]}, as root"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq || true # an old list of packages may do
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
  give_up "apt-get could not install them."
