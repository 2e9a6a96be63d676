#!/usr/bin/env bash
# Trains under Slurm, one task per GPU: tools/slurm_train.sh PARTITION CONFIG GPUS [arguments of tools/train.py]
# GPUS_PER_NODE (8), CPUS_PER_TASK (16) and SRUN_ARGS come from the environment.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: tools/slurm_train.sh PARTITION CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1 config=$2 gpus=$3
shift 3
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
exec srun --partition="$partition" --job-name="$(basename "$config" .py)" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-16}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
