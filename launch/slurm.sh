#!/bin/bash
# slurm.sh -- a batch script to copy: all stages of an experiment, each as a step of this job.
#
#   sbatch launch/slurm.sh configs/demo.yaml [key=value ...]
#
# Two minutes before the time limit Slurm sends SIGUSR1 to this script alone (B:), which asks the run to stop. It saves a
# checkpoint, ends with code 8, and the job puts itself back into the queue, where the same command goes on from there.
# `output` must be on a file system that all nodes see. Exactness asks for one kind of node: use --constraint on a mixed cluster.
#SBATCH --job-name=tercet
#SBATCH --nodes=1
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

tercet=${TERCET:-build/tercet}
srun='srun --mpi=pmix -n {ranks} -c {threads} {command}'

"$tercet" run "$@" "ranks=$SLURM_NTASKS" "threads=${SLURM_CPUS_PER_TASK:-1}" "launcher=$srun" &
run=$!
trap 'kill -USR1 $run' USR1

# A trapped signal ends `wait` early, with 128 and the signal's number, so wait again.
status=138
while [ $status -eq 138 ]; do
    wait $run
    status=$?
done
if [ $status -eq 8 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
