#!/usr/bin/env bash
# Format, layers, and clang-tidy on the torch-free sources. LINT_TIDY=0 skips clang-tidy; LINT_TIDY=all takes in the sources that
# include torch, about half a minute each.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in clang-format clang-tidy; do
  [[ $tool == clang-tidy && ${LINT_TIDY:-1} == 0 ]] || command -v $tool > /dev/null || {
    echo "lint: $tool is missing; on Debian: apt-get install $tool" >&2
    exit 1
  }
done
if ((${#})); then files=("$@"); else mapfile -t files < <(git ls-files '*.cc' '*.h'); fi
clang-format --dry-run --Werror "${files[@]}"
python3 .ci/check_layers.py
if [[ ${LINT_TIDY:-1} != 0 ]]; then
  # A build folder of its own: clang reads GCC's flags, but not its precompiled header.
  with_torch=$([[ ${LINT_TIDY:-1} == all ]] && echo ON || echo OFF)
  build=build/lint-torch-$with_torch
  cmake -S . -B $build -G Ninja -DCONVOY_TORCH="$with_torch" -DCONVOY_TESTS=OFF -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON > /dev/null
  cmake --build $build --target convoy_generated > /dev/null  # headers that sources include; generated code itself is not ours to lint
  # Warnings about options that only GCC knows are no findings, nor are C names of C++ functions, by which parts that are loaded later
  # are found; what clang-tidy counts on stderr is of no use.
  sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' $build/compile_commands.json | grep -v '\.pb\.cc$' |
    xargs -P 2 -n 3 clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-return-type-c-linkage -p $build 2> >(grep -v 'warnings generated' >&2)
fi
echo "lint: ${#files[@]} files are clean"
