# bash completion for iommud. Made by `make docs` from the options of iommud: not to be edited.

_iommud_program() { # of which word on the line the program is
    local helper
    for helper in _comp_command_offset _command_offset; do # bash-completion has one of them, and knows more than we do
        if declare -F $helper >/dev/null; then
            $helper "$1"
            return
        fi
    done
    compopt -o default # where nothing is found below: files
    ((COMP_CWORD == $1)) && mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
}

_iommud() {
    local word=${COMP_WORDS[COMP_CWORD]} place=iommud option= words= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == = ]]; then
            continue # bash takes --option=value for three words
        elif [[ $option ]]; then
            option=
            continue
        fi
        case $place:${COMP_WORDS[i]} in
            iommud:run | iommud:serve) place=${COMP_WORDS[i]} ;;
            run:--vfio | run:--device | run:--iommu | run:--pin | run:--log-level | serve:--vfio | serve:--device | serve:--iommu | serve:--pin | serve:--log-level | serve:--fuse | serve:--cuse | serve:--name | serve:--mode | serve:--share | serve:--sysfs | serve:--group) option=${COMP_WORDS[i]} ;;
            run:--) _iommud_program $((i + 1)); return ;;
            run:-*) ;;
            run:*) _iommud_program $i; return ;;
        esac
    done
    [[ $word == = ]] && word=
    case $place:$option in
        run:--vfio) words=$(compgen -W 'iommufd type1' -- "$word") ;;
        run:--iommu) words=$(compgen -W 'mock vtd smmuv3 amd none' -- "$word") ;;
        run:--pin) words=$(compgen -W 'watch uring' -- "$word") ;;
        run:--log-level) words=$(compgen -W 'debug info warning error' -- "$word") ;;
        serve:--vfio) words=$(compgen -W 'iommufd type1' -- "$word") ;;
        serve:--iommu) words=$(compgen -W 'mock vtd smmuv3 amd none' -- "$word") ;;
        serve:--pin) words=$(compgen -W 'watch uring' -- "$word") ;;
        serve:--log-level) words=$(compgen -W 'debug info warning error' -- "$word") ;;
        serve:--fuse) compopt -o filenames; words=$(compgen -f -- "$word") ;;
        serve:--sysfs) compopt -o filenames; words=$(compgen -d -- "$word") ;;
        serve:--group) words=$(compgen -g -- "$word") ;;
        *:?*) ;;
        run:) if [[ $word == -* ]]; then words=$(compgen -W '-h --help --why --vfio --mock --device --iommu --pin --log-level --no-watch --chardev' -- "$word"); else _iommud_program $COMP_CWORD; fi ;;
        serve:) words=$(compgen -W '-h --help --why --vfio --mock --device --iommu --pin --log-level --fuse --cuse --name --clean --mode --share --sysfs --group' -- "$word") ;;
        iommud:) words=$(compgen -W 'run serve -h --help --version' -- "$word") ;;
    esac
    [[ $words ]] && mapfile -t COMPREPLY <<<"$words"
}

complete -F _iommud iommud
