# vlmd.bash: completion of vlmd's commands, options and settings in bash.
_vlmd() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local commands
    commands=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n 's/^  vlmd \([a-z]*\) .*/\1/p' | sort -u)
    case $before in
    --set)
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -W "$("${COMP_WORDS[0]}" config 2>/dev/null | sed -n 's/^\([a-z_]*\) *=.*/\1=/p')" -- "$word")
        return ;;
    --config) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    --models-dir) mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
    --listen | --store | --model-name) return ;;
    esac
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help" -- "$word")
    elif [[ $word == -* ]]; then
        local more=
        case ${COMP_WORDS[1]} in
        index) more="--watch --prune" ;;
        search) more="--html --top-k --min-score --rerank --filter" ;;
        detect | segment) more="--draw --query-image --threshold" ;;
        export) more="--images --encoding" ;;
        config) more="--sample" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "--model --models-dir --config --set --listen --store --model-name --json --help $more" -- "$word")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
}
complete -o filenames -F _vlmd vlmd
