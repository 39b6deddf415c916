# Sourced: how commands are started. backend=local runs them here; backend=slurm prefixes srun.
# The three prefixes may also be set in a recipe's own cmd.sh, after sourcing this one.
backend=${CWCL_BACKEND:-local}
case "${backend}" in
local)
    data_cmd=()
    embed_cmd=()
    train_cmd=()
    ;;
slurm)
    data_cmd=(srun --job-name cwcl-data --cpus-per-task "${nj:-4}")
    embed_cmd=(srun --job-name cwcl-embed --gres "gpu:1")
    train_cmd=(srun --job-name cwcl-train --gres "gpu:${ngpu:-1}")
    ;;
*)
    echo "cmd.sh: CWCL_BACKEND=${backend} is none of local, slurm" >&2
    exit 2
    ;;
esac
