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
    # one task, whatever job this runs in: torchrun starts a process for each GPU itself
    task=(srun --ntasks 1 --cpus-per-task "${nj:-4}")
    data_cmd=("${task[@]}" --job-name cwcl-data)
    embed_cmd=("${task[@]}" --job-name cwcl-embed)
    train_cmd=("${task[@]}" --job-name cwcl-train)
    if [ "${ngpu:-0}" -gt 0 ]; then
        embed_cmd+=(--gres gpu:1)
        train_cmd+=(--gres "gpu:${ngpu}")
    fi
    ;;
*)
    echo "cmd.sh: CWCL_BACKEND=${backend} is none of local, slurm" >&2
    exit 2
    ;;
esac
