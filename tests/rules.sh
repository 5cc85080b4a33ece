#!/usr/bin/env bash
# rules.sh: the house rules that a script can see. Prints each breach; exits 1 when there is one.
cd "$(dirname "$0")/.." || exit 1
breaches=0
n=0
# rule DESCRIPTION: the lines on standard input are its breaches.
rule() {
    n=$((n + 1))
    local lines
    lines=$(cat)
    if [ -n "$lines" ]; then
        printf '%s:\n%s\n' "$1" "$lines"
        breaches=$((breaches + 1))
    fi
}
sources() { git ls-files '*.c' '*.h'; }

git grep -nE '#include "(server|api|config)/' -- core | rule "core includes nothing above it"
git grep -nE '#include "(server|config)/' -- api | rule "api includes only core"
git grep -nE '\b(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atof|gets|alloca)\(' -- '*.c' '*.h' | rule "banned functions"
git grep -nE '\b(exit|abort|fprintf|printf|perror)\(' -- core/base core/image core/text core/weights core/models core/runtime core/index core/nn api '*.c' |
    grep -E '^(core|api)/' | rule "core and api neither log nor leave"
sources | while read -r file; do
    lines=$(wc -l <"$file")
    [ "$lines" -gt 900 ] && echo "$file has $lines lines"
done | rule "no file is a heap"
sources | while read -r file; do
    head -1 "$file" | grep -q '^/\*' || echo "$file"
done | rule "every file opens with what it is for"
git grep -nIE '\b(TODO|FIXME|XXX)\b' -- core server api config | rule "nothing is left unfinished"
[ "$(git ls-files -z | xargs -0 du -ck | tail -1 | cut -f1)" -gt 200000 ] && echo "over 200 MB" | rule "the repository stays small"
if [ -x build-test/vlmd ]; then
    env -i build-test/vlmd config --sample | diff - config/vlmd.conf | rule "config/vlmd.conf is what 'vlmd config --sample' prints"
fi
echo "$((n - breaches)) tests passed"
[ $breaches = 0 ]
