# Sourced: turns `--name value` into the shell variable `name`, for every variable that the caller
# has set before. `--help` prints the caller's $help_message and the options with their defaults.
# The values are taken as they are; nothing is evaluated.
while [ $# -gt 0 ]; do
    case "$1" in
    --help | -h)
        printf '%s\n\nOptions, with their defaults:\n' "${help_message:-}"
        for _name in ${option_names}; do printf '  --%s %q\n' "${_name}" "${!_name}"; done
        exit 0
        ;;
    --*)
        _name=${1#--}
        _name=${_name//-/_}
        if ! grep -qxF -- "${_name}" <<<"${option_names// /$'\n'}"; then
            echo "$0: no option $1; see --help" >&2
            exit 2
        fi
        if [ $# -lt 2 ]; then
            echo "$0: $1 needs a value" >&2
            exit 2
        fi
        printf -v "${_name}" '%s' "$2"
        shift 2
        ;;
    *)
        echo "$0: what is '$1'? options are --name value; see --help" >&2
        exit 2
        ;;
    esac
done
unset _name
