#!/usr/bin/env bash
# A Ray cluster for the length of one Slurm allocation:  sbatch cluster/slurm.sh python jobs/align.py --recipe … --run /shared/…
# Where the time limit ends it, the same command goes on from the run's folder. Nodes have NVIDIA's driver 580 or newer, which
# CUDA 13 wants. HF_TOKEN of the shell that submits is handed on, for gated models.
#SBATCH --job-name=ultraif
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch cluster/slurm.sh COMMAND…   (for instance: python jobs/align.py --recipe R --run /shared/runs/R)" >&2
    exit 2
fi

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))   # other jobs may share the network

# Every process of the cluster asks for the token; it lives in this job's environment and nowhere else.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE RAY_AUTH_TOKEN

# Nodes read the environment from a shared file system, all at once: half a minute, Ray's own patience, is short.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}"

# symmetric-run starts Ray on every node, runs the command on the head when all are there, and stops Ray at its end. It
# tells the command no address, and srun of some versions does not hand on how many CPUs the job asked for.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 \
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    ray symmetric-run --address "$head_ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
    env RAY_ADDRESS="$head_ip:$port" "$@"
