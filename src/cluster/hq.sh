# HyperQueue asks a task to end by INT. The program ends at its next block, and leaves what it has in the cache.
again=1
on_end() { again=1; kill -TERM "$program" 2>/dev/null; }
trap on_end INT TERM
main &
program=$!
# A signal that is trapped ends `wait`, not the program.
while [ -n "$again" ]; do
    again=
    wait "$program"
    ended=$?
    [ "$ended" -eq 127 ] || code=$ended
done
