#!/usr/bin/env bash
# Trains under Slurm, one task per GPU: tools/slurm_train.sh PARTITION CONFIG GPUS [arguments of tools/train.py]
# GPUS_PER_NODE (8), CPUS_PER_TASK (16) and SRUN_ARGS come from the environment.
# Two minutes before its time limit, or when it is preempted, the run writes a checkpoint and ends with status 85. In a batch job,
# the script then requeues the job; on a login node, it submits the job again. The run resumes from its newest checkpoint. Ctrl-C,
# or SIGTERM to this script, stops everything with status 85 after the run has written a checkpoint.
set -uo pipefail
if [ $# -lt 3 ]; then
    echo "usage: tools/slurm_train.sh PARTITION CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1 config=$2 gpus=$3
shift 3
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
arguments=("$@")
# A requeued run always resumes.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    arguments+=(--resume)
fi
stopped=
trap 'stopped=yes' INT TERM  # evaluated after srun ends
while true; do
    # shellcheck disable=SC2086  # SRUN_ARGS may contain several words
    srun --partition="$partition" --job-name="$(basename "$config" .py)" --gres=gpu:"$per_node" --ntasks="$gpus" \
        --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-16}" --kill-on-bad-exit=1 --signal=USR1@120 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" --launcher slurm "${arguments[@]}"
    status=$?
    if [ $status -ne 85 ] || [ -n "$stopped" ]; then
        exit $status
    fi
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        echo "stopped with a checkpoint: requeueing job $SLURM_JOB_ID" >&2
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    echo "stopped with a checkpoint: submitting again" >&2
    arguments=("$@" --resume)
done
