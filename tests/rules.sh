#!/usr/bin/env bash
# rules.sh: the house rules that a script can see. Prints each breach; exits 1 when there is one.
cd "$(dirname "$0")/.." || exit 1
rules=0
broken=0
[ -n "$(git ls-files 2>/dev/null)" ] || { echo "the rules read a git checkout"; exit 1; }

# rule DESCRIPTION COMMAND...: every line that the command prints is a breach.
rule() {
    local name=$1 lines
    shift
    rules=$((rules + 1))
    lines=$("$@")
    [ -z "$lines" ] && return
    printf '%s:\n%s\n' "$name" "$lines"
    broken=$((broken + 1))
}

long_files() {
    git ls-files 'core/*.[ch]' 'api/*.[ch]' 'server/*.[ch]' 'config/*.[ch]' | while read -r file; do
        n=$(wc -l <"$file")
        [ "$n" -le 1000 ] || echo "$file has $n lines"
    done
}

silent_heads() {
    git ls-files '*.c' '*.h' | while read -r file; do
        head -1 "$file" | grep -q '^/\*' || echo "$file"
    done
}

too_big() {
    local kb
    kb=$(git ls-files -z | xargs -0 du -ck | tail -1 | cut -f1)
    [ "$kb" -le 200000 ] || echo "$kb KB"
}

stale_sample() {
    [ ! -x build-test/vlmd ] || env -i build-test/vlmd config --sample | diff - config/vlmd.conf
}

rule "core includes nothing above it" git grep -nE '#include "(server|api|config)/' -- core
rule "api includes only core" git grep -nE '#include "(server|config)/' -- api
rule "banned functions" git grep -nE '\b(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atof|gets|alloca)\(' -- core api server config
rule "core and api neither log nor leave" git grep -nE '\b(exit|abort|fprintf|printf|perror|assert)\(' -- 'core/*.c' 'api/*.c'
rule "no file is a heap" long_files
rule "every file opens with what it is for" silent_heads
rule "nothing is left unfinished" git grep -nIE '\b(TODO|FIXME|XXX)\b' -- core server api config
rule "the repository stays small" too_big
rule "config/vlmd.conf is what 'vlmd config --sample' prints" stale_sample
echo "$((rules - broken)) tests passed"
[ $broken = 0 ]
