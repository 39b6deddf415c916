#!/usr/bin/env bash
# The one driver of all recipes. It holds no logic of its own: every stage is a Python command that
# it prints, logs and stamps; a stage whose inputs did not change is skipped.
set -euo pipefail

help_message="Usage: run.sh [--option value ...]
Stages: 1 data, 2 format, 3 filter (with 2), 4 embed_text, 5 train, 6 average, 7 embed_speech,
        8 score, 9 report, 10 pack, 11 upload"
# what to run
stage=1
stop_stage=10
skip_upload=true
# how
ngpu=0
nj=2
# where
datadir=data
dumpdir=dump
expdir=exp
# on what: named by the recipe's run.sh
corpus=
data_args=
train_set=train
valid_evals=
test_evals=
min_duration=0.1
max_duration=30
skip_bad=false
# run the commands that wav.scp may hold (sph2pipe, flac), each once and without a shell
allow_pipe=false
# pack the audio of every set into tar shards, and read from those (a cluster's disk likes few files)
shards=false
# training: one or several YAML files, each an experiment exp/<name of the file><tag>
train_config=conf/cwcl.yaml
train_args=
tag=
average=3
# evaluate this model folder instead of training one (stages 5 and 6 are left out)
model=
# a model of the package to put beside them in the report, such as en-tiny (stages 7 to 9)
beside=
title=
upload_to=
option_names="stage stop_stage skip_upload ngpu nj datadir dumpdir expdir corpus data_args train_set
 valid_evals test_evals min_duration max_duration skip_bad allow_pipe shards train_config train_args tag average
 model beside title upload_to"
option_names=$(echo ${option_names})

template=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "${template}/utils/parse_options.sh"
. ./path.sh
. ./cmd.sh

wanted() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }

# run NUMBER NAME LOGDIR "INPUTS" "OUTPUTS" COMMAND...
run() {
    local number=$1 name=$2 where=$3 inputs=$4 outputs=$5
    shift 5
    # shellcheck disable=SC2086
    speechcwcl stage --name "stage ${number}: ${name}" --stamp "${where}/stamps/${number}.${name//[ \/]/_}" \
        --log "${where}/logs/${number}.${name//[ \/]/_}.log" --inputs ${inputs} --outputs ${outputs} -- "$@"
}

sets_of() { for pair in "$@"; do echo "${pair%%:*}"; done | sort -u; }

# shellcheck disable=SC2086
{
    test_sets=$(sets_of ${test_evals})
    sets=$({ echo "${train_set}"; sets_of ${valid_evals} ${test_evals}; } | sort -u)
}
[ -n "${model}" ] && sets=${test_sets}
extra=()
[ "${skip_bad}" = true ] && extra=(--skip_bad)
pipes=()
[ "${allow_pipe}" = true ] && pipes=(--allow_pipe)

if wanted 1; then
    # what it reads (the folder of the corpus) `prepare` itself notes down
    outputs=; for set in ${sets}; do outputs+=" ${datadir}/${set}"; done
    # a recipe may have its own local/data.sh, which is given the folder to write and the sets
    prepare=(speechcwcl prepare "${corpus}")
    [ -x local/data.sh ] && prepare=(local/data.sh)
    # shellcheck disable=SC2086
    run 1 "data ${corpus}" "${datadir}" "local" "${outputs}" ${data_cmd[@]+"${data_cmd[@]}"} \
        "${prepare[@]}" --out "${datadir}" --sets ${sets} ${extra[@]+"${extra[@]}"} ${data_args}
fi

# a training set that does not fit on the disk stays where it is: data/<set>/stream.json
streamed() { [ "$1" = "${train_set}" ] && [ -f "${datadir}/$1/stream.json" ]; }

if wanted 2 || wanted 3; then
    for set in ${sets}; do
        if streamed "${set}"; then
            echo "stage 2: format ${set}: nothing to do, ${datadir}/${set}/stream.json is read while training"
            continue
        fi
        manifest=${dumpdir}/${set}/manifest.jsonl
        [ "${shards}" = true ] && manifest=${dumpdir}/${set}/files/manifest.jsonl
        run 2 "format ${set}" "${dumpdir}/${set}" "${datadir}/${set}" \
            "${manifest} $(dirname "${manifest}")/corpus.json" \
            ${data_cmd[@]+"${data_cmd[@]}"} speechcwcl format "${datadir}/${set}" \
            "${manifest}" --nj "${nj}" \
            --min_duration "${min_duration}" --max_duration "${max_duration}" ${extra[@]+"${extra[@]}"} \
            ${pipes[@]+"${pipes[@]}"}
        if [ "${shards}" = true ]; then
            run 2 "shards ${set}" "${dumpdir}/${set}" "${manifest}" \
                "${dumpdir}/${set}/manifest.jsonl ${dumpdir}/${set}/shards" \
                ${data_cmd[@]+"${data_cmd[@]}"} speechcwcl shards "${manifest}" \
                --out "${dumpdir}/${set}" --nj "${nj}"
        fi
    done
fi

manifests=
for set in ${sets}; do streamed "${set}" || manifests+=" ${dumpdir}/${set}/manifest.jsonl"; done
train_data=${dumpdir}/${train_set}/manifest.jsonl
streamed "${train_set}" && train_data=${datadir}/${train_set}/stream.json
train_inputs=${manifests}
streamed "${train_set}" && train_inputs+=" ${train_data}"
test_manifests=; for set in ${test_sets}; do test_manifests+=" ${dumpdir}/${set}/manifest.jsonl"; done

launch=(speechcwcl)
[ "${ngpu}" -gt 1 ] && launch=(torchrun --standalone --nproc_per_node "${ngpu}" -m speechcwcl.cli.main)
device=(--device cpu)
[ "${ngpu}" -gt 0 ] && device=(--device cuda:0)
train_device=("${device[@]}")
[ "${ngpu}" -gt 1 ] && train_device=()

# embed_and_score EXP MODEL: stages 7 and 8
embed_and_score() {
    local exp=$1 model_dir=$2 embedded= scored= set
    for set in ${test_sets}; do
        scored+=" ${exp}/eval/${set//\//.}"
        embedded+=" ${exp}/eval/${set//\//.}/speech.npy ${exp}/eval/${set//\//.}/ids.txt"
    done
    if wanted 7; then
        # shellcheck disable=SC2086
        run 7 "embed speech" "${exp}" "${model_dir} ${test_manifests}" "${embedded}" \
            ${embed_cmd[@]+"${embed_cmd[@]}"} speechcwcl embed-speech "${exp}" --sets ${test_sets} \
            --dumpdir "${dumpdir}" --model "${model_dir}" "${device[@]}"
    fi
    if wanted 8; then
        # shellcheck disable=SC2086
        run 8 "score" "${exp}" "${embedded} ${test_manifests} ${model_dir}" "${scored}" \
            speechcwcl evaluate "${exp}" --evals ${test_evals} --dumpdir "${dumpdir}" --model "${model_dir}"
    fi
}

runs=
for config in ${train_config}; do
    name=$(basename "${config%.yaml}")${tag}
    exp=${expdir}/${name}
    runs+=" ${exp}"
    model_dir=${model:-${exp}/model}

    if wanted 4 && [ -z "${model}" ]; then
        # shellcheck disable=SC2086
        run 4 "embed text" "${exp}" "${config} ${manifests}" "${dumpdir}/text" \
            ${embed_cmd[@]+"${embed_cmd[@]}"} speechcwcl embed-text ${manifests} --config "${config}" \
            --store "${dumpdir}/text"
    fi
    if wanted 5 && [ -z "${model}" ]; then
        # shellcheck disable=SC2086
        run 5 "train" "${exp}" "${config} ${train_inputs}" \
            "${exp}/hparams.json ${exp}/metrics.jsonl ${exp}/checkpoints" \
            ${train_cmd[@]+"${train_cmd[@]}"} "${launch[@]}" train "${config}" \
            --train "${train_data}" --valid ${valid_evals} \
            --expdir "${exp}" --dumpdir "${dumpdir}" ${train_device[@]+"${train_device[@]}"} ${train_args}
    fi
    if wanted 6 && [ -z "${model}" ]; then
        run 6 "average" "${exp}" "${exp}/hparams.json ${exp}/metrics.jsonl" "${exp}/model" \
            speechcwcl average "${exp}" --best "${average}"
    fi
    embed_and_score "${exp}" "${model_dir}"
done

if [ -n "${beside}" ]; then
    boxed=${CWCL_ROOT}/speechcwcl/assets/${beside}
    if [ -d "${boxed}" ]; then
        runs+=" ${expdir}/${beside}"
        embed_and_score "${expdir}/${beside}" "${boxed}"
    else
        echo "stage 7: no model ${beside} is in this package; the report goes without it"
    fi
fi

if wanted 9; then
    # always made anew: it takes seconds and ends with the table that people want to see
    # shellcheck disable=SC2086
    speechcwcl report ${runs} --out "${expdir}" --dumpdir "${dumpdir}" --title "${title:-${corpus}}"
fi
if wanted 10; then
    # shellcheck disable=SC2086
    set -- ${runs}
    cards=; for set in ${sets}; do cards+=" ${dumpdir}/${set}/corpus.json"; done
    run 10 "pack" "$1" "${model:-$1/model} ${expdir}/RESULTS.md $1/hparams.json ${cards}" "$1/packed" \
        speechcwcl pack "$1" --model "${model:-$1/model}" --results "${expdir}/RESULTS.md" \
        --dumpdir "${dumpdir}"
fi
if wanted 11 && [ "${skip_upload}" != true ]; then
    # shellcheck disable=SC2086
    set -- ${runs}
    speechcwcl pack "$1" --model "${model:-$1/model}" --results "${expdir}/RESULTS.md" \
        --dumpdir "${dumpdir}" --push_to_hub "${upload_to}"
fi
