#!/usr/bin/env bash
# Format, layers, headers. clang-tidy runs on the torch-free sources (LINT_TIDY=0 skips it).
set -euo pipefail
cd "$(dirname "$0")/.."
if ((${#})); then files=("$@"); else mapfile -t files < <(git ls-files '*.cc' '*.h'); fi
clang-format --dry-run --Werror "${files[@]}"
python3 .ci/check_layers.py
if [[ ${LINT_TIDY:-1} != 0 && -e build/release/compile_commands.json ]]; then
  mapfile -t tidy < <(git ls-files 'src/base/*.cc' 'src/mesh/*.cc' 'src/dataset/*.cc' 'parallel/schedule/*.cc' \
    'src/rendezvous/*.cc' 'src/launch/*.cc' 'src/comm/host/*.cc' 'src/cli/*.cc')
  printf '%s\n' "${tidy[@]}" | xargs -P 2 -n 4 clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option -p build/release
fi
echo "lint: ${#files[@]} files are clean"
