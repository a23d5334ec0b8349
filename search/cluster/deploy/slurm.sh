#!/usr/bin/env bash
#SBATCH --job-name=segsearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#
# A search on the nodes of one Slurm job, a Ray node on each:
#     sbatch search/cluster/deploy/slurm.sh /shared/runs/NAME --space convnext.yaml --data /shared/data.yaml
# The first argument is the run directory, on storage that all nodes see; the others are those of `segsearch run`. Five
# minutes before its time is over, Slurm sends SIGTERM: the run keeps what is finished, and the job queues itself again.
# A job that finds a run directory goes on with it. Activate the environment that has segsearch before `sbatch`.
set -euo pipefail

run_dir=${1:?the first argument must be a run directory on storage that all nodes see}
shift
if [[ -e $run_dir/run.json ]]; then
    what=(--resume "$run_dir")
else
    what=(--run-dir "$run_dir" "$@")
fi

# Whatever reaches Ray's ports can run code, so every node asks for the token, in a home that they share.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[[ -s $RAY_AUTH_TOKEN_PATH ]] || (umask 077 && ray get-auth-token --generate > /dev/null)

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
address=$ip:$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node do not meet
size=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")

started=()
stop() {
    kill -TERM "${started[@]}" 2> /dev/null || true # they may have ended
    wait
}
trap stop EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --node-ip-address="$ip" --port="${address#*:}" "${size[@]}" &
started+=($!)
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$address" --block "${size[@]}" &
    started+=($!)
done

joined() { # how many nodes the cluster has; 0 before it answers
    timeout 60 python -c 'import ray, sys
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))' "$address" 2> /dev/null || echo 0
}
deadline_s=$((SECONDS + 300))
until (($(joined) >= ${#nodes[@]})); do
    if ((SECONDS > deadline_s)); then
        echo "segsearch: all ${#nodes[@]} nodes must have joined $address within 300 s; see their lines above" >&2
        exit 2
    fi
    sleep 2
done

segsearch run --address "$address" "${what[@]}" &
run=$!
stopped=
trap 'stopped=yes; kill -TERM $run' TERM
code=0
wait $run || code=$?
if [[ $stopped ]]; then
    wait $run || code=$? # the first wait ended with the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
