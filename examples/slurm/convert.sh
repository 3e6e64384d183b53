#!/bin/bash
# Eight tasks of one conversion. SRC and DST lie where every node sees them, DST as an absolute path:
#
#   job=$(sbatch --parsable --export=ALL,SRC=/models/Llama-3.1-405B,DST=/models/llama-nf4 convert.sh)
#   sbatch --dependency=afterok:$job --wrap='nf4kit finalize /models/llama-nf4'
#
# A task that was killed or requeued goes on where it was. To give some again: sbatch --array=3,5 ... convert.sh
#SBATCH --job-name=nf4kit
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --mem=2G
#SBATCH --requeue
set -euo pipefail
# The number of tasks is said here, since Slurm counts only those of this submission.
exec nf4kit convert "$SRC" "$DST" --task env/8 --jobs "$SLURM_CPUS_PER_TASK"
